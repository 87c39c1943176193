"""Frozen networks that turn an image into named feature maps, cut after the deepest layer asked for."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as nnf
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.squeezenet import Fire

from nst import pretrained
from nst.errors import ConfigError, UserError, nearest, unknown
from nst.files import existing_file
from nst.images.pixels import PREPROCESSINGS, RGB, Preprocessing, extended
from nst.networks import rescaling
from nst.networks import weights as weight_sources

ARCHITECTURES = (
    *("squeezenet1_1", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    *("resnet18", "resnet50"),
)
POOLINGS = ("max", "avg", "l2")
PADDINGS = ("zeros", "replicate", "reflect")
PADDING_LAYERS = ("first", "all")
RESCALINGS = ("none", "mean_activation")
KINDS = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu", nn.MaxPool2d: "pool", Fire: "fire"}


@dataclass(frozen=True)
class Layer:
    """One module of a network's feature stack: its place there, its name here and in torchvision's network."""

    index: int
    name: str
    module: str


PICTURE = Layer(-1, RGB, RGB)


class Backbone(nn.Module):
    """A frozen feature stack in eval mode, whose modules are run in order.

    ``taps`` are layer names by the place in the stack whose output they name.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        taps: dict[int, str],
        preprocessing: Preprocessing,
        source: weight_sources.Source,
    ) -> None:
        super().__init__()
        self.stack = nn.ModuleList(modules)
        self.taps, self.preprocessing, self.source, self.is_bfloat16 = taps, preprocessing, source, False
        self.gives_rgb = False
        self.eval().requires_grad_(False)

    def in_bfloat16(self) -> Backbone:
        """Return a copy that computes in bfloat16, all but the first layer, which sees the pixels.

        In float32 that one costs little and spares most of the error of the gradient.
        """
        first, *others = self.stack
        rounded = [copy.deepcopy(module).to(torch.bfloat16) for module in others]
        network = Backbone([first, *rounded], self.taps, self.preprocessing, self.source)
        network.is_bfloat16, network.gives_rgb = True, self.gives_rgb
        return network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of a preprocessed image ``(B, 3, H, W)``: ``{layer: (B, C, h, w)}``, by depth.

        Raises UserError if the image is too small for the deepest layer.
        """
        maps, activation = {RGB: self.rgb(image)} if self.gives_rgb else {}, image
        for place, module in enumerate(self.stack):
            try:
                activation = module(activation.to(torch.bfloat16) if self.is_bfloat16 and place else activation)
            except RuntimeError as error:
                refuse_too_small(error, image, self.taps.values())
                raise
            if place in self.taps:
                maps[self.taps[place]] = activation
        return maps

    def rgb(self, image: Tensor) -> Tensor:
        """Return the layer ``rgb`` of a preprocessed image ``(B, 3, H, W)``: RGB in [0, 1]."""
        return self.preprocessing.inverse(image)


def refuse_too_small(error: RuntimeError, image: Tensor, layers: Iterable[str]) -> None:
    """Raise UserError if torch's error says that an image ``(B, 3, H, W)`` is too small for the layers asked for."""
    if "too small" in str(error) or "Kernel size" in str(error):
        raise UserError(
            f"An image of {image.shape[3]} x {image.shape[2]} pixels is too small for the layers "
            f"{', '.join(layers)}. Raise size, or choose shallower layers."
        ) from error


class ScaledAvgPool2d(nn.AvgPool2d):
    """Average pooling whose output is multiplied by a constant, to make up for the variance that averaging takes."""

    scale: float = 1.0

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, h, w)``."""
        return super().forward(input) * self.scale


class L2Pool2d(ScaledAvgPool2d):
    """The root of the sum of squares in each window (crowsonkb/style-transfer-pytorch), multiplied by a constant.

    What there is of a window that reaches over the edge stands for the whole. Where all is 0, so is the gradient.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C, h, w)``."""
        height, width = nn.modules.utils._pair(self.kernel_size)
        squares = nn.AvgPool2d.forward(self, input.square()) * (height * width)
        is_alive = squares > 0
        return squares.where(is_alive, 1.0).sqrt().where(is_alive, 0.0) * self.scale


class ExtendedConv2d(nn.Conv2d):
    """A convolution of maps that are continued by replication or reflection; with the parameters of another.

    In place of torch's own padding, the gradient of which has different bits each time on a GPU.
    """

    def __init__(self, other: nn.Conv2d, mode: str) -> None:
        about = other.in_channels, other.out_channels, other.kernel_size, other.stride, other.padding
        bias = other.bias is not None
        super().__init__(*about, bias=bias, padding_mode=mode, device="meta")  # type: ignore[arg-type]
        self.weight, self.bias = other.weight, other.bias

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', h, w)``."""
        framed = extended(input, int(self.padding[0]), self.padding_mode)
        return nnf.conv2d(framed, self.weight, self.bias, self.stride)


def load(
    architecture: str,
    weights: str,
    layers: Iterable[str],
    pooling: str = "max",
    preprocessing: str = "auto",
    avg_scale: float = 1.0,
    seed: int = 0,
    padding: str = "zeros",
    padding_layers: str = "all",
    rescale: str = "none",
) -> Backbone:
    """Build a pretrained or random network, cut after the deepest of ``layers``.

    Args:
        architecture: torchvision's name, one of ``ARCHITECTURES``.
        weights: ``bundled``, ``torchvision``, ``caffe``, ``random``, a file or a URL; see ``weights.load``.
        layers: names such as ``conv4_2``, ``relu4_2``, ``pool4``, ``fire5``, ``layer2_1``, or torchvision's own
            (``features.19``); ``rgb`` beside others is the picture itself.
        pooling: ``max``, ``avg`` or ``l2`` in place of every max pooling.
        preprocessing: one of ``PREPROCESSINGS``; ``auto`` is what the named source of weights was trained with.
        avg_scale: what the output of average and L2 pooling is multiplied by (crowsonkb: 2 and 0.78).
        seed: of random weights.
        padding: what convolutions see beyond the border of a map: ``zeros``, ``replicate`` or ``reflect``.
        padding_layers: which of them: the ``first`` (crowsonkb) or ``all`` (Heitz 2021).
        rescale: ``none``, or ``mean_activation``; see ``nst.networks.rescaling``.

    Returns:
        The backbone, on the CPU in float32, giving its maps under their canonical names.

    Raises:
        ConfigError: an argument has a value that does not exist.
        UserError: the weights cannot be had.
    """
    wanted = list(layers)
    settings = preprocessing, avg_scale, wanted, seed, padding, padding_layers, rescale
    mistakes = problems(architecture, weights, *settings)
    if pooling not in POOLINGS:
        mistakes.append(unknown("pooling", pooling, POOLINGS))
    if not set(wanted) - {RGB}:
        mistakes.append("No layer is asked for, so there is nothing to compute.")
    if mistakes:
        raise ConfigError(mistakes)
    taps = {layer.index: layer.name for layer in (resolve(name, architecture) for name in wanted) if layer != PICTURE}
    names, modules = zip(*_skeleton(architecture)[: max(taps) + 1], strict=True)
    features = nn.Sequential(*modules).to_empty(device="cpu")
    others = no_download(architecture, wanted)
    source = weight_sources.load(features, architecture, weights, seed, names, no_download=others)
    for place, module in enumerate(features):
        if isinstance(module, nn.ReLU):
            module.inplace = place - 1 not in taps  # else the map before it would silently become the map after it
        elif isinstance(module, nn.MaxPool2d) and pooling != "max":
            features[place] = other_pooling(module, pooling, avg_scale)
    if padding != "zeros":
        _extend(features, padding, padding_layers)
    chosen = PREPROCESSINGS[chosen_preprocessing(weights, preprocessing)]
    if rescale == "mean_activation":
        rescaling.to_mean_activation(features, chosen)
        source = dataclasses.replace(source, rescale=rescale)
    network = Backbone(features, taps, chosen, source)
    network.gives_rgb = RGB in wanted
    return network


def problems(
    architecture: str,
    weights: str,
    preprocessing: str = "auto",
    avg_scale: float = 1.0,
    layers: Iterable[str] = (),
    seed: int = 0,
    padding: str = "zeros",
    padding_layers: str = "all",
    rescale: str = "none",
) -> list[str]:
    """Return what is wrong with the arguments of ``load``, one sentence each, without loading any weight."""
    if architecture not in ARCHITECTURES:
        return [unknown("architecture", architecture, ARCHITECTURES)]
    found = problems_of_settings(architecture, weights, preprocessing, avg_scale, seed)
    weights = pretrained.named_today(architecture, weights)
    choices = {"padding": PADDINGS, "padding_layers": PADDING_LAYERS, "rescale": RESCALINGS}
    for (name, known), value in zip(choices.items(), (padding, padding_layers, rescale), strict=True):
        if value not in known:
            found.append(f"backbone.{name}={value} is not one of {', '.join(known)}.{nearest(str(value), known)}")
    if rescale == "mean_activation" and architecture.startswith("resnet"):
        found.append(
            f"backbone.rescale=mean_activation would change what {architecture} computes, whose blocks add their input "
            "to their output. Use backbone.rescale=none, or another network."
        )
    if padding != "zeros" and padding_layers == "first" and architecture == "squeezenet1_1":
        found.append(
            f"backbone.padding={padding} would change nothing, since squeezenet1_1's first convolution has no padding. "
            "Use backbone.padding_layers=all, or backbone.padding=zeros."
        )
    for name in layers:
        try:
            resolve(name, architecture, weights)
        except UserError as error:
            found.append(str(error))
    return found


def problems_of_settings(architecture: str, weights: str, preprocessing: str, avg_scale: float, seed: int) -> list[str]:
    """Return what is wrong with settings that any network of torchvision has, one sentence each."""
    found = []
    named = weight_sources.sources(architecture)
    weights = pretrained.named_today(architecture, weights)
    own, is_url = weights not in named, weight_sources.is_url(weights)
    exists = own and (is_url or existing_file(weights) is not None)
    if own and is_url and weight_sources.hash_in_name(weights) is None:
        found.append(
            f"backbone.weights={weights}: the address must end in -<the first 8 or more digits of the SHA-256>.pth, so "
            "that the download can be checked. Or download the file yourself and give its path."
        )
    elif own and not exists:
        found.append(
            f"backbone.weights={weights} is neither a file nor a source of weights for {architecture}. "
            f"Sources: {', '.join(named)}, a file (.pth, .safetensors) or a URL."
        )
    if preprocessing not in ("auto", *PREPROCESSINGS):
        found.append(unknown("preprocessing", preprocessing, ("auto", *PREPROCESSINGS)))
    elif preprocessing == "auto" and exists:
        found.append(
            "Weights of your own do not say what they were trained on: add backbone.preprocessing=imagenet "
            "(torchvision's training), caffe (the original VGG release) or none."
        )
    if isinstance(avg_scale, bool) or not isinstance(avg_scale, int | float) or not 0 < avg_scale < float("inf"):
        found.append(f"backbone.avg_scale={avg_scale} must be a positive number.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        found.append(f"backbone.seed={seed} must be a whole number from 0 up.")
    return found


def no_download(architecture: str, layers: Iterable[str]) -> str:
    """Return the words that tell how to do without a download: bundled weights that reach the layers, or others."""
    for own, typed in ((architecture, "backbone.weights=bundled"), ("vgg16", weight_sources.BUNDLED_VGG)):
        if own in pretrained.SHA256 and not problems(own, "bundled", layers=layers):
            return f"use weights that need no download: {typed}."
    return f"use weights that need no download, and their layers: {weight_sources.BUNDLED_VGG} layers=vgg16."


@functools.lru_cache
def fits(architecture: str, layers: tuple[str, ...], height: int, width: int) -> bool:
    """Tell whether an image is large enough for the deepest of some layers, without computing anything."""
    deepest = max(resolve(name, architecture).index for name in layers)
    maps = torch.empty(1, 3, height, width, device="meta")
    try:
        for _, module in _skeleton(architecture)[: deepest + 1]:
            maps = module.eval()(maps)
    except RuntimeError:
        return False
    return min(maps.shape[2:]) > 0


def chosen_preprocessing(weights: str, preprocessing: str) -> str:
    """Return the name of the preprocessing that ``auto`` stands for."""
    return weight_sources.PREPROCESSING_OF[weights] if preprocessing == "auto" else preprocessing


def resolve(name: str, architecture: str, weights: str | None = None) -> Layer:
    """Return the layer that a canonical name (``conv4_2``) or torchvision's own (``features.19``, ``19``) means.

    Raises UserError if the network has no such layer, or ``weights`` are the bundled ones, which end before it.
    """
    if name == RGB:
        return PICTURE
    known = layers_of(architecture)
    found = next((layer for layer in known if str(name) in (layer.name, layer.module, str(layer.index))), None)
    if found is None:
        raise UserError(unknown(f"layer in {architecture}", name, [layer.name for layer in known]))
    deepest = pretrained.DEEPEST.get(architecture) if weights == "bundled" else None
    if deepest is not None and found.index > resolve(deepest, architecture).index:
        raise UserError(
            f"{found.name} lies beyond the bundled weights of {architecture}, which end with {deepest}. Ways out: (1) "
            f"layers up to {deepest}; (2) all of the network, downloaded once: backbone.weights=caffe (the original "
            "release, whose numbers the bundled ones are, rounded) or backbone.weights=torchvision."
        )
    return found


@functools.lru_cache
def layers_of(architecture: str) -> tuple[Layer, ...]:
    """Name every module of a network by walking it, without allocating its weights.

    In VGG a pooling ends a block, and convolutions count within their block: ``conv4_2``, ``relu4_2``, ``pool4``.
    In SqueezeNet convolutions and fire modules share one count: ``conv1``, ``relu1``, ``pool1``, ``fire2``, ``fire3``,
    ``pool3``. Maps of a fire module are after its ReLU. In ResNet residual blocks count from 1 within their stage:
    ``conv1``, ``bn1``, ``relu1``, ``pool1``, ``layer1_1`` (torchvision's ``layer1.0``), ``layer1_2``. Maps of a block
    are after its last ReLU, behind the sum.
    """
    by_blocks, block, count = architecture.startswith("vgg"), 1, 0
    layers = []
    for index, (path, module) in enumerate(_skeleton(architecture)):
        if isinstance(module, BasicBlock | Bottleneck):
            stage, _, number = path.partition(".")
            layers.append(Layer(index, f"{stage}_{int(number) + 1}", path))
            continue
        if isinstance(module, nn.Conv2d | Fire):
            count += 1
        label = f"{block}_{count}" if by_blocks else f"{count}"
        if isinstance(module, nn.MaxPool2d) and by_blocks:
            label, block, count = f"{block}", block + 1, 0
        layers.append(Layer(index, KINDS[type(module)] + label, path))
    return tuple(layers)


@functools.lru_cache
def scales(architecture: str) -> tuple[str, ...]:
    """Name a layer for each resolution of a network, from the first to the last: its first rectified map.

    In VGG these are the style layers of Gatys 2016, ``relu1_1``, ``relu2_1``, ..., ``relu5_1``; in SqueezeNet they are
    ``relu1``, ``fire2``, ``fire4`` and ``fire6``. Raises UserError if the network is none of ours.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"The layers of {architecture} are not known here. Networks: {', '.join(ARCHITECTURES)}.")
    names = []
    activation, height = torch.empty(1, 3, 224, 224, device="meta"), None
    for layer, (_, module) in zip(layers_of(architecture), _skeleton(architecture), strict=True):
        activation = module(activation)
        if activation.shape[2] != height and not isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            names.append(layer.name)
            height = activation.shape[2]
    return tuple(names)


def _skeleton(architecture: str) -> list[tuple[str, nn.Module]]:
    """Return torchvision's feature stack, each module under its name there, without memory for the weights."""
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    if not isinstance(network, ResNet):
        return [(f"features.{index}", module) for index, module in enumerate(network.features)]
    stem = [(name, getattr(network, name)) for name in ("conv1", "bn1", "relu", "maxpool")]
    stages = [(f"layer{number}", getattr(network, f"layer{number}")) for number in range(1, 5)]
    return [*stem, *((f"{name}.{index}", block) for name, stage in stages for index, block in enumerate(stage))]


def other_pooling(pool: nn.MaxPool2d, pooling: str, scale: float) -> nn.Module:
    """Return the pooling that takes the place of a max pooling, window for window; only what is there counts."""
    kind = ScaledAvgPool2d if pooling == "avg" else L2Pool2d
    made = kind(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode, count_include_pad=False)
    made.scale = scale
    return made


def _extend(features: nn.Module, mode: str, which: str) -> None:
    """Let the first convolution, or all that pad, continue their maps by replication or reflection."""
    for name, module in list(features.named_modules()):
        if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
            parent, _, own = name.rpartition(".")
            setattr(features.get_submodule(parent), own, ExtendedConv2d(module, mode))
        if isinstance(module, nn.Conv2d) and which == "first":
            return
