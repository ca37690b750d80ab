"""The file for ui.perfetto.dev against the traces that it holds: slices, waits, flows, counters, names."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BY_HAND, anything, cluster, model, skewed
from hypothesis import given, settings

from sim.engine import simulate
from sim.load import load_schedule
from sim.memory_time import memory_over_time
from sim.perfetto import chains, write_perfetto
from sim.report import sent_bytes
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

SCHEDULES = [*BY_HAND, *(load_schedule(name, 4, 3) for name in ("sync", "displaced", "interweaved"))]
Event = dict[str, Any]


def run(schedule: Schedule, ranks: int = 2) -> Trace:
    """A simulated trace in which ranks differ, so that they wait for each other."""
    workload = Workload(model(schedule), ranks, 4)
    workload = replace(workload, routing=skewed(schedule, workload, seed=1))
    return simulate(schedule, workload, cluster(ranks, jitter={"A": 0.3, "E": 0.3}), seed=2)


def events(traces: list[Trace], folder: Path, labels: list[str] | None = None) -> list[Event]:
    """What a reader of the file finds."""
    write_perfetto(traces, folder / "t.json", labels)
    file = json.loads((folder / "t.json").read_text())
    assert file["displayTimeUnit"] == "ms"
    found: list[Event] = file["traceEvents"]
    return found


def threads(found: list[Event]) -> dict[tuple[str, str], list[Event]]:
    """{(process, thread): its slices by time}"""
    names = {(e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in found if e["ph"] == "M"}
    slices: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in sorted((e for e in found if e["ph"] == "X"), key=lambda e: e["ts"]):
        thread = names["thread_name", event["pid"], event["tid"]]
        slices[names["process_name", event["pid"], 0], thread].append(event)
    return slices


def no_overlap(slices: list[Event]) -> bool:
    """To the nanosecond."""
    ends = [(round(e["ts"] * 1e3), round(e["ts"] * 1e3) + round(e["dur"] * 1e3)) for e in slices]
    return all(one[1] <= two[0] for one, two in pairwise(ends))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_every_span_and_wait_is_a_slice_at_its_time(schedule: Schedule, tmp_path: Path) -> None:
    trace = run(schedule)
    found = threads(events([trace], tmp_path))
    assert {*found} == {(f"simulated/rank{rank}", stream) for rank in (0, 1) for stream in ("compute", "communication")}
    waits = 0
    for (process, stream), slices in found.items():
        rank = int(process[-1])
        ops = [e for e in slices if not e["name"].startswith("wait ")]
        assert [e["name"] for e in ops] == trace.order(rank, stream)
        for event in ops:
            op = schedule.ops[schedule.position[event["name"]]]
            assert (event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6) == pytest.approx(
                trace.span_s(rank, op), abs=1e-9
            )
            assert event["args"]["op"] == str(op)
            assert event["args"]["step"] == op.step
            assert event["args"].get("reads", []) == list(op.reads)
        assert no_overlap(slices)
        for wait, op_slice in pairwise(slices):
            if wait["name"].startswith("wait "):
                waits += 1
                at = schedule.position[op_slice["name"]]
                assert wait["name"] == f"wait {op_slice['name']}"
                assert wait["ts"] / 1e6 == pytest.approx(trace.reached_s[rank, at], abs=1e-9)
                assert (wait["ts"] + wait["dur"]) / 1e6 == pytest.approx(trace.start_s[rank, at], abs=1e-9)
    assert waits == (np.rint(trace.start_s * 1e9) > np.rint(trace.reached_s * 1e9)).sum() > 0


def check_flows(trace: Trace, found: list[Event]) -> None:
    """A flow a rank and chain: from the dispatch over experts and combine to every residual that adds it."""
    slices = {(e["pid"], e["name"]): e for e in found if e["ph"] == "X"}
    flows: dict[int, list[Event]] = defaultdict(list)
    for event in found:
        if event["ph"] in "stf":
            flows[event["id"]].append(event)
    drawn = []
    for steps in flows.values():
        assert [e["ph"] for e in steps] == ["s", *"t" * (len(steps) - 2), "f"]
        [pid] = {e["pid"] for e in steps}
        names = []
        for event in steps:
            [inside] = [name for (p, name), e in slices.items() if p == pid and e["tid"] == event["tid"]
                        and not name.startswith("wait ") and e["ts"] <= event["ts"] < e["ts"] + e["dur"]]  # fmt: skip
            names.append(inside)
        assert [e["ts"] for e in steps] == sorted(e["ts"] for e in steps)
        drawn.append((pid, *names))
    want = set()
    for op in trace.schedule.ops:
        if op.kind == "C":
            chain = [str(op._replace(kind=kind, slots=())) for kind in "DEC"]
            readers = [r.name for r in trace.schedule.ops if r.kind == "R" and op.name in trace.schedule.inputs(r)]
            want |= {(pid, *chain, *readers) for pid in range(1, trace.ranks + 1)}
    assert {*drawn} == want
    assert len(drawn) == len(want)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_flows_join_each_chain(schedule: Schedule, tmp_path: Path) -> None:
    trace = run(schedule)
    check_flows(trace, events([trace], tmp_path))


@settings(max_examples=30)
@given(anything())
def test_a_residual_ends_a_chain_for_every_step_that_it_reads(schedule: Schedule) -> None:
    names = [[schedule.ops[i].name for i in chain] for chain in chains(schedule)]
    reads = [(r.name, f"C{step}.{r.layer}{r.part}") for r in schedule.ops for step in {*r.reads}]
    assert sorted(reads) == sorted((reader, chain[2]) for chain in names for reader in chain[3:])
    assert all(chain == [f"{kind}{chain[0][1:]}" for kind in "DEC"] + chain[3:] for chain in names)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_counters_are_what_is_alive(schedule: Schedule, tmp_path: Path) -> None:
    """At every change, against the buffers whose first op has begun and whose last has not ended."""
    trace, layer = run(schedule), schedule.top_k * schedule.micro_batches
    found = [e for e in events([trace], tmp_path) if e["ph"] == "C"]
    counters = [e for e in found if e["name"] != "transfers under way"]
    assert {(e["pid"], e["name"]) for e in counters} == {
        (p, f"received {w}") for p in (1, 2) for w in ("dispatch", "combine")
    }
    start, end = np.rint(trace.start_s * 1e9), np.rint(trace.end_s * 1e9)
    for event in counters:
        rank, now = event["pid"] - 1, round(event["ts"] * 1e3)
        alive = [b for b in schedule.buffers if start[rank, b.born] <= now < end[rank, b.dies]]
        assert event["args"]["layers"] == sum(b.what == event["name"] for b in alive) / layer
    assert {e["args"]["layers"] for e in counters if e["pid"] == 1} > {0}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_transfers_under_way_are_counted(schedule: Schedule, tmp_path: Path) -> None:
    trace = run(schedule)
    found = [e for e in events([trace], tmp_path) if e["name"] == "transfers under way"]
    start, end = (np.rint(a[:, trace.on_communication] * 1e9) for a in (trace.start_s, trace.end_s))
    assert {e["pid"] for e in found} == {1, 2}
    for event in found:
        rank, now = event["pid"] - 1, round(event["ts"] * 1e3)
        assert event["args"]["transfers"] == ((start[rank] <= now) & (now < end[rank])).sum()


def work(schedule: Schedule) -> Workload:
    """What `run` runs."""
    workload = Workload(model(schedule), 2, 4)
    return replace(workload, routing=skewed(schedule, workload, seed=1))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_link_counters_add_up_to_the_bytes_that_were_sent(schedule: Schedule, tmp_path: Path) -> None:
    trace, workload = run(schedule), work(schedule)
    write_perfetto([trace], tmp_path / "t.json", workloads=[workload])
    found = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    sent = sum(sent_bytes(schedule, workload).values(), np.zeros(2))
    for pid in (1, 2):
        for what, total in [("sent", sent[pid - 1]), ("received", sent[2 - pid])]:
            mine = [e for e in found if e["ph"] == "C" and e["name"] == "link" and e["pid"] == pid]
            assert mine[-1]["args"][f"{what} GB/s"] == 0
            carried = sum(a["args"][f"{what} GB/s"] * (b["ts"] - a["ts"]) * 1e3 for a, b in pairwise(mine))
            assert carried == pytest.approx(total, rel=0.01)  # times are whole nanoseconds


def test_memory_counters_are_the_memory_model_over_time(tmp_path: Path) -> None:
    schedule = SCHEDULES[4]
    trace, workload = run(schedule), work(schedule)
    write_perfetto([trace], tmp_path / "t.json", workloads=[workload])
    found = [e for e in json.loads((tmp_path / "t.json").read_text())["traceEvents"] if e["ph"] == "C"]
    for rank, held in enumerate(memory_over_time(trace, workload)):
        mine = [e["args"]["GB"] * 1e9 for e in found if e["name"] == "memory" and e["pid"] == rank + 1]
        assert max(mine) == pytest.approx(held.peak_bytes)
        names = {e["name"] for e in found if e["pid"] == rank + 1 and e["name"].startswith("memory, ")}
        assert names == {f"memory, {what}" for what in held.bytes_of if what != "working space"}


def test_a_workload_that_did_not_run_is_refused(tmp_path: Path) -> None:
    trace = run(SCHEDULES[2])
    with pytest.raises(ValueError, match="layers"):
        write_perfetto([trace], tmp_path / "t.json", workloads=[work(load_schedule("sync", 4, 2))])
    with pytest.raises(ValueError, match="the workload is for 4 ranks, the trace has 2"):
        write_perfetto([trace], tmp_path / "t.json", workloads=[replace(work(SCHEDULES[2]), ranks=4, routing=None)])
    assert [*tmp_path.iterdir()] == []


def test_traces_side_by_side_are_told_apart(tmp_path: Path) -> None:
    trace = run(SCHEDULES[0])
    found = threads(events([trace, replace(trace, origin="measured")], tmp_path))
    assert {process for process, _ in found} == {f"{o}/rank{r}" for o in ("simulated", "measured") for r in (0, 1)}
    found = threads(events([trace, trace], tmp_path, ["before", "after"]))
    assert {process for process, _ in found} == {f"{o}/rank{r}" for o in ("before", "after") for r in (0, 1)}
    about = json.loads((tmp_path / "t.json").read_text())["otherData"]["after"]
    assert about == {"schedule": trace.schedule.header, **trace.about}
    ids = [e["id"] for e in events([trace, trace], tmp_path) if e["ph"] == "s"]
    assert len({*ids}) == len(ids)


def test_labels_that_do_not_tell_apart_are_refused(tmp_path: Path) -> None:
    trace = run(SCHEDULES[0])
    with pytest.raises(ValueError, match="2 traces need as many different labels, not a, a"):
        write_perfetto([trace, trace], tmp_path / "t.json", ["a", "a"])
    assert [*tmp_path.iterdir()] == []


def test_spans_that_overlap_on_one_stream_get_threads_of_their_own(tmp_path: Path) -> None:
    """A measured run may have two collectives in flight."""
    trace = run(SCHEDULES[2])
    end = trace.end_s.copy()
    first, second = (trace.schedule.position[name] for name in ("D1.0", "C1.0"))
    end[0, first] = (trace.start_s[0, second] + trace.end_s[0, second]) / 2
    found = threads(events([replace(trace, end_s=end, origin="measured")], tmp_path))
    assert next(e["name"] for e in found["measured/rank0", "communication 2"] if "wait" not in e["name"]) == "C1.0"
    assert ("measured/rank1", "communication 2") not in found
    assert all(map(no_overlap, found.values()))


def test_a_wait_begins_when_the_stream_is_free_and_only_collectives_wait(tmp_path: Path) -> None:
    """A measured run may be ready for an op while its stream still works on the one before."""
    trace = run(SCHEDULES[3])
    found = threads(events([replace(trace, reached_s=trace.reached_s - 1e-3)], tmp_path))
    assert all(map(no_overlap, found.values()))
    for (_, stream), slices in found.items():
        waits = [e for e in slices if e["name"].startswith("wait ")]
        assert bool(waits) == (stream == "communication")
        assert all(e["dur"] > 0 for e in waits)


def test_times_of_less_than_a_nanosecond_do_not_make_slices_overlap(tmp_path: Path) -> None:
    schedule = SCHEDULES[4]
    edges = np.cumsum(np.full(len(schedule.ops) + 1, 1 / 3e9)) + 1000.1
    spans = {"reached_s": edges[None, :-1], "start_s": edges[None, :-1], "end_s": edges[None, 1:]}
    trace = Trace(schedule, "measured", **spans, staleness=np.array(schedule.staleness()))
    assert all(map(no_overlap, threads(events([trace], tmp_path)).values()))


def test_a_file_that_cannot_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = run(SCHEDULES[0])
    with pytest.raises(OSError, match="its directory does not exist"):
        write_perfetto([trace], tmp_path / "no" / "t.json")
    (tmp_path / "t.json").write_text("old")
    monkeypatch.setattr("sim.perfetto.trace_events", lambda *_: iter([{"no": "text"}]))
    with pytest.raises(TypeError):
        write_perfetto([trace], tmp_path / "t.json")
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
    assert (tmp_path / "t.json").read_text() == "old"
