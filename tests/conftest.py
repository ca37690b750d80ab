"""Hypothesis looks for counterexamples in the same places every time, without a clock."""

from hypothesis import settings

settings.register_profile("same every time", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("same every time")
