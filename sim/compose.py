"""Settings: what can be asked of any schedule beside its name, and the passes that carry it out.

A setting is a word `key=value`, in a command line, in a sweep or in Python; `Settings.of` reads them all, refuses what
is unknown, out of range, or without effect beside the others, and `compose` applies the passes in their order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain
from typing import Any

from sim import passes
from sim.op import COLLECTIVES, ScheduleError
from sim.policy import POLICIES, Policy
from sim.schedule import Schedule

FIXED = ("low", "high")  # conditional communication that follows from position; elsewhere a policy decides
_FORCING = ("warm_up", "stride", "cool_down", "forced")


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a schedule beside steps and layers.  Fields with a help text are settings."""

    name: str
    method: str  # "sync", "displaced", "interweaved"; "text": of a user's own, with stale layers
    steps: int
    layers: int
    given: tuple[str, ...] = ()  # what was asked for beside what the name means
    top_k: int = _setting(2, "experts of a token")
    warm_up: int = _setting(0, "steps 0 to this one are synchronous")
    stride: int = _setting(0, "steps whose number, counted from the end, it divides are synchronous")
    cool_down: int = _setting(0, "the last so many steps are synchronous")
    forced: str = _setting("none", "further synchronous steps, as 3,7-9")
    synchronous: str = _setting("none", "synchronous layers: deep, shallow, staggered, all, or as 0,3-5")
    conditional: str = _setting("none", f"which slots of a token travel: {', '.join((*FIXED, *POLICIES))}")
    interval: int = _setting(2, "steps after which a skipped slot travels again at the latest")
    intervals: str = _setting("none", "instead of conditional: each slot's own interval, best first, as 1,2")
    always: int = _setting(0, "so many of the best slots travel always, whatever the policy")
    threshold: float = _setting(0.3, "of the policy")
    seed: int = _setting(0, "of the policy")
    cached: int = _setting(1, "routed experts run only every so many steps")
    cached_layers: str = _setting("all", "layers that are cached, named as in synchronous")
    weights: str = _setting("carried", "router weights of stale outputs: carried with them, or current")
    counts: str = _setting(
        "with", "token counts: with the dispatch, ahead of it, or blocking: ahead, and the host waits"
    )
    pieces: int = _setting(1, "pieces into which a rank's experts are cut")
    micro_batches: int = _setting(1, "micro-batches into which a rank's batch is cut")
    communicators: str = _setting("one", "kinds of collective that share one, as N+DC or D+C; one for all if not given")
    experts: str = _setting("sharded", "over the ranks, or replicated on each")
    patches: str = _setting("whole", "of an image on one rank; or spread over all, attention fresh or stale")
    together: int = _setting(1, "layers whose keys and values are gathered at once, where attention is stale")
    released: str = _setting("none", "what released code does: reruns, conditional, or reruns+conditional")

    @staticmethod
    def of(
        name: str, method: str, steps: int | None, layers: int | None, settings: Mapping[str, Any], **usual: Any
    ) -> Settings:
        """Reads `settings` (values, or texts of values; None: not given) of the schedule `name`, whose name already
        means what is `usual`.

        Raises ScheduleError for one that is unknown, malformed, out of range, or has no effect beside the others."""
        if steps is None or layers is None:
            missing = [what for what, value in [("steps", steps), ("layers", layers)] if value is None]
            raise ScheduleError(f"{name}: say how many {' and '.join(missing)}")
        chosen = {key: value for key, value in settings.items() if value is not None}
        known = {f.name: f for f in fields(Settings) if f.metadata}
        if unknown := [key for key in chosen if key not in known]:
            raise ScheduleError(f"{name} has no setting {', '.join(unknown)}; the settings are {', '.join(known)}")
        values = {key: _value(name, key, value, type(known[key].default)) for key, value in chosen.items()}
        made = Settings(name, method, steps, layers, tuple(chosen), **(usual | values))
        check_settings(made)
        return made

    # ----------------------------------------------------------------------------------- what they mean

    @cached_property
    def forced_steps(self) -> frozenset[int]:
        """The steps at which everything is synchronous and everything travels."""
        steps = {*range(self.warm_up + 1), *range(self.steps - self.cool_down, self.steps)}
        if self.stride:
            steps |= {s for s in range(self.steps) if (self.steps - s) % self.stride == 0}
        return frozenset(steps | {*self._numbers("forced", "step", self.steps)})

    def last_forced(self, step: int) -> int:
        """The newest forced step at or before `step`."""
        return max(s for s in self.forced_steps if s <= step)

    @cached_property
    def synchronous_layers(self) -> frozenset[int]:
        """The layers that are synchronous at every step."""
        return self._layer_set("synchronous")

    @property
    def full_name(self) -> str:
        """The name, and what was asked for beside it: `interweaved+deep+low+interval3`."""
        words = (self._word(key) for key in self.given if getattr(self, key) != _DEFAULTS[key] and key != "top_k")
        return "+".join([self.name, *words])

    def _word(self, key: str) -> str:
        value = getattr(self, key)
        if key in ("synchronous", "conditional", "released") and not value[:1].isdigit():
            return value if key != "released" else f"released-{value.replace('+', '-')}"
        return f"{key}{value}".replace(",", ".")

    def travels(self, step: int, layer: int, slot: int) -> bool:
        """Whether any token sends `slot` at `step`."""
        since = step - self.last_forced(step)
        if layer in self._cached_set and since % self.cached:
            return False
        if self.intervals != "none":
            return since % self._slot_intervals[slot] == 0
        skipped = {"low": range(1, self.top_k), "high": range(self.top_k - 1)}.get(self.conditional, range(0))
        if "conditional" in self.released and layer not in self.synchronous_layers:
            return slot not in skipped or since % 4 != 1  # its cache empties on the wrong parity
        return slot not in skipped or since % self.interval == 0

    def asks(self, step: int, layer: int, slot: int) -> bool:
        """Whether it is the policy that says which tokens send `slot` at `step`."""
        since = step - self.last_forced(step)
        if self.conditional == "random":
            return since % self.interval != 0
        return self.conditional in POLICIES and since > 0 and slot >= self.always

    @property
    def skips(self) -> bool:
        """Whether there are slots that do not always travel."""
        return self.conditional != "none" or self.intervals != "none" or self.cached > 1

    @property
    def policy(self) -> Policy | None:
        """Who decides for each token; None where position does."""
        if self.conditional not in POLICIES:
            return None
        return Policy(self.conditional, **{key: getattr(self, key) for key in POLICIES[self.conditional]})

    @property
    def groups(self) -> list[str]:
        """Kinds of collective by communicator."""
        return [] if self.communicators == "one" else self.communicators.split("+")

    @cached_property
    def _slot_intervals(self) -> list[int]:
        return [int(text) for text in self.intervals.split(",")]

    @cached_property
    def _cached_set(self) -> frozenset[int]:
        return self._layer_set("cached_layers") if self.cached > 1 else frozenset()

    def _layer_set(self, key: str) -> frozenset[int]:
        layers, half = range(self.layers), self.layers // 2
        named = {"deep": layers[half:], "shallow": layers[:half], "staggered": layers[1::2], "all": layers}
        return frozenset(named.get(getattr(self, key)) or self._numbers(key, "layer", self.layers))

    def _numbers(self, key: str, what: str, limit: int) -> list[int]:
        """`0,3-5` -> [0, 3, 4, 5]."""
        text, found = getattr(self, key), list[int]()
        for item in [] if text in ("none", "deep", "shallow", "staggered", "all") else text.split(","):
            ends = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", item)
            if ends is None:
                raise ScheduleError(f"{self.name}: {key}={text}: {item!r} should be a {what}, or a range as 3-5")
            found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        if wrong := [n for n in found if n >= limit]:
            raise ScheduleError(f"{self.name}: {key}={text}: {what} {wrong[0]} is out of range, 0 to {limit - 1}")
        return found


_DEFAULTS = {f.name: f.default for f in fields(Settings) if f.metadata}


def compose(schedule: Schedule, chosen: Settings) -> Schedule:
    """`schedule`, as a method wrote it or a user did, with what was asked for, cleaned and checked."""
    schedule = replace(schedule, name=chosen.full_name)
    if chosen.skips:
        schedule = passes.sent_when(schedule, chosen.travels, chosen.asks, chosen.policy)
    if chosen.weights == "current":
        schedule = passes.with_current_weights(schedule)
    if chosen.counts != "with":
        schedule = passes.with_counts(schedule, chosen.counts == "blocking")
    if chosen.experts == "replicated":
        schedule = passes.with_all_experts(schedule)
    if chosen.patches != "whole":
        fresh = range(chosen.steps) if chosen.patches == "fresh" else chosen.forced_steps
        schedule = passes.with_sharded_patches(schedule, fresh, chosen.together)
    schedule = schedule.trimmed(keep="reruns" in chosen.released)
    if chosen.pieces > 1:
        schedule = passes.in_pieces(schedule, chosen.pieces)
    if chosen.micro_batches > 1:
        schedule = passes.in_micro_batches(schedule, chosen.micro_batches)
    if chosen.groups:
        schedule = passes.on_communicators(schedule, chosen.groups)
    return schedule.check()


def _value(name: str, key: str, value: Any, kind: type) -> Any:
    """`value`, or the value that a text writes, of the type of a setting."""
    pattern = {int: r"-?[0-9]{1,9}", float: r"[0-9.]{1,20}"}.get(kind)
    if isinstance(value, str) and pattern and re.fullmatch(pattern, value):
        try:
            return kind(value)
        except ValueError:
            pass
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        wants = {int: "a whole number", float: "a number", str: "a word"}[kind]
        raise ScheduleError(f"{name}: {key}={value} should be {wants}")
    return value


# ------------------------------------------------------------------------------------------------- checks


def check_settings(chosen: Settings) -> None:
    """Raises ScheduleError for the first setting that is out of range, or has no effect beside the others."""
    if problem := next(chain(_out_of_range(chosen), _no_word(chosen), _without_effect(chosen)), None):
        raise ScheduleError(f"{chosen.name}: {problem}")


def _out_of_range(chosen: Settings) -> Iterator[str]:
    limits = {
        "steps": (1, 10**9), "layers": (1, 10**9), "top_k": (1, 10**9), "interval": (1, 10**9), "pieces": (1, 10**9),
        "micro_batches": (1, 26), "warm_up": (0, chosen.steps - 1), "cool_down": (0, chosen.steps),
        "stride": (int("stride" in chosen.given), chosen.steps), "cached": (1, 10**9), "seed": (0, 10**9),
        "always": (0, chosen.top_k - 1), "together": (1, chosen.layers),
    }  # fmt: skip
    for key, (low, high) in limits.items():
        value = getattr(chosen, key)
        if not low <= value <= high:
            yield f"{key}={value} should be {f'at least {low}' if value < low else f'at most {high}'}"


def _no_word(chosen: Settings) -> Iterator[str]:
    choices = {
        "conditional": ("none", *FIXED, *POLICIES),
        "weights": ("carried", "current"),
        "counts": ("with", "ahead", "blocking"),
        "experts": ("sharded", "replicated"),
        "patches": ("whole", "fresh", "stale"),
        "released": ("none", "reruns", "conditional", "reruns+conditional"),
    }
    for key, known in choices.items():
        if getattr(chosen, key) not in known:
            yield f"{key}={getattr(chosen, key)} should be {', '.join(known[:-1])} or {known[-1]}"
    slots = r"[1-9][0-9]{0,8}" + r",[1-9][0-9]{0,8}" * (chosen.top_k - 1)
    if chosen.intervals != "none" and not re.fullmatch(slots, chosen.intervals):
        yield f"intervals={chosen.intervals} should be top_k={chosen.top_k} numbers from 1 up, as 1,2"
    kinds = "".join(chosen.groups)
    if any(kind not in COLLECTIVES for kind in kinds) or len({*kinds}) < len(kinds) or "" in chosen.groups:
        yield f"communicators={chosen.communicators} should be groups of {', '.join(COLLECTIVES)}, as N+DC"
    if chosen.policy and (problem := chosen.policy.problem()):
        yield problem


def _without_effect(chosen: Settings) -> Iterator[str]:
    """What was asked for and changes nothing."""
    given = {key for key in chosen.given if getattr(chosen, key) != _DEFAULTS[key]}
    takes = POLICIES.get(chosen.conditional, ())
    stale, attends = chosen.method in ("displaced", "interweaved"), chosen.patches == "stale"
    needs = [
        (_FORCING, stale or chosen.skips or attends, "where nothing is stale or skipped"),
        (("synchronous",), stale, "but on displaced and interweaved layers"),
        (("interval",), chosen.conditional != "none", "without conditional"),
        (("threshold",), "threshold" in takes, "without conditional=threshold or debt"),
        (("seed",), "seed" in takes, "without conditional=random"),
        (("always",), "interval" in takes, "without conditional=threshold or debt"),
        (("cached_layers",), chosen.cached > 1, "without cached"),
        (("weights",), chosen.method != "sync" or chosen.skips, "where nothing is stale or skipped"),
        (("counts", "pieces"), chosen.experts == "sharded", "where no rows travel, with experts=replicated"),
        (("together",), attends, "without patches=stale"),
        (("released",), stale, "but on displaced and interweaved layers"),
    ]
    for keys, met, where in needs:
        yield from (f"{key}={getattr(chosen, key)} has no effect {where}" for key in keys if key in given and not met)
    both = [key for key in ("conditional", "intervals", "cached") if getattr(chosen, key) != _DEFAULTS[key]]
    if len(both) > 1:
        yield f"{' and '.join(both)} both say when slots travel: give one of them"
    fixed = chosen.conditional in (*FIXED, "random")
    if fixed and chosen.top_k == 1:
        yield f"conditional={chosen.conditional} skips nothing with top_k=1"
    if fixed and chosen.interval == 1:
        yield "interval=1 skips nothing: slots travel at every step"
    if "conditional" in chosen.released and (chosen.method != "interweaved" or not fixed or chosen.interval != 2):
        yield f"released={chosen.released}: that code differs for interweaved with conditional=low or high, interval=2"
    has = {"D": chosen.experts == "sharded", "N": chosen.counts != "with", "K": chosen.patches != "whole"}
    if absent := [kind for kind in "".join(chosen.groups) if not has["D" if kind == "C" else kind]]:
        yield f"communicators={chosen.communicators}: this schedule has no {absent[0]}"
    if len(chosen.groups) == 1:
        yield f"communicators={chosen.communicators} is one, as without it"
