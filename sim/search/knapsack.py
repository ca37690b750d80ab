"""One choice for each of several items, two sums to be small: every choice that no other beats in both.

Dynamic programming (multiple-choice knapsack; Nemhauser and Ullmann 1969), exact as long as the front stays short; a
longer one is thinned to one choice a cell of the first sum, and says how far its first sums may then be off.  Pure
functions of numbers; they refuse to know what is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
LONGEST = 4000  # of a front


@dataclass(frozen=True, eq=False)
class Front:
    """first, second [point]: sums, the first rising, the second falling; choices [point, item].

    slack: no choice at all has sums below those of a point whose first sum were smaller by this much."""

    first: Array
    second: Array
    choices: npt.NDArray[np.int64]
    slack: float

    def least_second(self, first: float) -> float:
        """The smallest second sum of any choice with a first sum up to `first`, or a lower bound of it; inf if none."""
        within = int(np.searchsorted(self.first, first + self.slack, side="right"))
        return float(self.second[within - 1]) if within else float("inf")

    def best_within(self, first: float) -> int:
        """The point of the smallest second sum among those with a first sum up to `first`.

        Raises ValueError if there is none."""
        within = int(np.searchsorted(self.first, first, side="right"))
        if not within:
            raise ValueError(f"nothing comes to less than {self.first[0]:g}, so not to {first:g}")
        return within - 1


def front(first: Array, second: Array, longest: int = LONGEST) -> Front:
    """Of costs [item, option] each.  Raises ValueError for tables that are not of one shape, or not finite."""
    if first.shape != second.shape or not (np.isfinite(first) & np.isfinite(second)).all():
        raise ValueError(f"costs [item, option] should be finite, of one shape, not {first.shape} and {second.shape}")
    sums = np.zeros(1), np.zeros(1)
    back: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    slack, options = 0.0, first.shape[1]
    for mine, other in zip(first, second, strict=True):
        grown = [(total[:, None] + each).ravel() for total, each in zip(sums, (mine, other), strict=True)]
        kept = unbeaten(*grown)
        if len(kept) > longest:
            cell = (grown[0][kept[-1]] - grown[0][kept[0]]) / longest
            cells = np.floor(grown[0][kept] / cell)
            kept = kept[np.append(np.diff(cells) > 0, True)]  # of each cell the smallest second sum
            slack += cell
        sums = grown[0][kept], grown[1][kept]
        back.append((kept // options, kept % options))
    choices = np.empty((len(sums[0]), len(first)), np.int64)
    at = np.arange(len(sums[0]))
    for item in range(len(first) - 1, -1, -1):
        before, option = back[item]
        choices[:, item], at = option[at], before[at]
    return Front(*sums, choices, slack)


def unbeaten(first: Array, second: Array) -> npt.NDArray[np.int64]:
    """Numbers of the points that none beats: first rising, second falling; of equal ones, one."""
    order = np.lexsort((second, first))
    least = np.minimum.accumulate(second[order])
    better = np.append(True, second[order][1:] < least[:-1])
    return np.asarray(order[better])
