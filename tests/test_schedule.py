"""The notation: text and back, what is refused and how, buffers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from cases import BY_HAND, CONDITIONAL, TWO_MICRO_BATCHES, anything, cluster, model, named
from hypothesis import given

from sim.engine import simulate
from sim.load import load_schedule
from sim.schedule import Op, Schedule, ScheduleError
from sim.workload import Workload

SMALL = [load_schedule(name, 4, 3) for name in ("sync", "displaced", "interweaved")] + BY_HAND
ONE_LAYER = "x steps=2 layers=1\nP0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0\nP1 A1.0 S1.0 R1.0<0 F1 Z1"


def by_name(schedule: Schedule) -> str:
    return f"{schedule.name} {schedule.steps}x{schedule.layers}"


# ----------------------------------------------------------------------------------------------- text


@given(named())
def test_named_schedules_print_and_parse_back(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule


@given(anything())
def test_any_schedule_prints_and_parses_back(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize("schedule", BY_HAND, ids=by_name)
def test_hand_written_schedules_print_and_parse_back(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule.check()


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("P0", Op("P", 0)),
        ("A3.1", Op("A", 3, 1)),
        ("D13.21b:0,2!", Op("D", 13, 21, "b", slots=(0, 2), blocks=True)),
        ("R4.1<3,2@4", Op("R", 4, 1, reads=(3, 2), weights=4)),
        ("N3.1!", Op("N", 3, 1, blocks=True)),
        ("D3.1a/1:0,?2@1!", Op("D", 3, 1, "a", slots=(0, 2), asked=(2,), piece=1, communicator=1, blocks=True)),
        ("R4.1<3,~2@3", Op("R", 4, 1, reads=(3, 2), newest=(False, True), weights=3)),
        ("R4.1<~3", Op("R", 4, 1, reads=(3,), newest=(True,))),
        ("K3.0-3b@2", Op("K", 3, 0, "b", last=3, communicator=2)),
        ("A3.1<2", Op("A", 3, 1, reads=(2,))),
        ("E3.1/0'", Op("E", 3, 1, piece=0, unused=True)),
    ],
)
def test_an_op_reads_as_it_is_written(text: str, op: Op) -> None:
    assert Op.parse(text) == op
    assert str(op) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("A3", "'A3' should look like A3.1: attention"),
        ("P3.1", "'P3.1' should look like P3: patches"),
        ("R3.1", "'R3.1': R says which step it reads"),
        ("D3.1<2", "'D3.1<2': the step that is read ('<2') can be written of R, A only"),
        ("C3.1:0", "slots (':0'; C carries what its D carries) can be written of D, E only"),
        ("D3.1-2", "several layers at once ('K3.0-3') can be written of K only"),
        ("A3.1/0", "a piece of the experts ('/0') can be written of D, E, C only"),
        ("A3.1'", 'a result that nobody uses ("\'") can be written of K, N, D, E, C only'),
        ("S3.1@1", "a communicator or a step of router weights ('@1') can be written of R, K, N, D, C only"),
        ("D3.1@0", "'D3.1@0': communicator 0 is not written"),
        ("A3.1<~2", "'A3.1<~2': attention reads the keys and values of one step"),
        ("X3.1", "'X3.1': unknown kind 'X'; the kinds are P Q K A N D S E C R F Z"),
        ("A03.1", "cannot read 'A03.1'"),
        ("A3.01", "cannot read"),
        ("R3.1<02", "cannot read"),
        ("A3.1x9", "cannot read"),
        ("A3.1;", "cannot read"),
        ("A-3.1", "cannot read"),
        ("R3.1@3", "'R3.1@3': R says which step it reads"),
        ("D3.1:?", "cannot read"),
        ("R3.1<~", "cannot read"),
        ("D3.1/", "cannot read"),
        ("D3.1!:0", "cannot read"),
        ("D3.1:", "cannot read"),
        ("A\u0663.1", "cannot read"),
        (f"A{'1' * 5000}.1", "cannot read"),
    ],
)
def test_a_malformed_op_is_refused_at_its_line_and_column(text: str, why: str) -> None:
    line = f"  A0.0 {text} S0.0   # a comment"
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(f"\nx steps=9 layers=9\nP0\n{line}\n")
    place, drawn, pointer = str(error.value).splitlines()
    assert place.startswith("line 4, column 8: ")
    assert why in place
    assert drawn == "    " + line
    assert pointer == " " * 11 + "^" * len(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no header"),
        ("# only a comment\n", "no header"),
        ("P0 A0.0", "line 1: cannot read the header\n    P0 A0.0\n"),
        ("sync", "cannot read the header"),
        ("sync steps=5 layers=3 P0", "cannot read the header"),
        (
            "\n\nsync steps=5 layers=3 depth=2",
            "line 3: 'depth=2' in the header; it takes, once each, steps=N, layers=N",
        ),
        ("sync steps=5 layers=3 steps=5", "'steps=5' in the header; it takes, once each"),
        ("sync steps=05 layers=3", "'steps=05' in the header"),
        ("sync steps= layers=3", "'steps=' in the header"),
        ("sync steps=5", "line 1: the header lacks layers\n    sync steps=5"),
        ("sync top_k=2", "the header lacks layers and steps"),
    ],
)
def test_a_malformed_header_is_refused(text: str, why: str) -> None:
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(text)
    assert why in str(error.value)


# ----------------------------------------------------------------------------------------- dependence


@pytest.mark.parametrize(
    ("schedule", "op", "inputs"),
    [
        (CONDITIONAL, "P0", ""),
        (CONDITIONAL, "P1", "Z0"),
        (CONDITIONAL, "A1.0", "P1"),
        (CONDITIONAL, "A1.1", "R1.0"),
        (CONDITIONAL, "N0.1", "A0.1"),
        (CONDITIONAL, "D0.0", "A0.0"),
        (CONDITIONAL, "D0.1", "A0.1 N0.1"),
        (CONDITIONAL, "S0.1", "A0.1"),
        (CONDITIONAL, "E1.1", "D1.1"),
        (CONDITIONAL, "C1.1", "E1.1"),
        (CONDITIONAL, "R0.0", "A0.0 S0.0 C0.0"),
        (CONDITIONAL, "R1.0", "A1.0 S1.0 C0.0 A0.0"),
        (CONDITIONAL, "R1.1", "A1.1 S1.1 C0.1"),
        (CONDITIONAL, "R2.0", "A2.0 S2.0 C1.0 C0.0 A1.0"),
        (CONDITIONAL, "R2.1", "A2.1 S2.1 C1.1 C0.1"),
        (CONDITIONAL, "F1", "R1.1"),
        (CONDITIONAL, "Z1", "F1"),
        (TWO_MICRO_BATCHES, "A1.0b", "P1"),
        (TWO_MICRO_BATCHES, "A1.1b", "R1.0b"),
        (TWO_MICRO_BATCHES, "D0.0a", "A0.0a N0.0a"),
        (TWO_MICRO_BATCHES, "F0", "R0.1a R0.1b"),
    ],
)
def test_an_op_needs(schedule: str, op: str, inputs: str) -> None:
    read = Schedule.parse(schedule)
    assert read.inputs(read.ops[read.position[op]]) == tuple(inputs.split())


# ---------------------------------------------------------------------------------------------- check


@given(anything())
def test_every_order_that_keeps_its_needs_is_accepted(schedule: Schedule) -> None:
    assert schedule.check() is schedule


@pytest.mark.parametrize("schedule", SMALL, ids=by_name)
def test_deleting_an_op_is_refused_with_a_drawing_unless_counts_may_travel_with_the_dispatch(
    schedule: Schedule,
) -> None:
    for i, op in enumerate(schedule.ops):
        assert accepted(replace(schedule, ops=schedule.ops[:i] + schedule.ops[i + 1 :])) == (op.kind == "N"), op


@pytest.mark.parametrize("schedule", SMALL, ids=by_name)
def test_swapping_neighbours_is_refused_exactly_where_one_needs_the_other(schedule: Schedule) -> None:
    for i, (one, two) in enumerate(zip(schedule.ops, schedule.ops[1:], strict=False)):
        swapped = replace(schedule, ops=(*schedule.ops[:i], two, one, *schedule.ops[i + 2 :]))
        assert accepted(swapped) == (one.name not in schedule.inputs(two)), (one, two)


def accepted(schedule: Schedule) -> bool:
    """Whether `check` accepts it, after which it runs to the end; a refusal points at one of its ops."""
    try:
        schedule.check()
    except ScheduleError as error:
        ops, pointer = str(error).split("<-- ")[0].splitlines()[-2:]
        pointed_at = ops[pointer.index("^") : pointer.rindex("^") + 1]
        assert pointed_at in map(str, schedule.ops)
        return False
    assert simulate(schedule, Workload(model(schedule), 2, 2), cluster()).makespan_s > 0
    return True


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("P1 A1.0", "P1 A2.0", "A2.0: step 2 is out of range, 0 to 1"),
        ("A1.0", "A1.1", "A1.1: layer 1 is out of range, 0 to 0"),
        ("D0.0", "D0.0:0,2", "D0.0:0,2: slot 2 is out of range, 0 to 1"),
        ("D0.0", "D0.0:1,0", "slots should rise and not repeat"),
        ("D0.0", "D0.0:1,1", "slots should rise and not repeat"),
        ("R0.0<0", "R0.0<0@1", "R0.0<0@1: router weights of step 1 is out of range, 0 to 0"),
        ("R1.0<0", "R1.0<0,0,0", "R1.0<0,0,0 reads 3 slots; write one step for all, or top_k=2 steps"),
        ("S1.0", "S1.0 S1.0", "S1.0 is issued twice"),
        ("A0.0 D0.0", "D0.0 A0.0", "D0.0 needs A0.0, which is issued later"),
        ("E0.0 ", "", "C0.0 needs E0.0, which is never issued"),
        ("R1.0<0", "R1.0<1", "R1.0 needs C1.0, which is never issued"),
        ("D0.0", "D0.0:0", "R0.0 reads slot 1 of step 0, which D0.0 does not send"),
        ("S1.0", "D1.0 S1.0", "nobody uses D1.0: leave it out"),
        ("S1.0", "D1.0 S1.0 E1.0 C1.0", "nobody uses C1.0: leave it out"),
        ("S1.0", "N1.0 S1.0", "nobody uses N1.0: leave it out"),
        ("D0.0", "D0.0 N0.0", "D0.0 needs N0.0, which is issued later"),
        ("R1.0<0", "D1.0:0 E1.0 C1.0 R1.0<1,0", None),
        ("R1.0<0", "D1.0 E1.0 C1.0 R1.0<1,0", "nobody uses D1.0:1: leave it out"),
        (" Z1", "", "the schedule ends without Z1: guidance and solver step"),
        ("S0.0", "S0.0a", "S0.0a: micro-batch a; this schedule has none, since micro_batches=1"),
        ("layers=1", "layers=1 micro_batches=2", "A0.0: micro-batch missing; this schedule has a, b"),
        ("steps=2", "steps=0", "x: steps=0 should be at least 1"),
        ("layers=1", "layers=1 top_k=0", "x: top_k=0 should be at least 1"),
        ("layers=1", "layers=1 micro_batches=27", "micro_batches=27, but letters end at 26"),
    ],
)
def test_check_says_what_is_wrong(old: str, new: str, why: str | None) -> None:
    assert ONE_LAYER.count(old) == 1
    schedule = Schedule.parse(ONE_LAYER.replace(old, new))
    if why is None:
        schedule.check()
    else:
        with pytest.raises(ScheduleError) as error:
            schedule.check()
        assert str(error.value).splitlines()[0].endswith(why)


def test_check_draws_the_lines_around_the_op() -> None:
    text = str(load_schedule("displaced", 6, 1)).replace("C3.0 R4.0<2", "R4.0<3 C3.0")
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(text).check()
    assert (
        str(error.value)
        == """\
displaced: R4.0 needs C3.0, which is issued later
    displaced steps=6 layers=1 top_k=2
    F3 Z3
    P4
    A4.0 S4.0 E3.0 R4.0<3 C3.0
                   ^^^^^^ <-- R4.0 needs C3.0, which is issued later
    F4 Z4
    P5"""
    )


@pytest.mark.parametrize("name", ["", "two words", "#1", "a=b", "line\n"])
def test_a_name_that_would_not_read_back_is_refused(name: str) -> None:
    with pytest.raises(ScheduleError, match="should be a name"):
        replace(SMALL[0], name=name).check()


def test_nothing_at_all_is_no_schedule() -> None:
    with pytest.raises(ScheduleError, match="ends without Z0"):
        Schedule.parse("empty steps=1 layers=1").check()


@given(anything())
def test_trimming_drops_repeats_and_what_nobody_reads_and_no_more(schedule: Schedule) -> None:
    assert schedule.trimmed() == schedule
    last_read = {(r, op.layer, op.part) for op in schedule.ops if op.kind == "R" for r in op.reads}
    ops = [
        Op(k, *chain) for op in schedule.ops if op.kind == "A" and (chain := op[1:4]) not in last_read for k in "DEC"
    ]
    padded = replace(schedule, ops=(*schedule.ops[:-1], *schedule.ops[:5], *ops, schedule.ops[-1]))
    assert padded.trimmed() == schedule


# -------------------------------------------------------------------------------- staleness, buffers


def test_staleness_is_that_of_the_oldest_micro_batch() -> None:
    halves, conditional = BY_HAND
    assert halves.staleness() == [[[0, 0], [0, 0]], [[1, 1], [0, 0]]]
    assert conditional.staleness() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 2], [1, 2]]]


def alive_by_hand(schedule: Schedule, at: int) -> Counter[tuple[object, ...]]:
    """(what, step, layer, part, slot) alive at position `at`, by looking at all ops before and after it."""
    later = schedule.ops[at:]
    alive = Counter[tuple[object, ...]]()
    for op in schedule.ops[: at + 1]:
        chain = op[1:4]
        dispatch = next((d for d in schedule.ops if d.kind == "D" and d[1:4] == chain), None)
        for slot in range(schedule.top_k):
            sent = dispatch is not None and slot in schedule.slots_sent(dispatch)
            adds = [
                r for r in schedule.ops if r.kind == "R" and r[2:4] == chain[1:] and op.step in schedule.steps_read(r)
            ]
            adds_slot = [r for r in adds if schedule.steps_read(r)[slot] == op.step]
            weighed = [r for r in schedule.ops if r.kind == "R" and r[2:4] == chain[1:]
                       and schedule.weights_step(r) == op.step]  # fmt: skip
            experts = [e for e in schedule.ops if e.kind == "E" and e[1:4] == chain]
            kept = {
                "A": {"sent dispatch": experts, "router weights": weighed},
                "D": {"received dispatch": experts},
                "E": {"sent combine": adds[:1]},
                "C": {"received combine": adds_slot},
            }
            for what, users in kept.get(op.kind, {}).items():
                if (sent or what == "router weights") and any(user in later for user in users):
                    alive[(what, *chain, slot)] += 1
    return alive


@pytest.mark.parametrize("schedule", SMALL, ids=by_name)
def test_buffers_are_alive_from_their_birth_to_their_last_use(schedule: Schedule) -> None:
    for at in range(len(schedule.ops)):
        assert Counter(buffer[:5] for buffer in schedule.alive(at)) == alive_by_hand(schedule, at), schedule.ops[at]


@given(anything())
def test_buffers_of_any_schedule_die_after_their_birth_and_before_the_end(schedule: Schedule) -> None:
    assert all(0 <= b.born < b.dies < len(schedule.ops) for b in schedule.buffers)
    assert schedule.persistent(schedule.steps - 1) == []
