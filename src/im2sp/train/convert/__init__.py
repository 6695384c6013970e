"""Published checkpoints -> models of the lab, without running anything that a file brings along."""
