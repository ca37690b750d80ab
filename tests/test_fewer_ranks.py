"""Transfers among fewer ranks than all: how they are measured, kept, and fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_calibration import META, RATE, synthetic

from calibration.bundle import Bundle
from calibration.fit import fitted
from calibration.measure import measure
from calibration.on_ranks import Transfers
from calibration.plan import Job, Plan
from calibration.samples import Sample

PLAN = Plan("digits", ranks=8, images=2, rates=(RATE,), repeats=2)
RATE_OF_TWO, LATENCY_S = 50e6, 3e-3


class Pool:
    """Eight ranks whose transfers take a millisecond a row of the fullest pair, one after the other."""

    def call(self, _: Callable[..., Any], workload: Any, settings: Any, plan: Transfers, rest: bool) -> Any:
        most = np.array([(np.array(rows) * ~np.eye(8, dtype=bool)).max() for _, rows in plan.plan])
        ends = np.arange(1, len(most) + 1) * 10.0
        return [np.stack([ends - 1e-3 * most, ends], axis=1)] * 8


def among(team: int, team_rate: float = RATE_OF_TWO) -> list[Sample]:
    sizes = [1e5, 2e5, 4e5] * 9
    times = [(size, form, LATENCY_S + size / team_rate) for size in sizes for form in ("dispatch", "combine")]
    return [Sample("transfer", form, size, s, 0, 0.0, RATE, team=team) for size, form, s in times]


def test_some_transfers_are_among_the_first_ranks_only() -> None:
    assert PLAN.teams == (2, 4)
    assert replace(PLAN, ranks=2).teams == ()
    assert replace(PLAN, ranks=4, backend="namespaces hosts=2").teams == ()
    found = measure(Job("transfers", 0, RATE), PLAN, Pool())  # type: ignore[arg-type]
    for team, ranks in [(2, range(2)), (4, range(4)), (0, range(8))]:
        mine = [s for s in found if s.team == team]
        assert {s.rank for s in mine} == {*ranks}
        assert {s.subject for s in mine} == {"dispatch", "combine"}
        assert {s.uneven for s in mine} == ({True, False} if team == 0 else {False})
    median = {team: np.median([s.size for s in found if s.team == team and not s.uneven]) for team in (2, 4, 0)}
    assert median[2] > 1.5 * median[4] > 2.2 * median[0], "fewer ranks send each other more of the same tokens"


def test_fewer_ranks_have_links_of_their_own_and_do_not_touch_those_of_all() -> None:
    samples = [*synthetic(0.0), *among(2)]
    whole, two = (fitted(samples, 8, RATE, META, team=team) for team in (0, 2))
    assert whole.cluster == fitted(synthetic(0.0), 8, RATE, META).cluster
    assert (whole.cluster.ranks, two.cluster.ranks) == (8, 2)
    assert two.cluster.links.latency_s == pytest.approx(LATENCY_S, rel=1e-3)  # type: ignore[union-attr]
    assert two.cluster.links.bytes_per_s == pytest.approx(RATE_OF_TWO, rel=1e-3)  # type: ignore[union-attr]
    assert two.cluster.compute == whole.cluster.compute
    assert two.cluster.interference == whole.cluster.interference, "loads are among all"
    with pytest.raises(ValueError, match="no transfer alone among 4 ranks at 20 MB/s"):
        fitted(samples, 8, RATE, META, team=4)


def test_bundles_of_before_had_all_ranks_in_every_transfer(tmp_path: Path) -> None:
    bundle = Bundle.open(tmp_path, PLAN.table(), {**META, "date": "", "command": "", "commit": ""})
    bundle.add_samples("r00-transfers", among(0))
    [path] = (tmp_path / "samples").iterdir()
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["team"]), path)
    assert bundle.samples() == among(0)
    pq.write_table(table.drop_columns(["seconds"]), path)
    with pytest.raises(ValueError, match="lacks the columns seconds"):
        bundle.samples()
