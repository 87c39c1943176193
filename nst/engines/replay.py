"""The losses of a picture, replayed from a CUDA graph instead of being launched operation by operation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nst.engines import graphs
from nst.losses.objective import TERMS, Losses, LossRequest, Roll

Roller = Callable[[Tensor], Tensor]


class Replay:
    """Evaluates a picture as ``losses`` does; the first call records it, forward and backward, and others replay it.

    Where it cannot be recorded it is run as it is: if a content target is no tensor, or an operation waits for the
    host. Steps of a picture of another size are run as they are, too.

    Args:
        losses: of pixels, given how to roll them once they have their margin, and requests of the content.
        content_requests: for a shift.
        margin: pixels of reflection on each side.
        record: records a function; see ``graphs.record``.
    """

    def __init__(
        self,
        losses: Callable[[Tensor, Roller, dict[str, LossRequest]], Losses],
        content_requests: Callable[[Roll], dict[str, LossRequest]],
        margin: int,
        record: Callable[..., Callable[..., tuple[Tensor, ...]] | None] = graphs.record,
    ) -> None:
        self.losses, self.content_requests, self.margin, self.record = losses, content_requests, margin, record
        self.recorded: Callable[..., tuple[Tensor, ...]] | None = None
        self.shape: torch.Size | None = None
        self.tags: list[str] = []

    def __call__(self, pixels: Tensor, shift: Roll) -> Losses:
        """Return the losses of pixels ``(B, 3, H, W)``, rolled by a shift before the network sees them."""
        requests, indices = self.content_requests(shift), self._indices(pixels, shift)
        inputs = (*indices, *(request.target for request in requests.values()))
        if self.shape is None:
            self.shape = pixels.shape
            if all(isinstance(value, Tensor) for value in inputs):
                sample = (pixels.detach().clone().requires_grad_(True), *(value.clone() for value in inputs))
                self.recorded = self.record(self._function(requests), sample)
        if self.recorded is None or pixels.shape != self.shape:
            return self.losses(pixels, lambda framed: graphs.roll(framed, indices), requests)
        total, values = self.recorded(pixels, *inputs)
        named = dict(zip(self.tags, values.clone(), strict=True))
        rest = {tag: value for tag, value in named.items() if not tag.startswith("loss/")}
        terms = {term: named[f"loss/{term}"] for term in TERMS}
        return Losses(total.clone(), **terms, unweighted=rest)

    def _function(self, requests: dict[str, LossRequest]) -> Callable[..., tuple[Tensor, ...]]:
        """Return the losses as a function of tensors alone: the total, and every value without its gradient."""

        def function(pixels: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            pairs = zip(requests.items(), inputs[4:], strict=True)
            own = {tag: request._replace(target=target) for (tag, request), target in pairs}
            losses = self.losses(pixels, lambda framed: graphs.roll(framed, inputs[:4]), own)
            named = losses.named()
            self.tags = list(named)
            return losses.total, torch.stack(list(named.values()))

        return function

    def _indices(self, pixels: Tensor, shift: Roll) -> tuple[Tensor, ...]:
        images, _, height, width = pixels.shape
        shifts: Sequence[tuple[int, int]] = shift if isinstance(shift[0], tuple) else (shift,) * images
        down, across = (side + 2 * min(self.margin, side - 1) for side in (height, width))
        return graphs.roll_indices(shifts, down, across, pixels.device)
