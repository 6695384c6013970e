"""`python -m im2sp` is the `im2sp` command."""

from im2sp.cli import main

if __name__ == "__main__":
    main()
