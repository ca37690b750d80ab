"""`python -m calibration`: see calibration/cli.py."""

from calibration.cli import main

if __name__ == "__main__":
    main()
