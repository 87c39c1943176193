"""A run as trackers see it, without the run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nst.images.canvas import Canvas
from nst.images.pixels import PixelSpace, Preprocessing
from nst.losses.objective import Losses
from nst.optimization.state import Step
from nst.tracking import RunInfo, Snapshot

UNIT = PixelSpace("unit", Preprocessing())


def run_info(folder: Path, steps: int, **about: Any) -> RunInfo:
    given: dict[str, Any] = {"config": {"save_every": 0, "question": None}, "content": torch.rand(1, 3, 8, 12)}
    return RunInfo(folder=folder, steps=steps, **given | {"styles": [torch.rand(1, 3, 6, 9)]} | about)


def snapshot(
    index: int, pixels: Tensor | None = None, last: bool = False, space: PixelSpace = UNIT, loss: float = 0.0
) -> Snapshot:
    pixels = torch.rand(1, 3, 8, 12) if pixels is None else pixels
    one = torch.full((1,), loss)
    return Snapshot(
        Step(index, index + 1, Losses(one, one, one, one), pixels, 0.0, last, logged=True), Canvas(space, pixels)
    )
