"""The named schedules against the published ages and buffers, and against their rules told a second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cases import named
from hypothesis import given
from hypothesis import strategies as st

from sim.load import load_schedule, sources
from sim.schedule import Schedule, ScheduleError

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sync", {}),
        ("displaced", {"warm_up": 1}),
        ("interweaved", {"warm_up": 1}),
        ("dice", {}),
        ("dice_released", {}),
        ("overlap", {}),
        ("cached", {}),
        ("data_parallel", {}),
        ("patch_parallel", {}),
        ("distrifusion", {"together": 2}),
        ("displaced", {"released": "reruns"}),
        ("interweaved", {"conditional": "random"}),
        ("interweaved", {"conditional": "debt", "always": 1, "weights": "current"}),
        ("interweaved", {"pieces": 2, "communicators": "D+C"}),
        ("sync", {"counts": "blocking", "micro_batches": 2}),
    ],
)
def test_golden_text(name: str, settings: dict[str, Any]) -> None:
    schedule = load_schedule(name, 5, 3, **settings)
    assert str(schedule) == (GOLDEN / f"{schedule.name}.txt").read_text()


# Measured on the authors' code (Cobalt-27/DICE 292938d), 10 steps; F, a forced synchronous step, is age 0.
@pytest.mark.parametrize("layers", [2, 3, 6])
@pytest.mark.parametrize(
    ("spec", "ages"),
    [
        ("sync", "F F F F F F F F F F"),
        ("displaced", "F 1 2 2 2 2 2 2 2 2"),
        ("displaced warm_up=2 cool_down=3", "F F F 1 2 2 2 F F F"),
        ("displaced stride=4", "F 1 F 1 2 2 F 1 2 2"),
        ("interweaved", "F 1 1 1 1 1 1 1 1 1"),
        ("interweaved warm_up=2", "F F F 1 1 1 1 1 1 1"),
        ("interweaved stride=4", "F 1 F 1 1 1 F 1 1 1"),
    ],
)
def test_ages_are_those_measured_on_the_authors_code(spec: str, ages: str, layers: int) -> None:
    want = [[[0 if age == "F" else int(age)] * 2] * layers for age in ages.split()]
    assert load_schedule(spec, 10, layers).staleness() == want


@pytest.mark.parametrize(
    ("spec", "ages"),
    [
        ("interweaved conditional=low", "0 1 2 1 2 1 2 1 2 1"),
        ("displaced conditional=low", "0 1 2 3 2 3 2 3 2 3"),
        ("interweaved conditional=low interval=3", "0 1 2 3 1 2 3 1 2 3"),
        ("interweaved conditional=low released=conditional", "0 1 2 1 1 1 2 1 1 1"),
        ("sync conditional=low", "0 1 0 1 0 1 0 1 0 1"),
    ],
)
def test_a_skipped_slot_is_added_again_at_these_ages(spec: str, ages: str) -> None:
    found = load_schedule(spec, 10, 4).staleness()
    assert " ".join(str(found[step][2][1]) for step in range(10)) == ages
    assert all(layer[0] <= layer[1] for step in found for layer in step)


@pytest.mark.parametrize("layers", range(1, 8))
@pytest.mark.parametrize(
    ("which", "synchronous"),
    [
        ("deep", lambda l, layers: l >= layers // 2),  # noqa: E741
        ("shallow", lambda l, layers: l < layers // 2),  # noqa: E741
        ("staggered", lambda l, layers: l % 2 == 1),  # noqa: E741
        ("all", lambda l, layers: True),  # noqa: E741
    ],
)
@pytest.mark.parametrize("name", ["displaced", "interweaved"])
def test_synchronous_layers_are_never_stale(
    name: str, which: str, synchronous: Callable[[int, int], bool], layers: int
) -> None:
    ages = load_schedule(f"{name} synchronous={which}", 6, layers).staleness()
    ring = [layer for layer in range(layers) if not synchronous(layer, layers)]
    steady = 2 if name == "displaced" or len(ring) == 1 else 1
    assert [ages[5][layer][0] for layer in range(layers)] == [steady * (layer in ring) for layer in range(layers)]


def test_a_ring_of_one_layer_degenerates_to_displaced() -> None:
    assert load_schedule("interweaved", 10, 1, warm_up=1).ops == load_schedule("displaced", 10, 1, warm_up=1).ops


def ages_by_the_rules(
    name: str, steps: int, layers: int, forced: set[int], waiting: set[int], every: list[int]
) -> Ages:
    """Ages [step][layer][slot], by moving rows as the published method says, with no op in sight.

    forced: synchronous steps; waiting: synchronous layers; every[slot]: its interval.  received[l][slot]: the step of
    the rows that lie with layer l's experts; returned: of the outputs that came back; held: of those last sent."""
    received, returned, held = ([[0] * len(every) for _ in range(layers)] for _ in range(3))
    ring = [layer for layer in range(layers) if layer not in waiting]
    if len(ring) == 1 and name == "interweaved":
        name = "displaced"
    ages: Ages = []
    for s in range(steps):
        ages.append([])
        last_forced = max(f for f in forced if f <= s)
        for l in range(layers):  # noqa: E741
            new = [
                s if (s - last_forced) % interval == 0 else old for interval, old in zip(every, held[l], strict=True)
            ]
            if name == "sync" or s in forced or l in waiting:
                received[l] = returned[l] = new
            ages[s].append([s - step for step in returned[l]])  # add what came back
            if l in ring and name != "sync":
                runs = l if name == "displaced" else ring[ring.index(l) - 1]  # the layer whose experts run inside l
                returned[runs] = received[runs]
            held[l] = received[l] = new  # send X(s, l)
    return ages


Ages = list[list[list[int]]]


@given(
    st.sampled_from(["sync", "displaced", "interweaved"]),
    st.integers(1, 9),
    st.integers(1, 6),
    st.sets(st.integers(0, 8)),
    st.sets(st.integers(0, 5)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_ages_are_those_of_the_rules(
    name: str, steps: int, layers: int, forced: set[int], waiting: set[int], every: list[int]
) -> None:
    forced, waiting = {0, *(f for f in forced if f < steps)}, {layer for layer in waiting if layer < layers}
    settings: dict[str, Any] = {"top_k": len(every)}
    if name != "sync":
        settings |= {"forced": ",".join(map(str, forced)), "synchronous": ",".join(map(str, waiting)) or "none"}
    if max(every) > 1:
        settings |= {"intervals": ",".join(map(str, every)), "forced": ",".join(map(str, forced))}
    rules = ages_by_the_rules(name, steps, layers, forced, waiting if name != "sync" else set(), every)
    if name == "sync" and max(every) == 1:
        rules = [[[0] * len(every)] * layers] * steps
    assert load_schedule(name, steps, layers, **settings).staleness() == rules


def received(schedule: Schedule, step: int) -> Counter[str]:
    """How many received buffers of each kind live on from `step` into the next, a slot."""
    return Counter(b.what for b in schedule.persistent(step) if b.slot == 0 and b.what.startswith("received"))


@pytest.mark.parametrize("layers", [2, 3, 7])
def test_interweaved_keeps_exactly_half_of_what_displaced_keeps(layers: int) -> None:
    schedules = {name: load_schedule(name, 8, layers) for name in ("sync", "displaced", "interweaved")}
    for step in (3, 4):  # the steady state: past the ramp, before the end
        assert schedules["sync"].persistent(step) == []
        assert received(schedules["displaced"], step) == {"received dispatch": layers, "received combine": layers}
        assert received(schedules["interweaved"], step) == {"received dispatch": 1, "received combine": layers - 1}


@given(named(deciding=True))
def test_every_named_schedule_prints_and_parses_back(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule.check()


@given(named(deciding=True))
def test_every_slot_that_is_sent_may_be_added_somewhere(schedule: Schedule) -> None:
    added = {
        (step, op.layer, op.part, slot)
        for op in schedule.ops
        if op.kind == "R"
        for slot, steps in enumerate(schedule.sources(op))
        for step in steps
    }
    heads = [op for op in schedule.ops if op.kind == schedule.head and not op.unused and not op.piece]
    assert {(op.step, op.layer, op.part, slot) for op in heads for slot in schedule.slots_sent(op)} == added


@given(named(deciding=True))
def test_every_step_and_layer_adds_and_shares_once(schedule: Schedule) -> None:
    for kind in "ASR":
        cells = [(op.step, op.layer, op.part) for op in schedule.ops if op.kind == kind]
        every = product(range(schedule.steps), range(schedule.layers), schedule.parts)
        assert sorted(cells) == [*every]


def test_what_released_code_does_in_vain_is_done_and_changes_nothing() -> None:
    released, intended = (load_schedule(f"displaced{more}", 6, 3, warm_up=1) for more in (" released=reruns", ""))
    assert released.staleness() == intended.staleness()
    assert [op for op in released.ops if not op.unused] == [*intended.ops]
    assert "E1.2' C1.2'" in str(released)  # the experts of the last forced step once more, at the step after it
    assert "D5.0'" in str(released)  # nothing is left that could read it


def test_a_random_policy_leaves_one_slot_of_a_token_and_the_threshold_any() -> None:
    random = load_schedule("interweaved conditional=random interval=3 seed=5", 7, 2)
    asked = {op.step: op.asked for op in random.ops if op.kind == "D"}
    assert asked == {0: (), 1: (0, 1), 2: (0, 1), 3: (), 4: (0, 1), 5: (0, 1)}
    assert random.header.endswith("policy=random seed=5")
    threshold = load_schedule("sync conditional=threshold threshold=0.25 interval=4 always=1", 3, 2)
    assert [str(op) for op in threshold.ops if op.kind == "R"][-1] == "R2.1<2,~2"
    assert threshold.staleness()[2][0] == [0, 2]
    assert threshold.staleness_at_least()[2][0] == [0, 0]


# ------------------------------------------------------------------------------------------- passes


@pytest.mark.parametrize("name", ["sync", "displaced", "interweaved", "dice"])
def test_micro_batches_add_no_staleness(name: str) -> None:
    whole, cut = load_schedule(name, 6, 4), load_schedule(f"{name} micro_batches=3", 6, 4)
    assert cut.staleness() == whole.staleness()
    assert Counter(op.kind for op in cut.ops if op.layer is not None) == {
        kind: 3 * n for kind, n in Counter(op.kind for op in whole.ops if op.layer is not None).items()
    }


def test_overlap_has_work_for_every_collective_to_hide_behind() -> None:
    schedule = load_schedule("overlap", 3, 4)
    for i, op in enumerate(schedule.ops[:-4]):
        if op.collective and op.step < 2:
            after = schedule.ops[i + 1]
            assert after.part != op.part or after.layer is None, f"{op} {after}"


def test_patches_of_sharded_experts_compose() -> None:
    schedule = load_schedule("interweaved patches=stale together=2", 4, 3)
    assert schedule.attention_staleness() == [[0] * 3, [1] * 3, [1] * 3, [1] * 3]
    assert schedule.staleness()[3] == [[1, 1]] * 3
    assert "Q1.1 K1.0-1 A1.1<0 D1.1" in str(schedule)


def test_a_pass_goes_over_a_users_own_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(str(load_schedule("displaced", 5, 3)))
    passed = load_schedule(f"{file} conditional=low counts=ahead")
    assert passed.ops == load_schedule("displaced conditional=low counts=ahead", 5, 3).ops
    assert passed.name == "displaced+low+countsahead"


# A function that knows nothing of this package, in a file of its own.
ZIGZAG = """
def zigzag(steps, layers, *, turns: int = 2) -> str:
    rows = [f"zigzag{turns} steps={steps} layers={layers} top_k=2"]
    for s in range(steps):
        old = s - s % turns
        cells = (f"A{s}.{l} D{s}.{l} S{s}.{l} E{s}.{l} C{s}.{l} R{s}.{l}<{s}" if s == old
                 else f"A{s}.{l} S{s}.{l} R{s}.{l}<{old}" for l in range(layers))
        rows.append(f"P{s} {' '.join(cells)} F{s} Z{s}")
    return chr(10).join(rows)
"""


def test_a_function_in_a_users_own_file_is_a_schedule(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(ZIGZAG)
    schedule = load_schedule(f"{file}:zigzag turns=3 micro_batches=2", 4, 2)
    assert schedule.name == "zigzag3+micro_batches2"
    assert [ages[0][0] for ages in schedule.staleness()] == [0, 1, 2, 0]
    assert load_schedule(str(file), 4, 2) == load_schedule(f"{file}:zigzag", 4, 2)
    with pytest.raises(ScheduleError, match=r"mine\.py has no function 'zag'; say which, as .*: zigzag"):
        load_schedule(f"{file}:zag", 4, 2)
    with pytest.raises(ScheduleError, match="'three' should be a number, as 2"):
        load_schedule(f"{file}:zigzag turns=three", 4, 2)
    file.write_text(ZIGZAG.replace("steps, layers,", "n, layers,").replace("{steps}", "{n}").replace("(steps)", "(n)"))
    with pytest.raises(ScheduleError, match="has no setting n; the settings are"):
        load_schedule(f"{file}:zigzag n=3", 4, 2)
    file.write_text(ZIGZAG)
    with pytest.raises(ScheduleError, match=r"mine\.py: say how many steps and layers"):
        load_schedule(f"{file}:zigzag", 4)
    file.write_text("def bad(steps, layers:")
    with pytest.raises(ScheduleError, match=r"mine\.py cannot be run: SyntaxError"):
        load_schedule(str(file), 4, 2)
    file.write_text("def bad(steps, layers):\n    return 'x steps=1 layers=1 P0'")
    with pytest.raises(ScheduleError, match=r"mine\.py:bad: line 1: cannot read the header"):
        load_schedule(str(file), 4, 2)


# -------------------------------------------------------------------------------------------- loading


def test_a_file_needs_no_size_and_is_the_schedule_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(str(load_schedule("interweaved", 4, 2)))
    assert load_schedule(str(file)) == load_schedule(str(file), 4, 2) == load_schedule("interweaved", 4, 2)


@pytest.mark.parametrize(
    ("source", "settings", "why"),
    [
        ("nothing", {}, r"unknown schedule 'nothing': neither a file nor one of sync, displaced, interweaved"),
        ("sync", {}, r"sync: say how many steps and layers"),
        ("sync", {"steps": 5, "layers": 0}, r"sync: layers=0 should be at least 1"),
        ("interweaved", {"steps": 5, "layers": 1, "top_k": 0}, r"top_k=0 should be at least 1"),
        ("sync warm_up", {}, r"sync warm_up: 'warm_up' should look like warm_up=2"),
        ("displaced warm_up=1", {"steps": 5, "layers": 3, "warm_up": 2}, r"warm_up is also given as 2"),
        *(
            (spec, {"steps": 5, "layers": 4}, why)
            for spec, why in {
                "sync depth=2": r"sync has no setting depth; the settings are top_k, warm_up",
                "sync warm_up=1": r"sync: warm_up=1 has no effect where nothing is stale or skipped",
                "displaced warm_up=-1": r"displaced: warm_up=-1 should be at least 0",
                "displaced warm_up=5": r"displaced: warm_up=5 should be at most 4",
                "displaced warm_up=x": r"displaced: warm_up=x should be a whole number",
                "displaced stride=0": r"stride=0 should be at least 1",
                "displaced cool_down=6": r"cool_down=6 should be at most 5",
                "displaced forced=2,7": r"forced=2,7: step 7 is out of range, 0 to 4",
                "displaced forced=2;3": r"forced=2;3: '2;3' should be a step, or a range as 3-5",
                "interweaved synchronous=4": r"synchronous=4: layer 4 is out of range, 0 to 3",
                "interweaved synchronous=deeper": r"'deeper' should be a layer, or a range as 3-5",
                "sync synchronous=deep": r"synchronous=deep has no effect but on displaced and interweaved layers",
                "dice conditional=lowest": r"conditional=lowest should be none, low, high, random, threshold or debt",
                "dice interval=0": r"interval=0 should be at least 1",
                "dice interval=1": r"interval=1 skips nothing",
                "dice top_k=1": r"conditional=low skips nothing with top_k=1",
                "interweaved interval=3": r"interval=3 has no effect without conditional",
                "interweaved intervals=1,2,3": r"intervals=1,2,3 should be top_k=2 numbers from 1 up",
                "interweaved intervals=1,0": r"intervals=1,0 should be top_k=2 numbers",
                "dice intervals=1,2": r"conditional and intervals both say when slots travel",
                "sync conditional=threshold threshold=1.5": r"threshold=1.5 should be 0 to 1",
                "sync conditional=threshold threshold=high": r"threshold=high should be a number",
                "sync conditional=low threshold=0.5": r"threshold=0.5 has no effect without",
                "sync conditional=threshold seed=3": r"seed=3 has no effect without conditional=random",
                "sync conditional=threshold always=2": r"always=2 should be at most 1",
                "sync conditional=low always=1": r"always=1 has no effect without conditional=threshold or debt",
                "sync cached_layers=deep": r"cached_layers=deep has no effect without cached",
                "sync weights=current": r"weights=current has no effect where nothing is stale",
                "displaced weights=old": r"weights=old should be carried or current",
                "data_parallel counts=ahead": r"counts=ahead has no effect where no rows travel",
                "data_parallel pieces=2": r"pieces=2 has no effect where no rows travel",
                "sync pieces=0": r"pieces=0 should be at least 1",
                "sync micro_batches=27": r"micro_batches=27 should be at most 26",
                "sync communicators=D+X": r"communicators=D\+X should be groups of K, N, D, C",
                "sync communicators=N+DC": r"communicators=N\+DC: this schedule has no N",
                "sync communicators=DC": r"communicators=DC is one, as without it",
                "sync together=2": r"together=2 has no effect without patches=stale",
                "sync released=reruns": r"released=reruns has no effect but on displaced and",
                "displaced conditional=low released=conditional": r"that code differs for interweaved",
            }.items()
        ),
    ],
)
def test_what_names_no_schedule_is_refused(source: str, settings: dict[str, int], why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        load_schedule(source, **settings)


@pytest.mark.parametrize(
    "source", ["sync steps=4", "dice layers=2 stride=2", "{mine}:zigzag steps=4", "{text} layers=2"]
)
def test_steps_and_layers_are_no_settings_of_one_schedule(tmp_path: Path, source: str) -> None:
    mine, text = tmp_path / "mine.py", tmp_path / "mine.txt"
    mine.write_text(ZIGZAG)
    text.write_text(str(load_schedule("sync", 4, 2)))
    key = "steps" if "steps" in source else "layers"
    with pytest.raises(ScheduleError, match=f"{key}=[42] is no setting of a schedule; say --.* in a sweep or a search"):
        load_schedule(source.format(mine=mine, text=text), 4, 2)


def test_settings_follow_their_schedule() -> None:
    assert sources(["sync", "dice", "interval=4", "a.txt"]) == ["sync", "dice interval=4", "a.txt"]
    with pytest.raises(ScheduleError, match="'interval=4' is a setting; write the schedule before it"):
        sources(["interval=4", "sync"])


@pytest.mark.parametrize(
    ("content", "settings", "why"),
    [
        (b"x steps=1 layers=1\nP0 A0", {}, r"bad\.txt: line 2, column 4: 'A0' should look like A3\.1"),
        (b"x steps=1 layers=1\nP0", {}, r"bad\.txt: x: the schedule ends without Z0"),
        (b"\xff\xfe", {}, r"bad\.txt: cannot be read as text"),
        (str(load_schedule("sync", 2, 1)).encode(), {"steps": 5}, r"with steps=2, but steps=5 was asked for"),
        (str(load_schedule("sync", 2, 1)).encode(), {"warm_up": 1}, r"sync: warm_up=1 has no effect where nothing"),
        (str(load_schedule("overlap", 2, 1)).encode(), {"micro_batches": 3}, r"micro_batches=2, but micro_batches=3"),
    ],
)
def test_a_file_that_says_otherwise_is_refused(
    tmp_path: Path, content: bytes, settings: dict[str, int], why: str
) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(ScheduleError, match=why):
        load_schedule(str(file), **settings)
