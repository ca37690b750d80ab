"""When a transfer ran on lanes (realrun/lanes.py): marks while it is under way, stamps when it has ended.

It outlives the rows: a transport keeps one of each transfer, to read its marks when all have passed, and no buffer.
The file knows marks and bytes; it refuses to know how rows go."""

from __future__ import annotations

from dataclasses import dataclass

from realrun.lanes import Mark
from realrun.transport import Stamps


@dataclass
class Passage:
    """reached, ended: filled in by whoever issues the transfer."""

    stamps: Stamps
    reached: Mark | None = None
    ended: Mark | None = None

    def carried(self, sent_bytes: tuple[int, ...], came_bytes: int) -> None:
        """Notes what it carries; a transfer is issued when that is known."""
        self.stamps.sent_bytes, self.stamps.came_bytes = sent_bytes, came_bytes

    def settle(self) -> None:
        """Blocks the host until it has ended, and fills in when that was."""
        assert self.reached is not None
        assert self.ended is not None
        self.ended.finish()
        self.stamps.reached_s, self.stamps.end_s = self.reached.at_s(), self.ended.at_s()
