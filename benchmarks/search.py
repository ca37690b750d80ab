"""What searching finds, against the rules of thumb: DiT-MoE-XL, 8 ranks, 50 steps, 4, 16 and 32 images a rank, on
8 x RTX 4090 and 8 x H100.

    python benchmarks/search.py [layers] [order] [verify] [digits] [8x-rtx4090] [8x-h100] [again]

layers: which layers to synchronise, alone and with slots at intervals, against deep, shallow and staggered; by mean age
and by what the digits model's images lose (sim/vulnerabilities).  Intervals: the middle 90 % of 64 draws of each
cluster's uncertain numbers (sim/inputs.py), the same for both that are compared.  order: local search from the named
schedules, at no higher mean age.  verify: winners on two real ranks against one process, float64.  digits: winners of a
search on the digits model, judged by its real images.  Without words, all.  Adds to
benchmarks/results/search.json what is not there (again: anew), and to each part which command, commit and machine
made it last."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.samples import machine
from sim import MODELS, Cluster, Schedule, Workload, load_schedule, simulate
from sim.inputs import drawn, inputs_of
from sim.search.file import Run
from sim.search.layers import MORE_MODES, Cost, LayerSearch, age_cost, image_cost
from sim.search.layerwise import Mode, layerwise
from sim.search.order import SETTINGS, local_search, reordered
from sim.search.rules import Rule, Stand, know, rules, stand
from sim.search.run import cost_of, memory_bytes, seconds_of, with_settings
from sim.vectorised.engines import Case, evaluate
from sim.vulnerability import Vulnerability
from sim.workload import ModelShape

MODES = tuple(map(Mode.parse, ("sync", "stale")))
MODEL, RANKS, STEPS, DRAWS, PROBES = MODELS["XL"], 8, 50, 64, 10
CLUSTERS, BATCHES = ("8x-rtx4090", "8x-h100"), (4, 16, 32)
TRIES = 8
ORDER_STEPS, ORDER_TRIALS = 9, 120
TARGET = Path(__file__).parent / "results" / "search.json"
Row = dict[str, Any]


def runs() -> list[Run]:
    sync = load_schedule("sync", STEPS, MODEL.layers)
    return [Run(sync, Workload(MODEL, RANKS, images), Cluster.load(name)) for name in CLUSTERS for images in BATCHES]


def remembered(timed: Callable[[Schedule], float]) -> Callable[[Schedule], float]:
    """The same, each schedule once."""
    known: dict[str, float] = {}

    def once(schedule: Schedule) -> float:
        key = " ".join(map(str, schedule.ops))
        if key not in known:
            known[key] = timed(schedule)
        return known[key]

    return once


def drawn_s(schedule: Schedule, run: Run) -> np.ndarray[Any, Any]:
    """Seconds [draw]; the first of the numbers as they stand."""
    changes = drawn(inputs_of(run.cluster), DRAWS, seed=0)
    return evaluate(Case(schedule, run.workload, asdict(run.cluster), DRAWS, changes)).makespan_s


def compared(found_s: np.ndarray[Any, Any], rule_s: np.ndarray[Any, Any]) -> Row:
    """What share of the rule's time is saved, over draws."""
    saved = 1 - found_s / rule_s
    low, high = np.quantile(saved, [0.05, 0.95])
    return {"saved": float(saved[0]), "saved_90": [float(low), float(high)], "faster_share": float((saved >= 0).mean())}


# -------------------------------------------------------------------------------------------------- layers


def layers_of(run: Run) -> list[Row]:
    """A row for each cost, means and rule."""
    rows, timed = [], remembered(seconds_of(run))
    steps, layers = run.schedule.steps, run.schedule.layers
    some = rules(steps, layers)
    rule_s = {each.name: drawn_s(each.schedule, run) for each in some}
    for means, modes in {"layers": MODES, "layers and slots": MORE_MODES}.items():
        costs = age_cost(steps, layers, modes), image_cost(steps, layers, modes, Vulnerability.load("digits"))
        for cost in costs:
            search = LayerSearch(steps, layers, modes, cost, timed)
            search.probe(PROBES, seed=0)
            know(search, some)
            for each in some:
                rows.append(
                    _against(run, stand(search, each, _cost(cost, each, modes), TRIES), cost, rule_s[each.name])
                )
                rows[-1] |= {"means": means, "layers_off": [min(search.errors), max(search.errors)]}
                print({key: rows[-1][key] for key in ("cluster", "images", "means", "cost", "rule", "cost_of_rule",
                       "cost_as_fast", "saved_at_cost")}, flush=True)  # fmt: skip
    return rows


def _cost(cost: Cost, rule: Rule, modes: Sequence[Mode]) -> float:
    choice = rule.choice(modes)
    assert choice is not None  # sync and stale are among all modes
    return cost.of(choice)


def _against(run: Run, at: Stand, cost: Cost, rule_s: np.ndarray[Any, Any]) -> Row:
    """The front where a rule stands: the least cost as fast as it, and the fastest at its cost."""
    cheap, quick = at.as_fast, at.at_cost
    assert cheap is not None  # the rule is known to the search
    assert quick is not None
    told = {
        key: compared(drawn_s(layerwise(STEPS, found.modes), run), rule_s)
        for key, found in (("as_fast", cheap), ("at_cost", quick))
    }
    modes = {key: [str(mode) for mode in found.modes] for key, found in (("as_fast", cheap), ("at_cost", quick))}
    return {"cluster": run.cluster.name, "images": run.workload.images, "cost": cost.name, "rule": at.rule,
            "rule_s": at.seconds, "cost_of_rule": at.cost, "as_fast_s": cheap.seconds, "cost_as_fast": cheap.cost,
            "no_less_than": cheap.bound, "at_cost_s": quick.seconds, "cost_at_cost": quick.cost,
            "saved_as_fast": told["as_fast"], "saved_at_cost": told["at_cost"], "modes": modes}  # fmt: skip


# --------------------------------------------------------------------------------------------------- order


def order_of(run: Run, name: str) -> list[Row]:
    """Order alone, then order and settings, searched at ORDER_STEPS steps and held against the start at all steps."""
    rows = []
    for means, settings in {"order": {}, "order and settings": SETTINGS}.items():
        few = replace(run, schedule=load_schedule(name, ORDER_STEPS, MODEL.layers))
        found = [*local_search(lambda s, few=few: with_settings(few.schedule, s), seconds_of(few), cost_of(None),
                               ORDER_TRIALS, seed=0, settings=settings)][-1]  # fmt: skip
        whole = load_schedule(name, STEPS, MODEL.layers)
        plan = reordered(with_settings(whole, found.candidate.settings), found.candidate.shifts)
        told = compared(drawn_s(plan, run), drawn_s(whole, run))
        simulated = simulate(plan, run.workload, run.cluster).makespan_s
        rows.append({"cluster": run.cluster.name, "images": run.workload.images, "start": name, "means": means,
                     "found": str(found.candidate), "start_s": seconds_of(run)(whole), "found_s": seconds_of(run)(plan),
                     "simulated_s": simulated, "mean_age_start": cost_of(None)(whole),
                     "mean_age_found": cost_of(None)(plan), "memory_bytes_start": memory_bytes(whole, run),
                     "memory_bytes_found": memory_bytes(plan, run), **told,
                     "few_steps_text": str(reordered(with_settings(few.schedule, found.candidate.settings),
                                                     found.candidate.shifts))})  # fmt: skip
        print({key: rows[-1][key] for key in ("cluster", "start", "means", "found", "start_s", "found_s",
               "mean_age_start", "mean_age_found", "saved_90")}, flush=True)  # fmt: skip
    return rows


# -------------------------------------------------------------------------------------------------- real runs


def verified(texts: dict[str, str]) -> list[Row]:
    """Winners on two real ranks, against one process without communication: largest difference, and ages that are not
    those that the schedule says."""
    from realrun.ranks import Ranks
    from realrun.run import Settings, run
    from realrun.verify import difference

    settings, rows = Settings(seed=3, dtype="float64"), []
    with Ranks(2, timeout_s=120) as ranks:
        for name, text in texts.items():
            plan = Schedule.parse(text).check()
            shape = ModelShape("small", layers=plan.layers, top_k=plan.top_k, hidden=16, heads=2, experts=8, latent=8,
                               classes=10)  # fmt: skip
            workload = Workload(shape, 2, images=6, wire="float64")
            far, misaged = difference(run(plan, workload, ranks, settings), plan, workload, settings)
            rows.append({"schedule": name, "steps": plan.steps, "largest_difference": far, "wrong_ages": misaged})
            print(rows[-1], flush=True)
    return rows


def winners(results: Row, steps: int) -> dict[str, str]:
    """Texts of schedules that a search found, of few steps."""
    texts = {
        f"order: {row['start']}, {row['means']}, {row['cluster']}": row["few_steps_text"] for row in results["order"]
    }
    for row in results["layers"]:
        if row["images"] == 16 and row["rule"] == "deep":
            for key, modes in row["modes"].items():
                name = f"{row['means']}, {row['cost']}, {row['cluster']}, {key}"
                texts[name] = str(layerwise(steps, [Mode.parse(mode) for mode in modes]))
    return texts


def digits() -> Row:
    """Layers searched on the digits model (20 steps, seconds of XL's layers with 16 images a rank on 8 x RTX 4090), and
    what its real images lose under what was found and under the rules of thumb."""
    steps, shape = 20, replace(MODEL, layers=6)
    run = Run(load_schedule("sync", steps, 6), Workload(shape, RANKS, 16), Cluster.load("8x-rtx4090"))
    timed, texts, rows = remembered(seconds_of(run)), dict[str, str](), list[Row]()
    for means, modes in {"layers": MODES, "layers and slots": MORE_MODES}.items():
        cost: Cost = image_cost(steps, 6, modes, Vulnerability.load("digits"))
        search = LayerSearch(steps, 6, modes, cost, timed)
        search.probe(PROBES, seed=0)
        know(search, some := rules(steps, 6))
        for each in some:
            name, plan = each.name, each.schedule
            found = search.best(timed(plan))
            label = f"{means.replace(' ', '-')}-{name}"
            texts |= {f"rule-{name}": str(replace(plan, name=f"rule-{name}")),
                      label: str(layerwise(steps, found.modes, name=label))}  # fmt: skip
            rows.append({"rule": name, "means": means, "rule_s": timed(plan), "found_s": found.seconds,
                         "estimated_rule": _cost(cost, each, modes), "estimated_found": found.cost,
                         "modes": [str(mode) for mode in found.modes], "found": label})  # fmt: skip
            print(rows[-1], flush=True)
    return {"rows": rows, "images": _judged(texts, steps)}


def _judged(texts: dict[str, str], steps: int) -> Row:
    """Distance to the synchronous images of the same noise, mean and 95 % interval over seeds, by `realrun quality`."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, text in texts.items():
            (file := Path(folder) / f"{name}.txt").write_text(text)
            files.append(str(file))
        asked = [
            "--steps",
            str(steps),
            "--seeds",
            "5",
            "--images",
            "64",
            "--fine",
            str(steps),
            "--jobs",
            "1",
            "--timed",
            "digits",
        ]
        report = Path(folder) / "quality.json"
        subprocess.run([sys.executable, "-m", "realrun", "quality", *files, *asked, "--json", str(report)], check=True)
        return json.loads(report.read_text().replace(f"{folder}/", ""))  # type: ignore[no-any-return]


def read() -> Row:
    return json.loads(TARGET.read_text()) if TARGET.exists() else {}  # type: ignore[no-any-return]


def keep(part: str, found: Any, made: dict[str, str]) -> None:
    """Adds rows to a part of the results, or puts it there: hours of work should survive the next mistake.

    made: date, command, machine and commit ("+ changes" if files differed from it when the command began)."""
    results = read()
    results[part] = [*results.get(part, []), *found] if part in ("layers", "order") else found
    results["meta"] = {**results.get("meta", {}), part: made}
    TARGET.write_text(json.dumps(results, indent=1) + "\n")


def missing(part: str, run: Run) -> bool:
    """Whether the results lack this machine and batch: the command goes on where it was stopped."""
    found = (run.cluster.name, run.workload.images)
    return all((row["cluster"], row["images"]) != found for row in read().get(part, []))


def forget(parts: Sequence[str], some: Sequence[Run]) -> None:
    """Takes out what the results have of these machines and batches, so that it is found anew."""
    results, theirs = read(), {(run.cluster.name, run.workload.images) for run in some}
    for part in {*parts} & {"layers", "order"}:
        results[part] = [row for row in results.get(part, []) if (row["cluster"], row["images"]) not in theirs]
    TARGET.write_text(json.dumps(results, indent=1) + "\n")


def main(words: Sequence[str]) -> None:
    """The parts named, on the clusters named; all without words."""
    wanted = [word for word in words if word not in (*CLUSTERS, "again")] or ["layers", "order", "verify", "digits"]
    clusters = [Cluster.load(word).name for word in words if word in CLUSTERS]
    some = [run for run in runs() if not clusters or run.cluster.name in clusters]
    made = machine()  # before anything is written, which would be a change
    if "again" in words:
        forget(wanted, some)
    for run in some:
        if "layers" in wanted and missing("layers", run):
            keep("layers", layers_of(run), made)
    for run in some:
        if "order" in wanted and run.workload.images == 16 and missing("order", run):
            keep("order", [row for name in ("sync", "interweaved") for row in order_of(run, name)], made)
    if "verify" in wanted:
        keep("verify", verified(winners(read(), ORDER_STEPS)), made)
    if "digits" in wanted:
        keep("digits", digits(), made)


if __name__ == "__main__":
    main(sys.argv[1:])
