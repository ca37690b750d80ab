"""Equality: real ranks compute what one process computes, add what the schedule says, and do it in its order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibration.on_ranks import Transfers, transfer_on_rank
from realrun.backend import load_backend
from realrun.cli import main
from realrun.execute import RankRun
from realrun.hosts import Hosts, lacking
from realrun.rank import RankContext
from realrun.ranks import Ranks, RanksFailed
from realrun.run import Run, Settings, build_model, check_fit, execute_rank, inputs, run
from realrun.transport import GlooTransport, Pending
from realrun.verify import difference, expected
from sim.cluster import COMPUTE_KINDS, Cluster, Link, Rate
from sim.engine import simulate
from sim.load import load_schedule
from sim.mesh import Mesh
from sim.placement import contiguous
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import SCHEDULES
from sim.trace import Trace
from sim.workload import ModelShape, Workload

SHAPE = ModelShape("tiny", layers=3, hidden=16, heads=2, experts=8, classes=10, latent=8)
SETTINGS = Settings(seed=3, dtype="float64", keep_velocity=True)

MICRO_BATCHES = """overlap steps=2 layers=2 top_k=2 micro_batches=2
P0
A0.0a D0.0a A0.0b D0.0b S0.0a E0.0a C0.0a S0.0b E0.0b C0.0b R0.0a<0 A0.1a D0.1a R0.0b<0 A0.1b D0.1b
S0.1a E0.1a C0.1a S0.1b E0.1b C0.1b R0.1a<0 R0.1b<0 F0 Z0
P1
A1.0a D1.0a S1.0a E1.0a C1.0a R1.0a<0 A1.0b D1.0b S1.0b E1.0b C1.0b R1.0b<1 A1.1a S1.1a R1.1a<0 A1.1b D1.1b S1.1b E1.1b
C1.1b R1.1b<1 F1 Z1
""".replace("A1.0a D1.0a S1.0a E1.0a C1.0a R1.0a<0", "A1.0a S1.0a R1.0a<0")
SLOTS = """slots steps=3 layers=2 top_k=2
P0 A0.0 N0.0! D0.0 S0.0 E0.0 C0.0 R0.0<0 A0.1 D0.1 S0.1 E0.1 C0.1 R0.1<0 F0 Z0
P1 A1.0 D1.0:0 S1.0 E1.0 C1.0 R1.0<1,0 A1.1 N1.1 D1.1:1 S1.1 E1.1 C1.1 R1.1<0,1 F1 Z1
P2 A2.0 S2.0 R2.0<1,0@2 A2.1 S2.1 R2.1<0,1@0 F2 Z2
"""


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    with Ranks(request.param, timeout_s=20) as pool:
        yield pool


def schedules() -> list[Schedule]:
    named = [load_schedule(name, steps=5, layers=3) for name in SCHEDULES]
    warm = [load_schedule(name, steps=6, layers=3, warm_up=2) for name in ("displaced", "interweaved")]
    return [*named, *warm, Schedule.parse(MICRO_BATCHES).check(), Schedule.parse(SLOTS).check()]


def shape_for(schedule: Schedule) -> ModelShape:
    return ModelShape("tiny", schedule.layers, hidden=16, heads=2, experts=8, classes=10, latent=8)


def one_run(schedule: Schedule, ranks: Ranks) -> tuple[Run, Workload]:
    workload = Workload(shape_for(schedule), ranks.world, images=2, wire="float64")
    return run(schedule, workload, ranks, SETTINGS), workload


@pytest.mark.parametrize("schedule", schedules(), ids=lambda s: f"{s.name}-{s.steps}")
def test_real_ranks_equal_one_process_without_communication(schedule: Schedule, ranks: Ranks) -> None:
    made, workload = one_run(schedule, ranks)
    right = expected(schedule, workload, SETTINGS)
    assert made.velocity is not None
    torch.testing.assert_close(made.final, right.final, rtol=0, atol=1e-10)
    torch.testing.assert_close(made.velocity, right.velocity, rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", schedules(), ids=lambda s: f"{s.name}-{s.steps}")
def test_measured_staleness_and_order_are_the_schedules(schedule: Schedule, ranks: Ranks) -> None:
    made, workload = one_run(schedule, ranks)
    cluster = Cluster("any", ranks.world, {k: Rate(1e-3, 1e10) for k in COMPUTE_KINDS}, Link(1e-4, 1e7))
    simulated = simulate(schedule, workload, cluster)
    np.testing.assert_array_equal(made.trace.staleness, np.array(schedule.staleness()))
    for rank in range(ranks.world):
        for stream in ("compute", "communication"):
            assert made.trace.order(rank, stream) == simulated.order(rank, stream)
    assert (made.trace.end_s >= made.trace.start_s).all()


def test_different_schedules_give_different_images(ranks: Ranks) -> None:
    finals = [one_run(load_schedule(name, 5, 3), ranks)[0].final for name in SCHEDULES]
    assert (finals[0] - finals[1]).abs().max() > 1e-3
    assert (finals[1] - finals[2]).abs().max() > 1e-3


def test_recorded_routing_counts_every_token_of_every_slot(ranks: Ranks) -> None:
    made, workload = one_run(load_schedule("interweaved", 5, 3), ranks)
    assert (made.routing.counts.sum(axis=-1) == workload.tokens).all()
    assert made.routing.counts.std() > 0, "a router that spreads tokens evenly was not asked"


def test_recorded_tokens_are_in_the_order_of_the_forward(ranks: Ranks) -> None:
    """Before anything stale is added, micro-batches route as the whole batch does, and experts follow the labels."""
    whole, halves = load_schedule("sync", 2, 2), Schedule.parse(MICRO_BATCHES).check()
    workload = Workload(shape_for(halves), ranks.world, images=2, wire="float64")
    one, two = (run(schedule, workload, ranks, SETTINGS).routing for schedule in (whole, halves))
    assert one.experts is not None
    assert two.experts is not None
    assert one.scores is not None
    assert two.scores is not None
    assert one.experts.shape == (2, 2, ranks.world, workload.tokens, 2)
    np.testing.assert_array_equal(one.experts[0], two.experts[0])
    np.testing.assert_allclose(one.scores[0], two.scores[0], rtol=1e-5)
    np.testing.assert_array_equal(one.cut(2).counts[0], two.counts[0])
    model = build_model(workload.model, range(8), SETTINGS)
    for rank in range(ranks.world):
        noise, labels = inputs(workload.model, range(2 * rank, 2 * rank + 2), SETTINGS)
        x, c = model.embed(noise.repeat(2, 1, 1, 1), 1.0, torch.cat([labels, torch.full_like(labels, 10)]))
        idx_NK, weight_NK = model.block(0).moe.route(model.block(0).attend(x, c)[1].flatten(0, 1))
        np.testing.assert_array_equal(one.experts[0, 0, rank], idx_NK.detach().numpy())
        np.testing.assert_allclose(one.scores[0, 0, rank], weight_NK.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": Mesh(data=2)}, "mesh: real ranks are one group"),
        ({"placement": contiguous(8, 2)}, "placement: real ranks are one group"),
        ({"dtype": "bf16"}, "workload: dtype=bf16 has no effect on real ranks"),
        ({"grouped": True}, "workload: grouped=True has no effect on real ranks"),
        ({"guidance": False}, "guidance=False: real runs always compute both halves"),
        ({"wire": "float64"}, "float32 rows gain nothing from travelling as float64"),
        ({"routing": Routing.balanced(SHAPE, 2, 64)}, "a real run routes by its own router"),
        ({"ranks": 4}, "the workload is for 4 ranks, but 2 are running"),
    ],
)
def test_what_a_real_run_cannot_follow_is_refused(changes: dict[str, Any], message: str) -> None:
    workload = replace(Workload(SHAPE, 2, images=2, wire="float32"), **changes)
    with pytest.raises(ValueError, match=message):
        check_fit(load_schedule("sync", 3, 3), workload, Settings(), 2)


# ------------------------------------------------------------------------------------------------ faults


def lose_rank_1(
    context: RankContext, how: signal.Signals, schedule: Schedule, workload: Workload, settings: Settings
) -> RankRun:
    dispatch = GlooTransport.dispatch

    def dies_at(self: GlooTransport, name: str, *args: Any) -> Pending:
        if name == "D3.1" and context.rank == 1:
            os.kill(os.getpid(), how)
        return dispatch(self, name, *args)

    GlooTransport.dispatch = dies_at  # type: ignore[method-assign]
    return execute_rank(context, schedule, workload, settings, None)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            signal.SIGKILL,
            r"rank 0: TransferError: [DC]\d\.\d: rank 1 closed its connection; rank 1: killed by signal 9",
        ),
        (
            signal.SIGSTOP,
            r"rank 0: TransferError: [DC]\d\.\d: rank 0 waited 2.0 s for \w+ of rank 1; rank 1: no answer .*stopped",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
@pytest.mark.parametrize("source", ["interweaved", "interweaved communicators=D+C"])
def test_survivors_of_a_lost_rank_say_what_they_waited_for(source: str, how: signal.Signals, message: str) -> None:
    schedule = load_schedule(source, 9, 3)
    workload, began_s = Workload(SHAPE, 2, images=2, wire="float32"), time.monotonic()
    with pytest.raises(RanksFailed, match=message), Ranks(2, timeout_s=2.0) as pool:
        pool.call(lose_rank_1, how, schedule, workload, Settings())
    assert time.monotonic() - began_s < 15


# ------------------------------------------------------------------------------------------ command line


def test_the_command_runs_verifies_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, routing = tmp_path / "run.trace", tmp_path / "routing.npz"
    words = ["interweaved", "--steps", "3", "--images", "1", "--dtype", "float64", "--link", "80MB/s", "--verify"]
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--save", str(trace), "--routing", str(routing)])
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    assert "interweaved steps=3 layers=4 top_k=2: 2 ranks over links of 80 MB/s" in said
    assert "step by step 0 1 1" in said
    assert re.search(r"buffers between ops at most, of the fullest rank: .*received combine [\d.]+ [kM]B", said)
    assert float(said.split("without communication:")[1]) < 1e-10
    assert Trace.load(trace).origin == "measured"
    loaded = Routing.load(routing)
    assert loaded.counts.shape == (3, 4, 1, 2, 2, 8)
    assert loaded.scores is not None
    assert loaded.scores.shape == (3, 4, 2, 128, 2)


@pytest.mark.parametrize(
    "words",
    [
        "sync conditional=threshold threshold=0.2 pieces=2 --wire int8",
        "distrifusion experts=sharded communicators=DC+K --wire bfloat16",
    ],
)
def test_the_command_verifies_policies_pieces_patches_and_wires(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*words.split(), "--steps", "3", "--images", "1", "--dtype", "float64", "--verify"])
    assert exit_.value.code == 0
    said = capsys.readouterr().out.split("without communication:")[1].split(";")
    assert float(said[0]) < 1e-10
    assert [age.strip() for age in said[1:]] == ["outputs of another age: 0"] * ("conditional" in words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nonsense --steps 3", "unknown schedule 'nonsense'"),
        ("sync", "sync: say how many steps"),
        ("sync warm_up=1 --steps 3", "sync: warm_up=1 has no effect"),
        ("sync --steps 3 --model huge", "unknown model 'huge'"),
        ("sync --steps 3 --ranks 3", "8 experts cannot be spread evenly over 3 ranks"),
        ("sync --steps 3 --ranks 16", "8 experts cannot be spread evenly over 16 ranks"),
        ("sync --steps 3 --dtype float8", "unknown dtype 'float8'"),
        ("sync --steps 3 --wire int4", "unknown wire 'int4'; known: float64, float32, bfloat16, float16, float8, int8"),
        ("sync --steps 3 --wire float64", "wire: float32 rows gain nothing from travelling as float64"),
        ("data_parallel --steps 3 --wire int8", "wire: int8 has no effect on data_parallel: no rows travel"),
        ("sync pieces=3 --steps 3", "cuts the experts of a rank into pieces=3, which has 4"),
        ("sync top_k=3 --steps 3", "top_k"),
        ("patch_parallel --steps 3 --ranks 3", "8 rows of them over 3 ranks"),
        ("sync micro_batches=3 --steps 3", "8 rows of images (with guidance) do not divide into 3 micro-batches"),
        ("sync --steps 3 --link 5ms", "unknown unit 'ms'"),
        ("sync --steps 3 --save /nowhere/run.trace", "/nowhere/run.trace: its directory does not exist"),
        ("tests/golden/show_interweaved_5_3.txt", "is a schedule with layers=3, but layers=4 was asked for"),
    ],
)
def test_bad_input_shows_itself_and_starts_nothing(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words.split())
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ backends


@pytest.mark.parametrize("name", ["staged", pytest.param("namespaces hosts=2", marks=pytest.mark.root)])
def test_every_backend_computes_the_same(name: str) -> None:
    if name.startswith("namespaces") and (why := lacking()):
        pytest.skip(why)
    schedule, workload = load_schedule("interweaved", 4, 3), Workload(SHAPE, 2, 2, wire="float64")
    with load_backend(name).start(2, 20) as pool:
        made = run(schedule, workload, pool, replace(SETTINGS, link_bytes_per_s=50e6))
    assert difference(made, schedule, workload, SETTINGS)[0] < 1e-10


@pytest.mark.root
def test_hosts_have_cards_of_a_rate_and_leave_nothing() -> None:
    if why := lacking():
        pytest.skip(why)
    before = {path.name for path in Path("/run/netns").glob("*")}
    workload = Workload(ModelShape("wide", 1, 256, 2, 4, classes=10, latent=8), 4, 1, wire="float32")
    rows = 500
    load = Transfers((("combine", ((rows,) * 4,) * 4),) * 3)
    with load_backend("namespaces hosts=2").start(4, 20) as pool:
        spans = np.array(pool.call(transfer_on_rank, workload, Settings(link_bytes_per_s=20e6), load, True))
    took_s = spans[:, :, 1].max(axis=0) - spans[:, :, 0].max(axis=0)
    across_bytes = 4 * rows * workload.row_bytes
    assert min(took_s) == pytest.approx(across_bytes / 20e6, rel=0.3)
    assert {path.name for path in Path("/run/netns").glob("*")} == before


@pytest.mark.root
def test_hosts_estimate_no_rate_of_their_own() -> None:
    if why := lacking():
        pytest.skip(why)
    words = ["sysctl", "-n", "net.ipv4.tcp_congestion_control", "net.ipv4.tcp_slow_start_after_idle"]
    with Hosts.up(2) as hosts:
        for host in range(2):
            command = ["ip", "netns", "exec", f"{hosts.tag}-{host}", *words]
            assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["reno", "0"]


def test_backends_say_what_they_cannot() -> None:
    with (
        pytest.raises(ValueError, match=r"namespaces hosts=2: 3 ranks should spread evenly"),
        load_backend("namespaces").start(3),
    ):
        pass
    with pytest.raises(ValueError, match=r"backend nccl: start it by torchrun --nproc-per-node 2"):
        load_backend("nccl").start(2)


def test_timed_compute_takes_its_time_and_nothing_else() -> None:
    timed = {"A": 2e-4, "S": 1e-4, "E": 5e-5}
    schedule, workload = load_schedule("sync", 3, 3), Workload(SHAPE, 2, 2, wire="float32")
    with Ranks(2, 20) as pool:
        trace = run(schedule, workload, pool, Settings(timed_row_s=timed)).trace
    spans = trace.end_s - trace.start_s
    kinds = np.array([op.kind for op in schedule.ops])
    assert np.median(spans[:, kinds == "A"]) == pytest.approx(timed["A"] * workload.tokens, rel=0.3)
    assert spans[:, kinds == "E"].sum() == pytest.approx(timed["E"] * workload.tokens * 2 * 2 * 9, rel=0.3)
    with pytest.raises(ValueError, match=r"timed_row_s=\{'A': 1.0\} should have seconds, below 1, for each of A, S, E"):
        Settings(timed_row_s={"A": 1.0})
