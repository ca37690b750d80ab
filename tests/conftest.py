"""Hypothesis looks for counterexamples in the same places every time, without a clock."""

import os

from hypothesis import settings

settings.register_profile("same every time", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("same every time")

# Intel's library computes the last bit of a cosine by another path on each processor; this one, which tests/golden was
# made with, it has on all.  It is read when torch is loaded, and ranks inherit it.
os.environ["MKL_CBWR"] = "COMPATIBLE"

# Two threads of one process spin for each other when the cores are shared: ten times slower in the worst case seen.
os.environ.setdefault("OMP_NUM_THREADS", "1")
