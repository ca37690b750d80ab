"""One file a backend; what they have in common stands in realrun/backend.py."""
