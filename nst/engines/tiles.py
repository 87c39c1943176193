"""Pictures larger than memory: the exact losses and gradient from tiles that overlap.

A first pass sums up, tile by tile, what the losses are functions of (Gram matrices, squared differences); the losses
and their gradients with respect to the sums follow from these few numbers; a second pass runs each tile again and
carries its share of the gradient back to its pixels. A tile is seen with a halo as wide as the deepest layer reaches,
and of each map only the part is summed that no other tile sums, so that nothing is seen cut off and nothing twice.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.squeezenet import Fire

from nst.engines.fused import Fused
from nst.engines.plain import Plain
from nst.engines.requests import Shapes, Window, only
from nst.images.pixels import RGB
from nst.losses.objective import LossRequest, TargetRequest
from nst.networks.backbones import Backbone, ExtendedConv2d, L2Pool2d, ScaledAvgPool2d

SMALLEST_TILE = 64


class ReceptiveField(NamedTuple):
    """What position i of a map sees of the image along each axis: from i * stride - before to i * stride + after."""

    stride: int
    before: int
    after: int


class Span(NamedTuple):
    """One axis of a tile: the pixels that it is given, and of each layer the positions that are its own."""

    begin: int
    end: int
    own: dict[str, slice]


@dataclass(eq=False)
class Tiled:
    """Runs another engine on tiles."""

    engine: Plain | Fused
    fields: dict[str, ReceptiveField]  # of every layer asked for
    tile: int  # pixels of a tile's side at most, without its halo

    def describe(self, losses: Iterable[object]) -> str:
        """Say what computes; see ``nst.engines.Engine``."""
        return f"{self.engine.describe(losses)}, in tiles of {self.tile} pixels"

    def targets(self, image: Tensor, wanted: dict[str, TargetRequest]) -> dict[str, Any]:
        """Take the targets of an image; see ``nst.engines.Engine``."""
        down, across = (self.spans(full) for full in image.shape[2:])
        lines: dict[str, list[Any]] = {tag: [] for tag in wanted}
        for rows in down:
            line: list[dict[str, Tensor]] = []
            for columns in across:
                pieces, seen = self.engine.pieces(_crop(image, rows, columns), wanted, _windows(rows, columns))
                shapes = self._whole_shapes(seen, rows, columns)
                line.append(pieces)
            for tag, (_, loss) in wanted.items():
                parts = [pieces[tag] for pieces in line]
                lines[tag].append(torch.cat(parts, 3) if loss.target_is_map else sum(parts))
        return {
            tag: torch.cat(lines[tag], 2)
            if loss.target_is_map
            else loss.target_of_sums(sum(lines[tag]), shapes[only(layer)])
            for tag, (layer, loss) in wanted.items()
        }

    def values(self, image: Tensor, requests: dict[str, LossRequest]) -> dict[str, Tensor]:
        """Compare an image with its targets; see ``nst.engines.Engine``."""
        shapes: Shapes = {}
        sums = _Sums.apply(image, self, requests, shapes)
        return {
            tag: r.loss.value(total, r.target, shapes[only(r.layer)])
            for (tag, r), total in zip(requests.items(), sums, strict=True)
        }

    def share(
        self, image: Tensor, rows: Span, columns: Span, requests: dict[str, LossRequest]
    ) -> tuple[list[Tensor], Shapes]:
        """Return a tile's share of each request's sums, and the shapes of whole maps; ``image`` is its crop."""
        windows = _windows(rows, columns)
        own = {}
        for tag, request in requests.items():
            if request.loss.target_is_map:
                layer = only(request.layer)
                stride, (down, across) = self.fields[layer].stride, windows[layer]
                place = _moved(down, rows.begin // stride), _moved(across, columns.begin // stride)
                request = request._replace(target=request.target[:, :, place[0], place[1]])
            own[tag] = request
        sums, seen = self.engine.sums(image, own, windows)
        return [sums[tag] for tag in requests], self._whole_shapes(seen, rows, columns)

    def spans(self, full: int) -> list[Span]:
        """Cut an axis of so many pixels evenly into tiles that begin on the grid of the deepest layer."""
        grid, before, after = (max(of_all) for of_all in zip(*self.fields.values(), strict=True))
        number = -(-full // self.tile)
        cuts = [round(i * full / number / grid) * grid for i in range(number)] + [full]
        spans = []
        for start, stop in itertools.pairwise(cuts):
            begin, end = max(start - before, 0) // grid * grid, min(stop + after, full)
            own = {
                layer: slice((start - begin) // field.stride, None if stop == full else (stop - begin) // field.stride)
                for layer, field in self.fields.items()
            }
            spans.append(Span(begin, end, own))
        return spans

    def _whole_shapes(self, seen: Shapes, rows: Span, columns: Span) -> Shapes:
        """Return the shapes of the whole maps; true when asked of the last tile."""
        strides = {layer: field.stride for layer, field in self.fields.items()}
        return {
            layer: (channels, rows.begin // strides[layer] + height, columns.begin // strides[layer] + width)
            for layer, (channels, height, width) in seen.items()
        }


class _Sums(torch.autograd.Function):
    """The sums of all tiles as a function of the image; the way back runs each tile again."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, tiled: Tiled, requests: dict[str, LossRequest], shapes: Shapes
    ) -> tuple[Tensor, ...]:
        totals: list[Tensor] = []
        for rows, columns in itertools.product(*(tiled.spans(full) for full in image.shape[2:])):
            shares, seen = tiled.share(_crop(image, rows, columns), rows, columns, requests)
            totals = [a + b for a, b in zip(totals, shares, strict=True)] if totals else shares
            shapes |= seen
        ctx.tiled, ctx.requests = tiled, requests
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(image)
        return tuple(totals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (image,) = ctx.saved_tensors
        requests = {
            tag: request
            for (tag, request), gradient in zip(ctx.requests.items(), gradients, strict=True)
            if gradient is not None
        }
        asked = [gradient for gradient in gradients if gradient is not None]
        total = torch.zeros_like(image)
        for rows, columns in itertools.product(*(ctx.tiled.spans(full) for full in image.shape[2:])):
            with torch.enable_grad():
                crop = _crop(image, rows, columns).detach().requires_grad_(True)
                shares, _ = ctx.tiled.share(crop, rows, columns, requests)
            (part,) = torch.autograd.grad(shares, crop, asked)
            _crop(total, rows, columns).add_(part)
        return total, None, None, None


def receptive_fields(backbone: nn.Module) -> dict[str, ReceptiveField] | None:
    """Return that of every layer asked for, or None if the network has a layer that cannot be cut into tiles."""
    if not isinstance(backbone, Backbone):
        return None
    found = {RGB: ReceptiveField(1, 0, 0)} if backbone.gives_rgb else {}
    stride, before, after = ReceptiveField(1, 0, 0)
    for place, module in enumerate(backbone.stack):
        for part in _parts(module):
            window = _window(part)
            if window is None:
                return None
            size, step, padding = window
            before, after = before + padding * stride, after + (size - 1 - padding) * stride
            stride *= step
        if place in backbone.taps:
            found[backbone.taps[place]] = ReceptiveField(stride, before, after)
    return found


def _parts(module: nn.Module) -> list[nn.Module]:
    """Return the modules, one after the other, that see as far as one does."""
    if isinstance(module, Fire):
        return [module.squeeze, module.expand3x3]
    if isinstance(module, BasicBlock | Bottleneck):
        return [module.conv1, module.conv2, *([module.conv3] if isinstance(module, Bottleneck) else [])]
    return [module]


def _window(module: nn.Module) -> tuple[int, int, int] | None:
    """Return size, stride and padding of a module's window; None if it has none that is known."""
    if isinstance(module, nn.ReLU | nn.BatchNorm2d):
        return 1, 1, 0
    is_pooling = type(module) in (nn.AvgPool2d, ScaledAvgPool2d, L2Pool2d)
    if not (isinstance(module, nn.Conv2d | nn.MaxPool2d) or is_pooling):
        return None
    if getattr(module, "padding_mode", "zeros") != "zeros" and not isinstance(module, ExtendedConv2d):
        return None
    given = [getattr(module, name, 1) for name in ("kernel_size", "stride", "padding", "dilation")]
    pairs = [value if isinstance(value, tuple) else (value, value) for value in given]
    if any(isinstance(a, str) or a != b for a, b in pairs) or pairs[3][0] != 1:
        return None
    return int(pairs[0][0]), int(pairs[1][0]), int(pairs[2][0])


def _crop(image: Tensor, rows: Span, columns: Span) -> Tensor:
    return image[:, :, rows.begin : rows.end, columns.begin : columns.end]


def _windows(rows: Span, columns: Span) -> dict[str, Window]:
    return {layer: (rows.own[layer], columns.own[layer]) for layer in rows.own}


def _moved(positions: slice, by: int) -> slice:
    return slice(positions.start + by, None if positions.stop is None else positions.stop + by)
