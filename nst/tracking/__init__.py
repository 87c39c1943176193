"""What watches a run: each tracker is one class with the same small protocol."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from nst.optimize import Step
from nst.pixels import PixelSpace


class Snapshot:
    """A step as trackers see it; what must wait for the device is fetched once, and only if somebody asks.

    Args:
        step: the step.
        space: the pixel space of its picture.
        logged: this step's numbers are to be written down.
    """

    def __init__(self, step: Step, space: PixelSpace, logged: bool) -> None:
        self.step = step
        self.space = space
        self.logged = logged

    @cached_property
    def values(self) -> dict[str, float]:
        """Losses by tag, as numbers: the mean over the batch."""
        named = self.step.losses.named()
        numbers = torch.stack([value.mean() for value in named.values()]).tolist()
        return dict(zip(named, numbers, strict=True))

    @cached_property
    def image(self) -> Tensor:
        """The picture as RGB ``(B, 3, H, W)`` in [0, 1], clamped, on the CPU."""
        return self.space.decode(self.step.pixels).clamp(0, 1).cpu()


class Tracker(Protocol):
    """Something that watches a run."""

    def step(self, snapshot: Snapshot) -> None:
        """See one step; the first is the start, the last has ``snapshot.step.last``."""

    def position(self) -> Any:
        """Put on disk what was seen so far; return, as plain values, what is needed to carry on from here."""

    def close(self, status: str) -> None:
        """End, whatever happened: ``done``, ``failed`` or ``interrupted``."""
