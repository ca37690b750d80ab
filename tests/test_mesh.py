"""Meshes: who shares what, one group as before, groups that share nothing and groups that share links."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import anything, cluster, interfering, machines, model, named, skewed
from command_line import called
from hypothesis import given, settings
from hypothesis import strategies as st
from test_network import HOSTED, NODES, SWITCH

from sim.cluster import COMPUTE_KINDS, Cluster, Rate
from sim.decode import decode_s
from sim.engine import simulate
from sim.gpu import Gpu
from sim.load import load_schedule
from sim.memory import memory
from sim.mesh import Mesh
from sim.passes import on_communicators
from sim.plan import islands
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import patch_parallel, sync
from sim.trace import Trace
from sim.transfers.collectives import all_to_all_s, halves_s
from sim.transfers.fabric import Fabric
from sim.transfers.network import Network
from sim.units import readable
from sim.workload import MODELS, Workload


def work(schedule: Schedule, ranks: int, seed: int | None = 0, **changes: Any) -> Workload:
    """With routing of its own on each rank (seed), or balanced."""
    workload = Workload(model(schedule), ranks, images=2, **changes)
    return workload if seed is None else replace(workload, routing=skewed(schedule, workload, seed))


def spans(trace: Trace, ranks: Any = slice(None)) -> Any:
    return np.stack([trace.reached_s, trace.start_s, trace.end_s])[:, ranks]


# ------------------------------------------------------------------------------------------- who is with whom


def test_an_axis_that_comes_first_has_neighbours() -> None:
    assert Mesh(data=2, expert=4).groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert Mesh.parse("data=2 expert=4 order=data,expert").groups == ((0, 2, 4, 6), (1, 3, 5, 7))
    both = Mesh(guidance=2, expert=2, patch=2)
    assert both.sharers == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert both.groups == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert both.halves == ((0, 4), (1, 5), (2, 6), (3, 7))


meshes = st.builds(Mesh, data=st.integers(1, 3), expert=st.integers(1, 3), guidance=st.integers(1, 2),
                   patch=st.integers(1, 3))  # fmt: skip


@given(meshes)
def test_every_rank_is_in_one_team_of_each_sort(mesh: Mesh) -> None:
    for teams, size in [(mesh.groups, mesh.group_ranks), (mesh.sharers, mesh.patch), (mesh.halves, mesh.guidance)]:
        assert sorted(rank for team in teams for rank in team) == [*range(mesh.ranks)]
        assert {len(team) for team in teams} == {size}


@given(meshes)
def test_the_text_of_a_mesh_reads_back(mesh: Mesh) -> None:
    assert Mesh.parse(str(mesh)) == mesh


@given(meshes)
def test_every_token_of_every_half_is_on_one_rank(mesh: Mesh) -> None:
    schedule = patch_parallel(1, 1) if mesh.patch > 1 else sync(1, 1)
    shape = model(schedule, experts=36, latent=12)
    workload = Workload(shape, mesh.ranks, images=2, mesh=mesh)
    numbers = np.concatenate([workload.token_numbers(schedule, rank) for rank in range(mesh.ranks)])
    assert sorted(numbers.tolist()) == [*range(workload.images_in_all * 2 * shape.tokens)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data=0 expert=4", r"mesh: data=0 should be a whole number above 0"),
        ("guidance=3", r"mesh: guidance=3, but guidance has two halves"),
        ("experts=4", r"mesh: cannot read 'experts=4' of 'experts=4'; it is written like data=2 expert=4"),
        ("expert=4 expert=2", r"mesh: expert stands twice"),
        ("", r"mesh: '' says nothing"),
        ("expert=4 order=expert", r"mesh: order=expert is the usual one, and has no effect"),
        ("expert=4 data=2 order=data", r"order=data should name each axis of several ranks once: expert, data"),
        ("expert=two", r"mesh: 'expert=two' should be a whole number above 0"),
    ],
)
def test_a_bad_mesh_is_named(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Mesh.parse(text)


@pytest.mark.parametrize(
    ("schedule", "changes", "why"),
    [
        (sync(1, 1), {"mesh": Mesh(data=2, expert=2)}, r"2 x 1 x 2 x 1 = 4 ranks, but there are 8"),
        (sync(1, 1), {"mesh": Mesh(expert=4, guidance=2), "guidance": False}, r"without guidance there is no second"),
        (sync(1, 1), {"mesh": Mesh(expert=4, patch=2)}, r"patch=2 has no effect: in schedule sync images are whole"),
        (patch_parallel(1, 1), {"mesh": Mesh(data=8)}, r"patch_parallel shares out patches; say over how many ranks"),
        (load_schedule("data_parallel", 1, 1), {"mesh": Mesh(expert=8)}, r"expert=8 has no effect: .*; say data=8"),
        (patch_parallel(1, 1), {"mesh": Mesh(patch=8)}, r"4 rows of them over 8 ranks"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(schedule: Schedule, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        work(schedule, 8, seed=None, **changes).fits(schedule)


# ------------------------------------------------------------------------------------------------- one group


@settings(max_examples=40)
@given(st.data(), st.sampled_from([1, 2, 4]), st.booleans())
def test_a_mesh_of_one_group_is_what_there_is_without_a_mesh(data: st.DataObject, ranks: int, slow: bool) -> None:
    schedule = data.draw(st.one_of(named(), anything()))
    machine = data.draw(machines(ranks, bursts=True))
    machine = interfering(machine, 0.3, 0.2) if slow else machine
    mesh = Mesh(patch=ranks) if schedule.sharded_patches else Mesh(expert=ranks)
    mesh = mesh if schedule.sharded_experts or schedule.sharded_patches else Mesh(data=ranks)
    workload = work(schedule, ranks)
    one, none = (simulate(schedule, w, machine) for w in (replace(workload, mesh=mesh), workload))
    np.testing.assert_array_equal(spans(one), spans(none))
    assert memory(schedule, replace(workload, mesh=mesh)).bytes_of == pytest.approx(
        {**memory(schedule, workload).bytes_of} if schedule.sharded_experts or schedule.sharded_patches
        else {k: v for k, v in memory(schedule, workload).bytes_of.items() if k != "communicators"}
    )  # fmt: skip


# ------------------------------------------------------------------------------ groups that share nothing but time


def group_of(workload: Workload, group: tuple[int, ...]) -> Workload:
    """The ranks of one group, as a world of their own."""
    assert workload.routing is not None
    mine = Routing(workload.routing.counts[..., list(group), :])
    return replace(workload, ranks=len(group), routing=mine, mesh=None)


@settings(max_examples=40)
@given(
    st.data(), st.sampled_from([SWITCH, None]), st.sampled_from(["", "order=data,expert"]), st.booleans(),
    st.sampled_from([(), ("D", "C")]),
)  # fmt: skip
def test_groups_on_links_that_nothing_shares_are_each_as_if_alone(
    data: st.DataObject, network: Network | None, order: str, slow: bool, communicators: tuple[str, ...]
) -> None:
    schedule = on_communicators(data.draw(st.one_of(named(4, 3), anything())), communicators).check()
    if not schedule.sharded_experts or schedule.sharded_patches:
        return
    mesh = Mesh.parse(f"data=2 expert=2 {order}")
    machine = data.draw(machines(4, bursts=True))
    machine = interfering(machine, 0.3, 0.2) if slow else machine
    machine = replace(machine, link=network) if network else machine
    workload = replace(work(schedule, 4, data.draw(st.integers(0, 99))), mesh=mesh)
    both = simulate(schedule, workload, machine)
    for group in mesh.groups:
        alone = simulate(schedule, group_of(workload, group), replace(machine, ranks=2))
        np.testing.assert_array_equal(spans(both, list(group)), spans(alone))


def test_groups_of_one_rank_have_nothing_to_send() -> None:
    schedule = sync(3, 2)
    workload = work(schedule, 4, mesh=Mesh(data=4))
    trace = simulate(schedule, workload, cluster(4, link=HOSTED))
    for op, took in zip(schedule.ops, (trace.end_s - trace.start_s).T, strict=True):
        assert op.kind not in "DC" or not took.any()


# ---------------------------------------------------------------------------------- groups that share links

FREE = {kind: Rate(1e-12, 1e30) for kind in COMPUTE_KINDS}


def bound(network: Network, mesh: Mesh, ranks: int = 8) -> Trace:
    """A run that does nothing but communicate."""
    schedule = sync(2, 2)
    workload = replace(work(schedule, ranks, seed=None), mesh=mesh)
    return simulate(schedule, workload, Cluster("free", ranks, FREE, network))


def test_who_can_get_into_each_others_way() -> None:
    fabric = Fabric.of(HOSTED, 8)
    pairs = [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert islands(fabric, pairs) == [0, 1, 2, 3], "each under a bridge of its own, which near routes do not pass"
    assert islands(fabric, [(0, 2), (1, 3), (4, 5), (6, 7)]) == [0, 0, 1, 2]
    assert islands(fabric, [(0, 1, 2, 3), (4, 5, 6, 7)]) == [0, 0], "the host is everybody's"
    assert islands(Fabric.of(NODES, 8), [(0, 4), (1, 5), (2, 6), (3, 7)]) == [0, 1, 2, 3], "a card each"


def test_groups_that_share_a_host_take_turns_at_it() -> None:
    """Of the host's bytes, all pairs in a world of two groups of two bridges each: as much as both groups have."""
    both = bound(HOSTED, Mesh(data=2, expert=4))
    alone = bound(HOSTED, Mesh(expert=4), ranks=4)
    assert 1.5 < both.makespan_s / alone.makespan_s < 2.01
    apart = bound(HOSTED, Mesh(data=4, expert=2))
    assert apart.makespan_s == pytest.approx(bound(HOSTED, Mesh(expert=2), ranks=2).makespan_s, rel=1e-12)


def test_neighbours_make_better_groups_than_every_second_rank() -> None:
    near, far = (bound(NODES, Mesh.parse(f"data=2 expert=4 {order}")) for order in ("", "order=data,expert"))
    assert far.makespan_s > 4 * near.makespan_s, "cards carry a tenth of what ports do"


def test_hierarchical_all_to_alls_need_groups_of_whole_nodes() -> None:
    nodes = replace(NODES, all_to_all="hierarchical")
    with pytest.raises(ValueError, match=r"needs groups of several whole nodes, not ranks 0, 1, 2, 3 in nodes of 4"):
        bound(nodes, Mesh(data=2, expert=4))


def test_those_who_share_images_gather_among_themselves() -> None:
    schedule = patch_parallel(1, 1)
    workload = work(schedule, 8, mesh=Mesh(data=2, patch=4)).fits(schedule)
    op = schedule.ops[schedule.position["K0.0"]]
    moved = workload.moved_bytes(schedule, op)
    assert not moved[:4, 4:].any()
    assert (moved[:4, :4] == 2 * workload.tokens * workload.row_bytes).all()
    fabric = Fabric.of(NODES, 8)
    ring = fabric.all_gather(3.0, (1, 2, 5, 6))
    np.testing.assert_allclose((ring - np.diag(np.diag(ring))).sum(axis=0), [0, 9, 9, 0, 0, 9, 9, 0])


def test_patches_and_experts_are_shared_by_the_same_ranks() -> None:
    """Two ranks that share each image also share the experts: both collectives are among the two."""
    schedule = load_schedule("sync patches=fresh", 2, 2)
    workload = work(schedule, 4, mesh=Mesh(data=2, patch=2)).fits(schedule)
    assert workload.held_experts(schedule) == 4
    for op in schedule.ops:
        if op.collective:
            assert not workload.moved_bytes(schedule, op)[:2, 2:].any()
    assert simulate(schedule, workload, cluster(4)).makespan_s > 0


# --------------------------------------------------------------------------------------------------- guidance


def test_halves_on_different_ranks_meet_at_every_solver_step() -> None:
    schedule = sync(3, 2)
    workload = work(schedule, 4, mesh=Mesh(expert=2, guidance=2))
    assert workload.tokens == 2 * workload.model.tokens, "one half of two images"
    assert workload.images_in_all == 4
    trace = simulate(schedule, workload, cluster(4))
    for step in range(3):
        at, before = schedule.position[f"Z{step}"], schedule.position[f"F{step}"]
        for one, other in workload.mesh.halves if workload.mesh else ():
            assert trace.start_s[one, at] == trace.start_s[other, at]
            assert trace.start_s[one, at] == trace.end_s[[one, other], before].max()


def test_halves_exchange_what_the_network_said() -> None:
    workload = Workload(MODELS["XL"], 8, 16, mesh=Mesh(expert=4, guidance=2))
    machine = cluster(8)
    sent = np.zeros((8, 8))
    sent[0, 4] = 16 * 32 * 32 * 8 * 2  # images x latent x channels (noise and its variance) x bytes
    assert np.asarray(halves_s(workload, machine)).tolist() == [float(all_to_all_s(sent, machine.link)[0])] * 8
    on_switch = halves_s(workload, cluster(8, link=replace(SWITCH, ramp_s=1.0, ramp_bytes=1.0)))
    np.testing.assert_allclose(on_switch, 1 + 1.0 + sent[0, 4] / 10, rtol=1e-5)
    assert halves_s(replace(workload, mesh=None), machine) == 0.0


def test_without_guidance_there_is_half_of_everything() -> None:
    schedule = sync(2, 2)
    with_guidance, without = (Workload(model(schedule), 2, images, guidance=g) for images, g in [(1, True), (2, False)])
    assert with_guidance.tokens == without.tokens
    a, b = (simulate(schedule, each, cluster(2)) for each in (with_guidance, without))
    np.testing.assert_array_equal(spans(a), spans(b))
    assert b.about["guidance"] == "off"


# ------------------------------------------------------------------------------------------------------ noise


def test_a_collective_has_one_noise_a_team() -> None:
    schedule = sync(4, 3)
    machine = cluster(4, jitter={"D": 0.3})
    trace = simulate(schedule, work(schedule, 4, seed=None, mesh=Mesh(data=2, expert=2)), machine, seed=1)
    took = (trace.end_s - trace.start_s)[:, [op.kind == "D" for op in schedule.ops]]
    np.testing.assert_array_equal(took[0], took[1])
    assert (took[0] != took[2]).all()


# ------------------------------------------------------------------------------------------- the command line


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    return called(capsys, "simulate", "sync", "--steps", "2", "--model", "S", "--images", "2", *words)


def test_the_command_line_takes_meshes_and_placements(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    routing = ["--imbalance", "2", "--placement", "balanced copies=4"]
    words = ["--cluster", "8x-h100", "--mesh", "guidance=2 expert=4", *routing, "--save", "t", "--report"]
    code, out, err = command(capsys, *words, "--decode", "vae", "--start-up", "20 s")
    assert code == 0, err
    about = Trace.load("t").about
    assert (about["mesh"], about["images_in_all"]) == ("data=1 guidance=2 expert=4 patch=1", "8")
    assert about["placement"] == "balanced, 4 copies"
    decoded = decode_s(MODELS["S"], Gpu.load("h100_sxm"))
    first = 20 + Trace.load("t").makespan_s + decoded
    assert readable("_s", first) in out
    seconds = Trace.load("t").makespan_s + decoded  # four ranks have two images each, of which each decodes one
    assert f"{8 / seconds:.4g}" in out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--mesh", "data=2 expert=2"], "2 x 1 x 2 x 1 = 4 ranks, but there are 8"),
        (["--mesh", "data=2 expert=4 patch"], "cannot read 'patch'"),
        (["--placement", "balanced"], "balanced has no effect where routing is balanced"),
        (["--placement", "contiguous", "--mesh", "data=8"], "a group is one rank"),
        (["--no-guidance", "--mesh", "guidance=2 expert=4"], "without guidance there is no second half"),
        (["--report", "--decode", "soon"], "decode_s: 'soon' is not a number"),
    ],
)
def test_the_command_line_refuses_what_has_no_effect(
    capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    code, out, err = command(capsys, "--cluster", "8x-h100", *words)
    assert (code, out) == (2, "")
    assert why in " ".join(err.split())
