"""Several processes that train one network, each on its share of a batch: torch's own DDP under ``torchrun``.

The first process does all that leaves a trace: it claims the folder, logs, writes. The others help, and Hydra makes
folders for them that are thrown away.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nst.errors import UserError

PATIENCE = datetime.timedelta(hours=12)  # until the first process has painted pairs, or scored


def rank() -> int:
    """Return which of the processes that ``torchrun`` has begun this one is; 0 without it."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def world() -> int:
    """Return how many processes ``torchrun`` has begun; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_PORT" in os.environ else 1


def arguments_of_helper(arguments: list[str]) -> list[str]:
    """Return the command line of a process that helps: Hydra's folder is a temporary one.

    Raises:
        UserError: it asks for a sweep.
    """
    if "-m" in arguments or "--multirun" in arguments:
        raise UserError("torchrun trains one network: leave out -m, and start it once for each.")
    if rank() == 0:
        return arguments
    folder = tempfile.mkdtemp(prefix="nst-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logging.disable(logging.WARNING)  # the first process tells
    return [*arguments, f"hydra.run.dir={folder}", "hydra.output_subdir=null"]


@dataclass(frozen=True)
class Crew:
    """The processes that train one network, seen from one of them.

    Attributes:
        rank: which one it is.
        world: how many there are.
        device: it computes on, as the configuration names devices.
    """

    rank: int
    world: int
    device: str

    @property
    def writes(self) -> bool:
        """Whether it is the first, which writes."""
        return self.rank == 0

    def shared(self, value: Any) -> Any:
        """Return the first process' value."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def most(self, *numbers: int) -> list[int]:
        """Return the largest of each number over the processes."""
        if self.world == 1:
            return list(numbers)
        found = torch.tensor(numbers)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return [int(number) for number in found.tolist()]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of values over the processes, on the CPU."""
        if self.world == 1:
            return values
        values = values.cpu()
        dist.all_reduce(values)
        return values / self.world

    def together(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network as one whose gradients are the mean over the processes."""
        if self.world == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Crew]:
    """Join the processes that ``torchrun`` has begun, if it has; each takes a GPU of its own where there are any.

    Args:
        device: as configured.

    Raises:
        UserError: there are more processes than GPUs.
    """
    if world() == 1:
        yield Crew(0, 1, device)
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= there:
            raise UserError(
                f"torchrun has begun more processes than there are GPUs ({there}): --nproc_per_node={there}."
            )
        device = f"cuda:{number}"
    elif device.startswith("cuda:"):
        raise UserError(f"device={device}: all processes would share one GPU. Use device=cuda, and each takes its own.")
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=PATIENCE)
    try:
        yield Crew(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
