"""How much memory there is, and whether an error says that it ran out."""

import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
UNLIMITED = 2**62  # version 1 writes "no limit" as a number close to 2^63
PHRASES = "out of memory|can't allocate memory|not enough memory|bad_alloc|alloc_failed|could not create a"


def held_bytes(device: torch.device) -> int | None:
    """Return what is held now: by this process, or on a GPU by its tensors; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "cpu":
        return int(psutil.Process().memory_info().rss)
    return None


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory can still be had: on a GPU there, else in this machine, container or batch job.

    Swap space is not counted: a run that needs it would crawl. None where it is not known.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    limits = [psutil.virtual_memory().available, *_cgroup_rooms(), *_address_room()]
    return max(min(limits), 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or one that led to it, says that memory ran out."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        if _says_out_of_memory(current):
            return True
        seen.append(current)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(re.search(PHRASES, str(error).lower()))


def _cgroup_rooms() -> Iterator[int]:
    """Yield what each limit of this process' control groups (Linux: containers, batch jobs) leaves."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield from _rooms(CGROUPS, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _rooms(CGROUPS / "memory", path, *names)


def _rooms(mount: Path, path: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """Yield what is left in a control group and in those around it; cached files count as free."""
    folder = mount / path.lstrip("/")
    for place in (folder, *folder.parents):  # in a container the path may be the one outside: only the mount exists
        if not place.is_relative_to(mount):
            return
        try:
            most, used = (place / limit).read_text().strip(), int((place / usage).read_text())
            cached = [line.split() for line in (place / "memory.stat").read_text().splitlines()]
        except (OSError, ValueError):
            continue
        if most.isdecimal() and int(most) < UNLIMITED:
            yield int(most) - used + sum(int(value) for name, value in cached if name == reclaimable)


def _address_room() -> Iterator[int]:
    """Yield what ``ulimit -v`` leaves, if it is set."""
    if sys.platform == "win32":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft - int(psutil.Process().memory_info().vms)


def amount(size: int) -> str:
    """Return a number of bytes for a reader."""
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.0f} MB"
