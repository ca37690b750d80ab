"""Policies: which slots of which tokens travel, where data decide ("?1" in a schedule's text).

A policy is named, with its settings, in a schedule's header; a `Ledger` remembers, for the tokens of one layer and
micro-batch, when each slot last travelled, and asks the policy at every dispatch.  Real runs ask it with torch tensors
and simulations with NumPy arrays: nothing here but operators, so that both decide alike, to the token.

Suffixes: N tokens of one micro-batch on one rank, in the order of the forward; K slots, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POLICIES = {  # name -> the settings that it takes, all of them
    "random": ("seed",),
    "threshold": ("threshold", "interval"),
    "debt": ("threshold", "interval"),
}


@dataclass(frozen=True)
class Policy:
    """random: of the slots asked about, one a token travels, drawn anew each time.
    threshold: a slot travels if its router score is at least `threshold`, or its last transfer `interval` steps old.
    debt: if its router score times the steps since its last transfer is at least `threshold`, or likewise."""

    name: str
    threshold: float | None = None
    interval: int | None = None
    seed: int | None = None

    def __str__(self) -> str:
        settings = [f" {key}={getattr(self, key)}" for key in ("threshold", "interval", "seed")
                    if getattr(self, key) is not None]  # fmt: skip
        return f"policy={self.name}{''.join(settings)}"

    def problem(self) -> str:
        """What is wrong with name or settings; "" if nothing."""
        if self.name not in POLICIES:
            return f"unknown policy {self.name!r}; the policies are {', '.join(POLICIES)}"
        for key in ("threshold", "interval", "seed"):
            if (key in POLICIES[self.name]) != (getattr(self, key) is not None):
                takes = " and ".join(POLICIES[self.name])
                return f"policy={self.name} takes {takes}, {'but lacks' if key in takes else 'not'} {key}"
        if self.interval is not None and self.interval < 1:
            return f"interval={self.interval} should be at least 1"
        most = 1.0 if self.name == "threshold" else float(self.interval or 1)
        if self.threshold is not None and not 0 <= self.threshold <= most:
            return f"threshold={self.threshold:g} should be 0 to {most:g}"
        return ""

    def picks(self, score_N: Mapping[int, Any], waited_N: Mapping[int, Any], draw_N: Any) -> dict[int, Any]:
        """Slot -> mask [N] of the tokens for which it travels, of the slots asked about.

        score_N, by slot: router weights; waited_N: steps since it last travelled; draw_N: random whole numbers."""
        if self.name == "random":
            return {slot: draw_N % len(score_N) == i for i, slot in enumerate(score_N)}
        owed_N = {s: score_N[s] * waited_N[s] for s in score_N} if self.name == "debt" else score_N
        return {s: (owed_N[s] >= self.threshold) | (waited_N[s] >= self.interval) for s in score_N}


class Ledger:
    """When each slot of some tokens last travelled: last_N, by slot the step of it.

    token_N: whole numbers that tell a token from every other of the run, whatever the ranks and micro-batches."""

    def __init__(self, policy: Policy | None, layer: int, token_N: Any, top_k: int) -> None:
        self._policy, self._layer, self._token_N = policy, layer, token_N
        self.last_N = dict.fromkeys(range(top_k), token_N * 0)

    def send(
        self, step: int, slots: Sequence[int], asked: Sequence[int], score_NK: Any, remember: bool = True
    ) -> dict[int, Any]:
        """Slot -> mask [N] of the tokens for which it travels at `step`: all, or as the policy picks.

        score_NK may be None where the policy does not look at it.  remember: not for what travels in vain."""
        always = self._token_N >= 0
        masks = dict.fromkeys(slots, always)
        if asked:
            assert self._policy is not None, "a checked schedule has a policy where it asks"
            draw_N = _draw(self._policy.seed or 0, step, self._layer, self._token_N)
            waited = {slot: step - self.last_N[slot] for slot in asked}
            scores = {slot: None if score_NK is None else score_NK[:, slot] for slot in asked}
            masks |= self._policy.picks(scores, waited, draw_N)
        for slot, mask_N in masks.items() if remember else ():
            last_N = self.last_N[slot]
            self.last_N[slot] = last_N + (step - last_N) * mask_N
        return masks


def _draw(seed: int, step: int, layer: int, token_N: Any) -> Any:
    """A whole number a token, 0 to 2**32 - 1, by a multiply-and-shift hash in 32 bits, which fit int64 anywhere."""
    mixed_N = token_N * 0
    for key in (seed, step, layer, token_N):
        mixed_N = (mixed_N ^ key) & 0xFFFFFFFF
        for _ in range(2):
            mixed_N = (((mixed_N >> 16) ^ mixed_N) * 0x45D9F3B) & 0xFFFFFFFF
        mixed_N = (mixed_N >> 16) ^ mixed_N
    return mixed_N
