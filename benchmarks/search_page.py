"""Writes the tables of docs/search.md from benchmarks/results/search.json.

python benchmarks/search_page.py"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE, RESULTS = ROOT / "docs" / "search.md", ROOT / "benchmarks" / "results" / "search.json"
Row = dict[str, Any]


def table(head: str, rows: Iterable[list[str]]) -> str:
    titles = head.split(" | ")
    return "\n".join(["| " + " | ".join(each) + " |" for each in [titles, ["---"] * len(titles), *rows]])


def saved(row: Row) -> str:
    low, high = row["saved_90"]
    return f"{row['saved']:.1%} ({low:.1%} to {high:.1%})"


def layers(rows: list[Row]) -> str:
    """A line for each machine, batch, means, cost and rule."""
    lines = [
        [row["cluster"].split(",")[0], str(row["images"]), row["means"], row["cost"].split(" (")[0], row["rule"],
         f"{row['rule_s']:.4g} s", f"{row['cost_of_rule']:.3g}", f"{row['cost_as_fast']:.3g}",
         "" if row["no_less_than"] is None else f"{row['no_less_than']:.3g}", saved(row["saved_at_cost"])]
        for row in sorted(rows, key=lambda row: (row["cluster"], row["images"], row["means"], row["cost"]))
    ]  # fmt: skip
    return table("machine | images | means | cost is | rule | takes | cost | as fast | no less than | saved", lines)


def orders(rows: list[Row]) -> str:
    lines = [
        [row["cluster"].split(",")[0], row["start"], row["means"], f"{row['start_s']:.4g} s",
         f"{row['found_s']:.4g} s", saved(row),
         f"{row['mean_age_start']:.3g}", f"{row['mean_age_found']:.3g}", row["found"]]
        for row in rows
    ]  # fmt: skip
    return table("machine | start | changed | took | takes | saved | mean age | now | how", lines)


def checked(results: Row) -> str:
    """One sentence on real runs, a table of real images, and what fewer steps do instead."""
    runs = results["verify"]
    worst = max(row["largest_difference"] for row in runs)
    ages = sum(row["wrong_ages"] for row in runs)
    said = (
        f"Of {len(runs)} schedules the largest difference is {worst:.1e}, relative; {ages} ages are not as predicted."
    )
    images = {row["name"].removesuffix(".txt"): row for row in results["digits"]["images"]["rows"]}
    lines = [
        [row["rule"], row["means"], f"{row['rule_s']:.4g} s", f"{row['found_s']:.4g} s", f"{row['estimated_rule']:.3g}",
         f"{row['estimated_found']:.3g}", _distance(images[f"rule-{row['rule']}"]), _distance(images[row["found"]])]
        for row in results["digits"]["rows"]
    ]  # fmt: skip
    head = "rule | means | takes | found takes | estimated | found | measured (95 %) | found"
    return "\n\n".join([said, table(head, lines), _nearer(results["digits"]["rows"], images)])


def _distance(row: Row) -> str:
    found = row["distance"]
    return f"{found['mean']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def _nearer(rows: list[Row], images: dict[str, Row]) -> str:
    """What is nearer in real images than the rules, and that fewer synchronous steps are nearer still."""
    left = {
        means: [images[row["found"]]["distance"]["mean"] / images[f"rule-{row['rule']}"]["distance"]["mean"]
                for row in rows if row["means"] == means] for means in ("layers", "layers and slots")
    }  # fmt: skip
    few = next(row for name, row in images.items() if name.startswith("sync, as long as"))
    own_s = [row["seconds"] for row in images.values() if row["mean_age"]]
    return wrapped(f"""
        What the estimate ranks lower is nearer in real images, too: what was found comes to {share(left["layers"])} of
        the rule's distance by layers alone (which five seeds do not settle), and to {share(left["layers and slots"])}
        with slots. But **fewer synchronous steps are nearer still**. `takes` above are seconds of so many of XL's
        layers, which the search was given; on the digits model's own layers, all of these take {spread(own_s, ".4f")}
        s, {few["steps"]} synchronous steps take {few["seconds"]:.4f} s, and those come within {_distance(few)}
        ([what staleness costs in images](quality.md)). Search finds the best of what it is given; whether staleness
        should be among it, it does not ask.""")


def findings(rows: list[Row]) -> str:
    """What the table of layers says."""
    return "\n".join([_of_layers([row for row in rows if row["means"] == "layers"]),
                      _of_slots([row for row in rows if row["means"] == "layers and slots"])])  # fmt: skip


def _parted(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """By mean age; by distance of images."""
    aged = [row for row in rows if row["cost"] == "mean age"]
    return aged, [row for row in rows if row["cost"] != "mean age"]


def _of_layers(rows: list[Row]) -> str:
    aged, imaged = _parted(rows)
    deep, shallow, staggered = (
        share([row["cost_of_rule"] / row["cost_as_fast"] - 1 for row in imaged if row["rule"] == rule])
        for rule in ("deep", "shallow", "staggered")
    )
    return wrapped(f"""
        - **By layers alone there is next to nothing to gain in time.** At the rule's mean age, what was found saves at
        most {max(_saved(aged)):.1%} of its time, at the rule's distance of images at most {max(_saved(imaged)):.1%}:
        latency depends on how many layers wait, hardly on which. {_bounds(aged)} Which layers wait matters to images:
        by the digits model's vulnerability, deep costs {deep} more than the best set found that is as fast, shallow
        {shallow}, staggered {staggered}. That is a small model's vulnerability, stretched to 28 layers: an order, not a
        size.""")


def _of_slots(rows: list[Row]) -> str:
    aged, imaged = _parted(rows)
    drawn = min(row["saved_at_cost"]["saved_90"][0] for row in aged)
    close = [row["saved_as_fast"] for row in rows]
    surest, most = min(each["faster_share"] for each in close), max(each["saved"] for each in close)
    return wrapped(f"""
        - **Slots are where the gain is.** Synchronous layers of which some send slots every second or third step
        (feature caching, seen layer by layer) beat every stale half: {share(_left(aged))} of the rule's mean age at its
        latency, or {share(_saved(aged))} less time at its age (in 95 % of the draws at least {drawn:.1%}); by the
        estimate, {share(_left(imaged))} of the distance, or {share(_saved(imaged))} less time. {_bounds(aged)} Where
        the same latency was asked for, the machine's uncertain numbers decide which of the two is faster (in
        {surest:.0%} of the draws or more, what was found), by {most:.1%} at most as the numbers stand. Ages and
        estimate are both linear in age, and the estimate was made from parts that are stale, not from caching.""")


def wrapped(text: str) -> str:
    """A paragraph, or an item of a list, in lines of the page."""
    words = " ".join(text.split())
    return textwrap.fill(words, 150, subsequent_indent="  " * words.startswith("- "), break_on_hyphens=False)


def _bounds(rows: list[Row]) -> str:
    """Where the bound is what was found, and how far below it is elsewhere."""
    gaps = [row["cost_as_fast"] - row["no_less_than"] for row in rows]
    met = sum(gap < 1e-9 for gap in gaps)
    said = f"In {met} of {len(gaps)} lines by mean age the bound is what was found"
    if met == len(gaps):
        return f"{said}."
    return f"{said}; in the others it is up to {max(gaps):.2g} steps lower, and what lies between is open."


def _saved(rows: list[Row]) -> list[float]:
    return [row["saved_at_cost"]["saved"] for row in rows]


def _left(rows: list[Row]) -> list[float]:
    return [row["cost_as_fast"] / row["cost_of_rule"] for row in rows]


def spread(values: list[float], form: str) -> str:
    """From the least to the most."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def share(values: list[float]) -> str:
    return spread(values, ".0%")


def made(meta: Row) -> str:
    """Which command, commit and machine made which parts."""
    parts: dict[str, list[str]] = {}
    for part, one in meta.items():
        told = (
            f"{one['processor']}, {one['cores']} cores, {one['date'][:10]}, commit {one['commit']}, `{one['command']}`"
        )
        parts.setdefault(told, []).append(part)
    return "\n".join(f"({', '.join(names)}: {told})" for told, names in parts.items())


def tables(results: Row) -> dict[str, str]:
    """Marker -> what stands between it and its end."""
    return {"layers": layers(results["layers"]), "findings": findings(results["layers"]),
            "orders": orders(results["order"]), "checked": checked(results), "made": made(results["meta"])}  # fmt: skip


def main() -> None:
    results, page = json.loads(RESULTS.read_text()), PAGE.read_text()
    for name, text in tables(results).items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
