"""What must be recorded to repeat a run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import nst
from nst import images, runtime
from nst.files import sha256

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "pillow", "numpy", "scipy", "tensorboard", "ndf")


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those that can change a result."""
    found = {"python": platform.python_version(), "nst": nst.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """Return where a run was made: system, device, threads."""
    return {
        "platform": platform.platform(),
        "device": str(device),
        "device_name": runtime.device_name(device),
        "threads": torch.get_num_threads(),
    }


def image_file(name: str) -> dict[str, str]:
    """Return an input image's name, file and SHA-256."""
    path = images.locate(name)
    return {"name": name, "file": str(path.resolve()), "sha256": sha256(path)}


def output_file(path: Path) -> dict[str, str]:
    """Return an output's file name and SHA-256."""
    return {"file": path.name, "sha256": sha256(path)}
