"""A policy replayed: within what the schedule promises, and to the token what a Ledger asked one by one would say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import DECIDING, cluster, model

from sim.engine import simulate
from sim.load import load_schedule
from sim.policy import Ledger
from sim.routing import Routing
from sim.schedule import Schedule
from sim.workload import MODELS, Workload


def drawn(schedule: Schedule, workload: Workload, **settings: Any) -> Routing:
    return Routing.skewed(workload.model, workload.ranks, workload.tokens, schedule.steps, **settings)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("settings", DECIDING, ids=lambda settings: settings["conditional"])
@pytest.mark.parametrize("name", ["sync", "displaced", "interweaved", "distrifusion"])
def test_a_replay_is_between_what_the_schedule_promises_and_what_it_must_send(
    name: str, settings: dict[str, Any], parts: int
) -> None:
    schedule = load_schedule(name, 7, 2, micro_batches=parts, **settings)
    workload = Workload(model(schedule), 2, images=2)
    routed = replace(workload, routing=drawn(schedule, workload, keep=0.8, seed=2))
    trace = simulate(schedule, routed, cluster())
    assert (trace.staleness <= np.array(schedule.staleness())).all()
    least = np.argmax(trace.ages > 0, axis=-1)
    assert (least >= np.array(schedule.staleness_at_least())).all()
    assert (trace.ages.sum(axis=-1) == 2 * routed.routing.experts.shape[3]).all()
    fitted = routed.fits(schedule)
    assert (fitted.routing.counts <= routed.routing.cut(schedule.micro_batches).counts + 1e-9).all()


def test_a_replay_is_what_asking_the_ledger_token_by_token_gives() -> None:
    schedule = load_schedule("interweaved conditional=debt threshold=0.5 interval=3", 7, 2)
    workload = Workload(model(schedule), 2, images=2)
    routing = drawn(schedule, workload, keep=0.7)
    played = replace(workload, routing=routing).fits(schedule).replay
    numbers = np.arange(2 * routing.experts.shape[3])  # a sample
    for layer in (0, 1):
        ledger = Ledger(schedule.policy, layer, numbers, top_k=2)
        for step in range(6):  # nothing is sent at the last
            asked = (0, 1) if step else ()
            scores = routing.scores[step, layer].reshape(-1, 2)
            masks = ledger.send(step, (0, 1), asked, scores)
            for slot in (0, 1):
                chosen = routing.experts[step, layer, :, :, slot].ravel()[masks[slot]]
                counts = played.travelling[step, layer, 0, slot].sum(axis=0)
                assert dict(enumerate(counts / routing.records.share)) == {e: Counter(chosen)[e] for e in range(8)}


def test_a_higher_threshold_sends_less_and_ages_more() -> None:
    workload = Workload(MODELS["S"], 2, images=2)
    sent, ages = [], []
    for threshold in (0.0, 0.2, 0.4, 1.0):
        schedule = load_schedule(f"interweaved conditional=threshold threshold={threshold} interval=4", 12, 12)
        routed = replace(workload, routing=drawn(schedule, workload, keep=0.9))
        sent.append(float(routed.fits(schedule).replay.travelling.sum()))
        ages.append(simulate(schedule, routed, cluster()).ages @ np.arange(12))
    assert sent[0] > sent[1] > sent[2] > sent[3] > 0
    assert np.diff([age.sum() for age in ages]).min() > 0
    plain = load_schedule("interweaved", 12, 12)
    rows = sum(len(plain.slots_sent(op)) for op in plain.ops if op.kind == "D") * workload.tokens * 2
    assert sent[0] == pytest.approx(rows)  # a threshold of 0 skips nothing


def test_random_needs_no_scores_and_sends_its_share() -> None:
    schedule = load_schedule("sync conditional=random", 4, 12)
    workload = Workload(MODELS["S"], 2, images=2)
    travelling = workload.fits(schedule).routing.counts.sum(axis=(2, 3, 5)) / workload.tokens  # [step, layer, src]
    assert travelling[[0, 2]] == pytest.approx(2)  # every slot of every token
    assert travelling[[1, 3]] == pytest.approx(1)  # one of two


def test_a_threshold_without_scores_is_refused() -> None:
    schedule = load_schedule("sync conditional=threshold", 4, 12)
    with pytest.raises(ValueError, match=r"decides by router scores .*, and routing balanced has none: record it on"):
        Workload(MODELS["S"], 2, images=2).fits(schedule)


def test_every_token_of_a_run_has_a_number_of_its_own_however_they_are_shared_out() -> None:
    for name in ("sync", "patch_parallel"):
        schedule = load_schedule(name, 1, 12)
        for ranks in (1, 2, 4):
            workload = Workload(MODELS["S"], ranks, images=8 // ranks)
            numbers = np.concatenate([workload.token_numbers(schedule, rank) for rank in range(ranks)])
            assert sorted(numbers) == [*range(8 * 2 * 256)]
