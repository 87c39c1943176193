"""Several processes that train one network, each on its share of a batch: torch's own DDP under ``torchrun``.

The process of rank 0 does all that leaves a trace: it claims the folder, logs, writes. The others help.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nst.errors import UserError
from nst.runtime.torchrun import world_size

TIMEOUT = datetime.timedelta(hours=12)  # until rank 0 has painted pairs, or scored


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one network, seen from one of them."""

    device: str  # that this one computes on, as the configuration names devices
    rank: int = 0  # which one it is
    world_size: int = 1  # how many there are

    @property
    def writes(self) -> bool:
        """Whether it is the first, which writes."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, 0)
        return box[0]

    def max(self, *numbers: int) -> list[int]:
        """Return the largest of each number over the processes."""
        found = torch.tensor(numbers)
        if self.world_size > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return [int(number) for number in found.tolist()]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean of values over the processes, on the CPU if there are several."""
        if self.world_size == 1:
            return values
        values = values.cpu()
        dist.all_reduce(values)
        return values / self.world_size

    def data_parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Return the network as one whose gradients are the mean over the processes."""
        if self.world_size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[ProcessGroup]:
    """Join the processes that ``torchrun`` has begun, if it has; each takes a GPU of its own where there are any.

    Raises:
        UserError: there are more processes than GPUs.
    """
    if world_size() == 1:
        yield ProcessGroup(device)
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
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    try:
        yield ProcessGroup(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
