"""The normalised network: mean activations are 1 on the bundled photographs, and it computes what it did."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.squeezenet import Fire

from nst.errors import ConfigError
from nst.images import rgb
from nst.images.pixels import PREPROCESSINGS
from nst.networks import backbones, rescaling

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
NETWORKS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "vgg16 avg": ("vgg16", ("relu1_1", "relu1_2", "pool1", "relu2_1", "relu2_2"), {"pooling": "avg", "avg_scale": 2.0}),
    "vgg19 max reflect": ("vgg19", ("relu1_1", "relu1_2", "relu2_1"), {"padding": "reflect"}),
    "vgg16_bn l2": ("vgg16_bn", ("relu1_1", "relu1_2", "pool1", "relu2_1"), {"pooling": "l2"}),
    "squeezenet avg": ("squeezenet1_1", ("relu1", "fire2", "fire3", "pool3", "fire4"), {"pooling": "avg"}),
}


@pytest.fixture(scope="module", autouse=True)
def small_and_single() -> Iterator[None]:
    """Small photographs, to save time, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rescaling, "SIZE", 64)
        yield
    torch.set_num_threads(threads)


def network(kind: str, rescale: str = "mean_activation") -> backbones.Backbone:
    architecture, layers, options = NETWORKS[kind]
    weights = "bundled" if architecture == "squeezenet1_1" else "random"
    return backbones.load(architecture, weights, layers, rescale=rescale, seed=3, **options)


def seen(backbone: backbones.Backbone, size: int = 64) -> list[dict[str, Tensor]]:
    exact = copy.deepcopy(backbone).double()
    return [exact(exact.preprocessing(rgb.load(name, size).double())) for name in PHOTOGRAPHS]


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_mean_activation_of_every_filter_is_one(kind: str) -> None:
    maps = seen(network(kind))
    for layer in (layer for layer in NETWORKS[kind][1] if not layer.startswith("pool")):
        flat = np.concatenate([of_image[layer][0].flatten(1).numpy() for of_image in maps], axis=1)
        means = flat.mean(1)
        alive = means > 0
        assert alive.sum() > 0.8 * len(means)
        np.testing.assert_allclose(means[alive], 1, rtol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_computes_what_it_did_up_to_a_factor_of_each_channel(kind: str) -> None:
    """On another picture, at another size, in which the photographs have no part."""
    before, after = network(kind, "none").double(), network(kind).double()
    image = before.preprocessing(rgb.load("swirls", 48).double())
    old, new = before(image), after(image)
    assert list(old) == list(new)
    deepest = NETWORKS[kind][1][-1]
    for layer, maps in old.items():
        factors = (new[layer] * maps).sum((0, 2, 3)) / maps.square().sum((0, 2, 3)).clamp(min=1e-30)
        assert (factors >= 0).all()
        expected = maps * factors.view(1, -1, 1, 1)
        assert (new[layer] - expected).norm() < 1e-5 * expected.norm(), layer
    alive = old[deepest].amax((0, 2, 3)) > 0
    assert (factors[alive].max() / factors[alive].min()) > 1.2  # they are not one number for all


def test_gatys_normalisation_written_out() -> None:
    """Two layers of VGG, in NumPy's words: w1 / m1, then w2 m1 / m2."""
    before, after = network("vgg16 avg", "none").double(), network("vgg16 avg").double()
    first, second = (module for module in before.stack[:3] if isinstance(module, nn.Conv2d))
    pictures = [before.preprocessing(rgb.load(name, 64).double()) for name in PHOTOGRAPHS]
    ones = [functional.conv2d(picture, first.weight, first.bias, padding=1).relu() for picture in pictures]
    twos = [functional.conv2d(maps, second.weight, second.bias, padding=1).relu() for maps in ones]
    m1, m2 = (
        sum(maps.sum((0, 2, 3)) for maps in layer) / sum(maps[0, 0].numel() for maps in layer) for layer in (ones, twos)
    )
    assert (m1 > 0).all()
    alive = m2 > 0
    new_first, new_second = after.stack[0].weight, after.stack[2].weight
    torch.testing.assert_close(new_first, first.weight / m1.view(-1, 1, 1, 1), rtol=1e-6, atol=0)
    expected = second.weight * m1.view(1, -1, 1, 1) / torch.where(alive, m2, 1.0).view(-1, 1, 1, 1)
    torch.testing.assert_close(new_second, expected, rtol=1e-6, atol=0)


def test_biases_are_scaled_with_their_filters() -> None:
    before, after = network("squeezenet avg", "none"), network("squeezenet avg")
    old, new = before.stack[0], after.stack[0]
    factor = (new.weight / old.weight).flatten(1).median(1).values
    torch.testing.assert_close(new.bias, old.bias * factor, rtol=1e-4, atol=1e-8)
    assert isinstance(before.stack[3], Fire)
    assert not torch.equal(before.stack[3].expand3x3.bias, after.stack[3].expand3x3.bias)


def test_a_filter_that_nothing_excites_is_left_alone() -> None:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        features[0].weight[1], features[0].bias[1] = 0, -1
    dead, reading = features[0].weight[1].clone(), features[2].weight[:, 1].clone()
    rescaling.to_mean_activation(features, PREPROCESSINGS["imagenet"])
    assert torch.equal(features[0].weight[1], dead)
    assert features[0].bias[1] == -1
    assert torch.isfinite(features[2].weight).all()
    ratio = features[2].weight[:, 1] / reading  # not divided by 0: only its own filter's factor is in it
    assert torch.isfinite(ratio).all()
    assert (ratio > 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_weights_come_out_each_time_and_whatever_the_cut(threads: int) -> None:
    expected = network("squeezenet avg").stack.state_dict()
    torch.set_num_threads(threads)
    try:
        again = network("squeezenet avg").stack.state_dict()
        options = {"pooling": "avg", "rescale": "mean_activation"}
        shorter = backbones.load("squeezenet1_1", "bundled", ["conv1", "fire3"], **options).stack.state_dict()
    finally:
        torch.set_num_threads(1)
    for key, value in expected.items():
        assert torch.equal(again[key], value), key
    assert set(shorter) < set(expected)
    for key, value in shorter.items():
        assert torch.equal(value, expected[key]), key


def test_the_source_says_so() -> None:
    source = network("squeezenet avg").source
    assert (source.name, source.rescale) == ("bundled", "mean_activation")
    assert source.sha256 == network("squeezenet avg", "none").source.sha256
    assert network("squeezenet avg", "none").source.rescale == "none"


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    network("vgg16_bn l2")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_adds_its_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"rescale=mean_activation would change what resnet18 computes.*rescale=none"):
        backbones.load("resnet18", "random", ["relu1"], rescale="mean_activation")
