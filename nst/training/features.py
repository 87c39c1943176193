"""The frozen network's view of pictures in a training: the optimiser's own terms, for a batch of pictures."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nst import engines, runtime
from nst.images.pixels import with_margin
from nst.losses import TotalVariation
from nst.losses.objective import Losses, Objective, Shift
from nst.losses.protocols import DrawingLoss
from nst.setup.objective import term
from nst.training.method import TrainingContext

JITTER = 2  # what is drawn, beside the seed; see nst.training.photos


class Features:
    """Compares pictures by their feature maps, with the content and style loss, layers and weights of the run.

    Args:
        context: of the training.
        side: pixels of the pictures' sides.
    """

    def __init__(self, context: TrainingContext, side: int) -> None:
        config, self.backbone = context.config, context.backbone
        dtype = runtime.network_dtype(config.precision, context.inputs.content.device)
        self.engine = engines.make(config.engine, self.backbone, dtype, None, config.compile)
        self.margin, self.jitter, self.seed = int(config.margin), int(config.jitter), int(config.seed)
        self.shift = (0, 0)
        like = context.inputs.content.new_empty(1, 3, side, side)
        self.content, self.style = (term([config], kind, like) for kind in ("content", "style"))
        variation = TotalVariation(config.tv_kind, config.tv_reduction)
        weights = {name: config[name] for name in ("alpha", "beta", "tv")}
        self.objective = Objective(self.content, self.style, variation, **weights)

    def describe(self) -> str:
        """Say what computes the losses, for the log and the record."""
        return self.engine.describe([self.content.loss, self.style.loss])

    @torch.no_grad()
    def targets(self, pictures: Tensor, content: bool = False, style: bool = False) -> dict[str, Any]:
        """Return, by tag, what the content terms, the style terms or both keep of pictures ``(B, 3, H, W)``."""
        wanted = (self.content.target_requests() if content else {}) | (self.style.target_requests() if style else {})
        shift = self.shift if content else (0, 0)
        return self.engine.targets(self._seen(pictures, shift), wanted) if wanted else {}

    def compare(self, painted: Tensor, targets: dict[str, Any]) -> Losses:
        """Return the losses of pictures ``(B, 3, H, W)`` RGB, not clamped; differentiable with respect to them.

        The targets are those of both terms, for each picture or one for all.
        """
        requests = self.content.loss_requests(targets) | self.style.loss_requests(targets)
        return self.objective(self.engine.values(self._seen(painted, self.shift), requests), painted)

    def begin_step(self, step: int) -> None:
        """Draw the jitter of a step, and tell losses that draw random numbers which step begins."""
        if self.jitter:
            down, across = np.random.default_rng((self.seed, JITTER, step)).integers(self.jitter, size=2).tolist()
            self.shift = down, across
        for one in (self.content, self.style):
            if isinstance(one.loss, DrawingLoss):
                one.loss.begin_step(step, self.seed)

    def _seen(self, pictures: Tensor, shift: Shift) -> Tensor:
        """Return the network's input: the picture moved down and to the right, so that no place is always on its grid.

        What comes in at the border is a reflection, and what leaves is lost.
        """
        framed = with_margin(with_margin(pictures, self.margin), self.jitter)
        height, width = (side - 2 * self.jitter for side in framed.shape[2:])
        top, left = (self.jitter - moved for moved in shift)
        return self.backbone.preprocessing(framed[:, :, top : top + height, left : left + width])
