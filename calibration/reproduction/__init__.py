"""DICE's publication on 8 x RTX 4090, predicted: `python -m calibration reproduction` writes docs/reproduction.md."""
