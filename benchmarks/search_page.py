"""Writes the tables of docs/search.md from benchmarks/results/search.json.

python benchmarks/search_page.py"""

from __future__ import annotations

import json
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
    """One sentence on real runs, a table of real images."""
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
    return said + "\n\n" + table(head, lines)


def _distance(row: Row) -> str:
    found = row["distance"]
    return f"{found['mean']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def main() -> None:
    results, page = json.loads(RESULTS.read_text()), PAGE.read_text()
    parts = {"layers": layers(results["layers"]), "orders": orders(results["order"]), "checked": checked(results)}
    for name, text in parts.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
