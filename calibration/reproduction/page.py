"""docs/reproduction.md: the words of page.md, filled with the numbers of docs/reproduction.json.

It knows tables and sentences; it refuses to compute anything that is not in the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration.reproduction import pairs
from calibration.reproduction.causes import SAVES_NOTHING
from calibration.reproduction.draws import FEW_IMAGES, interval
from calibration.reproduction.machine import RANGES, SHARE, SHARE_IMAGES
from calibration.reproduction.predict import FEW_STEPS, IMAGES, PUBLISHED, READINGS, STEPS

Found = Mapping[str, Any]
LAYERS = 6  # of the picture
_WORDS = Path(__file__).with_name("page.md")
_NEAREST_PAIRS = 5
_ROUNDING = 0.005  # a published number stands for all that round to it


def page(found: Found) -> str:
    """The whole page."""
    filled = {key: text.rstrip("\n") for key, text in tables(found).items()}
    return _WORDS.read_text().format(**filled, **_values(found))


def tables(found: Found) -> dict[str, str]:
    """The page's tables and lists, in Markdown, by the names that page.md has for them."""
    return {
        "predicted": _predicted(found["draws"]),
        "unknown": _unknown(),
        "causes": "\n".join(_causes(reading, rows) for reading, rows in found["causes"].items()),
        "pairs": "\n".join(_pairs(reading, found) for reading in found["pairs"]),
        "told": "\n".join(_told(found)),
        "distrifusion": _distrifusion(found["distrifusion"]),
        "rivals": _rivals(_by_label(found["rivals"])),
    }


def _values(found: Found) -> dict[str, object]:
    """Numbers within sentences."""
    base = [rows[0] for rows in found["causes"].values()]
    return {
        "share": f"{SHARE:.1%}",
        "share_images": SHARE_IMAGES,
        "images": IMAGES,
        "steps": STEPS,
        "layers": LAYERS,
        "draws": len(next(iter(found["draws"].values()))),
        "factors": " and ".join(f"{row['factor']:.2f}" for row in base),
        "shares": " and ".join(f"{row['share']:.1%}" for row in base),
        "seconds": " and ".join(f"{row['sync_s']:.0f} s" for row in base),
        "same": f"{found['layer']['same_s']:.3f} s",
        "own": f"{found['layer']['own_s']:.3f} s",
        "out": _out(found["distrifusion"]),
        **_gains(_by_label(found["rivals"])),
    }


# ------------------------------------------------------------------------------------ published and predicted


def _predicted(draws: Mapping[str, list[list[float]]]) -> str:
    rows = []
    for number, each in enumerate(PUBLISHED):
        ends = [interval(draws[reading], number) for reading in READINGS]
        rows.append([each.key, f"{each.speed_up:.2f}", *(_interval(each.speed_up, *three) for three in ends)])
    return markdown(["", "published", *READINGS], rows)


def _interval(value: float, low: float, middle: float, high: float) -> str:
    inside = low - _ROUNDING <= value <= high + _ROUNDING
    return f"{middle:.2f} ({low:.2f} to {high:.2f}), {'inside' if inside else '**outside**'}"


def _unknown() -> str:
    rows = [[key, f"{low:g} to {high:g}", why] for key, (low, high, why) in RANGES.items()]
    few = f"{', '.join(map(str, FEW_IMAGES[:-1]))} or {FEW_IMAGES[-1]}"
    rows += [
        ["wire", "float16 or float32", "under autocast LayerNorm's output has 4 bytes"],
        ["share_waits", "no or yes", "what the published share counts"],
        [f"images a rank at {FEW_STEPS} steps", few, f"published for {STEPS} steps only: {IMAGES}"],
    ]
    return markdown(["unknown", "drawn from", "why"], rows)


# ---------------------------------------------------------------------------------------------- causes


def _causes(reading: str, rows: Sequence[Found]) -> str:
    return markdown([reading, *(f"{p.key}: {p.speed_up:.2f}" for p in PUBLISHED)], [_cause(row) for row in rows])


def _cause(row: Found) -> list[str]:
    if "why" in row:
        return [row["cause"], row["why"], *[""] * (len(PUBLISHED) - 1)]
    return [row["cause"], *(f"{residual:+.1%}" for residual in row["residual"])]


def _pairs(reading: str, found: Found) -> str:
    """Pairs that leave every number within the spread of the draws, and how near the nearest come."""
    rows = sorted(found["pairs"][reading], key=pairs.worst)
    within = pairs.spread(found["draws"][reading])
    enough = [row for row in rows if pairs.inside(row["residual"], within, _ROUNDING)]
    near = [row for row in rows[:_NEAREST_PAIRS] if row not in enough]
    lines = [[*row["pair"], *(f"{left:+.1%}" for left in row["residual"]), said]
             for some, said in ((enough, "yes"), (near, "no")) for row in some]  # fmt: skip
    said = f"{len(enough)} of {len(rows)} pairs leave all three within the spread; the nearest pairs beside them."
    head = [reading, "and", *(f"{p.key}: {p.speed_up:.2f}" for p in PUBLISHED), "within the spread"]
    return f"{reading.capitalize()}: {said}\n\n{markdown(head, lines)}"


def _told(found: Found) -> Iterator[str]:
    """A line each on fixed cost, on the nearest cause, and on what the draws tell."""
    for reading, rows in found["causes"].items():
        yield f"- {reading.capitalize()}: {_fixed(rows[0])}; {_conditional(rows)}; {_nearest_cause(rows)}."
    told, total = found["told"], sum(len(rows) for rows in found["draws"].values())
    narrow = [key for key, (every, mine) in told["ends"].items() if mine[1] - mine[0] < (every[1] - every[0]) / 2]
    of = ", ".join(f"{count} {reading}" for reading, count in told["readings"].items())
    told_of = f"of {', '.join(narrow)} they span less than half of what was drawn, of all else" if narrow else "of each"
    yield (
        f"- Of all {total} draws the nearest misses one of the three numbers by {told['least_miss']:.0%}. The "
        f"nearest {told['nearest']} ({of}) miss by up to {told['farthest_miss']:.0%}; {told_of} they span more than "
        "half of what was drawn, so that the numbers hardly tell it."
    )


def _conditional(rows: Sequence[Found]) -> str:
    """How much of what conditional communication is predicted to save it would have saved, if all else were right."""
    nothing = next(row for row in rows if row["cause"] == SAVES_NOTHING)
    said = []
    for number, each in enumerate(PUBLISHED):
        if each.method == "dice":
            without, needed, full = (
                1 / s for s in (nothing["speed_up"][number], each.speed_up, rows[0]["speed_up"][number])
            )
            said.append(f"{(without - needed) / (without - full):.0%} ({each.key})")
    return f"conditional communication would have to save {' and '.join(said)} of the time that it is predicted to save"


def _fixed(base: Found) -> str:
    pairs = zip(PUBLISHED, base["closing_s"], strict=True)
    needs = [f"{'a negative time' if s is None else f'{s:.0f} s'} ({each.key})" for each, s in pairs]
    return f"a fixed cost of every run would have to be {', '.join(needs)}"


def _nearest_cause(rows: Sequence[Found]) -> str:
    """How near any single cause brings all three."""
    made = [row for row in rows[1:] if "residual" in row]
    best, before = min(made, key=_worst), _worst(rows[0])
    enough = "alone enough" if _worst(best) <= _ROUNDING else "not enough alone"
    return f'the nearest single cause, "{best["cause"]}", leaves {_worst(best):.1%} at worst of {before:.1%}, {enough}'


def _worst(row: Found) -> float:
    return float(max(map(abs, row["residual"])))


# ------------------------------------------------------------------------------------ memory and rivals


def _distrifusion(rows: Sequence[Found]) -> str:
    batches = [*rows[0]["fits"]]
    lines = [
        [row["model"], str(row["element_bytes"]), *("fits" if fits else "out" for fits in row["fits"].values()),
         str(row["most_images"])]
        for row in rows
    ]  # fmt: skip
    return markdown(["model", "bytes", *(f"{images} images" for images in batches), "most images a rank"], lines)


def _out(rows: Sequence[Found]) -> str:
    said = []
    for size in dict.fromkeys(row["element_bytes"] for row in rows):
        fits = [fit for row in rows if row["element_bytes"] == size for fit in row["fits"].values()]
        said.append(f"{fits.count(False)} of {len(fits)} with {size} bytes")
    return ", ".join(said)


Table = Mapping[str, Found]  # label -> row


def _by_label(rivals: Mapping[str, Sequence[Found]]) -> dict[int, Table]:
    return {int(images): {_label(row): row for row in rows} for images, rows in rivals.items()}


def _label(row: Found) -> str:
    return f"sync, {row['why']}" if row["why"].startswith("as long as") else str(row["name"]).replace("int8", "1 byte")


def _rivals(tables: Mapping[int, Table]) -> str:
    labels = dict.fromkeys(label for table in tables.values() for label in table)
    rows = [[label, _age(label, tables), *(_cell(label, table) for table in tables.values())] for label in labels]
    return markdown(["images a rank", "mean age", *map(str, tables)], rows)


def _age(label: str, tables: Mapping[int, Table]) -> str:
    ages = {table[label]["mean_age"] for table in tables.values() if label in table}
    return "1 (attention)" if label.startswith("distrifusion") else " or ".join(f"{age:g}" for age in sorted(ages))


def _cell(label: str, table: Table) -> str:
    if label not in table:
        return "none"
    row, out = table[label], "" if table[label]["fits"] else " (out)"
    return f"{row['steps']} steps{out}" if "as long as" in label else f"{_gain(label, table):.2f}{out}"


def _gain(label: str, table: Table) -> float:
    return float(table["sync"]["makespan_s"]) / float(table[label]["makespan_s"])


def _gains(tables: Mapping[int, Table]) -> dict[str, object]:
    table = tables[IMAGES]
    named = {"dice": "dice", "overlap": "overlap", "dice_byte": "dice, 1 byte", "overlap_byte": "overlap, 1 byte",
             "cached": "cached", "data": "data_parallel"}  # fmt: skip
    return {
        **{key: f"{_gain(label, table):.2f}" for key, label in named.items()},
        "cached_age": f"{table['cached']['mean_age']:g}",
        "few": table["sync, as long as dice"]["steps"],
        "room": max(images for images, each in tables.items() if each["data_parallel"]["fits"]),
    }


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]) + "\n"
