"""What watches a run: TensorBoard, metrics, pictures, progress, and a user's own. Knows nothing of formulas.

Each tracker is one class with the same three small methods.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nst.images.canvas import Canvas
from nst.optimization.state import Step


class Snapshot:
    """A step as trackers see it; what must wait for the device is fetched once, and only if somebody asks.

    Args:
        step: the step, its picture ``(1, 3, H, W)``.
        canvas: what becomes of its pixels, where they are to be seen.
    """

    def __init__(self, step: Step, canvas: Canvas | None = None) -> None:
        self.step, self.canvas, self.logged = step, canvas, step.logged

    @cached_property
    def losses(self) -> dict[str, float]:
        """Losses by tag, as numbers."""
        named = self.step.losses.named()
        return dict(zip(named, torch.cat(list(named.values())).tolist(), strict=True))

    @property
    def values(self) -> dict[str, float]:
        """Losses by tag, and the learning rate ``lr`` if it changes on the way."""
        return self.losses | ({} if self.step.rate is None else {"lr": self.step.rate})

    @cached_property
    def image(self) -> Tensor:
        """The picture as RGB ``(1, 3, H, W)`` in [0, 1], clamped, on the CPU."""
        assert self.canvas is not None
        return self.canvas.decode(self.step.pixels).clamp(0, 1).cpu()


class Tracker:
    """Something that watches a run; one of your own needs ``step`` only."""

    def step(self, snapshot: Snapshot) -> None:
        """See one step; the first is the start, the last has ``snapshot.step.last``."""

    def position(self) -> Any:
        """Put on disk what was seen so far; return what is needed to carry on from here, in plain values.

        A run that is resumed hands it back when the tracker is made; see ``nst.tracking.common``.
        """

    def close(self, status: str) -> None:
        """End, whatever happened: ``done``, ``failed`` or ``interrupted``."""
