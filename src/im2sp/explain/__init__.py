"""Explanations: one caption in; photo, waveform and attention over time as an HTML page and a picture out."""
