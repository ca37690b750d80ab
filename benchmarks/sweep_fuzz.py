"""Whatever is asked of a sweep, it ends: in a result or in words.  Settings and schedules drawn at random, 10,000.

    python benchmarks/sweep_fuzz.py [DRAWS] [SEED]

A draw is a point with some settings as they should be and some as they should not: values out of range or of another
type, keys that lead nowhere, schedules by name, with settings, or as text that has been cut and stirred.  A row that
calls itself a fault, an exception, a result that is no number and a draw that takes above a minute are failures.
Writes benchmarks/results/sweep_fuzz.json."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from calibration.samples import machine
from sim.load import load_schedule
from sim.schedules import SCHEDULES
from sim.sweeps.point import Sources
from sim.sweeps.points import Chunk
from sim.sweeps.rows import rows_of
from sim.sweeps.settings import DEFAULTS, setting_kind, settings_problems

RESULTS = Path(__file__).parent / "results" / "sweep_fuzz.json"
LONGEST_S = 60.0
STRANGE = (None, 0, -1, 2**40, 0.5, float("nan"), float("inf"), True, "", "x", "1e9", [], {})
SETTINGS: dict[str, tuple[Any, ...]] = {
    "warm_up": (0, 1, 9), "stride": (1, 2, 7), "cool_down": (1, 2), "forced": ("1", "0-2", "9", "x"),
    "synchronous": ("deep", "shallow", "staggered", "all", "0,2", "99"), "interval": (1, 2, 3),
    "conditional": ("low", "high", "random", "threshold", "debt", "up"), "intervals": ("1,2", "2,1", "1"),
    "always": (0, 1, 2), "threshold": (0.2, 3.0), "seed": (1,), "cached": (2, 3), "cached_layers": ("deep",),
    "weights": ("current", "carried"), "counts": ("ahead", "blocking"), "pieces": (2, 3), "micro_batches": (2, 3, 27),
    "communicators": ("D+C", "N+DC", "D+D"), "experts": ("replicated",), "patches": ("fresh", "stale"),
    "together": (2, 99), "released": ("reruns", "conditional"), "top_k": (1, 2, 3), "colour": ("red",),
}  # fmt: skip
PLAIN: dict[str, tuple[Any, ...]] = {
    "model": ("tiny", "S", "S-16E", "XS"), "pixels": (64, 128, 256, 100), "images": (1, 2, 3, 8, 32),
    "ranks": (1, 2, 3, 4, 8, 16), "wire": ("float32", "bfloat16", "int8", "int7"), "dtype": ("bf16", "fp32", "fp8"),
    "grouped": (True, False), "guidance": (True, False), "imbalance": (1, 1.3, 7.5), "keep": (0.5, 0.9, 1.0),
    "mesh": ("data=2 expert=4", "expert=4 guidance=2", "patch=2 expert=4", "data=3", "expert"),
    "placement": ("contiguous", "balanced copies=2 near=2", "nearby"), "routing_seed": (1,), "seed": (1, 2),
}  # fmt: skip
MACHINE: dict[str, tuple[Any, ...]] = {
    "cluster.host.launch_s": (0, 1e-3), "cluster.host.synchronous": (True, False), "cluster.host.priority": (True,),
    "cluster.interference.communication": (0, 0.5), "cluster.interference.compute.*": (0, 0.2),
    "cluster.interference.multiprocessors": (0.1, 1.0), "cluster.link.bytes_per_s": (1e6, 1e12),
    "cluster.link.scope": ("pair", "port", "all"), "cluster.link.resources.port.bytes_per_s": (1e9,),
    "cluster.link.all_to_all": ("hierarchical", "direct"), "cluster.compute.gpu": ("a100_sxm", "z80"),
    "cluster.compute.E.flops_per_s": (1e12,), "cluster.jitter.E": (0.1, 3.0), "cluster.nothing.here": (1,),
    "times.cluster.link.resources.*.bytes_per_s": (0.1, 10.0), "times.cluster.compute.memory_bytes_per_s": (0.5,),
}  # fmt: skip
MODEL: dict[str, tuple[Any, ...]] = {
    "model.hidden": (384, 100), "model.layers": (2, 3), "model.experts": (8, 16, 7), "model.top_k": (1, 3),
    "model.heads": (4, 5), "model.adaln": (False,), "model.colour": (1,), "model.name": ("x",),
}  # fmt: skip
CLUSTERS = ("8x-h100", "8x-rtx4090", "8x-l40s", "2x8-h100", "cpu-2-ranks", "9x-h100")


def drawn(random: Random) -> tuple[dict[str, Any], Sources]:
    """Settings of a point, and the schedule's file if it has one."""
    point: dict[str, Any] = {"schedule": random.choice([*SCHEDULES]), "cluster": random.choice(CLUSTERS),
                             "steps": random.choice([1, 2, 3, 5]), "model": random.choice(["tiny", "S"]),
                             "images": random.choice([1, 2, 4])}  # fmt: skip
    texts: dict[str, str] = {}
    if random.random() < 0.3:
        point["schedule"] = "mine.txt"
        texts["mine.txt"] = stirred(random, random.choice([*SCHEDULES]), 4 if point["model"] == "tiny" else 12)
        point["steps"] = random.choice([None, 3])
    for pool, often in ((SETTINGS, 0.5), (PLAIN, 0.8), (MACHINE, 0.5), (MODEL, 0.2)):
        for key in random.sample([*pool], min(len(pool), int(random.expovariate(1 / often)))):
            value = random.choice(STRANGE) if random.random() < 0.1 else random.choice(pool[key])
            point[f"schedule.{key}" if pool is SETTINGS else key] = value
    return point, Sources(schedules=texts)


def stirred(random: Random, name: str, layers: int) -> str:
    """A named schedule's text with some ops moved, dropped, repeated or renamed."""
    words = str(load_schedule(name, 3, layers)).split(" ")
    for _ in range(random.choice([0, 0, 1, 2, 5])):
        at, other = random.randrange(1, len(words)), random.randrange(1, len(words))
        what = random.choice(["swap", "drop", "repeat", "rename"])
        if what == "swap":
            words[at], words[other] = words[other], words[at]
        elif what == "drop" and len(words) > 2:
            del words[at]
        elif what == "repeat":
            words.insert(at, words[other])
        else:
            words[at] = words[at].replace(random.choice("0123ADSECRFZP<."), random.choice("0123ADSECRNQK<.@"))
    return " ".join(words)


@dataclass
class Tally:
    """What became of draws, and the failures."""

    ended: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0


def ask(point: dict[str, Any], sources: Sources) -> tuple[str, str]:
    """(how it ended, words): "refused before", "refused", "finished", or "failed"."""
    if problems := settings_problems(point):
        return "refused before it ran", problems[0]
    given = {key: value for key, value in point.items() if value is not None}
    kinds = {key: setting_kind(key, (value,)) for key, value in {**DEFAULTS, **given}.items()}
    row = rows_of(Chunk(0, 1, given, {}, kinds), sources).to_pylist()[0]
    if row["error"] is not None:
        return ("failed" if row["error"].startswith("fault") or not row["error"].strip() else "refused"), row["error"]
    good = np.isfinite(row["makespan_s"]) and row["makespan_s"] > 0 and row["memory_bytes"] > 0
    return ("finished", "") if good else ("failed", f"makespan {row['makespan_s']}, memory {row['memory_bytes']}")


def fuzz(draws: int, seed: int) -> Tally:
    """Draws, one after another."""
    tally = Tally()
    for n in range(draws):
        point, sources = drawn(Random(f"{seed} {n}"))
        began = time.perf_counter()
        try:
            how, words = ask(point, sources)
        except Exception as error:  # what this looks for
            how, words = "failed", f"{type(error).__name__}: {error}"
        took = time.perf_counter() - began
        tally.longest_s = max(tally.longest_s, took)
        if took > LONGEST_S:
            how, words = "failed", f"took {took:.0f} s"
        tally.ended[how] += 1
        if how == "failed":
            tally.failures.append(f"{n}: {point}: {words}")
    return tally


def main() -> None:
    draws, seed = (int(each) for each in (sys.argv[1:] + ["10000", "0"][len(sys.argv) - 1 :]))
    began = time.perf_counter()
    tally = fuzz(draws, seed)
    found = {"draws": draws, "seed": seed, **tally.ended, "failed": len(tally.failures),
             "longest draw in s": round(tally.longest_s, 2), "s": round(time.perf_counter() - began)}  # fmt: skip
    print(json.dumps(found, indent=1), *tally.failures[:20], sep="\n")
    if draws >= 10_000:
        RESULTS.write_text(json.dumps({"meta": machine(), **found}, indent=1) + "\n")
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
