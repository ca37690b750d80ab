"""The words that a profile of a real run and its reader share (realrun/profile.py writes, sim/kineto.py reads)."""

LABEL = "EP:"  # before an op's name in a profiler's ranges: without it, C2.0 is taken for a mangled name of C++
RUN_KEY = "dice_sim"  # under which a profile says of its run: JSON, percent-encoded
