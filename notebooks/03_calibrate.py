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
# # Calibrate this machine, and see the error
#
# Two processes of this machine are the ranks; the kernel paces the link between them. Microbenchmarks first; from them
# a Cluster; from that predictions; then real runs, which nothing was fitted to. One or two minutes on two idle cores. A
# machine that others share drifts: a prediction is as good as the minute in which it was measured, and the errors below
# say how good that was. (The outputs kept here were made while other programs used both cores.)

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import mkdtemp

from rich.console import Console

from calibration import results
from calibration.compare import compare
from calibration.plan import Plan
from calibration.predict import cells, fit_of
from calibration.report import numbers, op_points, transfer_points
from calibration.session import Patience, carry_out
from sim.pictures import draw_errors, draw_fits, draw_timeline
from sim.show import grid
from sim.trace import Trace

plan = Plan(rates=(30e6,), schedules=("sync", "interweaved"), steps=4, rounds=1, loads=(1.0,), about="the notebook's")

# %% [markdown]
# ## Measure and run

# %%
bundle = carry_out(plan, Path(mkdtemp()) / "bundle", Console(quiet=True), patience=Patience(tries=1, seconds=0.0))
samples = bundle.samples()
print(len(samples), "samples on", bundle.machine["processor"], "with", bundle.machine["cores"], "cores")

# %% [markdown]
# ## Fit
#
# Compute ops alone: fixed seconds, plus FLOPs over a rate. Below, what the lines leave over.

# %%
fit = fit_of(samples, plan, plan.rates[0], bundle.machine)
draw_fits([*op_points(samples, fit)], x_label="FLOPs")

# %% [markdown]
# Transfers alone: latency, plus bytes over a rate.

# %%
draw_fits([transfer_points(samples, fit)], x_label="bytes")

# %% [markdown]
# The machine, as numbers with their intervals:

# %%
print(
    *grid(["number", "fitted", "90 % from", "to"], [[name, value, *ends] for name, value, ends in numbers(fit)]),
    sep="\n",
)

# %% [markdown]
# ## Predicted and measured, now

# %%
summary = results.summarise(cells(bundle, plan), bundle.machine)
print(*grid([" ".join(each).strip() for each in results.HEADINGS], [cell.row() for cell in summary.cells]), sep="\n")
print(results.verdict(summary))

# %% [markdown]
# ## Measured at length, committed
#
# The same for three schedules and three links, several rounds, is in [the README](../README.md). Of one of these pairs,
# interweaved on the slowest link, simulated above measured; and errors level by level: of kinds of op, of layers, of
# steps, of the run. Errors of small things cancel in large ones: that is why each level is shown by itself.

# %%
folder = Path("../calibration/data/cpu-2-ranks")
pair = [Trace.load(folder / f"{origin}.trace") for origin in ("simulated", "measured")]
draw_timeline(pair, step=pair[0].schedule.steps // 2)

# %%
rows = compare(*pair)
draw_errors(
    {level: [row.error for row in rows if row.level == level] for level in dict.fromkeys(row.level for row in rows)}
)
