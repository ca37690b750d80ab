"""All-to-alls whose pairs of ranks begin one by one, against sums by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from cases import cluster, model, skewed

from sim.cluster import COMPUTE_KINDS, Cluster, Link, Rate
from sim.engine import simulate
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.trace import Trace
from sim.transfers.network import Network, Resource, Route
from sim.workload import Workload

RANKS = 4
RATES = {kind: Rate(0.0, 1e9) for kind in COMPUTE_KINDS}
PAIRS = Link(1e-3, 1e6, "pair", pairwise=True)
ROUTES = (Route(2, ("local",)), Route(4, ("card",)))
CARDS = Network({"card": Resource(1e6, 2), "local": Resource(1e9)}, ROUTES, pairwise=True)


def machine(link: Link | Network) -> Cluster:
    return cluster(RANKS, compute=RATES, link=link)


def routed(schedule: Schedule) -> Workload:
    plain = Workload(model(schedule), RANKS, 2)
    return replace(plain, routing=skewed(schedule, plain, 3)).fits(schedule)


def run(text: str, link: Link | Network) -> tuple[Schedule, Workload, Trace]:
    schedule = load_schedule(text, 3, 2)
    workload = routed(schedule)
    return schedule, workload, simulate(schedule, workload, machine(link))


@pytest.mark.parametrize("text", ["sync", "interweaved"])
def test_a_combine_ends_when_the_last_message_of_each_rank_has(text: str) -> None:
    schedule, workload, trace = run(text, PAIRS)
    early = 0
    for i, op in enumerate(schedule.ops):
        if op.kind != "C":
            continue
        sent, reached = workload.moved_bytes(schedule, op), trace.reached_s[:, i]
        both = np.maximum(sent, sent.T) / PAIRS.bytes_per_s + PAIRS.latency_s
        ends = [
            max(max(reached[rank], reached[peer]) + both[rank, peer] for peer in range(RANKS) if peer != rank)
            for rank in range(RANKS)
        ]
        assert trace.end_s[:, i] == pytest.approx(ends, abs=1e-9)
        assert (trace.start_s[:, i] == reached.max()).all(), "a collective's start is when the last rank has come"
        early += int((trace.end_s[:, i] < reached.max() + both.max()).any())
    assert early, "the ranks came at different times"


def test_a_pair_saves_up_in_each_direction_by_itself() -> None:
    link = replace(PAIRS, burst_bytes=400.0)
    schedule, workload, trace = run("sync", link)
    landed = np.full((RANKS, RANKS), -np.inf)
    saved = set()
    for i, op in enumerate(schedule.ops):
        if not op.collective:
            continue
        sent, reached, ends = workload.moved_bytes(schedule, op), trace.reached_s[:, i], np.zeros(RANKS)
        for a, b in combinations(range(RANKS), 2):
            begin = reached.max() if op.kind == "D" else max(reached[a], reached[b])
            src, dst = (a, b) if sent[a, b] > sent[b, a] else (b, a)
            rests = begin - landed[src, dst]
            saved.add(burst_s := min(rests, link.burst_bytes / link.bytes_per_s, sent[src, dst] / link.bytes_per_s))
            end = begin + link.latency_s + sent[src, dst] / link.bytes_per_s - burst_s
            landed[src, dst], landed[dst, src] = end, end - (sent[src, dst] - sent[dst, src]) / link.bytes_per_s
            ends[[a, b]] = np.maximum(ends[[a, b]], end)
        assert trace.end_s[:, i] == pytest.approx(ends, abs=1e-9)
    assert len(saved) > 2, "some have rested long enough, others a little"


def test_a_dispatch_that_brings_counts_waits_for_all() -> None:
    schedule, _, paired = run("sync", PAIRS)
    first = schedule.position["D0.0"]
    _, _, whole = run("sync", replace(PAIRS, pairwise=False))
    assert paired.end_s[:, first] == pytest.approx(whole.end_s[:, first], abs=1e-9)


def test_nobody_waits_longer_than_if_all_waited_for_all() -> None:
    for text, link in product(["sync", "displaced", "interweaved"], [PAIRS, CARDS]):
        _, _, paired = run(text, link)
        _, _, whole = run(text, replace(link, pairwise=False))
        assert paired.makespan_s <= whole.makespan_s * (1 + 1e-9)


def test_pairs_that_begin_together_take_as_long_as_a_collective() -> None:
    schedule = load_schedule("sync", 2, 2)
    even = Workload(model(schedule), RANKS, 2)
    for link in (PAIRS, CARDS):
        makespans = [simulate(schedule, even, machine(replace(link, pairwise=p))).makespan_s for p in (True, False)]
        assert makespans[0] == pytest.approx(makespans[1], rel=1e-9)


def test_pairs_and_parts_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="pairwise=true has no effect: all_to_all=hierarchical"):
        replace(CARDS, all_to_all="hierarchical")
