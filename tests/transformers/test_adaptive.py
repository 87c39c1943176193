"""Adaptive instance normalisation against the paper's equations in NumPy, and what its files hold."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from nst import transformers
from nst.errors import ConfigError, UserError
from nst.networks import backbones
from nst.transformers.layers import given, measured

ADAIN: dict[str, Any] = {
    "_target_": "nst.transformers.AdaptiveTransformer",
    "architecture": "vgg16",
    "weights": "random",
    "layer": "relu2_1",
}


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double()


def network(styles: int = 2, **arguments: Any) -> Any:
    made = transformers.build({**ADAIN, **arguments}, styles, 0).double()
    made.take_styles([picture(1, 3, 20 + number, 31, seed=number + 1) ** (number + 1) for number in range(styles)])
    return made


def adapted(maps: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Equation 8, map by map; maps ``(C, h, w)`` and ``(C, h', w')``."""
    rows = []
    for content_map, style_map in zip(maps, style, strict=True):
        normalised = (content_map - content_map.mean()) / np.sqrt(content_map.var() + 1e-5)
        rows.append(style_map.std() * normalised + style_map.mean())
    return np.stack(rows)


def features(made: Any, images: Tensor) -> np.ndarray:
    reference = backbones.load("vgg16", "random", ["relu2_1"]).double()
    maps: np.ndarray = reference(reference.preprocessing(images))["relu2_1"].detach().numpy()
    return maps


def test_maps_get_the_statistics_of_the_style_or_of_several() -> None:
    made, images = network(), picture(2, 3, 24, 28)
    styles = [features(made, picture(1, 3, 20 + n, 31, seed=n + 1) ** (n + 1))[0] for n in range(2)]
    contents = features(made, images)
    maps, _ = made.encode(images)
    np.testing.assert_allclose(maps.detach().numpy(), contents, rtol=1e-10)
    expected = np.stack([[adapted(content, style) for style in styles] for content in contents])
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.3, 0.7]):
        blended = np.einsum("s,bs...->b...", np.array(weights), expected)  # equation 15
        found = made.target(maps, torch.tensor([weights], dtype=torch.float64))
        np.testing.assert_allclose(found.detach().numpy(), blended, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(made.target(maps).detach().numpy(), expected[:, 0], rtol=1e-8, atol=1e-10)


def test_strength_is_that_of_equation_14() -> None:
    whole, half, none = (network(strength=strength) for strength in (1.0, 0.25, 0.0))
    maps, sizes = whole.encode(picture(1, 3, 20, 24))
    expected = 0.75 * maps + 0.25 * whole.target(maps)
    torch.testing.assert_close(half.target(maps), expected)
    torch.testing.assert_close(none.target(maps), maps)
    torch.testing.assert_close(half(picture(1, 3, 20, 24)), half.decode(expected, sizes))


def test_a_style_that_is_no_row_can_be_given_by_its_statistics() -> None:
    made, images, style = network(), picture(1, 3, 20, 24), picture(1, 3, 33, 18, seed=9) ** 3
    painted = made(images, statistics=made.statistics(style))
    before = made(images)
    made.take_styles([style])
    assert made.styles == 1
    torch.testing.assert_close(made(images), painted)
    assert (painted - before).abs().max() > 1e-4


def test_the_decoder_mirrors_the_papers_encoder() -> None:
    made = transformers.AdaptiveTransformer("vgg19", "random", "relu4_1")
    shapes = [tuple(convolution.convolution.weight.shape[:2]) for convolution in made.decoder]
    widths = [512, 256, 256, 256, 256, 128, 128, 64, 64, 3]
    assert shapes == [(out, into) for into, out in itertools.pairwise(widths)]
    assert [convolution.relu for convolution in made.decoder] == [True] * 8 + [False]
    sizes: list[tuple[int, ...]] = []
    for convolution in made.decoder:
        convolution.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[2:])))
    made(picture(1, 3, 32, 41).float())
    assert sizes == [(4, 5)] + [(8, 10)] * 4 + [(16, 20)] * 2 + [(32, 41)] * 2


def test_the_decoder_is_convolutions_and_nearest_neighbours() -> None:
    made, images = network(), picture(1, 3, 16, 20)
    weights = [(layer.convolution.weight, layer.convolution.bias) for layer in made.decoder]

    def convolved(x: Tensor, number: int) -> Tensor:
        return nn.functional.conv2d(nn.functional.pad(x, (1,) * 4, mode="replicate"), *weights[number])

    x = made.target(made.encode(images)[0])
    x = convolved(x, 0).relu().repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = convolved(convolved(x, 1).relu(), 2)
    mean, deviation = (
        torch.tensor(v).double().view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    torch.testing.assert_close(made(images), x * deviation + mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("architecture", ["vgg16", "squeezenet1_1", "resnet18", "vgg16_bn"])
@pytest.mark.parametrize("size", [(16, 16), (17, 43), (50, 35)])
def test_pictures_come_out_as_large_as_they_went_in(architecture: str, size: tuple[int, int]) -> None:
    layers = {"squeezenet1_1": "fire5", "resnet18": "layer1_2"}
    node = {**ADAIN, "architecture": architecture, "layer": layers.get(architecture, "relu3_1")}
    made = transformers.build(node, 1, 0)
    assert made(picture(2, 3, *size).float()).shape == (2, 3, *size)


def test_only_the_decoder_trains() -> None:
    made = network(architecture="vgg16_bn")
    made.train()
    assert not any(module.training for module in made.encoder.modules())
    assert made.decoder.training
    images = picture(1, 3, 20, 24)
    made(images).square().sum().backward()
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"decoder"}
    new = transformers.build(ADAIN, 1, 0)
    assert not any(parameter.requires_grad for parameter in (*new.norm.parameters(), *new.encoder.parameters()))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.decoder.parameters())


def test_a_decoder_learns_to_paint() -> None:
    made, images = network(), picture(2, 3, 20, 24)
    optimizer = torch.optim.Adam(made.decoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        maps, sizes = made.encode(images)
        target = made.target(maps)
        loss = (made.encode(made.decode(target, sizes))[0] - target).square().mean()  # equation 12
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_part_given_the_wholes_statistics_is_normalised_as_the_whole() -> None:
    made, images = network(), picture(1, 3, 48, 32)
    with torch.no_grad(), measured(made) as statistics:
        whole = made(images)
    with torch.no_grad(), given(made, statistics):
        torch.testing.assert_close(made(images[:, :, :32])[:, :, :12], whole[:, :, :12])


def test_a_file_holds_all_that_is_needed(tmp_path: Path) -> None:
    encoder = tmp_path / "vgg16.safetensors"
    state = {
        f"features.{k.removeprefix('stack.')}": v
        for k, v in backbones.load("vgg16", "random", ["relu2_1"], seed=5).state_dict().items()
    }
    safetensors.torch.save_file(state, encoder)
    node = {**ADAIN, "weights": str(encoder), "preprocessing": "caffe"}
    made = transformers.build(node, 2, 0)
    made.take_styles([picture(1, 3, 20, 20, seed=n).float() for n in range(3)])
    path = tmp_path / "network.safetensors"
    transformers.save(path, made, {})
    encoder.unlink()
    found, _ = transformers.load(path)
    assert found.node == node
    assert found.styles == 3
    images, blend = picture(1, 3, 20, 24).float(), torch.tensor([[0.2, 0.3, 0.5]])
    assert torch.equal(found(images, blend), made(images, blend))
    again = tmp_path / "again.safetensors"
    transformers.save(again, found, {})
    assert again.read_bytes() == path.read_bytes()


def test_arguments_that_make_no_network_are_told() -> None:
    with pytest.raises(ConfigError, match=r"transformer\.strength=1\.5 must be a number from 0 to 1"):
        network(strength=1.5)
    with pytest.raises(UserError, match="There is no layer in vgg16 'relu9_1'"):
        network(layer="relu9_1")
