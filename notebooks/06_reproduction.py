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
# # The publication's tables, reproduced
#
# DICE (arXiv 2411.16786) was measured on eight RTX 4090. We have none: everything here is *predicted*, and read from
# [docs/reproduction.json](../docs/reproduction.json), which `python -m calibration reproduction` writes in five to six
# minutes. The machine has one parameter, set by the published share of time in all-to-alls (73.3 %); the published
# speed-ups are compared with, never used. [The page](../docs/reproduction.md) says all of it at length.

# %%
# %matplotlib inline
from IPython.display import Markdown

from calibration.reproduction.machine import Doubt, calibrated, workload
from calibration.reproduction.page import tables
from calibration.reproduction.picture import draw_published, draw_rivals, load
from sim import load_schedule, simulate
from sim.show import comparison_table

numbers = load("../docs/reproduction.json")

# %% [markdown]
# ## Published and predicted
#
# *As intended*: methods as the paper describes them. *As released*: as the authors' code does them. Intervals are the
# 5th to 95th percentile over what is not known (compute, attention, interference, launches, jitter, imbalance, wire).

# %%
Markdown(tables(numbers)["predicted"])

# %%
draw_published(numbers)

# %% [markdown]
# One of three published speed-ups lies inside, as released; the others are lower than predicted. What could make the
# difference, each cause alone (predicted over published, less 1):

# %%
Markdown(tables(numbers)["causes"])

# %% [markdown]
# ## Memory: where DistriFusion ends
#
# Published: out of memory (24 GB) in most configurations, always with G.

# %%
Markdown(tables(numbers)["distrifusion"])

# %% [markdown]
# ## Beside its rivals
#
# 50 steps of XL at 32 images a rank; what does not fit on a card is left out.

# %%
draw_rivals(numbers, images=32)

# %% [markdown]
# ## One of these runs, now
#
# The same machine, made anew from the published share, and ten steps of each method as intended: the second and third
# row of the first table, at the preset's values, are within their intervals.

# %%
doubt = Doubt()
cluster, factor = calibrated(doubt, "sync")
names = ["sync", "displaced", "dice"]
traces = [simulate(load_schedule(name, 10, 28), workload(32, doubt), cluster) for name in names]
print(*comparison_table(traces, names), sep="\n")
