"""A slow network without one: the rate at which this process may send on each of its connections.

Linux paces a TCP socket in the kernel, without root and on plain loopback too, so that every ordered pair of ranks
gets a link of its own of a chosen rate.  It adds no latency.

The kernel paces segments, not bytes, and what waits in a socket leaves in segments of 131 kB, each as soon as those
before are paid for: a transfer then takes a staircase of times, 1, 3, 5, ... times 65 kB over the rate, and 262 kB at
3 MB/s end a quarter too early.  So a socket is told to take no more than it can send, which also ends a send when its
bytes leave and not when they are in a buffer.  And it is told to keep to the rate that is set: congestion control that
estimates a rate of its own (BBR, the default of some systems) goes on for a while as slowly as it last could.

Measured between 4 ranks on a 2-core machine, November 2026, receives posted first, 65 to 393 kB a pair: 0.6 to 0.9 ms
above bytes over the rate, at 3 and at 12 MB/s."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

_SO_MAX_PACING_RATE = 47  # linux/socket.h; the socket module does not name it
_NOTSENT_LOWAT = 25  # linux/tcp.h: bytes not yet sent from which on a socket takes no more
CONGESTION = "reno"  # which every Linux has; it knows no rate, and where nothing is lost it never slows down
_UNLIMITED = 2**64 - 1
_PLENTY = 2**32 - 1


def pace(bytes_per_s: float | None, skip_ports: Collection[int] = ()) -> int:
    """Limits what this process sends on every TCP connection that it has now (None: no limit); returns how many.

    That is one connection for each peer of a gloo group.  To limit both directions of a link, both ranks call it.
    Connections from or to one of `skip_ports` (a rendezvous store's) are left alone.  Raises ValueError for a rate
    that is not above 0, RuntimeError where there is no connection, and OSError if the system cannot do it."""
    if bytes_per_s is not None and not 1 <= bytes_per_s < _UNLIMITED:
        raise ValueError(f"bytes_per_s={bytes_per_s} should be at least 1, or None for no limit")
    if sys.platform != "linux":
        raise OSError(f"pacing of sockets needs Linux, this is {sys.platform}")
    rate = struct.pack("Q", _UNLIMITED if bytes_per_s is None else round(bytes_per_s))
    least = struct.pack("I", _PLENTY if bytes_per_s is None else 1)
    paced = 0
    for link in _connections():
        with link:
            if not {link.getsockname()[1], link.getpeername()[1]} & set(skip_ports):
                link.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
                link.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, least)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION.encode())
                paced += 1
    if not paced:
        raise RuntimeError("nothing to pace: this process has no TCP connection (its group connects when it is made)")
    return paced


def _connections() -> Iterator[socket.socket]:
    """This process's connected TCP sockets, each as a duplicate that the caller closes."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this very directory is gone by now
            if not os.readlink(entry).startswith("socket:"):
                continue
            link = socket.socket(fileno=os.dup(int(entry.name)))
            if link.family in (socket.AF_INET, socket.AF_INET6) and _is_connected(link):
                yield link
            else:
                link.close()


def _is_connected(link: socket.socket) -> bool:
    try:
        link.getpeername()
    except OSError:
        return False
    return link.type == socket.SOCK_STREAM
