"""Devices, precisions, threads and seeds: what decides the last bits of a result."""

import contextlib
import ctypes
import getpass
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from nst.errors import UserError

PRECISIONS = ("auto", "float32", "tf32", "bfloat16", "float64")
DEVICES = ("auto", "cpu", "cuda", "cuda:<n>", "mps")


def device_problem(name: str) -> str | None:
    """Return what is wrong with a device name on this machine, or None."""
    kind, _, number = name.partition(":")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        return f"device={name} is not one of {', '.join(DEVICES)}."
    if kind == "cuda" and int(number or 0) >= (count := torch.cuda.device_count()):
        return f"device={name}: torch sees {count} CUDA devices here. Use device=auto or device=cpu."
    if kind == "mps" and not torch.backends.mps.is_available():
        return "device=mps: torch sees no Apple GPU here. Use device=auto or device=cpu."
    return None


def choose_device(name: str) -> torch.device:
    """Return the device for a name; ``auto`` is CUDA, else Apple's GPU, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


def has_native_bfloat16(device: torch.device) -> bool:
    """Tell whether the hardware multiplies bfloat16 itself: AMX or AVX-512 BF16, or CUDA from capability 8.0 up."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def precision_problem(name: str, device: torch.device) -> str | None:
    """Return why a device cannot compute in a precision, or None."""
    if name == "float64" and device.type == "mps":
        return "precision=float64 does not exist on this machine's GPU. Use float32, or device=cpu."
    if name == "tf32" and device.type != "cuda":
        return f"precision=tf32 exists on NVIDIA's GPUs only, not on device={device.type}. Use auto or float32."
    return None


def choose_precision(name: str, device: torch.device) -> str:
    """Return the precision for a name; ``auto`` is bfloat16 where the hardware multiplies it itself, else float32."""
    return name if name != "auto" else "bfloat16" if has_native_bfloat16(device) else "float32"


def pixel_dtype(precision: str) -> torch.dtype:
    """Return the type of pixels, optimiser state and losses: float32, or float64 if that is asked for."""
    return torch.float64 if precision == "float64" else torch.float32


def network_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type that the network computes in."""
    return torch.bfloat16 if choose_precision(precision, device) == "bfloat16" else pixel_dtype(precision)


@contextlib.contextmanager
def own_device(name: str) -> Iterator[str]:
    """Choose a device; where there are several GPUs, ``auto`` is one that no other run of this user has at the moment.

    So the jobs of parallel workers on one machine spread over its GPUs. If each is taken, the first one is shared.
    """
    with contextlib.ExitStack() as stack:
        for number in range(torch.cuda.device_count()) if name == "auto" and torch.cuda.device_count() > 1 else ():
            about = getattr(torch.cuda.get_device_properties(number), "uuid", number)
            lock = FileLock(Path(tempfile.gettempdir()) / f"nst-{getpass.getuser()}-gpu-{about}.lock")
            with contextlib.suppress(Timeout):
                stack.enter_context(lock.acquire(timeout=0))
                name = f"cuda:{number}"
                break
        yield name


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute on so many threads of the CPU, which decides the order of sums and so the last bits; 0 leaves it."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(device: str, precision: str) -> torch.device:
    """Return the device for a run, set up to give the same bits each time, with float32 products as asked for.

    Raises:
        UserError: the device cannot compute in this precision.
    """
    chosen = choose_device(device)
    if problem := precision_problem(precision, chosen):
        raise UserError(problem)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs time
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # whose stream a graph is recorded on
        torch.cuda.reset_peak_memory_stats(chosen)
    else:
        with contextlib.suppress(OSError):  # Linux: from here on VmHWM is the peak of this run, not of earlier ones
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return chosen


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for a loss or start image of one's own, and put them back afterwards.

    Nothing in this package draws from them: noise and jitter have generators of their own.
    """
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.manual_seed(seed)
        yield


def keep_freed_memory() -> None:
    """Ask the C library (glibc) to keep freed memory for the next step, which asks for the same maps again.

    The system hands out zeroed pages. Called once weights are loaded, so that what loading needed goes back.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(mmap_threshold, 2**30)
        allocator.mallopt(trim_threshold, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Give what ``keep_freed_memory`` kept back to the system, so that it counts as free."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def device_name(device: torch.device) -> str:
    """Return a name that a reader of a report recognises."""
    is_cuda = device.type == "cuda"
    return torch.cuda.get_device_name(device) if is_cuda else platform.processor() or platform.machine()


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the most memory held since ``prepare``: on a GPU by tensors, else by the process; None if unknown.

    Elsewhere than on Linux it is the most since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
