"""The fused engine: the forward and the backward pass of a chain of layers written out, without autograd between them.

What it spares: the gradients of the weights and whatever autograd keeps for them, a pass over the maps for each ReLU,
int64 places of maxima, and for every loss that is a function of Gram matrices or squared differences all passes but
the product itself. Maps are in channels-last memory. A layer or a loss that it does not know runs under autograd, in
its place in the chain.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.squeezenet import Fire

from nst.engines import operators
from nst.engines.operators import Pooling
from nst.engines.requests import Shapes, Sums, Window, each, given, only, target_of, value_of
from nst.images.pixels import RGB
from nst.losses import functional
from nst.losses.functional import at_least_float32
from nst.losses.objective import LossRequest, TargetRequest
from nst.losses.protocols import Layer, is_summed
from nst.networks.backbones import Backbone, ExtendedConv2d, ScaledAvgPool2d, refuse_too_small


class Link(Protocol):
    """One layer of the chain, or several that are computed together."""

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the next maps ``(B, C', h, w)`` and what ``backward`` needs beside its gradient."""

    def backward(self, gradient: Tensor, height: int, width: int, kept: Sequence[Tensor]) -> Tensor:
        """Return the gradient of the maps before, ``(B, C, height, width)``; the given one may be overwritten."""


class Convolve:
    """A convolution and the ReLU behind it, if any; computes in the type of its weights, answers in ``dtype``."""

    def __init__(self, operator: operators.Convolution, dtype: torch.dtype) -> None:
        self.operator, self.compute, self.dtype = operator, operator.kernel.weight.dtype, dtype

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Convolve; keep the rectified map."""
        result = self.operator.forward(maps.to(self.compute)).to(self.dtype)
        return result, [result] if self.operator.rectified else []

    def backward(self, gradient: Tensor, height: int, width: int, kept: Sequence[Tensor]) -> Tensor:
        """Go back through the ReLU and the convolution."""
        if kept:
            gradient = operators.rectify_backward(gradient, kept[0])
        return self.operator.backward(gradient.to(self.compute), height, width)


class Residual:
    """ResNet's block: convolutions one after the other, their input added to the last, and a ReLU (He 2015, fig. 5).

    Their batch normalisations are part of them.
    """

    def __init__(self, module: BasicBlock | Bottleneck, dtype: torch.dtype) -> None:
        pairs = [(module.conv1, module.bn1), (module.conv2, module.bn2)]
        if isinstance(module, Bottleneck):
            pairs.append((module.conv3, module.bn3))
        self.branch = [
            _operator(fuse_conv_bn_eval(*pair), rectified=place < len(pairs), dtype=dtype)
            for place, pair in enumerate(pairs, 1)
        ]
        self.shortcut = None
        if module.downsample is not None:
            self.shortcut = _operator(fuse_conv_bn_eval(*module.downsample), False, dtype)

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Convolve and add; keep the rectified maps."""
        kept, inner = [], maps
        for operator in self.branch:
            inner = operator.forward(inner)
            kept.append(inner)
        kept[-1] = inner.add_(self.shortcut.forward(maps) if self.shortcut else maps).relu_()
        return kept[-1], kept

    def backward(self, gradient: Tensor, height: int, width: int, kept: Sequence[Tensor]) -> Tensor:
        """Go back through the convolutions and past them."""
        gradient = operators.rectify_backward(gradient, kept[-1])
        inner = gradient
        for operator, before in zip(self.branch[:0:-1], kept[-2::-1], strict=True):
            inner = operators.rectify_backward(operator.backward(inner, *before.shape[2:]), before)
        past = self.shortcut.backward(gradient, height, width) if self.shortcut else gradient
        return self.branch[0].backward(inner, height, width).add_(past)


class Rectify:
    """A ReLU on its own, behind a map that is read before it."""

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Rectify, not in place."""
        result = maps.relu()
        return result, [result]

    def backward(self, gradient: Tensor, height: int, width: int, kept: Sequence[Tensor]) -> Tensor:
        """Stop the gradient where nothing passed."""
        return operators.rectify_backward(gradient, kept[0])


class MaxPool:
    """A max pooling."""

    def __init__(self, module: nn.MaxPool2d) -> None:
        size, stride, padding = (int(_one(value)) for value in (module.kernel_size, module.stride, module.padding))
        self.pooling = Pooling(size, stride, padding, bool(module.ceil_mode))

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pool; keep the places of the maxima."""
        size, stride, padding, ceil = self.pooling
        result, places = nnf.max_pool2d(maps, size, stride, padding, ceil_mode=ceil, return_indices=True)
        return result, [maps, places]

    def backward(self, gradient: Tensor, height: int, width: int, kept: Sequence[Tensor]) -> Tensor:
        """Send the gradient to the maxima."""
        maps, places = kept
        return operators.max_pool_backward(gradient, maps, places, self.pooling)


class AveragePool:
    """An average pooling with windows of 2 or 3, stride 2, no padding."""

    def __init__(self, module: nn.AvgPool2d) -> None:
        self.size, self.ceil = int(_one(module.kernel_size)), bool(module.ceil_mode)
        self.scale = float(module.scale) if isinstance(module, ScaledAvgPool2d) else 1.0

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Pool; nothing need be kept."""
        result = nnf.avg_pool2d(maps, self.size, 2, ceil_mode=self.ceil)
        return (result if self.scale == 1 else result * self.scale), []

    def backward(self, gradient: Tensor, height: int, width: int, kept: Sequence[Tensor]) -> Tensor:
        """Spread the gradient over the windows."""
        return operators.average_pool_backward(gradient, height, width, self.size, self.scale)


class ByAutograd:
    """A module that this engine does not know, under autograd; it is run again on the way back."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def forward(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the module; keep its input."""
        return _channels_last(self.module(maps.clone())), [maps]

    def backward(self, gradient: Tensor, height: int, width: int, kept: Sequence[Tensor]) -> Tensor:
        """Let autograd go back through the module."""
        with torch.enable_grad():
            maps = kept[0].detach().requires_grad_(True)
            (result,) = torch.autograd.grad(self.module(maps.clone()), maps, gradient)
        return _channels_last(result)


class Fused:
    """Runs a backbone's chain of layers forward and backward by hand.

    It computes in ``dtype``; the first layer, which sees the pixels, at least in float32.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype) -> None:
        self.chain = list(_chain(backbone, dtype))
        self.taps, self.dtype = backbone.taps, dtype
        self.rgb, self.gives_rgb = backbone.rgb, backbone.gives_rgb
        self.under_autograd = {type(link.module).__name__ for _, link in self.chain if isinstance(link, ByAutograd)}

    def describe(self, losses: Iterable[object]) -> str:
        """Say what computes, and what it leaves to autograd; see ``nst.engines.Engine``."""
        left = self.under_autograd | {type(loss).__name__ for loss in losses if not _known(loss)}
        return f"fused, {', '.join(sorted(left))} under autograd" if left else "fused"

    def targets(self, image: Tensor, wanted: dict[str, TargetRequest]) -> dict[str, Any]:
        """Take the targets of an image; see ``nst.engines.Engine``."""
        maps = self._maps(image)
        return {
            tag: self._target(given(one.layer, (maps[name] for name in each(one.layer))), one)
            for tag, one in wanted.items()
        }

    def values(self, image: Tensor, requests: dict[str, LossRequest]) -> dict[str, Tensor]:
        """Compare an image with its targets; see ``nst.engines.Engine``."""
        found, shapes = self._ask(image, requests, {})
        return {
            tag: r.loss.value(found[tag], r.target, shapes[only(r.layer)])
            if _known(r.loss, r.layer)
            else value_of(r, found[tag])
            for tag, r in requests.items()
        }

    def sums(self, image: Tensor, requests: dict[str, LossRequest], windows: dict[str, Window]) -> Sums:
        """Return the sums ``(B, ...)`` of each loss over its layer's window, and the shapes of whole maps."""
        found, shapes = self._ask(image, requests, windows)
        sums = {
            tag: found[tag] if _known(r.loss, r.layer) else r.loss.sums(found[tag], r.target)
            for tag, r in requests.items()
        }
        return sums, shapes

    def pieces(self, image: Tensor, wanted: dict[str, TargetRequest], windows: dict[str, Window]) -> Sums:
        """Return what each target takes of its layer's window: a piece of a map, or sums."""
        maps, pieces = self._maps(image), {}
        for tag, (layer, loss) in wanted.items():
            own, known = _cut(maps[only(layer)], windows.get(only(layer))), _known(loss, layer)
            if loss.target_is_map:
                pieces[tag] = loss.target(own)
            else:
                pieces[tag] = known.forward(own, None)[0] if known else loss.sums(at_least_float32(own), None)
        return pieces, {name: tuple(activation.shape[1:]) for name, activation in maps.items()}

    def _ask(
        self, image: Tensor, requests: dict[str, LossRequest], windows: dict[str, Window]
    ) -> tuple[dict[str, Any], Shapes]:
        """Return the known sums of each request, else its map; of a layer's window, if it has one; and whole shapes."""
        shapes: Shapes = {}
        of_maps = [
            MapRequest(name, _known(r.loss), r.target, windows.get(name))
            for r in requests.values()
            for name in each(r.layer)
            if name != RGB
        ]
        results = iter(zip(of_maps, _Chain.apply(image, self, of_maps, shapes), strict=True))
        found = {}
        for tag, request in requests.items():
            own = []
            for name in each(request.layer):
                if name == RGB:
                    own.append(at_least_float32(_cut(self.rgb(image), windows.get(RGB))))
                    continue
                of_map, result = next(results)
                own.append(result if of_map.known else at_least_float32(result))
            found[tag] = given(request.layer, own)
        if self.gives_rgb:
            shapes[RGB] = tuple(image.shape[1:])
        return found, shapes

    def _maps(self, image: Tensor) -> dict[str, Tensor]:
        rgb = {RGB: self.rgb(image)} if self.gives_rgb else {}
        return rgb | {name: activation for name, _, activation, _ in self.run(image) if name is not None}

    def run(self, image: Tensor) -> Iterator[tuple[str | None, Link, Tensor, list[Tensor]]]:
        """Run the chain; yield for each link its layer's name, itself, its maps, and what its backward pass needs."""
        maps = _channels_last(image)
        for place, link in self.chain:
            try:
                maps, kept = link.forward(maps)
            except RuntimeError as error:
                refuse_too_small(error, image, self.taps.values())
                raise
            yield self.taps.get(place), link, maps, kept

    def _target(self, maps: Any, wanted: TargetRequest) -> Any:
        """Let a loss take its target; the map itself stays in the type and memory it has here."""
        if isinstance(maps, tuple):
            return target_of(wanted, tuple(at_least_float32(one.clone()) for one in maps))
        if known := _known(loss := wanted.loss, wanted.layer):
            if loss.target_is_map:
                return loss.target(maps)
            return loss.target_of_sums(known.forward(maps, None)[0], maps.shape[1:])
        return target_of(wanted, at_least_float32(maps.clone()))  # which may be changed in place


class Known(NamedTuple):
    """A function that sums, from (maps, target) to the sums and what is kept, and the way back."""

    forward: Callable[[Tensor, Any], tuple[Tensor, list[Tensor]]]
    backward: Callable[..., Tensor]


class MapRequest(NamedTuple):
    """What is asked of the chain at one layer."""

    layer: str
    known: Known | None  # to sum with, or None for the map itself
    target: Any  # for that function
    window: Window | None  # rows and columns to look at, or None for all
    kept: slice = slice(0)  # which of the tensors that the way back keeps are its own
    shape: Sequence[int] = ()  # of the map


class _Chain(torch.autograd.Function):
    """The chain as one function of the image: the sums and maps asked for, and the way back from their gradients."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, engine: Fused, requests: list[MapRequest], shapes: Shapes
    ) -> tuple[Tensor, ...]:
        maps: dict[str, Tensor] = {}
        tensors: list[Tensor] = []  # what the way back needs, in one list, as autograd wants it

        def keep(kept: list[Tensor]) -> slice:
            tensors.extend(kept)
            return slice(len(tensors) - len(kept), len(tensors))

        ctx.links, sizes = [], image.shape[2:]
        for name, link, activation, kept in engine.run(image):
            ctx.links.append((name, link, sizes, keep(kept)))
            sizes = activation.shape[2:]
            if name is not None:
                maps[name] = activation
        shapes |= {name: tuple(activation.shape[1:]) for name, activation in maps.items()}
        results: list[Tensor] = []
        ctx.requests = []
        for request in requests:
            own = _cut(maps[request.layer], request.window)
            result, kept = request.known.forward(own, request.target) if request.known else (own.clone(), [])
            results.append(result)
            shape = maps[request.layer].shape
            ctx.requests.append(request._replace(target=None, kept=keep(kept), shape=shape))
        ctx.dtype = engine.dtype
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        asked: dict[str, list[tuple[MapRequest, Tensor]]] = {}
        for request, gradient in zip(ctx.requests, gradients, strict=True):
            if gradient is not None:
                asked.setdefault(request.layer, []).append((request, gradient))
        current: Tensor | None = None
        for name, link, sizes, kept in reversed(ctx.links):
            for request, gradient in asked.get(name, []):
                current = _add(current, request, gradient, tensors[request.kept], ctx.dtype)
            if current is not None:
                current = link.backward(current, *sizes, tensors[kept])
        return current, None, None, None


def _add(
    current: Tensor | None, request: MapRequest, gradient: Tensor, kept: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """Add a request's gradient to that of its map, which may be overwritten."""
    if request.window is None and request.known:
        return request.known.backward(current, gradient, *kept)
    part = request.known.backward(None, gradient, *kept) if request.known else gradient.to(dtype)
    if current is None:
        current = _channels_last(torch.zeros(request.shape, dtype=dtype, device=gradient.device))
    _view(current, request.window).add_(part)
    return current


def _products(maps: Tensor, target: Any) -> tuple[Tensor, list[Tensor]]:
    return operators.channel_products(maps), [maps]


def _differences(maps: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
    sums, difference = operators.squared_differences(maps, target.to(maps.dtype))
    return sums, [difference]


KNOWN: dict[Any, Known] = {
    functional.channel_products: Known(_products, operators.add_channel_products_backward),
    functional.squared_differences: Known(_differences, operators.add_squared_differences_backward),
}


def _known(loss: Any, layer: Layer = "") -> Known | None:
    """Return the written-out way to the sums of a loss, or None if there is none, or the map is no map of the chain."""
    return KNOWN.get(loss.sums) if is_summed(loss) and layer != RGB else None


def _chain(backbone: Backbone, dtype: torch.dtype) -> Iterator[tuple[int, Link]]:
    """Yield a network as links, each with the place of its last module."""
    modules, place = [*backbone.stack, None], 0
    while (module := modules[place]) is not None:
        compute = dtype if place else torch.promote_types(dtype, torch.float32)
        if isinstance(module, nn.Conv2d) and _is_simple(module):
            if isinstance(norm := modules[place + 1], nn.BatchNorm2d) and place not in backbone.taps:
                place += 1
                module = fuse_conv_bn_eval(module, norm)
            rectified = place not in backbone.taps and isinstance(modules[place + 1], nn.ReLU)
            place += int(rectified)
            yield place, Convolve(_operator(module, rectified, compute), dtype)
        elif isinstance(module, Fire):
            yield -1, Convolve(_operator(module.squeeze, True, dtype), dtype)
            yield place, Convolve(_expand(module, dtype), dtype)
        else:
            yield place, _link(module, compute)
        place += 1


def _expand(module: Fire, dtype: torch.dtype) -> operators.Convolution:
    """Return the last part of SqueezeNet's module: 1x1 and 3x3 side by side to many channels (Iandola 2016, fig. 1)."""
    narrow, wide = module.expand1x1, module.expand3x3
    assert narrow.bias is not None and wide.bias is not None
    weight = torch.cat([nnf.pad(narrow.weight, (1, 1, 1, 1)), wide.weight])  # both as one 3x3 convolution
    weight, bias = weight.detach().to(dtype), torch.cat([narrow.bias, wide.bias]).detach().to(dtype)
    return operators.Convolution(weight, bias, 1, 1, True, border=wide.padding_mode)  # unseen by the narrow one


def _link(module: nn.Module, dtype: torch.dtype) -> Link:
    """Return one module as a link that computes in ``dtype``."""
    if isinstance(module, BasicBlock | Bottleneck):
        return Residual(module, dtype)
    if isinstance(module, nn.ReLU):
        return Rectify()
    if isinstance(module, nn.MaxPool2d) and _one(module.dilation) == 1:
        return MaxPool(module)
    if isinstance(module, nn.AvgPool2d) and type(module) in (nn.AvgPool2d, ScaledAvgPool2d) and _is_halving(module):
        return AveragePool(module)
    return ByAutograd(copy.deepcopy(module).to(dtype))


def _operator(module: nn.Conv2d, rectified: bool, dtype: torch.dtype) -> operators.Convolution:
    bias = module.bias.detach().to(dtype) if module.bias is not None else None
    weight, border = module.weight.detach().to(dtype), module.padding_mode
    stride, padding = int(_one(module.stride)), int(_one(module.padding))
    return operators.Convolution(weight, bias, stride, padding, rectified, border=border)


def _is_simple(module: nn.Conv2d) -> bool:
    """Tell whether a convolution has one group, square kernels and a padding, of a known kind, narrower than these."""
    return (
        module.groups == 1
        and not isinstance(module.padding, str)
        and (module.padding_mode == "zeros" or isinstance(module, ExtendedConv2d))
        and all(len(set(pair)) == 1 for pair in (module.kernel_size, module.stride, module.padding))
        and _one(module.dilation) == 1
        and module.padding[0] < module.kernel_size[0]
    )


def _is_halving(module: nn.AvgPool2d) -> bool:
    is_plain = _one(module.padding) == 0 and module.divisor_override is None
    return is_plain and _one(module.kernel_size) in (2, 3) and _one(module.stride) == 2


def _one(value: Any) -> Any:
    """Return the one value of both axes, or None if they differ."""
    if isinstance(value, tuple | list):
        return value[0] if len(set(value)) == 1 else None
    return value


def _view(maps: Tensor, window: Window | None) -> Tensor:
    return maps if window is None else maps[:, :, window[0], window[1]]


def _cut(maps: Tensor, window: Window | None) -> Tensor:
    return maps if window is None else _channels_last(_view(maps, window))


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)
