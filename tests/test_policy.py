"""Policies decide token by token, alike in NumPy and in torch, and as often as they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import named
from hypothesis import given
from hypothesis import strategies as st

from sim.policy import POLICIES, Ledger, Policy
from sim.schedule import Schedule, ScheduleError

TOKENS, STEPS, TOP_K = 300, 9, 3
EACH = {
    "random": Policy("random", seed=7),
    "threshold": Policy("threshold", threshold=0.4, interval=3),
    "debt": Policy("debt", threshold=0.6, interval=4),
}
SCORES = -np.sort(-np.random.default_rng(0).dirichlet([1.0] * 5, size=(STEPS, TOKENS))[..., :TOP_K])  # best first


def sent(policy: Policy, make: Any = np.asarray, tokens: slice = slice(None)) -> np.ndarray[Any, Any]:
    """Masks [step, slot, token] of a run in which step 0 sends all, and every later one asks about all slots."""
    numbers = np.arange(1000, 1000 + TOKENS)[tokens]
    ledger = Ledger(policy, layer=2, token_N=make(numbers), top_k=TOP_K)
    every = (0, 1, 2)
    masks = [ledger.send(s, every, every if s else (), make(SCORES[s, tokens])) for s in range(STEPS)]
    return np.array([[np.asarray(by_slot[slot]) for slot in every] for by_slot in masks])


def test_every_policy_is_tested_here() -> None:
    assert EACH.keys() == POLICIES.keys()
    assert all(not policy.problem() for policy in EACH.values())


@pytest.mark.parametrize("policy", EACH.values(), ids=EACH)
def test_torch_and_numpy_decide_alike(policy: Policy) -> None:
    assert np.array_equal(sent(policy), sent(policy, torch.from_numpy))


@pytest.mark.parametrize("policy", EACH.values(), ids=EACH)
def test_a_token_travels_alike_whoever_is_beside_it(policy: Policy) -> None:
    assert np.array_equal(sent(policy)[:, :, 50:60], sent(policy, tokens=slice(50, 60)))


@pytest.mark.parametrize("policy", [EACH["threshold"], EACH["debt"]], ids=["threshold", "debt"])
def test_a_slot_travels_by_its_score_or_by_its_age(policy: Policy) -> None:
    masks = sent(policy)
    assert masks[0].all()
    last = np.zeros((TOP_K, TOKENS), dtype=int)
    for step in range(1, STEPS):
        for slot in range(TOP_K):
            for token in range(TOKENS):
                waited, score = step - last[slot, token], SCORES[step, token, slot]
                owed = score * waited if policy.name == "debt" else score
                want = owed >= policy.threshold or waited >= policy.interval
                assert masks[step, slot, token] == want
                last[slot, token] = step if want else last[slot, token]


def test_random_sends_one_slot_of_each_token_each_as_often() -> None:
    masks = sent(EACH["random"])[1:]
    assert (masks.sum(axis=1) == 1).all()
    shares = masks.mean(axis=(0, 2))
    assert np.abs(shares - 1 / 3).max() < 4 * np.sqrt(2 / 9 / (TOKENS * (STEPS - 1)))
    together = [(masks[s] == masks[s + 1]).all(axis=0).mean() for s in range(len(masks) - 1)]
    assert np.mean(together) < 0.45  # drawn anew at each step: a third of the tokens by chance
    assert not np.array_equal(masks, sent(Policy("random", seed=8))[1:])


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Policy("fair"), "unknown policy 'fair'; the policies are random, threshold, debt"),
        (Policy("random"), "policy=random takes seed, but lacks seed"),
        (Policy("random", seed=1, interval=2), "policy=random takes seed, not interval"),
        (Policy("threshold", threshold=0.5), "policy=threshold takes threshold and interval, but lacks interval"),
        (Policy("threshold", threshold=1.5, interval=2), "threshold=1.5 should be 0 to 1"),
        (Policy("debt", threshold=2.5, interval=2), "threshold=2.5 should be 0 to 2"),
        (Policy("threshold", threshold=0.5, interval=0), "interval=0 should be at least 1"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(policy: Policy, why: str) -> None:
    assert policy.problem() == why


@given(named(deciding=True), st.data())
def test_what_a_policy_may_have_sent_last_is_all_that_is_read(schedule: Schedule, data: st.DataObject) -> None:
    """Whatever the policy picks, within its promise, the newest transfer at or before the step read is a source."""
    reads = [op for op in schedule.ops if op.kind == "R" and op.newest]
    if not reads:
        return
    op = data.draw(st.sampled_from(reads))
    heads = sorted(
        (h for h in schedule.ops if h.kind == schedule.head and h[2:4] == op[2:4] and not h.piece and not h.unused),
        key=lambda h: h.step,
    )
    interval = schedule.policy.interval if schedule.policy else None
    for slot, (step, sources) in enumerate(zip(schedule.steps_read(op), schedule.sources(op), strict=True)):
        last = 0
        for head in heads:
            if head.step > step or slot not in schedule.slots_sent(head):
                continue
            due = slot not in head.asked or (interval is not None and head.step - last >= interval)
            last = head.step if due or data.draw(st.booleans()) else last
        assert not schedule.reads_newest(op)[slot] or last in sources


@pytest.mark.parametrize(
    ("header", "ops", "why"),
    [
        ("", "D1.0:0,?1 S1.0 E1.0 C1.0 R1.0<1,~1", "D1.0:0,?1 asks a policy (?), but the header names none"),
        ("policy=random seed=1", "D1.0 S1.0 E1.0 C1.0 R1.0<1", "policy=random seed=1 has no effect: no op asks it"),
        ("policy=random seed=1", "D1.0:0,?1 S1.0 E1.0 C1.0 R1.0<1", "sends it only where the policy says: write ~1"),
        ("policy=random", "D1.0:0,?1 S1.0 E1.0 C1.0 R1.0<1,~1", "policy=random takes seed, but lacks seed"),
        ("threshold=0.2", "D1.0 S1.0 E1.0 C1.0 R1.0<1", "threshold in the header has no effect without policy="),
        ("policy=random seed=x", "", "'seed=x' in the header"),
    ],
)
def test_policies_in_a_text_are_checked(header: str, ops: str, why: str) -> None:
    text = f"x steps=2 layers=1 top_k=2 {header}\nP0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0\nP1 A1.0 {ops} F1 Z1"
    with pytest.raises(ScheduleError) as error:
        Schedule.parse(text).check()
    assert why in str(error.value)


def test_what_nothing_surely_sends_cannot_be_read() -> None:
    text = """x steps=2 layers=1 top_k=2 policy=random seed=1
              P0 A0.0 D0.0:?0,?1 S0.0 E0.0 C0.0 R0.0<~0 F0 Z0
              P1 A1.0 D1.0 S1.0 E1.0 C1.0 R1.0<1 F1 Z1"""
    with pytest.raises(ScheduleError, match=r"R0\.0 reads slot 0 of step 0 or before, which nothing surely sends"):
        Schedule.parse(text).check()
