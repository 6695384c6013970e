"""Published checkpoints -> models of `im2sp.train`, without executing anything of the files."""
