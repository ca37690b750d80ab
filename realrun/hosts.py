"""Hosts without hardware: network namespaces on a bridge, with cards that send and receive at a rate (Linux, root).

Each host is a namespace with one card (half of a veth pair) into a switch, which is a namespace with a bridge.  A
rate limits what a card sends, at the host, and what it receives, at the switch.  Bytes wait in the order in which
they came, but packets below 128 bytes (acknowledgements) pass by a queue of their own: behind data that goes the
other way they would hold up the sender.  No connection estimates the rate of a card, or starts slowly again after a
rest: BBR, the default of some systems, goes on at half a card's rate when another connection has ended, which made
runs with two micro-batches a fifth slower.  The file knows names and rates; it refuses to know what is sent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from realrun.pacing import CONGESTION

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_NAMES = Path("/run/netns")
_PREFIX = "dicesim"
_CARD = "card0"
_FREE_BYTES_PER_S = 5e9  # of small packets, and of cards without a rate
_BURST_BYTES = 4000  # that an idle card sends at once: the least that HTB keeps a rate with
_TCP = {"tcp_congestion_control": CONGESTION, "tcp_slow_start_after_idle": "0"}


@dataclass(frozen=True)
class Hosts:
    """`count` hosts and their switch, by a tag that tells them from those of other programs."""

    tag: str
    count: int

    @staticmethod
    @contextmanager
    def up(count: int) -> Iterator[Hosts]:
        """Makes hosts for the `with` block, and takes them down.  Also takes down what a killed program left.

        Raises OSError that says what this machine lacks."""
        if why := lacking():
            raise OSError(f"hosts need Linux, root and iproute2; {why}")
        _sweep()
        hosts = Hosts(f"{_PREFIX}{os.getpid()}", count)
        try:
            hosts._make()
            yield hosts
        finally:
            hosts.down()

    def _make(self) -> None:
        switch = self._switch
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge0", "up")
        for host in range(self.count):
            name, port = self._host(host), f"port{host}"
            _ip("netns", "add", name)
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", _CARD, "netns", name)
            _ip("-n", switch, "link", "set", port, "master", "bridge0", "up")
            _ip("-n", name, "addr", "add", f"10.213.0.{host + 1}/24", "dev", _CARD)
            for device in ("lo", _CARD):
                _ip("-n", name, "link", "set", device, "up")
            for key, value in _TCP.items():
                _ip("netns", "exec", name, "sysctl", "-q", "-w", f"net.ipv4.{key}={value}")

    def enter(self, host: int) -> str:
        """Moves the calling thread, and those that it makes later, to a host; the name of its card.

        Raises OSError if there is no such host, or no right to go there."""
        library = ctypes.CDLL(None, use_errno=True)
        handle = os.open(_NAMES / self._host(host), os.O_RDONLY)
        try:
            if library.setns(handle, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(_NAMES / self._host(host)))
        finally:
            os.close(handle)
        return _CARD

    def limit(self, bytes_per_s: float | None) -> None:
        """The rate of every card, out and in (None: as it is).  Raises ValueError as `refuse_rate` does."""
        refuse_rate(bytes_per_s)
        for host in range(self.count):
            for space, device in [(self._host(host), _CARD), (self._switch, f"port{host}")]:
                _queue(space, device, bytes_per_s or _FREE_BYTES_PER_S)

    def down(self) -> None:
        """Takes away whatever there is of them."""
        for name in [*map(self._host, range(self.count)), self._switch]:
            if (_NAMES / name).exists():
                _ip("netns", "del", name)

    @property
    def _switch(self) -> str:
        return f"{self.tag}-switch"

    def _host(self, number: int) -> str:
        return f"{self.tag}-{number}"


def refuse_rate(bytes_per_s: float | None) -> None:
    """Raises ValueError for a card's rate below 1 kB/s."""
    if bytes_per_s is not None and bytes_per_s < 1e3:
        raise ValueError(f"a card's rate of {bytes_per_s:g} bytes/s should be at least 1 kB/s")


def lacking() -> str:
    """What this machine lacks for hosts; "" if nothing."""
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} not found"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "this is not root"
    probe = f"{_PREFIX}{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
    except OSError as error:
        return str(error)
    return ""


def _queue(space: str, device: str, bytes_per_s: float) -> None:
    """What `device` sends: one queue at the rate, one for small packets beside it."""
    with contextlib.suppress(OSError):  # none yet
        _tc(space, "qdisc", "del", "dev", device, "root")
    _tc(space, "qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "10")
    for number, rate in [(10, bytes_per_s), (20, _FREE_BYTES_PER_S)]:
        bits, burst = f"{round(8 * rate)}bit", str(_BURST_BYTES)
        kind = ["htb", "rate", bits, "ceil", bits, "burst", burst, "cburst", burst, "quantum", "60000"]
        _tc(space, "class", "add", "dev", device, "parent", "1:", "classid", f"1:{number}", *kind)
        _tc(space, "qdisc", "add", "dev", device, "parent", f"1:{number}", "bfifo", "limit", "64000000")
    # an IPv4 packet's length, two bytes from byte 2 on, without its seven lowest bits: 0 below 128
    small = ["u32", "match", "u16", "0", "0xff80", "at", "2", "flowid", "1:20"]
    _tc(space, "filter", "add", "dev", device, "parent", "1:", "protocol", "ip", "prio", "1", *small)


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _tc(space: str, *words: str) -> None:
    _run(["tc", "-n", space, *words])


def _run(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


def _sweep() -> None:
    """Takes down hosts whose program is gone."""
    for path in _NAMES.glob(f"{_PREFIX}*-*"):
        owner = path.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            _ip("netns", "del", path.name)
