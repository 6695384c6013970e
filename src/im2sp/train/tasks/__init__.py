"""Tasks of the trainer: one short file for each training."""
