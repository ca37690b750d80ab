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
# # Staleness and images
#
# A small DiT-MoE that ships with the package draws handwritten digits, 8 x 8 pixels. Timing never changes numbers: what
# a schedule computes follows from its text alone, so one process makes the exact images of any number of ranks.
# [The page on quality](../docs/quality.md) has the method, the intervals, and what the publication's orderings come to.

# %%
# %matplotlib inline
import json
from pathlib import Path
from tempfile import mkdtemp

import torch
from IPython.display import Image

from realrun.gallery import draw_gallery
from realrun.makers import makers
from realrun.quality import Judge, Question, classifier_of
from realrun.ranks import Ranks
from realrun.run import Settings, run
from realrun.trained import GUIDANCE, trained
from sim import MODELS, Workload, load_schedule
from sim.pictures import Choice, draw_front, draw_similarity, draw_vulnerability
from sim.similarity import Similarity, by_lag
from sim.vulnerability import Vulnerability

torch.set_num_threads(1)
shape, weights = MODELS["digits"], trained("digits")
folder = Path(mkdtemp())

# %% [markdown]
# ## The same noise under several schedules
#
# Ten steps, so that a step is a tenth of the run; two seeds of 40 images. *distance*: to the synchronous images of the
# same noise, relative, root mean square.

# %%
question = Question(steps=10, seeds=(0, 1), images=40, guidance=GUIDANCE["digits"], fine=40)
names = ["sync", "displaced", "interweaved", "dice", "cached"]
with makers(shape, weights, jobs=1) as make:
    judge = Judge(make, question, classifier_of("digits"))
    judged = {name: judge(judge.schedule(name), name) for name in names}
print(*[f"{name:12} distance {sum(each.quality.distance) / 2:.4f}   right class {sum(each.quality.accuracy) / 2:.1%}"
        for name, each in judged.items()], sep="\n")  # fmt: skip

# %%
labels = [str(int(label)) for label in judge.labels(seed=0)[:12]]
draw_gallery({name: each.finals[0][:12] for name, each in judged.items()}, labels, folder / "digits.png")
Image(folder / "digits.png", width=700)

# %% [markdown]
# ## Measured at length
#
# The same for more schedules, five seeds of 400 images, 20 steps: committed, since it takes an hour
# (`python benchmarks/quality.py`). Intervals are 95 % over seeds. DistriFusion is left out: its experts are fresh, and
# what is stale there are keys and values.

# %%
measured = json.loads(Path("../benchmarks/results/quality.json").read_text())["steps20"]
print(measured["meta"]["processor"], measured["meta"]["date"][:10], measured["meta"]["command"])
draw_front(
    [Choice(row["name"], row["mean_age"], row["distance"]["mean"], "", row["distance"]["low"], row["distance"]["high"])
     for row in measured["rows"] if row["steps"] == 20 and row["name"] != "distrifusion"],
    x_label="mean age of what is added / steps", y_label="distance of images to sync", name_all=True,
    width_in=6.5, height_in=4.2,
)  # fmt: skip

# %% [markdown]
# ## Which part of the network minds
#
# Each layer made stale alone, by a tenth of the run; from the file that the estimates of
# [notebook 04](04_design_space.ipynb) rest on.

# %%
vulnerability = Vulnerability.load("digits")
print(vulnerability.source)
draw_vulnerability({"that layer alone": vulnerability.by_layer()}, y_label="estimated distance of images")

# %% [markdown]
# ## Routing changes slowly
#
# Two real ranks sample now, and record what the router chose for every token. From one step to the next most tokens
# keep their best expert; the further apart two steps are, the fewer do.

# %%
workload = Workload(shape, ranks=2, images=8, wire="float32")
with Ranks(2) as ranks:
    made = run(load_schedule("sync", 20, shape.layers), workload, ranks, Settings(guidance=GUIDANCE["digits"]), weights)
similarity = Similarity.of(made.routing)
draw_similarity(similarity.best, label="tokens with the same best expert at both steps")

# %%
draw_similarity(by_lag(similarity.best), label="tokens with the same best expert")
