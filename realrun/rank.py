"""A rank: what a process knows of itself, and how one that torchrun started finds out.

The file refuses to know how processes begin and end (realrun/ranks.py), and what they compute or send."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from realrun.backend import Backend, load_backend
from realrun.lanes import Device, Gpu, Processor
from realrun.turns import at_once

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class RankContext:
    """What a rank knows of itself; the first argument of every function that `Ranks` (realrun/ranks.py) calls."""

    rank: int
    world: int
    timeout_s: float  # of one transfer
    device: torch.device
    group: dist.ProcessGroup | None  # None: ranks are threads of one process
    backend: Backend
    kept: dict[Hashable, Any] = field(default_factory=dict, compare=False)  # from one call to the next: a model, say

    @functools.cached_property
    def lanes(self) -> Device:
        """Streams and moments of its device."""
        return Gpu(self.device) if self.device.type == "cuda" else Processor()


def rank_from_environment(timeout_s: float = 60.0) -> RankContext:
    """The rank that this process is, by what torchrun put into its environment: over NCCL where there are GPUs (the
    one of LOCAL_RANK), else over gloo.  What is on hosts, answers and headers, goes over gloo in any case, which says
    who did not come; NCCL's watchdog would end the process without a word of ours.

    It ends with torchrun, however that ends (Linux).  Raises ValueError that names what is missing."""
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"not started by torchrun: {', '.join(missing)} not set in the environment")
    gpu, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if 0 < gpus <= gpu:
        raise ValueError(f"LOCAL_RANK={gpu}, but this machine has {gpus} GPUs: start at most one rank for each")
    end_with_parent()
    device = torch.device("cuda", gpu) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    with at_once():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=timedelta(seconds=timeout_s))
    return joined(timeout_s, device, load_backend(backend_of_torchrun()))


def backend_of_torchrun() -> str:
    """What connects the ranks that torchrun starts on this machine."""
    return "nccl" if torch.cuda.device_count() else "paced"


def end_with_parent() -> None:
    """From now on the system kills this process when its parent is gone, be it by SIGKILL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def joined(timeout_s: float, device: torch.device, backend: Backend) -> RankContext:
    """The rank that this process is, once `init_process_group` has been called."""
    group = dist.group.WORLD
    assert group is not None, "init_process_group makes it"
    return RankContext(dist.get_rank(), dist.get_world_size(), timeout_s, device, group, backend)
