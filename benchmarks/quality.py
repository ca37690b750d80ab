"""What staleness costs on the digits model, and whether the published orderings hold: `python benchmarks/quality.py`.

Five seeds of 200 images a schedule; an interval is over seeds, and every comparison is paired: the same noise and
labels on both sides.  Beside schedules stand synchronous ones of equal latency, by the simulation's seconds of XL on
8 x RTX 4090.  Sections can be named, and made anew alone: `python benchmarks/quality.py steps20 claims`.  Writes
benchmarks/results/quality.json; `claims` judges what is there, renews docs/quality.md, and notes in the
vulnerability's file how far its estimates are off."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from quality_page import errors, renew
from rich.console import Console
from rich.progress import track

from calibration import samples
from realrun.exact import Shares
from realrun.latency import Clock
from realrun.makers import Task, makers
from realrun.quality import Judge, Question, classifier_of
from realrun.run import Settings
from realrun.stale import Ages, with_ages
from realrun.trained import GUIDANCE, trained
from sim.output import whole_file
from sim.schedule import Schedule
from sim.vulnerability import Vulnerability, age_shares
from sim.workload import MODELS

MODEL, PERIODS = "digits", 5
ROOT = Path(__file__).parent.parent
RESULTS, FILE = ROOT / "benchmarks" / "results" / "quality.json", ROOT / "sim" / "vulnerabilities" / "digits.json"
ASKED = Question(20, tuple(range(5)), 200, Shares(4, 50), GUIDANCE[MODEL])  # the ranks matter to distrifusion alone
FEW = replace(ASKED, images=50, shares=Shares(1, 50))  # where there are many schedules
METHODS = ("sync", "displaced", "interweaved", "dice")
LAYERS = tuple(f"interweaved synchronous={which}" for which in ("deep", "staggered", "shallow"))
SKIPPING = tuple(f"interweaved conditional={which}" for which in ("low", "random", "high"))
OTHERS = ("cached", "cached cached=3", "examples/turns.py", "overlap", "interweaved weights=current", "dice stride=5",
          "interweaved warm_up=4", "interweaved cool_down=4", "distrifusion")  # fmt: skip
THRESHOLDS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
DRAWN, DRAWN_STEPS = 40, (8, 10, 15, 20, 30, 40)
Row = dict[str, Any]
Section = Callable[[Judge], list[Row]]
Where = Callable[[int, int], bool]


def main() -> None:
    """Makes the sections that were named, or all, and writes results and page."""
    torch.set_num_threads(1)
    named = sys.argv[1:] or [*SECTIONS, "claims"]
    if unknown := [name for name in named if name not in (*SECTIONS, "claims")]:
        sys.exit(f"unknown section {unknown[0]}; there are {', '.join((*SECTIONS, 'claims'))}")
    with makers(MODELS[MODEL], trained(MODEL), 1) as make:
        judge = Judge(make, ASKED, classifier_of(MODEL))
        for name in (name for name in named if name != "claims"):
            made = {"meta": samples.machine(), "rows": SECTIONS[name](judge)}
            with whole_file(RESULTS) as part:
                part.write_text(as_text({**known(), name: made}))
    renew(known())
    if "drawn" in known():
        of = Vulnerability.load(MODEL)
        replace(of, errors=errors(known(), of)).save(FILE)


def known() -> dict[str, Any]:
    """The sections that were made before."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


# ----------------------------------------------------------------------------------------------- sections


def steps_of(steps: int, *sources: str) -> Section:
    """The schedules with so many steps, and the synchronous one with as few as the time of the faster ones pays for."""

    def section(judge: Judge) -> list[Row]:
        same = another(judge, replace(judge.question, steps=steps))
        return [row(same, same.schedule(source), source) for source in told(sources)] + paid_for(same)

    return section


def guided(judge: Judge) -> list[Row]:
    """The methods at the published guidance instead of the one at which digits are best."""
    shares, steps = Shares(4, 25), judge.question.steps
    same = another(judge, replace(judge.question, guidance=1.5, images=100, shares=shares, fine=steps))
    return [row(same, same.schedule(source), source) for source in told((*METHODS, *LAYERS, *SKIPPING))] + paid_for(
        same
    )


def paid_for(judge: Judge) -> list[Row]:
    """Synchronous, with as many steps as the time of each method pays for."""
    return [
        {**row(judge, judge.schedule("sync", few), f"sync, {few} steps"), "as_long_as": source}
        for source in METHODS
        if (few := clock().as_long_as(source, judge.question.steps)) is not None
    ]


def parts(judge: Judge) -> list[Row]:
    """One layer stale by a step at a time, one fresh at a time; the same of each fifth of the run; of each kind."""
    few = another(judge, FEW)
    return [row(few, schedule, name) for name, schedule in told([*parted(few.question.steps, few.make.shape.layers)])]


def parted(steps: int, layers: int) -> Iterator[tuple[str, Schedule]]:
    """Schedules in which everything named is a step old, and nothing else."""
    cuts: list[tuple[str, Where]] = [(f"layer {at}", partial(in_layer, at)) for at in range(layers)]
    cuts += [(f"fifth {at}", partial(in_fifth, at, steps)) for at in range(5)]
    for name, where in cuts:
        for word, here in (("stale", True), ("fresh", False)):
            yield f"{name} {word}", with_ages("part", steps, layers, partial(aged, where, here))
    for name, ages in [("slot 0", Ages((1, 0), 0)), ("slot 1", Ages((0, 1), 0)), ("weights", Ages((0, 0), 1)),
                       ("everything", Ages((1, 1), 1))]:  # fmt: skip
        yield f"{name} stale", with_ages("part", steps, layers, partial(always, ages))


def in_layer(at: int, s: int, l: int) -> bool:  # noqa: E741
    """Whether a layer is number `at`."""
    return l == at


def in_fifth(at: int, steps: int, s: int, l: int) -> bool:  # noqa: E741
    """Whether a step is in the fifth number `at` of the run."""
    return s * 5 // steps == at


def aged(where: Where, here: bool, s: int, l: int) -> Ages:  # noqa: E741
    """A step old where `where` says `here`, fresh elsewhere."""
    return Ages((1, 1), 1) if where(s, l) == here else Ages((0, 0), 0)


def always(ages: Ages, s: int, l: int) -> Ages:  # noqa: E741
    """The same ages everywhere."""
    return ages


def scores(judge: Judge) -> list[Row]:
    """Slots below a router score travel every second step only: what ever higher scores add."""
    few = another(judge, FEW)
    return [
        {**row(few, few.schedule(f"sync conditional=threshold threshold={at} interval=2"), f"{at}"), "threshold": at}
        for at in told(THRESHOLDS)
    ]


def drawn(judge: Judge) -> list[Row]:
    """Random schedules, steps and settings, to hold the estimate against."""
    pick, rows = random.Random(0), []
    judges: dict[int, Judge] = {}
    for _ in told(range(DRAWN)):
        steps = pick.choice(DRAWN_STEPS)
        judges[steps] = judges.get(steps) or another(judge, replace(FEW, steps=steps), *judges.values())
        source = any_source(pick, steps)
        rows.append(row(judges[steps], judges[steps].schedule(source), source))
    return rows


def speed(judge: Judge) -> list[Row]:
    """CPU seconds of one process that makes 2,000 images, with and without the half that guidance 1 does not need."""
    rows = []
    for guidance in told((1.0, 1.5)):
        task = Task(judge.schedule("dice"), Settings(guidance=guidance), range(2000))
        began_s = time.process_time()
        judge.make(task)
        cpu_s = round(time.process_time() - began_s, 1)
        rows.append({"name": "dice", "steps": 20, "images": 2000, "guidance": guidance, "cpu_s": cpu_s})
    return rows


def any_source(pick: random.Random, steps: int) -> str:
    """A schedule with random settings that fit each other."""
    name = pick.choice(("displaced", "interweaved", "interweaved", "dice", "sync"))
    words = [name]
    if name != "sync":
        words += pick.choice(
            ([], [f"warm_up={steps // 4}"], [f"cool_down={steps // 4}"], [f"stride={pick.randint(3, 6)}"],
             [f"forced={steps // 2}-{steps // 2 + 1}"], ["weights=current"])
        )  # fmt: skip
    if name in ("displaced", "interweaved"):
        words += pick.choice(([], ["synchronous=shallow"], ["synchronous=staggered"], ["synchronous=0,3"]))
    skips = [["conditional=low"], ["conditional=high"], ["conditional=random", "seed=1"], ["intervals=1,3"],
             ["intervals=2,4"], ["conditional=threshold", "threshold=0.25", "interval=3"],
             ["conditional=debt", "threshold=0.4", "interval=4"], ["cached=2"]]  # fmt: skip
    if name == "dice":
        words += pick.choice(([], ["interval=3"], ["interval=4"]))
    elif name == "sync" or pick.random() < 0.5:
        words += pick.choice(skips)
    return " ".join(words)


SECTIONS: dict[str, Section] = {
    "steps20": steps_of(20, *METHODS, *LAYERS, *SKIPPING, *OTHERS),
    "steps10": steps_of(10, *METHODS, *LAYERS, *SKIPPING),
    "steps50": steps_of(50, *METHODS),
    "parts": parts,
    "scores": scores,
    "drawn": drawn,
    "guided": guided,
    "speed": speed,
}


# ------------------------------------------------------------------------------------------------ what they share


def row(judge: Judge, schedule: Schedule, name: str) -> Row:
    """What a schedule came to, and what an estimate needs to know of it: its ages as shares of the run."""
    quality, _, ages = judge(schedule, name.replace("examples/", ""))
    if any(map(any, schedule.attention_staleness())):
        return quality.table()
    shares = age_shares(schedule, PERIODS, schedule.layers, ages.numpy())
    return {**quality.table(), "shares": [round(float(x), 6) for x in shares.ravel()]}


def another(judge: Judge, question: Question, *like: Judge) -> Judge:
    """A judge of another question; with the fine images of one that has the same."""
    same = [each for each in (judge, *like) if replace(each.question, steps=question.steps) == question]
    return Judge(judge.make, question, judge.classifier, fine=same[0].fine if same else None)


@cache
def clock() -> Clock:
    """Of what DICE was published on."""
    return Clock.of("8x-rtx4090", "XL", 16)


def as_text(found: dict[str, Any]) -> str:
    """JSON with a line a row."""
    sections = []
    for name, section in found.items():
        rows = ",\n".join(f"  {json.dumps(each)}" for each in section["rows"])
        sections.append(f'"{name}": {{\n "meta": {json.dumps(section["meta"])},\n "rows": [\n{rows}\n ]\n}}')
    return "{\n" + ",\n".join(sections) + "\n}\n"


def told(sequence: Any) -> Any:
    """With a progress bar, on a terminal."""
    console = Console(stderr=True)
    return track([*sequence], "judging", console=console, disable=not console.is_terminal)


if __name__ == "__main__":
    main()
