"""The named schedules: one function each, written as the text that it means.

A method writes what one layer does at one step; `_laid_out` lays the cells out, and `compose` (sim/compose.py) adds
what the settings ask for and drops repeats and what nobody reads (a dispatch whose outputs a synchronous step or the
end throws away).  A new schedule is one more function in `SCHEDULES`, or a function or a text in a file of your own.

Sources: arXiv 2411.16786 (DICE, ICCV 2025) for displaced and interweaved, and its released code
(Cobalt-27/DICE 292938d) for what it leaves open: ages after a synchronous step, and the order inside a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.compose import Settings, compose
from sim.schedule import Schedule


def sync(steps: int, layers: int, **settings: Any) -> Schedule:
    """Expert parallelism: every layer waits for its own two all-to-alls.  Age 0."""
    return _sync(Settings.of("sync", "sync", steps, layers, settings))


def displaced(steps: int, layers: int, **settings: Any) -> Schedule:
    """Displaced expert parallelism: dispatch and combine each a step late.  Ages 0 1 2 2 ... after a forced step."""
    return _displaced(Settings.of("displaced", "displaced", steps, layers, settings))


def interweaved(steps: int, layers: int, **settings: Any) -> Schedule:
    """Interweaved parallelism (DICE): inside a layer run the experts of the stale layer before it (in the first: of the
    last one, one step earlier); the combine lands a step late.  Ages 0 1 1 ... after a forced step.

    The stale layers form a ring; one of a single layer has no layer before, and degenerates to displaced: age 2."""
    return _interweaved(Settings.of("interweaved", "interweaved", steps, layers, settings))


def dice(steps: int, layers: int, **settings: Any) -> Schedule:
    """DICE in all: interweaved, the deep half of the layers synchronous, the second-best expert every second step."""
    return _interweaved(Settings.of("dice", "interweaved", steps, layers, settings, **_DICE))


def dice_released(steps: int, layers: int, **settings: Any) -> Schedule:
    """DICE as its released code does it: counts exchanged ahead on the same communicator while the host waits, experts
    run once more after a forced step, and a cache that skips only every fourth step."""
    released = {"counts": "blocking", "released": "reruns+conditional"}
    return _interweaved(Settings.of("dice_released", "interweaved", steps, layers, settings, **_DICE, **released))


def overlap(steps: int, layers: int, **settings: Any) -> Schedule:
    """Two micro-batches a rank: one computes while the other's rows travel.  Age 0, smaller matrix products."""
    return _sync(Settings.of("overlap", "sync", steps, layers, settings, micro_batches=2))


def cached(steps: int, layers: int, **settings: Any) -> Schedule:
    """Feature caching: routed experts run every second step, and their last outputs are added again in between."""
    return _sync(Settings.of("cached", "sync", steps, layers, settings, cached=2))


def data_parallel(steps: int, layers: int, **settings: Any) -> Schedule:
    """All experts on every rank, nothing to communicate.  Age 0."""
    return _sync(Settings.of("data_parallel", "sync", steps, layers, settings, experts="replicated"))


def patch_parallel(steps: int, layers: int, **settings: Any) -> Schedule:
    """Patch parallelism: all experts on every rank, a share of each image's tokens; attention waits for all keys and
    values.  Age 0."""
    shares = {"experts": "replicated", "patches": "fresh"}
    return _sync(Settings.of("patch_parallel", "sync", steps, layers, settings, **shares))


def distrifusion(steps: int, layers: int, **settings: Any) -> Schedule:
    """Displaced patch parallelism (DistriFusion): attention takes the other ranks' keys and values of a step ago."""
    shares = {"experts": "replicated", "patches": "stale"}
    return _sync(Settings.of("distrifusion", "sync", steps, layers, settings, **shares))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    one.__name__: one
    for one in (sync, displaced, interweaved, dice, dice_released, overlap, cached,
                data_parallel, patch_parallel, distrifusion)
}  # fmt: skip


_DICE = {"synchronous": "deep", "conditional": "low", "interval": 2}


def _sync(chosen: Settings) -> Schedule:
    return compose(_laid_out(chosen, _sync_cell), chosen)


def _stale(chosen: Settings, stale_cell: Callable[[int, int], str]) -> Schedule:
    """`stale_cell` where neither step nor layer is synchronous."""

    def cell(s: int, l: int) -> str:  # noqa: E741
        waits = s in chosen.forced_steps or l in chosen.synchronous_layers
        return _sync_cell(s, l) if waits else stale_cell(s, l)

    return compose(_laid_out(chosen, cell), chosen)


def _displaced(chosen: Settings) -> Schedule:
    def cell(s: int, l: int) -> str:  # noqa: E741
        return f"A{s}.{l} D{s}.{l} S{s}.{l} E{s - 1}.{l} C{s - 1}.{l} R{s}.{l}<{max(s - 2, chosen.last_forced(s))}"

    return _stale(chosen, cell)


def _interweaved(chosen: Settings) -> Schedule:
    ring = [layer for layer in range(chosen.layers) if layer not in chosen.synchronous_layers]
    if len(ring) == 1:
        return _displaced(chosen)
    before = dict(zip(ring, [*ring[-1:], *ring], strict=False))

    def cell(s: int, l: int) -> str:  # noqa: E741
        past = f"{s - 1 if l == ring[0] else s}.{before[l]}"
        return f"A{s}.{l} D{s}.{l} S{s}.{l} E{past} C{past} R{s}.{l}<{s - 1}"

    return _stale(chosen, cell)


def _sync_cell(s: int, l: int) -> str:  # noqa: E741
    return f"A{s}.{l} D{s}.{l} S{s}.{l} E{s}.{l} C{s}.{l} R{s}.{l}<{s}"


def _laid_out(chosen: Settings, cell: Callable[[int, int], str]) -> Schedule:
    """`cell(step, layer)` for every step and layer, between embedding and solver step."""
    steps, layers = range(chosen.steps), range(chosen.layers)
    rows = [f"P{s} {' '.join(cell(s, layer) for layer in layers)} F{s} Z{s}" for s in steps]
    header = f"{chosen.name} steps={chosen.steps} layers={chosen.layers} top_k={chosen.top_k}"
    return Schedule.parse("\n".join([header, *rows]))
