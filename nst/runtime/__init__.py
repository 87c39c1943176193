"""The machine: device, precision, threads, seeds, memory, signals. Knows nothing of pictures or files."""

from nst.runtime.devices import (
    PRECISIONS,
    choose_device,
    choose_precision,
    device_name,
    device_problem,
    give_back_freed_memory,
    has_native_bfloat16,
    keep_freed_memory,
    network_dtype,
    own_device,
    peak_memory_bytes,
    pixel_dtype,
    precision_problem,
    prepare,
    seeded,
    threads,
)
from nst.runtime.signals import Interrupted, PoliteStop

__all__ = [
    "PRECISIONS",
    "Interrupted",
    "PoliteStop",
    "choose_device",
    "choose_precision",
    "device_name",
    "device_problem",
    "give_back_freed_memory",
    "has_native_bfloat16",
    "keep_freed_memory",
    "network_dtype",
    "own_device",
    "peak_memory_bytes",
    "pixel_dtype",
    "precision_problem",
    "prepare",
    "seeded",
    "threads",
]
