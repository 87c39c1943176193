"""What watches a run: each tracker is one class with the same small protocol."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from nst.images.canvas import Canvas
from nst.losses.objective import Losses
from nst.optimization.state import Step


class Numbers:
    """The losses of a step as numbers, fetched from the device once for all images, and only if somebody asks."""

    def __init__(self, losses: Losses) -> None:
        self.losses = losses

    @cached_property
    def of_images(self) -> list[dict[str, float]]:
        """Losses by tag, for each image."""
        named = self.losses.named()
        columns = torch.stack(list(named.values()), dim=1).tolist()
        return [dict(zip(named, column, strict=True)) for column in columns]


class Snapshot:
    """One image's step as trackers see it; what must wait for the device is fetched once, and only if somebody asks.

    Args:
        step: the step, its picture ``(B, 3, H, W)``.
        canvas: what becomes of its pixels.
        logged: this step's numbers are to be written down.
        index: which image of the batch it is.
        numbers: the batch's, if there are other images that ask for them.
        since: seconds that this image has been optimised longer than the batch.
    """

    def __init__(
        self,
        step: Step,
        canvas: Canvas,
        logged: bool,
        index: int = 0,
        numbers: Numbers | None = None,
        since: float = 0.0,
    ) -> None:
        self.step = replace(step, pixels=step.pixels[index : index + 1], seconds=step.seconds + since)
        self.canvas = canvas
        self.logged = logged
        self.index = index
        self.numbers = numbers or Numbers(step.losses)

    @property
    def values(self) -> dict[str, float]:
        """Losses by tag, as numbers, and the learning rate ``lr`` if it changes on the way."""
        rate = {} if self.step.rate is None else {"lr": self.step.rate}
        return self.numbers.of_images[self.index] | rate

    @cached_property
    def image(self) -> Tensor:
        """The picture as RGB ``(1, 3, H, W)`` in [0, 1], clamped, on the CPU."""
        return self.canvas.decode(self.step.pixels).clamp(0, 1).cpu()


class Tracker(Protocol):
    """Something that watches a run."""

    def step(self, snapshot: Snapshot) -> None:
        """See one step; the first is the start, the last has ``snapshot.step.last``."""

    def position(self) -> Any:
        """Put on disk what was seen so far; return, as plain values, what is needed to carry on from here."""

    def close(self, status: str) -> None:
        """End, whatever happened: ``done``, ``failed`` or ``interrupted``."""
