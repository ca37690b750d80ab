"""Routing: counts follow from tokens, a modelled router does what its parameters say, files hold what was put in."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import cluster, model
from hypothesis import given
from hypothesis import strategies as st

from sim.engine import simulate
from sim.records import Records
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import SCHEDULES
from sim.workload import MODELS, ModelShape, Workload


@st.composite
def recorded(draw: st.DrawFn) -> Records:
    """Any records: of all tokens or of a sample, with and without scores, for one step, layer or rank or for each."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    steps, layers, srcs, slots = (draw(st.integers(1, most)) for most in (3, 2, 2, 3))
    tokens, of_experts = 6 * draw(st.integers(1, 4)), draw(st.integers(slots, 9))
    logits = random.standard_normal((steps, layers, srcs, tokens, of_experts))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    order = np.argsort(-shares, axis=-1)[..., :slots]
    scores = np.take_along_axis(shares, order, -1).astype(np.float32)
    kept = scores if draw(st.booleans()) else None
    return Records(order.astype(np.uint8), kept, of_experts, tokens * draw(st.sampled_from([1, 1, 2, 5])))


@given(recorded(), st.sampled_from([1, 2, 3]))
def test_counts_are_those_of_the_recorded_tokens(records: Records, parts: int) -> None:
    counts = Routing.of(records, parts).counts
    steps, layers, srcs, tokens, slots = records.experts.shape
    assert counts.shape == (steps, layers, parts, slots, srcs, records.of_experts)
    each = tokens // parts
    for step, layer, part, slot, src, expert in np.ndindex(counts.shape):
        mine = records.experts[step, layer, src, part * each : (part + 1) * each, slot]
        assert counts[step, layer, part, slot, src, expert] == (mine == expert).sum() * records.tokens / tokens


@given(recorded(), st.sampled_from([1, 2, 3]))
def test_cutting_again_is_cutting_the_tokens(records: Records, parts: int) -> None:
    whole, cut = Routing.of(records), Routing.of(records, parts)
    np.testing.assert_array_equal(whole.cut(parts).counts, cut.counts)
    np.testing.assert_allclose(cut.counts.sum(axis=2, keepdims=True), whole.counts)
    assert cut.cut(parts) is cut


def test_counts_that_are_of_other_tokens_are_refused() -> None:
    experts = np.zeros((1, 1, 1, 4, 1), np.uint8)
    with pytest.raises(ValueError, match=r"not those of the recorded tokens: let Routing\.of count them"):
        Routing(np.full((1, 1, 1, 1, 1, 2), 2.0), records=Records(experts, None, 2, 4))


def test_shares_that_are_kept_are_counted_token_by_token() -> None:
    experts = np.array([[[0, 1], [1, 0], [2, 1], [0, 2]], [[0, 2], [1, 0], [1, 2], [2, 0]]])[:, None, None]
    routing = Routing.of(Records(experts, None, 3, 4))
    np.testing.assert_array_equal(routing.kept(), [[[0.5, 0.25]]])
    np.testing.assert_array_equal(routing.imbalance(), [[3 / (8 / 3)], [3 / (8 / 3)]])
    with pytest.raises(ValueError, match="counts do not say which token went where"):
        Routing(routing.counts).kept()
    with pytest.raises(ValueError, match="is of one step that serves all"):
        Routing.of(Records(experts[:1], None, 3, 4)).kept()


def routed(schedule: Schedule, shape: ModelShape, **settings: Any) -> Workload:
    workload = Workload(shape, 2, 6)
    return replace(workload, routing=Routing.skewed(shape, 2, workload.tokens, schedule.steps, **settings))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_workload_cuts_records_as_its_schedule_does(parts: int) -> None:
    schedule = SCHEDULES["sync"](3, 2, micro_batches=parts) if parts > 1 else SCHEDULES["sync"](3, 2)
    workload = routed(schedule, model(schedule), imbalance=1.5, keep=0.8).fits(schedule)
    assert workload.routing is not None
    assert workload.routing.counts.shape[2] == parts
    assert simulate(schedule, workload, cluster()).makespan_s > 0


def test_records_of_one_rank_serve_every_rank() -> None:
    schedule = SCHEDULES["sync"](2, 2)
    shape = model(schedule)
    workload = Workload(shape, 4, 2)
    one = Routing.skewed(shape, 1, workload.tokens, 2, imbalance=1.7, keep=0.7)
    assert one.records is not None
    four = Routing.of(replace(one.records, experts=one.records.experts.repeat(4, axis=2), scores=None))
    rows = [
        replace(workload, routing=routing).fits(schedule).rows(schedule, schedule.ops[schedule.position["D1.1"]])
        for routing in (one, four)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])


# ------------------------------------------------------------------------------------------ the modelled router

XL = MODELS["XL"]


@pytest.mark.parametrize(("imbalance", "keep"), [(1.0, 0.9), (1.2, 0.5), (1.5, 0.9), (2.0, 0.99), (3.5, 0.95)])
def test_parameters_mean_what_they_say(imbalance: float, keep: float) -> None:
    """Within what a sample of a few hundred tokens leaves open: the most loaded is the best of noisy loads."""
    routing = Routing.skewed(XL, 8, 8192, 12, imbalance=imbalance, keep=keep, seed=3)
    assert routing.imbalance().mean() == pytest.approx(imbalance, rel=0.03)
    kept = routing.kept()[..., 0].mean(axis=0)  # [layer]
    assert kept.mean() == pytest.approx(keep, abs=0.015)
    groups = 11 * 8 * 48  # of tokens whose numbers are the same, rotated: 4 standard errors, were a group one token
    np.testing.assert_allclose(kept, keep, atol=4 * (keep * (1 - keep) / groups) ** 0.5)
    assert (routing.kept()[..., 1].mean() < kept).all(), "a second choice is less sure than a first"


def test_unbiased_experts_get_exactly_even_loads() -> None:
    shape = MODELS["tiny"]
    routing = Routing.skewed(shape, 2, 512, 6, keep=0.8, parts=2)
    balanced = np.broadcast_to(Routing.balanced(shape, 2, 512, 2).counts, routing.counts.shape)
    np.testing.assert_allclose(routing.counts, balanced, rtol=1e-12)


def test_one_seed_is_one_routing_whatever_its_length() -> None:
    short, long, other = (
        Routing.skewed(MODELS["tiny"], 2, 512, steps, imbalance=1.5, keep=0.9, seed=seed)
        for steps, seed in [(3, 1), (7, 1), (7, 2)]
    )
    for name in ("experts", "scores", "counts"):
        np.testing.assert_array_equal(getattr(short, name), getattr(long, name)[:3])
    assert other.experts is not None
    assert long.experts is not None
    assert (long.experts != other.experts).any()
    assert long.source == "modelled: imbalance 1.5, keep 0.9, seed 1"


def test_scores_are_shares_of_a_softmax_and_sure_tokens_stay() -> None:
    routing = Routing.skewed(XL, 2, 8192, 4, imbalance=1.5, keep=0.9)
    assert routing.scores is not None
    assert routing.experts is not None
    assert (routing.scores.sum(axis=-1) < 1).all()
    stays = routing.experts[0, ..., 0] == routing.experts[1, ..., 0]
    margin = routing.scores[0, ..., 0] - routing.scores[0, ..., 1]
    assert margin[stays].mean() > 2 * margin[~stays].mean()


def test_tokens_that_never_change_need_one_step() -> None:
    routing = Routing.skewed(XL, 2, 8192, 50, imbalance=1.5)
    assert len(routing.counts) == 1


def test_fifty_steps_of_xl_on_8_ranks_are_small_and_quick() -> None:
    began_s = time.process_time()
    routing = Routing.skewed(XL, 8, 8192, 50, imbalance=1.5, keep=0.9)
    assert time.process_time() - began_s < 2.0
    assert routing.experts is not None
    assert routing.scores is not None
    assert routing.experts.nbytes + routing.scores.nbytes + routing.counts.nbytes < 100e6


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"imbalance": 0.9}, r"imbalance=0.9 should be 1 \(balanced\) to less than 4, all that top-2 of 8 experts"),
        ({"imbalance": 4.0}, "imbalance=4 should be 1"),
        ({"imbalance": float("nan")}, "imbalance=nan should be 1"),
        ({"keep": 1.1}, r"keep=1.1 should be 0.1\d \(what tokens keep by chance\) to 1"),
        ({"keep": 0.1}, r"keep=0.1 should be 0.1\d"),
        ({"imbalance": 3.0, "keep": 0.3}, r"keep=0.3 should be 0.\d+ \(what tokens keep by chance\)"),
        ({"steps": 0}, "steps=0 should be at least 1"),
    ],
)
def test_what_no_router_does_is_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Routing.skewed(MODELS["tiny"], 2, 512, **{"steps": 3, **settings})


# ------------------------------------------------------------------------------------------------ files


@given(records=recorded(), parts=st.sampled_from([1, 2, 3]))
def test_records_save_and_load_back(records: Records, parts: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("routing") / "r.npz"
    routing = Routing.of(records, parts, "a run")
    routing.save(path)
    again = Routing.load(path)
    np.testing.assert_array_equal(again.counts, routing.counts)
    assert again.source == "a run"
    assert again.records is not None
    for name in ("experts", "scores"):
        ours, theirs = getattr(records, name), getattr(again.records, name)
        assert ours is theirs is None or (ours.dtype == theirs.dtype and np.array_equal(ours, theirs))
    assert (again.records.of_experts, again.records.tokens) == (records.of_experts, records.tokens)


def test_a_file_of_counts_alone_is_still_read(tmp_path: Path) -> None:
    counts = np.full((1, 1, 1, 2, 2, 8), 4)
    np.savez_compressed(tmp_path / "old.npz", counts=counts, source=np.array("recorded"))
    routing = Routing.load(tmp_path / "old.npz")
    np.testing.assert_array_equal(routing.counts, counts)
    assert (routing.records, routing.experts, routing.scores) == (None, None, None)


EXPERTS = np.array([[0, 1], [2, 1]], np.uint8).reshape(1, 1, 1, 2, 2)
SCORES = np.array([[0.6, 0.2], [0.5, 0.5]], np.float32).reshape(1, 1, 1, 2, 2)
GOOD: dict[str, Any] = {
    "experts": EXPERTS, "scores": SCORES, "of_experts": 3, "tokens": 2, "parts": 1, "source": "a run"
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"experts": EXPERTS[0]}, r"recorded experts should be whole numbers \[step, layer, src, token, slot\]"),
        ({"experts": EXPERTS * 1.0}, "recorded experts should be whole numbers"),
        ({"experts": EXPERTS - np.int64(1)}, "recorded experts should be 0 to 2, not -1"),
        ({"of_experts": 2}, "recorded experts should be 0 to 1, not 2"),
        ({"experts": EXPERTS * 0}, "a token has the same expert in slots 0 and 1"),
        ({"tokens": 1}, "2 recorded tokens cannot stand for the 1 of a rank"),
        ({"parts": 3}, "2 recorded tokens do not divide into 3 micro-batches"),
        ({"parts": 0}, "parts=0 micro-batches should be at least 1"),
        (
            {"scores": SCORES[..., :1]},
            r"float32 of the experts' shape .*, not float32 .*2, 1\)",
        ),
        ({"scores": SCORES.astype(float)}, "not float64"),
        ({"scores": SCORES * np.float32(2)}, "shares of a softmax, 0 to 1"),
        ({"scores": SCORES * np.float32(np.nan)}, "shares of a softmax, 0 to 1"),
        ({"scores": SCORES[..., ::-1]}, "fall from slot to slot"),
        ({"experts": np.array([[None]])}, "Object arrays cannot be loaded"),
        ({"tokens": None}, "lacks tokens; it has experts"),
    ],
)
def test_a_file_that_is_not_a_routing_says_why(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **{key: value for key, value in {**GOOD, **change}.items() if value is not None})
    with pytest.raises(ValueError, match=rf"bad.npz: .*{why}"):
        Routing.load(path)
    np.savez(path, **GOOD)
    assert Routing.load(path).source == "a run"
