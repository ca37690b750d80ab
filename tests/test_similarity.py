"""Similarity of routing: what it says of routing that one can count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sim.cli import main
from sim.records import Records
from sim.routing import Routing
from sim.similarity import Similarity, by_lag
from sim.workload import MODELS

EXPERTS = np.array([[[0, 1], [2, 3]], [[0, 2], [3, 2]], [[1, 0], [2, 3]]])  # [step, token, slot]
SCORES = np.array([[[0.6, 0.2], [0.5, 0.3]], [[0.5, 0.2], [0.5, 0.3]], [[0.6, 0.3], [0.4, 0.3]]], dtype=np.float32)


def routing(scores: bool = True) -> Routing:
    one = (slice(None), None, None)
    return Routing.of(Records(EXPERTS[one], SCORES[one] if scores else None, 4, 2))


def test_tokens_and_experts_are_counted() -> None:
    found = Similarity.of(routing())
    np.testing.assert_allclose(found.best[0], [[1, 0.5, 0.5], [0.5, 1, 0], [0.5, 0, 1]])
    np.testing.assert_allclose(found.overlap[0], [[1, 0.75, 1], [0.75, 1, 0.75], [1, 0.75, 1]])
    np.testing.assert_allclose(by_lag(found.best), [[0.25, 0.5]])
    assert found.score_change is not None
    assert found.score_change[0, 0, 1] == pytest.approx(0.1)  # of token 0's best expert, which it keeps
    assert np.isnan(found.score_change[0, 1, 2])  # nothing stays in its slot
    assert Similarity.of(routing(scores=False)).score_change is None


def test_modelled_routing_is_as_alike_as_it_was_made() -> None:
    model = MODELS["tiny"]
    made = Similarity.of(Routing.skewed(model, 2, 4000, 6, imbalance=1.3, keep=0.8, seed=1))
    assert by_lag(made.best)[:, 0] == pytest.approx(np.full(model.layers, 0.8), abs=0.05)
    assert (np.diff(by_lag(made.best), axis=1) < 0.02).all()


def test_the_command_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    routing().save(tmp_path / "r.npz")
    with pytest.raises(SystemExit) as exit_:
        main(["similarity", f"{tmp_path}/r.npz", "--json", f"{tmp_path}/s.json", "--picture", f"{tmp_path}/s.png"])
    assert exit_.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0    0.250    0.750    0.500    1.000" in lines[1]
    kept, loads = routing().kept(), routing().imbalance()
    shares = [*kept[:, 0].mean(axis=0), loads[:, 0].mean(), loads[:, 0].max()]
    assert [float(word) for word in lines[1].split()[-4:]] == pytest.approx(shares, abs=5e-4)
    assert json.loads((tmp_path / "s.json").read_text())["best"][0][0][1] == 0.5
    assert (tmp_path / "s.png").stat().st_size > 0


def test_what_does_not_tell_tokens_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="counts do not say which token"):
        Similarity.of(Routing.balanced(MODELS["tiny"], 2, 16))
    with pytest.raises(ValueError, match="of one step that serves all"):
        Similarity.of(Routing.of(Records(EXPERTS[:1, None, None], None, 4, 2)))
