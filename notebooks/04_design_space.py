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
# # The design space: latency against staleness and quality
#
# Which schedule should run? Time is simulated; what staleness costs in images is *estimated* from a file that was
# measured on the small digits model, part by part (`sim/vulnerability.py` says what that means, and what it ignores):
# an order of schedules, not their FID.
#
# The machine is eight RTX 4090, inferred, with links at the published share of time
# ([how](../docs/reproduction.md)); the model is DiT-MoE-XL with 16 images a rank, 20 steps.

# %%
# %matplotlib inline
from calibration.reproduction.machine import Doubt, calibrated
from sim import MODELS, Workload, load_schedule, simulate
from sim.pictures import Choice, draw_front, draw_staleness, draw_vulnerability
from sim.show import comparison_table
from sim.vulnerability import Vulnerability, quality_cost

cluster, factor = calibrated(Doubt(), "sync")
workload = Workload(MODELS["XL"], ranks=8, images=16)
digits = Vulnerability.load("digits")

# %% [markdown]
# ## Latency against age
#
# All methods of the publication, and what needs no staleness. Nothing above and right of the line should be run, as far
# as age goes. (Data parallelism is left out: it beats all others wherever the model fits, see
# [notebook 02](02_simulate.ipynb). The question here is what to do where it does not.)

# %%
sorts = {
    "exact": ["sync", "overlap", "overlap micro_batches=4"],
    "stale": ["displaced", "interweaved", "interweaved stride=5", "interweaved warm_up=4"],
    "selective": [
        "interweaved synchronous=deep",
        "interweaved synchronous=shallow",
        "interweaved synchronous=staggered",
    ],
    "conditional": ["interweaved conditional=low", "dice", "dice stride=5"],
    "caching": ["cached", "cached cached=3"],
}
schedules = {name: load_schedule(name, 20, 28) for names in sorts.values() for name in names}
traces = {name: simulate(schedule, workload, cluster) for name, schedule in schedules.items()}
print(*comparison_table([*traces.values()], [*traces]), sep="\n")

# %%
draw_front(
    [Choice(name, traces[name].makespan_s, float(traces[name].mean_age.mean()), sort)
     for sort, names in sorts.items() for name in names],
    x_label="time / s", y_label="mean age of what is added / steps", name_all=True, width_in=5.5, height_in=3.6,
)  # fmt: skip

# %% [markdown]
# ## Latency against estimated quality
#
# The same times; upwards now the estimated distance of images to those of many synchronous steps, relative, root mean
# square. Steps are a choice too: `sync` with fewer of them is the rival that every stale schedule has to beat.

# %%
costs = {name: quality_cost(schedule, digits) for name, schedule in schedules.items()}
few = {steps: load_schedule("sync", steps, 28) for steps in (10, 12, 14, 16, 18)}
draw_front(
    [*[Choice(name, traces[name].makespan_s, costs[name], sort) for sort, names in sorts.items() for name in names],
     *[Choice(f"sync, {steps} steps", simulate(plan, workload, cluster).makespan_s, quality_cost(plan, digits), "fewer")
       for steps, plan in few.items()]],
    x_label="time / s", y_label="estimated distance of images", name_all=True, width_in=5.5, height_in=3.6,
)  # fmt: skip

# %% [markdown]
# ## Which layers to synchronise
#
# What it costs when one layer of the measured model alone is stale, by a tenth of the run:

# %%
draw_vulnerability({"that layer alone": digits.by_layer()}, y_label="estimated distance of images")

# %% [markdown]
# By period, from noise to image, and by kind (each slot's outputs, best first, and the router weights):

# %%
print("period", [f"{each:.4f}" for each in digits.by_period()])
print(*[f"{kind}: {each:.4f}" for kind, each in zip(digits.kinds, digits.by_kind(), strict=True)], sep="\n")

# %% [markdown]
# Half of the layers synchronous takes about the same time wherever they lie; what each half costs in images, by the
# estimate:

# %%
{name: round(costs[name], 4) for name in sorts["selective"]}

# %%
draw_staleness({name: schedules[name].staleness() for name in sorts["selective"]})

# %% [markdown]
# ## Further
#
# `python -m sim advise` does the same with limits on memory, age and latency, and says how sure its order is under what
# is not known of a machine; `python -m sim sweep` evaluates thousands of configurations on all cores
# ([sweeps](../docs/sweeps.md)). What images really look like: [notebook 05](05_images.ipynb).
