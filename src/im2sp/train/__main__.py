"""`python -m im2sp.train` is the `im2sp-lab` command: what `torchrun -m` and `accelerate launch -m` start."""

from im2sp.train.cli import main

if __name__ == "__main__":
    main()
