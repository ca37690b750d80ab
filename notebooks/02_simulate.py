# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Simulate: why communication is exposed, and what each method hides
#
# A diffusion transformer with experts on eight GPUs waits for two all-to-alls in every layer. A schedule, a workload
# and a machine make a Trace; all pictures below are drawn from Traces.
#
# The machine is eight RTX 4090, *inferred* from other GPUs (`sim/clusters/8x-rtx4090.yaml` says so at every number),
# its links set so that all-to-alls take the published 73.3 % of a synchronous run ([how](../docs/reproduction.md)).
# Read ratios, not seconds.

# %%
# %matplotlib inline
from dataclasses import replace

from calibration.reproduction.machine import Doubt, calibrated
from sim import MODELS, Workload, load_schedule, simulate
from sim.critical import critical_path
from sim.memory_time import memory_over_time
from sim.pictures import PAGE_IN, Choice, draw_front, draw_memory, draw_roofline, draw_timeline
from sim.roofline import roofline
from sim.show import comparison_table, kinds_table
from sim.tell import critical_lines

cluster, factor = calibrated(Doubt(), "sync")
workload = Workload(MODELS["XL"], ranks=8, images=16)

# %% [markdown]
# ## How much of a run is communication
#
# DiT-MoE-XL, 10 steps, 16 images a rank. *Exposed*: a collective is under way or waited for, and nothing is computed.

# %%
names = ["sync", "displaced", "interweaved", "dice", "overlap"]
traces = [simulate(load_schedule(name, steps=10, layers=28), workload, cluster) for name in names]
print(*comparison_table(traces, names), sep="\n")

# %%
print(*kinds_table(traces, names), sep="\n")

# %% [markdown]
# What makes the synchronous run as long as it is, and what it would bring if that were faster:

# %%
print(*critical_lines(critical_path(traces[0]), share=0.1), sep="\n")

# %% [markdown]
# ## The publication's first figure, from our Traces
#
# One step on one rank; four layers, so that ops can be read.
# *Sync* waits for dispatch (D) and combine (C) in every layer. *Displaced* gives each a step of slack: nothing waits,
# and what is added is two steps old (hatched ops carry an older step's tokens; arrows lead from what came back to where
# it is added). *Interweaved* runs the experts of the layer before inside each layer: one step old, half of the buffers.

# %%
small = replace(workload, model=replace(MODELS["XL"], layers=4))
first_figure = [simulate(load_schedule(name, steps=6, layers=4), small, cluster) for name in names[:4]]
draw_timeline(first_figure, step=3, ranks=[0], labels=names[:4], width_in=PAGE_IN)

# %% [markdown]
# ## What it costs: memory
#
# What a stale schedule keeps from step to step, on one rank. Displaced keeps received dispatches and received combines,
# interweaved the latter only: half.

# %%
memories = [memory_over_time(trace, workload)[0] for trace in traces[1:3]]
draw_memory(memories, labels=names[1:3], limit_bytes=cluster.compute.memory_bytes)

# %% [markdown]
# ## Where compute itself lies
#
# FLOPs a byte and FLOP/s of each kind of op, as the cost model has them. R moves rows and multiplies next to nothing.

# %%
draw_roofline(roofline(load_schedule("sync", 1, 28), workload, cluster), cluster.compute)

# %% [markdown]
# ## What needs no staleness
#
# Before paying with images, look at what can be had for nothing: micro-batches that overlap, caching, fewer bytes.

# %%
others = ["cached", "cached cached=3", "data_parallel", "dice stride=5"]
rest = [simulate(load_schedule(name, steps=10, layers=28), workload, cluster) for name in others]
every = dict(zip(names + others, traces + rest, strict=True))
draw_front(
    [Choice(name, trace.makespan_s, float(trace.mean_age.mean())) for name, trace in every.items()],
    x_label="time / s", y_label="mean age of what is added / steps", name_all=True,
)  # fmt: skip

# %% [markdown]
# XL fits on each card: on such links data parallelism, which sends nothing, beats all others. Staleness is for what
# does not fit ([where staleness still pays](../docs/staleness.md)). Next: [how far off such numbers
# are](03_calibrate.ipynb).
