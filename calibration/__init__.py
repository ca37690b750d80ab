"""Measures a machine, fits a Cluster to the samples, and compares what was predicted with what happened."""
