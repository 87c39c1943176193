"""Weights scaled so that the mean activation of every filter is 1 (Gatys 2015, section 2; Gatys 2016, section 2).

A ReLU and a pooling pass a positive factor on, so that a filter's weights and bias can be multiplied by any, and the
weights of the next layer divided by it: the network computes what it did, but the maps of all layers, and what losses
make of them, are of one size. Gatys took the mean over ImageNet's images; here it is that over the bundled photographs.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.squeezenet import Fire

from nst.images import rgb
from nst.images.pixels import Preprocessing
from nst.samples import samples

SIZE = 256  # pixels of the photographs' long side
Filters = tuple[nn.Conv2d, nn.Conv2d | nn.BatchNorm2d]  # what takes the maps before, and what the ReLU follows


@torch.no_grad()
def to_mean_activation(features: nn.Sequential, preprocessing: Preprocessing) -> None:
    """Scale the filters of a chain of layers, in place; those that no photograph excites are left alone.

    Means are taken in float64, so that the same weights come out on every machine, with the poolings and the padding
    that the network has: convolutions, each with its batch normalisation if any, ReLUs, poolings and fire modules.
    """
    exact = copy.deepcopy(features).double().eval()
    layers = _layers(exact)
    means = _means(exact, [scaled for layer in layers for _, scaled in layer], preprocessing)
    before: Tensor | None = None
    for layer in layers:
        factors = []
        for taking, scaled in layer:
            if before is not None:
                taking.weight /= before.view(1, -1, 1, 1)
            mean = means[scaled]
            factor = torch.where(mean > 0, 1 / mean, 1.0)
            scaled.weight *= factor.view(-1, *[1] * (scaled.weight.dim() - 1))
            if scaled.bias is not None:
                scaled.bias *= factor
            factors.append(factor)
        before = torch.cat(factors)
    features.load_state_dict(exact.state_dict())


def _layers(features: nn.Sequential) -> list[list[Filters]]:
    """Return the layers, each of one convolution or of several side by side, their channels in order."""
    modules = list(features)
    layers: list[list[Filters]] = []
    for place, module in enumerate(modules):
        if isinstance(module, Fire):
            wide = [(module.expand1x1, module.expand1x1), (module.expand3x3, module.expand3x3)]
            layers += [[(module.squeeze, module.squeeze)], wide]
        elif isinstance(module, nn.Conv2d):
            after = modules[place + 1] if place + 1 < len(modules) else None
            layers.append([(module, after if isinstance(after, nn.BatchNorm2d) else module)])
    return layers


def _means(
    features: nn.Sequential, asked: Sequence[nn.Module], preprocessing: Preprocessing
) -> dict[nn.Module, Tensor]:
    """Return the mean over photographs and positions of each channel of modules' outputs, rectified."""
    sums: dict[nn.Module, Tensor | float] = dict.fromkeys(asked, 0.0)
    counts = dict.fromkeys(asked, 0)

    def watch(module: nn.Module, given: object, maps: Tensor) -> None:
        sums[module] = sums[module] + maps.relu().sum((0, 2, 3))
        counts[module] += maps.shape[0] * maps.shape[2] * maps.shape[3]

    handles = [module.register_forward_hook(watch) for module in asked]
    for name, about in samples().items():
        if about["kind"] == "content":
            features(preprocessing(rgb.load(name, SIZE).double()))
    for handle in handles:
        handle.remove()
    return {module: torch.as_tensor(sums[module]) / counts[module] for module in asked}
