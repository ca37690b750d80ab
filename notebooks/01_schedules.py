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
# # Read, write and check a schedule
#
# A schedule is an order of ops, the same on every rank. An op is named by the step *whose tokens it carries*, not by
# when it runs; so staleness is what an R reads, subtracted from its own step. Nothing here knows a clock.

# %%
# %matplotlib inline
from sim import Schedule, ScheduleError, load_schedule
from sim.describe import describe
from sim.pictures import draw_staleness

# %% [markdown]
# ## Read one
#
# Interweaved parallelism (DICE): the experts of a layer run inside the next one, and what they make is added a step
# later. All of the output below is again a schedule file; the tables are comments.

# %%
interweaved = load_schedule("interweaved", steps=4, layers=3)
print(describe(interweaved))

# %% [markdown]
# `C2.0` brings the expert outputs of step 2, layer 0 back; `R3.0<2` adds them in step 3: age 1. Ages by step, layer and
# slot (slot 0 is each token's best expert):

# %%
interweaved.staleness()[-1]

# %% [markdown]
# ## Settings are passes over any schedule
#
# Deep layers synchronous, and the second-best expert every second step only, is DICE as a whole. Colours are ages:

# %%
draw_staleness({
    "displaced": load_schedule("displaced", 12, 8).staleness(),
    "interweaved, every 5th step synchronous": load_schedule("interweaved", 12, 8, stride=5).staleness(),
    "dice": load_schedule("dice", 12, 8).staleness(),
})  # fmt: skip

# %% [markdown]
# ## Write one
#
# The last step of this one has no experts of its own: it adds those of the step before again, with today's router
# weights (`@1`).

# %%
mine = Schedule.parse("""
mine steps=2 layers=2 top_k=2
P0
A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0
A0.1 D0.1 S0.1 E0.1 C0.1 R0.1<0
F0 Z0
P1
A1.0 S1.0 R1.0<0@1
A1.1 S1.1 R1.1<0@1
F1 Z1
""").check()
print(mine.header, mine.staleness(), sep="\n")

# %% [markdown]
# What it keeps from step 0 into step 1: the outputs that came back, a buffer for each layer and slot.

# %%
[buffer[:5] for buffer in mine.persistent(0)]

# %% [markdown]
# ## A mistake is drawn
#
# `check` refuses whatever cannot run to its end, or runs for nothing, and points at the op.

# %%
try:
    Schedule.parse(str(mine).replace("E0.1 C0.1", "C0.1 E0.1")).check()
except ScheduleError as error:
    print(error)

# %%
try:
    Schedule.parse(str(mine).replace("R1.1<0@1", "R1.1<1")).check()
except ScheduleError as error:
    print(error)

# %% [markdown]
# The same from a command line: `python -m sim show interweaved --steps 4 --layers 3 > mine.txt`, change the file, then
# `python -m sim check mine.txt`. Next: [how long it takes](02_simulate.ipynb).
