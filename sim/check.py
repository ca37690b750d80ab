"""The check of a schedule: can every rank run it to the end, and is every op there for a purpose?

It knows what may be wrong, and draws the place; what an op needs it asks the schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from sim.op import IN_PIECES, KINDS, Op, ScheduleError

if TYPE_CHECKING:
    from sim.schedule import Schedule

_LETTERS = 26  # of micro-batches


def verify(schedule: Schedule) -> None:
    """Raises ScheduleError that draws the schedule and points at the first op that cannot be, or is for nothing."""
    _check_header(schedule)
    unread: dict[str, int] = {}  # what was made and not yet used -> position of its maker
    made: dict[str, int] = {}
    for i, op in enumerate(schedule.ops):
        _check_form(schedule, i, op)
        if op.name in made:
            _fail(schedule, i, f"{op.name} is issued twice")
        if op.kind == "R":
            _check_reads(schedule, i, op)
        for name in schedule.inputs(op):
            if name not in made:
                _fail(schedule, i, f"{op.name} needs {name}, which is {_where(schedule, name)}")
            unread.pop(name, None)
        made[op.name] = i
        for name in () if op.unused else (op.name, *_slot_names(schedule, op)):
            unread[name] = i
        for slot, steps in enumerate(schedule.sources(op)) if op.kind == "R" else ():
            for step in steps:
                unread.pop(f"{schedule.chain(schedule.head, step, op.layer, op.part)[0]}:{slot}", None)
    end = f"Z{schedule.steps - 1}"
    if end not in made:
        _fail(schedule, len(schedule.ops) - 1, f"the schedule ends without {end}: {KINDS['Z']}")
    del unread[end]
    for name, i in sorted(unread.items(), key=lambda item: ":" in item[0]):  # an op says more than its slots
        _fail(schedule, i, f"nobody uses {name}: leave it out")


def _check_header(schedule: Schedule) -> None:
    name = schedule.name
    for key in ("steps", "layers", "top_k", "micro_batches", "pieces"):
        if getattr(schedule, key) < 1:
            raise ScheduleError(f"{name}: {key}={getattr(schedule, key)} should be at least 1")
    for key, known in [("experts", ("sharded", "replicated")), ("patches", ("whole", "sharded"))]:
        if getattr(schedule, key) not in known:
            raise ScheduleError(f"{name}: {key}={getattr(schedule, key)} should be {' or '.join(known)}")
    if schedule.micro_batches > _LETTERS:
        raise ScheduleError(f"{name}: micro_batches={schedule.micro_batches}, but letters end at {_LETTERS}")
    if schedule.policy and (problem := schedule.policy.problem()):
        raise ScheduleError(f"{name}: {problem}")
    if schedule.policy and not any(op.asked for op in schedule.ops):
        raise ScheduleError(f"{name}: {schedule.policy} has no effect: no op asks it, as D3.1:0,?1 does")


def _check_form(schedule: Schedule, i: int, op: Op) -> None:
    """What can be said of an op by itself, and of its kind in a schedule with this header."""
    for what, value, limit in [
        ("step", op.step, schedule.steps),
        ("layer", op.layer, schedule.layers),
        ("layer", op.last, schedule.layers),
        ("piece", op.piece, schedule.pieces),
        *(("slot", slot, schedule.top_k) for slot in op.slots),
        *(("router weights of step", w, op.step + 1) for w in [op.weights]),
    ]:
        if value is not None and value >= limit:
            _fail(schedule, i, f"{op}: {what} {value} is out of range, 0 to {limit - 1}")
    if op.layer is not None and op.part not in schedule.parts:
        whole = "none, since micro_batches=1" if schedule.micro_batches == 1 else ", ".join(schedule.parts)
        _fail(schedule, i, f"{op}: micro-batch {op.part or 'missing'}; this schedule has {whole}")
    if op.kind in IN_PIECES and (op.piece is None) != (schedule.pieces == 1):
        last = schedule.pieces - 1
        _fail(
            schedule, i, f"{op}: " + ("pieces=1, so write no piece" if last == 0 else f"say which piece, /0 to /{last}")
        )
    if op.last is not None and op.layer is not None and op.last <= op.layer:
        _fail(schedule, i, f"{op}: the last layer should be after the first")
    if list(op.slots) != sorted(set(op.slots)):
        _fail(schedule, i, f"{op}: slots should rise and not repeat")
    _check_kind(schedule, i, op)


def _check_kind(schedule: Schedule, i: int, op: Op) -> None:
    """What the header rules out."""
    if not schedule.sharded_experts and op.kind in "NDC":
        _fail(schedule, i, f"{op}: with experts=replicated no rows travel; E follows A")
    if op.kind == "E" and op.slots and schedule.sharded_experts:
        _fail(schedule, i, f"{op}: E carries what its D carries; slots (':0') belong to D")
    if not schedule.sharded_patches and (op.kind in "QK" or (op.kind == "A" and op.reads)):
        _fail(schedule, i, f"{op}: keys and values travel with patches=sharded in the header only")
    if schedule.sharded_patches and op.kind == "A" and (len(op.reads) != 1 or op.reads[0] > op.step):
        _fail(schedule, i, f"{op}: with patches=sharded A says whose keys and values it takes, as in A3.1<2")
    if op.asked and schedule.policy is None:
        _fail(schedule, i, f"{op} asks a policy (?), but the header names none, as policy=random seed=0 would")
    if op.kind == schedule.head and op.piece and op.slots != _first_piece(schedule, op).slots:
        _fail(schedule, i, f"{op}: every piece of a chain carries the same slots as the first")


def _first_piece(schedule: Schedule, op: Op) -> Op:
    first = op._replace(piece=0).name
    return schedule.ops[schedule.position[first]] if first in schedule.position else op


def _check_reads(schedule: Schedule, i: int, op: Op) -> None:
    """Whether the slots that an R reads were sent."""
    if len(op.reads) not in (1, schedule.top_k):
        rule = f"write one step for all, or top_k={schedule.top_k} steps"
        _fail(schedule, i, f"{op} reads {len(op.reads)} slots; {rule}")
    if max(op.reads) > op.step:
        _fail(schedule, i, f"{op} reads step {max(op.reads)}, which is still to come")
    newest = schedule.reads_newest(op)
    for slot, (step, steps) in enumerate(zip(schedule.steps_read(op), schedule.sources(op), strict=True)):
        if not steps:
            _fail(schedule, i, f"{op.name} reads slot {slot} of step {step} or before, which nothing surely sends")
        head = schedule.chain(schedule.head, step, op.layer, op.part)[0]
        if head not in schedule.position or newest[slot]:
            continue  # that the op itself is missing is said of C
        sent = schedule.ops[schedule.position[head]]
        if slot not in schedule.slots_sent(sent):
            _fail(schedule, i, f"{op.name} reads slot {slot} of step {step}, which {head} does not send")
        if slot in sent.asked:
            asks = f"{head} sends it only where the policy says: write ~{step}"
            _fail(schedule, i, f"{op.name} reads slot {slot} of step {step}; {asks}")


def _slot_names(schedule: Schedule, op: Op) -> list[str]:
    """What a chain's first op makes beside itself: `D3.1:0`, a slot."""
    begins = op.kind == schedule.head and not op.piece
    return [f"{op.name}:{slot}" for slot in schedule.slots_sent(op)] if begins else []


def _where(schedule: Schedule, name: str) -> str:
    return "issued later" if name in schedule.position else "never issued"


def _fail(schedule: Schedule, position: int, why: str) -> NoReturn:
    raise ScheduleError(f"{schedule.name}: {why}\n{draw(schedule, position, why)}")


def draw(schedule: Schedule, position: int, note: str, around: int = 2) -> str:
    """The lines near the op at `position`, with a pointer to it that bears `note`."""
    lines = list(schedule.lines())
    here = max((n for n, (start, _) in enumerate(lines) if start <= position), default=0)
    drawn = [f"    {schedule.header}"]
    for n in range(max(0, here - around), min(len(lines), here + around + 1)):
        start, ops = lines[n]
        drawn.append("    " + " ".join(map(str, ops)))
        if n == here and ops:
            before = sum(len(str(op)) + 1 for op in ops[: position - start])
            drawn.append("    " + " " * before + "^" * len(str(schedule.ops[position])) + f" <-- {note}")
    return "\n".join(drawn)
