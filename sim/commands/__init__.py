"""The commands of `python -m sim`, a file each or a few that belong together; sim/cli.py lists them.

A command loads what it was given, calls the package, and prints or writes what comes back; nothing is computed here."""
