"""An op: one thing that every rank does in a run, and how it is written.

It knows kinds and the grammar of a single op; what an op needs, and whether an order of ops makes sense, is the
schedule's business (sim/schedule.py, where the notation is explained)."""

from __future__ import annotations

import re
from typing import NamedTuple

KINDS = {
    "P": "patches, timestep and label embedded",
    "Q": "queries, keys and values projected (patches sharded)",
    "K": "keys and values gathered from all ranks (all-gather)",
    "A": "attention, router, rows packed for dispatch",
    "N": "token counts exchanged (without it they travel with the dispatch)",
    "D": "dispatch: tokens to the ranks of their experts (all-to-all)",
    "S": "shared experts",
    "E": "routed experts",
    "C": "combine: expert outputs back to the tokens' ranks (all-to-all)",
    "R": "residual: weighted expert outputs and shared experts added",
    "F": "final layer",
    "Z": "guidance and solver step",
}
PER_STEP = "PFZ"  # kinds without a layer: one op a step, for the whole batch
COLLECTIVES = "KNDC"  # kinds that run on a communicator and start when every rank has reached them
IN_PIECES = "DEC"  # kinds that carry rows of some experts, and so may be cut into pieces
FOR_NOTHING = "KNDEC"  # kinds whose results may be thrown away on purpose

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_SLOTS = rf"\??{_NUMBER}(?:,\??{_NUMBER})*"
_READS = rf"~?{_NUMBER}(?:,~?{_NUMBER})*"
_OP = re.compile(
    rf"(?P<kind>[A-Z])(?P<step>{_NUMBER})(?:\.(?P<layer>{_NUMBER})(?:-(?P<last>{_NUMBER}))?(?P<part>[a-z])?)?"
    rf"(?:/(?P<piece>{_NUMBER}))?(?P<unused>')?(?::(?P<slots>{_SLOTS}))?"
    rf"(?:<(?P<reads>{_READS}))?(?:@(?P<at>{_NUMBER}))?(?P<blocks>!)?"
)


class ScheduleError(ValueError):
    """A schedule that cannot be read or cannot be run; the message draws the place."""


class Op(NamedTuple):
    """One op, the same on every rank.  `str(op)` is its text, `op.name` the part of it that identifies it."""

    kind: str
    step: int
    layer: int | None = None
    part: str = ""  # micro-batch: "", or "a", "b", ...
    slots: tuple[int, ...] = ()  # D (E, where experts are replicated) only: the slots that travel; () = all
    reads: tuple[int, ...] = ()  # R: the step read, for every slot or one a slot; A: whose remote keys and values
    weights: int | None = None  # R only: the step of the router weights; None = the newest step read
    blocks: bool = False  # the host waits for the op
    last: int | None = None  # K only: the last of several layers gathered at once
    piece: int | None = None  # D, E, C only: which piece of a rank's experts; None = all experts
    asked: tuple[int, ...] = ()  # those of `slots` that travel only for tokens that the policy picks
    newest: tuple[bool, ...] = ()  # R only: which of `reads` mean the newest transfer at or before that step; () = none
    communicator: int = 0  # K, N, D, C only
    unused: bool = False  # nobody uses the result, on purpose

    @property
    def name(self) -> str:
        """`D3.1a`: what profilers, traces and errors call the op."""
        if self.layer is None:
            return f"{self.kind}{self.step}"
        layers = self.layer if self.last is None else f"{self.layer}-{self.last}"
        piece = "" if self.piece is None else f"/{self.piece}"
        return f"{self.kind}{self.step}.{layers}{self.part}{piece}" + "'" * self.unused

    @property
    def collective(self) -> bool:
        """Whether it runs on a communicator, and starts when every rank has reached it."""
        return self.kind in COLLECTIVES

    @property
    def stream(self) -> str:
        """`compute`, or for collectives `communication`, `communication1`, ...: by communicator."""
        return f"communication{self.communicator or ''}" if self.collective else "compute"

    def __str__(self) -> str:
        slots = ":" + ",".join(f"{'?' * (s in self.asked)}{s}" for s in self.slots) if self.slots else ""
        newest = self.newest or (False,) * len(self.reads)
        reads = "<" + ",".join(f"{'~' * n}{r}" for r, n in zip(self.reads, newest, strict=True)) if self.reads else ""
        at = self.communicator or None if self.collective else self.weights
        return f"{self.name}{slots}{reads}{'' if at is None else f'@{at}'}{'!' if self.blocks else ''}"

    @staticmethod
    def parse(text: str) -> Op:
        """The op that `text` writes; raises ScheduleError with what is wrong with it."""
        found = _OP.fullmatch(text)
        if found is None:
            raise ScheduleError(f"cannot read {text!r}; an op is written like A3.1, D3.1a:0, R4.1<3,2@4 or N3.1!")
        if wrong := _misplaced(found):
            raise ScheduleError(f"{text!r}{wrong}")
        kind, layer, at = found["kind"], found["layer"], found["at"]
        slots, reads = (found[key].split(",") if found[key] else [] for key in ("slots", "reads"))
        newest = tuple(read.startswith("~") for read in reads)
        return Op(
            kind,
            int(found["step"]),
            None if layer is None else int(layer),
            found["part"] or "",
            tuple(int(slot.removeprefix("?")) for slot in slots),
            tuple(int(read.removeprefix("~")) for read in reads),
            int(at) if at is not None and kind == "R" else None,
            found["blocks"] is not None,
            None if found["last"] is None else int(found["last"]),
            None if found["piece"] is None else int(found["piece"]),
            tuple(int(slot[1:]) for slot in slots if slot.startswith("?")),
            newest if any(newest) else (),
            int(at) if at is not None and kind != "R" else 0,
            found["unused"] is not None,
        )


def _misplaced(found: re.Match[str]) -> str:
    """What the text of an op has that its kind does not take, or lacks; "" if nothing."""
    kind = found["kind"]
    if kind not in KINDS:
        return f": unknown kind {kind!r}; the kinds are {' '.join(KINDS)}"
    if (found["layer"] is None) != (kind in PER_STEP):
        return f" should look like {kind}3{'' if kind in PER_STEP else '.1'}: {KINDS[kind]}"
    if kind == "R" and found["reads"] is None:
        return ": R says which step it reads, as in R3.1<2"
    if found["at"] == "0" and kind != "R":
        return ": communicator 0 is not written"
    rules = [  # what may be written, and of which kinds
        ("last", "K", "several layers at once ('K3.0-3')"),
        ("piece", IN_PIECES, "a piece of the experts ('/0')"),
        ("unused", FOR_NOTHING, 'a result that nobody uses ("\'")'),
        ("slots", "DE", "slots (':0'; C carries what its D carries)"),
        ("reads", "RA", "the step that is read ('<2')"),
        ("at", "R" + COLLECTIVES, "a communicator or a step of router weights ('@1')"),
    ]
    for key, kinds, what in rules:
        if found[key] is not None and kind not in kinds:
            return f": {what} can be written of {', '.join(kinds)} only"
    if kind == "A" and not found["reads"].isdecimal() if found["reads"] else False:
        return ": attention reads the keys and values of one step, as in A3.1<2"
    return ""
