"""Shapes into seconds, against published counts and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import anything, cluster, model, skewed
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster import Link, Rate
from sim.cost import durations_s, op_flops, op_s
from sim.kernels import forward_macs
from sim.schedule import Schedule
from sim.schedules import sync
from sim.transfers.collectives import all_to_all_s
from sim.workload import MODELS, Workload

# The "Gflops" column of arXiv 2407.11633, table 1, which counts multiply-accumulates.
PUBLISHED_GMACS = {"S": 15.43, "S-16E": 15.44, "B": 61.68, "L": 219.26, "XL": 323.74, "G": 690.94}


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_forward_macs_are_the_published_ones_to_every_digit_printed(name: str) -> None:
    assert f"{forward_macs(MODELS[name]) / 1e9:.2f}" == str(PUBLISHED_GMACS[name])


@pytest.mark.parametrize("name", MODELS)
def test_the_ops_of_a_step_do_what_a_forward_does(name: str) -> None:
    shape, schedule = MODELS[name], sync(1, MODELS[name].layers)
    workload = Workload(shape, ranks=1, images=3).fits(schedule)
    compute = [op for op in schedule.ops if op.stream == "compute"]
    flops = sum(float(np.sum(op_flops(op, schedule, workload))) for op in compute)
    attention = 2 * shape.tokens**2 * shape.hidden * shape.layers  # its two products
    adding = 4 * shape.tokens * shape.hidden * shape.layers  # two routed outputs, the shared one, the gate
    guidance = 2 * shape.tokens * shape.patch**2 * shape.channels
    assert flops == pytest.approx(2 * 2 * 3 * (forward_macs(shape) + attention + adding + guidance), rel=1e-12)


@given(anything(), st.sampled_from([1, 2, 4]))
def test_micro_batches_and_ranks_divide_the_work_and_add_none(schedule: Schedule, ranks: int) -> None:
    workload = Workload(model(schedule), ranks, images=2)
    workload = replace(workload, routing=skewed(schedule, workload, 0)).fits(schedule)
    for op in [op for op in schedule.ops if op.stream == "compute"]:
        flops, share = op_flops(op, schedule, workload), 1 if op.layer is None else schedule.micro_batches
        if op.kind == "E":
            rows = len(schedule.chain_slots(op)) * workload.tokens * ranks
            assert np.sum(flops) * share == pytest.approx(2 * rows * 12 * 16**2)
        else:
            assert flops * share == op_flops(op._replace(part=""), replace(schedule, micro_batches=1), workload)


# ------------------------------------------------------------------------------------------ all-to-all

LINK = Link(latency_s=1.0, bytes_per_s=10.0)


def test_a_port_carries_all_that_its_rank_sends_and_all_that_it_receives() -> None:
    sends, receives = np.array([[0, 20, 30], [0, 0, 0], [0, 0, 0]]), np.array([[0, 0, 0], [40, 0, 0], [30, 0, 0]])
    assert all_to_all_s(sends, LINK).tolist() == [1 + 5, 1 + 2, 1 + 3]
    assert all_to_all_s(receives, LINK).tolist() == [1 + 7, 1 + 4, 1 + 3]
    assert all_to_all_s(sends + receives, LINK).tolist() == [1 + 7, 1 + 4, 1 + 3], "both directions at once"


def test_a_pair_has_a_link_of_its_own() -> None:
    sent = np.array([[0, 20, 30], [40, 0, 0], [30, 0, 0]])
    assert all_to_all_s(sent, replace(LINK, scope="pair")).tolist() == [1 + 4, 1 + 4, 1 + 3]


def test_a_buffered_link_takes_what_is_sent_at_once() -> None:
    sent = np.array([[0, 20, 30], [40, 0, 0], [30, 0, 0]])
    assert all_to_all_s(sent, replace(LINK, buffered=True)).tolist() == [1 + 7, 1 + 2, 1 + 3]


@given(st.lists(st.integers(0, 1000), min_size=9, max_size=9), st.sampled_from(["pair", "port"]))
def test_what_stays_at_home_is_free_and_directions_are_alike(entries: list[int], scope: str) -> None:
    sent, link = np.array(entries).reshape(3, 3), replace(LINK, scope=scope)
    seconds = all_to_all_s(sent, link).tolist()
    assert seconds == all_to_all_s(sent * (1 - np.eye(3)), link).tolist() == all_to_all_s(sent.T, link).tolist()


@pytest.mark.parametrize("sent", [np.zeros((2, 3)), np.zeros(4), np.array([[0, -1], [0, 0]])])
def test_what_is_no_byte_matrix_is_refused(sent: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"should be square and not negative, not\n"):
        all_to_all_s(sent, LINK)


# ------------------------------------------------------------------------------------------ durations


@given(anything(), st.sampled_from([1, 2, 4]), st.booleans())
def test_durations_are_the_cost_of_every_op_by_itself(schedule: Schedule, ranks: int, recorded: bool) -> None:
    workload, machine = Workload(model(schedule), ranks, images=2), cluster(ranks, link=Link(1e-6, 1e8, counts_s=1e-6))
    if recorded:
        workload = replace(workload, routing=skewed(schedule, workload, 0))
    workload = workload.fits(schedule)
    each = [np.broadcast_to(op_s(op, schedule, workload, machine), ranks) for op in schedule.ops]
    np.testing.assert_array_equal(durations_s(schedule, workload, machine), each)


def test_compute_is_a_fixed_time_and_flops_over_their_rate() -> None:
    schedule = sync(1, 1)
    workload = Workload(model(schedule), 2, 2).fits(schedule)
    machine = cluster(compute={**cluster().compute, "S": Rate(fixed_s=0.5, flops_per_s=1e6)})
    shared = schedule.ops[schedule.position["S0.0"]]
    assert op_s(shared, schedule, workload, machine) == 0.5 + 2 * (4 * 16) * (6 * 16**2) / 1e6


def test_counts_travel_with_the_dispatch_unless_they_are_exchanged_before() -> None:
    def seconds(text: str, op: str, ranks: int = 2) -> float:
        schedule = Schedule.parse(f"x steps=1 layers=1\nP0 A0.0 {text} D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0").check()
        workload = Workload(model(schedule), ranks, 2).fits(schedule)
        machine = cluster(ranks, link=Link(latency_s=1.0, bytes_per_s=1e30, counts_s=0.25))
        return float(np.max(op_s(schedule.ops[schedule.position[op]], schedule, workload, machine)))

    assert seconds("", "D0.0") == 1.25
    assert seconds("", "C0.0") == 1.0
    assert seconds("N0.0", "D0.0") == 1.0
    assert seconds("N0.0", "N0.0") == 1.0
    assert seconds("N0.0", "D0.0", ranks=1) == seconds("N0.0", "N0.0", ranks=1) == 0.0, "one rank sends nothing"
