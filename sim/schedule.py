"""A schedule: the order in which every rank issues the ops of one sampling run, as text and as data.

An op is named by the step *whose tokens it carries*, not by when it runs: `D3.1` dispatches the tokens of step 3 in
layer 1, whenever it is issued.  So a schedule is nothing but an order, and staleness needs no flag: it is the step
that an R reads, subtracted from its own.  Expert parallelism is SPMD: one list serves every rank, and collectives
cannot be issued in different orders on different ranks.

    sync         A3.1 D3.1 S3.1 E3.1 C3.1 R3.1<3     waits for both all-to-alls
    displaced    A3.1 D3.1 S3.1 E2.1 C2.1 R3.1<1     each all-to-all has a step of slack
    interweaved  A3.1 D3.1 S3.1 E3.0 C3.0 R3.1<2     the experts of layer 0 run inside layer 1

A whole schedule is a header and ops, between blanks and line ends; P, F and Z (embedding, final layer, solver step)
frame each step, and `#` begins a comment:

    mine steps=2 layers=1 top_k=2
    P0  A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0  F0 Z0
    P1  A1.0 S1.0 R1.0<0                 F1 Z1      # step 1 adds the outputs of step 0 again: age 1

What an op may say beside its name:

    D3.1a       an op of micro-batch a (none written: the whole batch)
    D3.1/0      carries the rows of the first piece of each rank's experts; E3.1/0 and C3.1/0 follow
    D3.1:0      sends slot 0 (a token's best expert) only; E and C of the same chain follow
    D3.1:0,?1   sends slot 1 as well, for the tokens that the header's policy picks (sim/policy.py)
    R4.1<3,2    adds slot 0 of step 3 and slot 1 of step 2 (`<3`: every slot of step 3)
    R4.1<3,~3   adds of slot 1, token by token, the newest that was sent at step 3 or before
    R4.1<3@4    weighs them with the router weights of step 4 (none written: those of the newest step read)
    D3.1@1      runs on communicator 1 (none written: 0), beside what the others carry
    N3.1!       the host waits for this op before it issues the next
    E3.1'       again, or in vain: nobody uses the result, on purpose (released code does such things)

What a header may say beside steps, layers and top_k:

    micro_batches=2   the batch is cut; every op of a layer is written once for each micro-batch
    pieces=2          D, E and C are cut by experts; each is written once for each piece
    policy=threshold threshold=0.3 interval=2      where `?` is written: who decides, and its settings
    experts=replicated   every rank has all experts: E follows A, R adds what E made, no D and no C
    patches=sharded      a rank has a share of each image's tokens instead of whole images: Q projects queries, keys
                         and values, K gathers keys and values, and A says whose: `Q3.1 K3.1 A3.1<2` takes those of
                         the other ranks from step 2, its own being fresh; `K3.0-3` gathers for four layers at once

The file knows what is needed, and by whom: `Schedule.inputs` is the only statement of dependence there is.  It
refuses to know how long anything takes, how many ranks there are, and which schedules have names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sim.buffers import Buffer, buffers_of
from sim.check import verify
from sim.header import is_header, read_header
from sim.op import COLLECTIVES, KINDS, PER_STEP, Op, ScheduleError
from sim.policy import Policy
from sim.trim import trimmed

__all__ = ["COLLECTIVES", "KINDS", "PER_STEP", "Buffer", "Op", "Policy", "Schedule", "ScheduleError"]


@dataclass(frozen=True)
class Schedule:
    """Ops in the order in which every rank issues them.  `str()` and `parse` are inverse to each other."""

    name: str
    steps: int
    layers: int
    ops: tuple[Op, ...]
    top_k: int = 2
    micro_batches: int = 1
    pieces: int = 1
    experts: str = "sharded"  # or "replicated"
    patches: str = "whole"  # or "sharded"
    policy: Policy | None = None

    # ------------------------------------------------------------------------------------------- text

    def __str__(self) -> str:
        return self.header + "\n" + "\n".join(" ".join(map(str, line)) for _, line in self.lines()) + "\n"

    @property
    def header(self) -> str:
        """`sync steps=5 layers=3 top_k=2`, and what else is not as usual."""
        rest = {"micro_batches": 1, "pieces": 1, "experts": "sharded", "patches": "whole"}
        said = [f" {key}={getattr(self, key)}" for key, usual in rest.items() if getattr(self, key) != usual]
        policy = f" {self.policy}" if self.policy else ""
        return f"{self.name} steps={self.steps} layers={self.layers} top_k={self.top_k}{''.join(said)}{policy}"

    @staticmethod
    def parse(text: str) -> Schedule:
        """Reads a header and ops, separated by blanks and line ends; `#` begins a comment.

        Raises ScheduleError with line and column of the first thing that is not exactly a header or an op."""
        header: dict[str, Any] | None = None
        ops: list[Op] = []
        for number, line in enumerate(text.splitlines(), 1):
            code = line.split("#", 1)[0]
            if header is None:
                if code.strip():
                    header = read_header(code.strip(), number)
                continue
            for token in re.finditer(r"\S+", code):
                try:
                    ops.append(Op.parse(token[0]))
                except ScheduleError as error:
                    pointer = " " * token.start() + "^" * len(token[0])
                    place = f"line {number}, column {token.start() + 1}"
                    raise ScheduleError(f"{place}: {error}\n    {line}\n    {pointer}") from None
        if header is None:
            raise ScheduleError("no header; a schedule begins with a line like: sync steps=5 layers=3 top_k=2")
        return Schedule(ops=tuple(ops), **header)

    def lines(self) -> Iterator[tuple[int, tuple[Op, ...]]]:
        """The ops in lines, each with the position of its first: a line begins at P, at F and where a layer begins."""
        opens = "Q" if self.sharded_patches else "A"
        first = [i for i, op in enumerate(self.ops) if op.kind in "PF" or (op.kind == opens and op.part in ("", "a"))]
        starts = sorted({0, *first})
        for start, end in zip(starts, [*starts[1:], len(self.ops)], strict=True):
            yield start, self.ops[start:end]

    # ------------------------------------------------------------------------------------- dependence

    @property
    def parts(self) -> tuple[str, ...]:
        """The micro-batches' letters; `("",)` where the batch is whole."""
        return tuple("abcdefghijklmnopqrstuvwxyz"[: self.micro_batches]) if self.micro_batches > 1 else ("",)

    @property
    def piece_numbers(self) -> tuple[int | None, ...]:
        """What D, E and C have as `piece`; `(None,)` where experts are whole."""
        return tuple(range(self.pieces)) if self.pieces > 1 else (None,)

    @property
    def sharded_experts(self) -> bool:
        """Whether experts are spread over the ranks, so that rows travel (D, C)."""
        return self.experts == "sharded"

    @property
    def sharded_patches(self) -> bool:
        """Whether each image's tokens are spread over the ranks, so that keys and values travel (Q, K)."""
        return self.patches == "sharded"

    @property
    def head(self) -> str:
        """The kind of op that begins a chain of rows: D, or E where every rank has all experts."""
        return "D" if self.sharded_experts else "E"

    @property
    def tail(self) -> str:
        """The kind of op whose rows an R adds: C, or E where every rank has all experts."""
        return "C" if self.sharded_experts else "E"

    @cached_property
    def position(self) -> dict[str, int]:
        """Where each op stands in `ops`, by name."""
        return {op.name: i for i, op in enumerate(self.ops)}

    @cached_property
    def on_communication(self) -> tuple[bool, ...]:
        """[op]: whether it is a collective."""
        return tuple(op.collective for op in self.ops)

    @cached_property
    def streams(self) -> tuple[str, ...]:
        """`compute`, then those of the communicators: `communication`, `communication1`, ..."""
        communicators = sorted({op.communicator: op.stream for op in self.ops if op.collective}.items())
        return ("compute", *(stream for _, stream in communicators))

    def inputs(self, op: Op) -> tuple[str, ...]:
        """Names of the ops whose results `op` uses: the only statement of dependence there is."""
        s, l, p = op.step, op.layer, op.part  # noqa: E741
        if l is None:
            if op.kind == "P":
                return (f"Z{s - 1}",) if s else ()
            return (f"F{s}",) if op.kind == "Z" else tuple(f"R{s}.{self.layers - 1}{p}" for p in self.parts)
        before = f"R{s}.{l - 1}{p}" if l else f"P{s}"
        match op.kind:
            case "Q":
                return (before,)
            case "K":
                return tuple(f"Q{s}.{layer}{p}" for layer in self.layers_of(op))
            case "A":
                return (
                    (f"Q{s}.{l}{p}", *(self._gather(r, l, p) for r in op.reads)) if self.sharded_patches else (before,)
                )
            case "D":
                counts = self._twin(op._replace(piece=None), "N")
                return (f"A{s}.{l}{p}", counts) if counts in self.position else (f"A{s}.{l}{p}",)
            case "E" if self.sharded_experts:
                return (self._twin(op, "D"),)
            case "C":
                return (self._twin(op, "E"),)
            case "R":
                added = dict.fromkeys(step for steps in self.sources(op) for step in steps)
                return (
                    f"A{s}.{l}{p}",
                    f"S{s}.{l}{p}",
                    *(name for r in added for name in self.chain(self.tail, r, l, p)),
                    *((f"A{w}.{l}{p}",) if (w := self.weights_step(op)) != s else ()),
                )
        return (f"A{s}.{l}{p}",)

    def layers_of(self, op: Op) -> range:
        """The layers that an op serves: several for a K such as `K3.0-3`, none for P, F and Z."""
        return range(0) if op.layer is None else range(op.layer, (op.layer if op.last is None else op.last) + 1)

    def chain(self, kind: str, step: int, layer: int | None, part: str = "") -> tuple[str, ...]:
        """Names of the ops of `kind` (D, E or C) of one (step, layer, micro-batch), one a piece."""
        return tuple(Op(kind, step, layer, part, piece=piece).name for piece in self.piece_numbers)

    def _twin(self, op: Op, kind: str) -> str:
        """The op of another kind in the chain of `op`: of one that is unused, the unused one if there is."""
        twin = Op(kind, op.step, op.layer, op.part, piece=op.piece, unused=op.unused)
        return twin.name if twin.name in self.position else twin._replace(unused=False).name

    def _gather(self, step: int, layer: int, part: str) -> str:
        """Name of the K that gathers keys and values of (step, layer, micro-batch)."""
        return self._gathers.get((step, layer, part), Op("K", step, layer, part).name)

    @cached_property
    def _gathers(self) -> dict[tuple[int, int, str], str]:
        gathers = [op for op in self.ops if op.kind == "K" and not op.unused]
        return {(op.step, layer, op.part): op.name for op in gathers for layer in self.layers_of(op)}

    def older(self, op: Op) -> list[Op]:
        """The ops of earlier steps whose rows an R may add, or whose keys and values an A takes; [] of other kinds."""
        if op.kind not in "AR":
            return []
        names = (name for name in self.inputs(op) if name[0] in (self.tail if op.kind == "R" else "K"))
        return sorted((past for past in (self.ops[self.position[n]] for n in names) if past.step < op.step), key=str)

    def weights_step(self, op: Op) -> int:
        """The step whose router weights an R uses: as written, or the newest that it reads."""
        return max(op.reads) if op.weights is None else op.weights

    def steps_read(self, op: Op) -> tuple[int, ...]:
        """The step that an R reads, slot by slot: as written, whether it means that step or the newest before it."""
        return op.reads * self.top_k if len(op.reads) == 1 else op.reads

    def sources(self, op: Op) -> tuple[tuple[int, ...], ...]:
        """The steps of which an R may add rows, slot by slot, newest first: one, or several where a policy decides."""
        return tuple(
            self.newest_sent(op, slot, step) if newest else (step,)
            for slot, (step, newest) in enumerate(zip(self.steps_read(op), self.reads_newest(op), strict=True))
        )

    def reads_newest(self, op: Op) -> tuple[bool, ...]:
        """Whether an R reads the newest transfer at or before a step (`~3`) and not just of that step, slot by slot."""
        return op.newest * self.top_k if len(op.newest) == 1 else op.newest or (False,) * self.top_k

    def newest_sent(self, op: Op, slot: int, step: int) -> tuple[int, ...]:
        """Steps at or before `step` at which a token of the layer of `op` may last have sent `slot`, newest first.

        The last of them surely sent it, for every token of which the others did not; () where none surely did."""
        found: list[int] = []
        for sent, asked in reversed(self._sendings.get((op.layer, op.part, slot), [])):
            if sent > step:
                continue
            interval = self.policy.interval if self.policy else None
            if found and interval is not None and sent <= found[0] - interval:
                return tuple(found)  # what is older has been sent again since
            found.append(sent)
            if not asked:
                return tuple(found)
        return ()

    @cached_property
    def _sendings(self) -> dict[tuple[int | None, str, int], list[tuple[int, bool]]]:
        """(layer, micro-batch, slot) -> the steps at which it is sent, rising, and whether the policy is asked."""
        sendings: dict[tuple[int | None, str, int], list[tuple[int, bool]]] = {}
        for op in sorted((op for op in self.ops if self._heads(op)), key=lambda op: op.step):
            for slot in self.slots_sent(op):
                sendings.setdefault((op.layer, op.part, slot), []).append((op.step, slot in op.asked))
        return sendings

    def _heads(self, op: Op) -> bool:
        """Whether `op` begins a chain whose rows are used; the first of its pieces stands for all."""
        return op.kind == self.head and not op.piece and not op.unused

    def slots_sent(self, op: Op) -> tuple[int, ...]:
        """The slots that a D (or an E of replicated experts) carries, best first."""
        return op.slots or tuple(range(self.top_k))

    def chain_head(self, op: Op) -> Op | None:
        """The op that begins the chain A D E C (or A E) of `op`'s tokens: it says which slots travel.

        None for an A whose tokens go nowhere.  Of an op that is unused, and has a used twin, the head is the twin's."""
        whole = Op(self.head, op.step, op.layer, op.part, piece=self.piece_numbers[0])
        at = self.position.get(whole.name, self.position.get(whole._replace(unused=True).name))
        return None if at is None else self.ops[at]

    def chain_slots(self, op: Op) -> tuple[int, ...]:
        """The slots of the chain that `op` belongs to; () for an A whose tokens go nowhere."""
        head = self.chain_head(op)
        return () if head is None else self.slots_sent(head)

    @cached_property
    def needs(self) -> tuple[tuple[int, ...], ...]:
        """`inputs` of every op, as positions (of a schedule that has passed `check`)."""
        return tuple(tuple(self.position[name] for name in self.inputs(op)) for op in self.ops)

    # --------------------------------------------------------------------------------------- cleaning

    def trimmed(self, keep: bool = False) -> Schedule:
        """The same without repeats and without what nobody reads: generators may write both and drop them here.

        With `keep`, collectives and experts stay where they are, marked as unused: released code does them."""
        return trimmed(self, keep)

    # ------------------------------------------------------------------------------------------ check

    def check(self) -> Schedule:
        """Returns the schedule itself if every rank can run it to the end, and every op for a purpose.

        Raises ScheduleError that draws the schedule and points at the op: an op out of range, issued twice, issued
        before something it needs, that reads a slot which was not sent, or whose result nobody uses."""
        return self._checked

    @cached_property
    def _checked(self) -> Schedule:
        if not is_header(self.header):
            raise ScheduleError(f"{self.name!r} should be a name: a letter, then letters, digits and any of _ + . -")
        verify(self)
        return self

    # -------------------------------------------------------------------------- staleness and buffers

    def staleness(self) -> list[list[list[int]]]:
        """Oldest possible age in steps [step][layer][slot] of what is added, over micro-batches and tokens."""
        return self._ages(min, max)

    def staleness_at_least(self) -> list[list[list[int]]]:
        """Youngest possible age in steps [step][layer][slot]: less than `staleness` where a policy decides."""
        return self._ages(max, min)

    def _ages(self, which: Any, over_parts: Any) -> list[list[list[int]]]:
        ages: list[list[list[int]]] = [[[] for _ in range(self.layers)] for _ in range(self.steps)]
        for op in self.ops:
            if op.kind == "R" and op.layer is not None:
                mine = [op.step - which(steps) for steps in self.sources(op)]
                old = ages[op.step][op.layer] or mine
                ages[op.step][op.layer] = [over_parts(pair) for pair in zip(old, mine, strict=True)]
        return ages

    def attention_staleness(self) -> list[list[int]]:
        """Age in steps [step][layer] of the other ranks' keys and values; the oldest micro-batch's.  0: fresh."""
        ages = [[0] * self.layers for _ in range(self.steps)]
        for op in self.ops:
            if op.kind == "A" and op.reads and op.layer is not None:
                ages[op.step][op.layer] = max(ages[op.step][op.layer], op.step - op.reads[0])
        return ages

    @cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """Every buffer between two ops, one a slot and piece, in order of birth."""
        return buffers_of(self)

    def alive(self, position: int) -> list[Buffer]:
        """The buffers alive while the op at `position` runs."""
        return [b for b in self.buffers if b.born <= position <= b.dies]

    def persistent(self, step: int) -> list[Buffer]:
        """The buffers alive from `step` into the next: what staleness costs in memory.

        Received rows, a layer and slot: 2 for displaced, 1 for interweaved (arXiv 2411.16786: half)."""
        border = self.position.get(f"P{step + 1}", len(self.ops))
        return [b for b in self.buffers if b.born < border <= b.dies]
