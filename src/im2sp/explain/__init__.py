"""Explanations: what a caption said, when it said it, and where in the picture the model looked meanwhile."""
