"""The vectorised engine: one schedule on many machines or workloads at once, op by op, with the seconds of SimPy."""
