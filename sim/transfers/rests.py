"""How long links have rested when a collective comes, beyond the end of the one before it.

A collective ends with its fullest link.  The link that the next one fills most may have carried its own earlier: a
combine goes back where its dispatch came from.  It knows bytes between ranks; it refuses to know the clock."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.cluster import Link
from sim.op import Op
from sim.schedule import Schedule
from sim.workload import Workload

Array = npt.NDArray[np.float64]


def followers(schedule: Schedule, sort_of: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """[op] number of its row; [row] two sorts of op (`sim.cost.sorts`), of a collective and of the one behind it.

    Row 0 is of ops that no transfer follows, and stands for nothing.  Of schedules with several communicators, which
    share the links, every op is in it."""
    talks = [i for i, op in enumerate(schedule.ops) if op.collective] if len(schedule.streams) == 2 else []
    bulky = np.array([schedule.ops[i].kind != "N" for i in talks], dtype=bool)
    sorts = np.array([sort_of[i] for i in talks], dtype=np.intp)
    both = bulky[:-1] & bulky[1:]
    pairs, number = np.unique(np.array([sorts[:-1][both], sorts[1:][both]]), axis=1, return_inverse=True)
    row_of = np.zeros(len(schedule.ops), dtype=np.intp)
    row_of[np.array(talks[:-1], dtype=np.intp)[both]] = number.reshape(-1) + 1
    return row_of.tolist(), [(0, 0), *map(tuple, pairs.T.tolist())]


def rest_bytes(
    rows: Sequence[tuple[int, int]], ops: Sequence[Op], schedule: Schedule, workload: Workload, link: Link
) -> Array:
    """[row, rank], of the rows of `followers` and the first op of each sort: what is left of a collective when the link
    is free that the one behind it fills most; 0 in row 0."""
    left = [_left_bytes(ops[op], ops[after], schedule, workload, link) for op, after in rows[1:]]
    return np.array([np.zeros(workload.ranks), *left])


def _left_bytes(op: Op, after: Op, schedule: Schedule, workload: Workload, link: Link) -> Array:
    """Bytes [rank] that the fullest link of `op`, among those that meet in it, still carries when the one that `after`
    fills most has carried its own."""
    found = np.zeros(workload.ranks)
    sent = [workload.sent_bytes(schedule, each) for each in (op, after)]
    for team in workload.teams(schedule, op):
        first, then = (_loads(each[np.ix_(team, team)], link) for each in sent)
        found[[*team]] = first.max() - first[then == then.max()].max()
    return found


def _loads(sent_bytes: Array, link: Link) -> Array:
    """[link]: bytes that pass it."""
    if link.scope == "pair":
        return sent_bytes.ravel()
    received, sent = sent_bytes.sum(axis=0), sent_bytes.sum(axis=1)
    return received if link.buffered else np.concatenate([received, sent])
