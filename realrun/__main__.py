"""`python -m realrun`: see realrun/cli.py."""

from realrun.cli import main

if __name__ == "__main__":
    main()
