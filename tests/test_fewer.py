"""Fewer steps: as many as a limit of quality or latency asks for, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from advices import CLUSTER, COSTS, MODEL, asked

from sim.advise import advise
from sim.engine import simulate
from sim.fewer import furthest_kept
from sim.load import load_schedule
from sim.option import Option
from sim.vulnerability import quality_cost
from sim.workload import Workload


def shortened(options: list[Option]) -> dict[str, dict[int, Option]]:
    """Those of fewer steps, by source and steps."""
    found: dict[str, dict[int, Option]] = {}
    for option in options:
        if option.why == "fewer steps":
            found.setdefault(option.source, {})[option.schedule.steps] = option
    return found


def undrawn_s(source: str, steps: int) -> float:
    return simulate(load_schedule(source, steps, MODEL.layers), Workload(MODEL, 2, 2), CLUSTER).makespan_s


def test_a_limit_of_quality_is_answered_by_the_fewest_steps_that_keep_it() -> None:
    """The fastest of all that are within it: here, of ten synchronous steps, three."""
    found = advise(replace(asked(quality=0.25), steps=10, vulnerability=COSTS))
    few = shortened(found)
    assert min(few["sync"]) == 3  # the square root of 0.5, over 3, is the first below 0.25
    assert {"sync", "overlap", "cached"} <= {*few}
    for source, at in few.items():
        fewest = min(at)
        assert quality_cost(load_schedule(source, fewest, MODEL.layers), COSTS) <= 0.25
        assert not at[fewest].against
        if source != "sync":  # which has others: what stale schedules pay for
            assert len(at) == 1
        assert quality_cost(load_schedule(source, fewest - 1, MODEL.layers), COSTS) > 0.25
    assert found[0].why == "fewer steps"
    assert all(found[0].makespan_s <= option.makespan_s for option in found if not option.against)
    assert not {source for source in few if source.startswith("distrifusion")}


def test_a_limit_of_latency_is_answered_by_the_most_steps_that_keep_it() -> None:
    limit = 1.001 * undrawn_s("sync", 2)
    for vulnerability in (COSTS, None):
        found = advise(replace(asked(latency_s=limit), vulnerability=vulnerability))
        few = shortened(found)
        assert max(few["sync"]) == 2
        for source, at in few.items():
            assert undrawn_s(source, max(at)) <= limit < undrawn_s(source, max(at) + 1)
        kept = [option for option in found if not option.against]
        assert all(option.why == "fewer steps" for option in kept)
        assert {option.unpriced for option in kept} == {("fewer steps",) if vulnerability is None else ()}
        if vulnerability is None:
            assert all(load_schedule(source, 4, MODEL.layers).staleness() == SYNC_AGES for source in few)
            steps = [option.schedule.steps for option in kept]
            assert steps == sorted(steps, reverse=True)


def test_no_steps_are_sought_for_what_misses_other_limits() -> None:
    least = min(option.facts.memory_bytes for option in advise(asked()))
    found = advise(replace(asked(quality=0.5, memory_bytes=least), vulnerability=COSTS))
    assert "overlap micro_batches=4" in shortened(found)
    assert "overlap" not in shortened(found)


SYNC_AGES = load_schedule("sync", 4, MODEL.layers).staleness()


@pytest.mark.parametrize("guess", [-3, 0, 1, 5, 7, 99])
def test_the_last_that_keeps_a_limit_is_found_from_any_guess(guess: int) -> None:
    assert furthest_kept(lambda n: n <= 5, guess, range(1, 10)) == 5
    assert furthest_kept(lambda n: n >= 5, guess, range(9, 0, -1)) == 5
    assert furthest_kept(lambda n: True, guess, range(1, 10)) == 9
    assert furthest_kept(lambda n: False, guess, range(1, 10)) is None
    assert furthest_kept(lambda n: True, guess, range(1, 1)) is None
