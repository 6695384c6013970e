"""What a training run will need, worked out from its recipe before anything starts."""
