"""What benchmarks/results/quality.json says, put between the markers of docs/quality.md: tables, and whether each
published ordering holds.  It judges results; it makes none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from realrun.intervals import Interval, difference
from sim.output import whole_file
from sim.vulnerability import Vulnerability

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "quality.md"
METRICS = {"distance": "distance to sync of as many steps", "fine": "distance to 100 sync steps", "frechet": "Frechet"}
DEEP, STAGGERED, SHALLOW = (f"interweaved synchronous={which}" for which in ("deep", "staggered", "shallow"))
LOW, RANDOM, HIGH = (f"interweaved conditional={which}" for which in ("low", "random", "high"))
PAIRS = {  # what was published to be less, and than what
    "sync < dice": ("sync", "dice"),
    "dice < interweaved": ("dice", "interweaved"),
    "interweaved < displaced": ("interweaved", "displaced"),
    "deep < staggered": (DEEP, STAGGERED),
    "staggered < shallow": (STAGGERED, SHALLOW),
    "deep < shallow": (DEEP, SHALLOW),
    "low-score < random skipping": (LOW, RANDOM),
    "random < high-score skipping": (RANDOM, HIGH),
}
ORDER = [*PAIRS]
WHERE = {"steps10": "10", "steps20": "20", "steps50": "50", "guided": "20, guidance 1.5"}
Found = Mapping[str, Any]
Row = Mapping[str, Any]


class Verdict(NamedTuple):
    """Whether a claim holds: `more` - `less`, paired by seed."""

    where: str
    claim: str
    metric: str
    less: float
    more: float
    gap: Interval

    @property
    def word(self) -> str:
        """What the interval leaves no doubt of."""
        return {1: "holds", 0: "undecided", -1: "the opposite holds"}[self.gap.sign]


def verdicts(found: Found) -> Iterator[Verdict]:
    """Every published ordering, in every section and metric that can tell."""
    for section in ("steps10", "steps20", "steps50", "guided"):
        rows = by_name(found, section)
        for claim, (less, more) in PAIRS.items():
            if less in rows and more in rows:
                yield from compared(section, claim, rows[less], rows[more])
        for each in found.get(section, {"rows": []})["rows"]:
            if each.get("as_long_as") in rows:
                than = each["as_long_as"]
                yield from compared(section, f"{each['name']} < {than}, at equal latency", each, rows[than])
    yield from few_steps(found)


def compared(where: str, claim: str, less: Row, more: Row) -> Iterator[Verdict]:
    """By every metric that both rows have."""
    for metric in METRICS:
        if metric in less and metric in more and (where, metric) != ("guided", "fine"):
            gap = difference(more[metric]["seeds"], less[metric]["seeds"])
            yield Verdict(where, claim, metric, less[metric]["mean"], more[metric]["mean"], gap)


def few_steps(found: Found) -> Iterator[Verdict]:
    """Few steps hurt displaced more than interweaved: each's loss against sync, at 10 steps less that at 50."""
    ten, fifty = by_name(found, "steps10"), by_name(found, "steps50")
    for metric in METRICS if ten and fifty else ():

        def hurt(name: str, metric: str = metric) -> list[float]:
            at = [difference_by_seed(rows[name], rows["sync"], metric) for rows in (ten, fifty)]
            return [a - b for a, b in zip(*at, strict=True)]

        less, more = hurt("interweaved"), hurt("displaced")
        means = (sum(values) / len(values) for values in (less, more))
        yield Verdict("10 v. 50", "few steps hurt interweaved < displaced", metric, *means, difference(more, less))


def difference_by_seed(row: Row, base: Row, metric: str) -> list[float]:
    """[seed]"""
    return [a - b for a, b in zip(row[metric]["seeds"], base[metric]["seeds"], strict=True)]


def by_name(found: Found, section: str) -> dict[str, Row]:
    """Name -> row; {} of a section that was not made."""
    return {row["name"]: row for row in found.get(section, {"rows": []})["rows"]}


# ------------------------------------------------------------------------------------------------ the estimate


def estimated(row: Row, metric: str, of: Vulnerability) -> float:
    """What the vulnerability says that a row's distance is."""
    shares = np.array(row["shares"]).reshape(of.periods, of.layers, len(of.kinds))
    return of.distance(shares, (metric == "fine") / row["steps"])


def estimate_errors(rows: list[Row], metric: str, of: Vulnerability) -> dict[str, float]:
    """How far estimates are off: rank correlation, and quantiles of estimate / measurement."""
    once = {(row["name"], row["steps"]): row for row in rows if "shares" in row and row[metric]["mean"] > 0}
    known = [*once.values()]
    if metric == "distance":  # is to the images of other steps than theirs
        known = [row for row in known if "as_long_as" not in row]
    truth, told = [row[metric]["mean"] for row in known], [estimated(row, metric, of) for row in known]
    ratios = np.array(told) / np.array(truth)
    low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95])
    return {
        "schedules": len(known), "rank_correlation": float(spearmanr(truth, told).statistic),
        "low": low, "median": median, "high": high,
    }  # fmt: skip


def errors(found: Found, of: Vulnerability) -> dict[str, float]:
    """What the vulnerability's file says of its errors: those of distances to 100 sync steps, of schedules drawn."""
    told = estimate_errors(found["drawn"]["rows"], "fine", of)
    return {key: round(float(value), 3) for key, value in told.items()}


# ---------------------------------------------------------------------------------------------------- the page


def renew(found: Found) -> None:
    """Puts tables between the markers of the page; leaves those that cannot be made yet."""
    text = PAGE.read_text()
    for name, table in tables(found).items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not marked.search(text):
            raise ValueError(f"{PAGE} has no <!-- {name} -->")
        text = marked.sub(lambda m, table=table: m[1] + table + m[2], text)  # type: ignore[misc]
    with whole_file(PAGE) as part:
        part.write_text(text)


def tables(found: Found) -> dict[str, str]:
    """Marker -> markdown."""
    made = {}
    for section in ("steps10", "steps20", "steps50", "guided"):
        if section in found:
            made[section] = quality_table(found[section])
    if "parts" in found:
        made["parts"] = parts_table(by_name(found, "parts"))
    if "scores" in found:
        made["scores"] = scores_table(found["scores"]["rows"])
    made["claims"] = claims_table([*verdicts(found)])
    if "speed" in found:
        made["speed"] = speed_table(found["speed"])
    if "drawn" in found:
        made["estimate"] = estimate_table(found)
    return made


def quality_table(section: Row) -> str:
    """A row a schedule."""
    head = ["schedule", "steps", "mean age", "distance", "to 100 sync steps", "Frechet", "right class"]
    rows = []
    for row in section["rows"]:
        name = row["name"] + (f" (as long as {row['as_long_as']})" if "as_long_as" in row else "")
        cells = [plus_minus(row[key], digits) for key, digits in
                 [("distance", 4), ("fine", 4), ("frechet", 3), ("accuracy", 4)]]  # fmt: skip
        rows.append([name, str(row["steps"]), f"{row['mean_age']:.2f}", *cells])
    meta = section["meta"]
    made = f"\n({meta['processor']}, {meta['date'][:10]}, `{meta['command']}`)\n"
    return "\n" + markdown(head, rows) + made


def parts_table(rows: Mapping[str, Row]) -> str:
    """Stale alone, fresh alone, and the estimate of each."""
    head = ["part", "stale alone", "estimated", "fresh alone", "estimated"]
    cuts = [*(f"layer {at}" for at in range(6)), *(f"fifth {at}" for at in range(5))]
    cuts += ["slot 0", "slot 1", "weights", "everything"]
    of, lines = Vulnerability.load("digits"), []
    for cut in cuts:
        cells = []
        for word in ("stale", "fresh"):
            row = rows.get(f"{cut} {word}")
            told = "" if row is None else f"{estimated(row, 'distance', of):.4f}"
            cells += [told, told] if row is None else [plus_minus(row["distance"], 4), told]
        lines.append([cut, *cells])
    return "\n" + markdown(head, lines)


def scores_table(rows: list[Row]) -> str:
    """What slots of higher and higher scores add."""
    head = ["slots below this score travel every 2nd step", "mean age", "distance", "distance per mean age of 1 step"]
    lines = [
        [row["name"], f"{row['mean_age']:.3f}", plus_minus(row["distance"], 4),
         f"{row['distance']['mean'] / row['mean_age']:.4f}" if row["mean_age"] else ""]
        for row in rows
    ]  # fmt: skip
    return "\n" + markdown(head, lines)


def claims_table(judged: list[Verdict]) -> str:
    """A row a claim and section: verdict and interval by each metric."""
    head = ["claim", "steps", *(f"by {METRICS[metric]}" for metric in METRICS)]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for v in sorted(judged, key=lambda v: ORDER.index(v.claim) if v.claim in ORDER else len(ORDER)):
        digits = 3 if v.metric == "frechet" else 4
        told = f"{v.word}: {v.gap.low:+.{digits}f} to {v.gap.high:+.{digits}f}"
        cells.setdefault((v.claim, WHERE.get(v.where, v.where)), {})[v.metric] = told
    lines = [[*key, *(each.get(metric, "") for metric in METRICS)] for key, each in cells.items()]
    return "\n" + markdown(head, lines)


def estimate_table(found: Found) -> str:
    """Errors of the estimate, on schedules drawn at random and on those of the tables."""
    head = ["schedules", "of", "rank correlation", "estimate / measurement: median", "5 to 95 %"]
    of, lines = Vulnerability.load("digits"), []
    named = [row for section in ("steps10", "steps20", "steps50") for row in found.get(section, {"rows": []})["rows"]]
    for what, rows in [("drawn at random", found["drawn"]["rows"]), ("of the tables above", named)]:
        for metric in ("fine", "distance") if rows else ():
            e = estimate_errors(rows, metric, of)
            lines.append([f"{e['schedules']} {what}", METRICS[metric], f"{e['rank_correlation']:.3f}",
                          f"{e['median']:.2f}", f"{e['low']:.2f} to {e['high']:.2f}"])  # fmt: skip
    return "\n" + markdown(head, lines) + f"\n({of.source})\n"


def speed_table(section: Row) -> str:
    """What images cost to make."""
    head = ["images", "schedule", "steps", "guidance", "seconds of one core"]
    rows = [[str(r[key]) for key in ("images", "name", "steps", "guidance", "cpu_s")] for r in section["rows"]]
    return "\n" + markdown(head, rows) + f"\n({section['meta']['processor']}, {section['meta']['date'][:10]})\n"


def plus_minus(cell: Row, digits: int) -> str:
    """Mean and half width of the interval."""
    return f"{cell['mean']:.{digits}f} ± {(cell['high'] - cell['low']) / 2:.{digits}f}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
