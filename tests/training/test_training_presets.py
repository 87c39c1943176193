"""The presets that train networks, each beside an independent statement of its losses, and run to their end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import run
from problems import CPU, composed
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst import configuration, runtime
from nst.setup.check import check
from nst.setup.inputs import load_images
from nst.setup.network import load_network
from nst.training.method import TrainingContext
from nst.training.perceptual import Perceptual

BLOCKS = {"johnson2016": (2, 2, 3, 3), "ulyanov2017": (2, 2, 4, 4)}  # convolutions of VGG-16's and VGG-19's blocks
MEAN = (103.939, 116.779, 123.68)  # blue, green, red
RANDOM = ("backbone.weights=random", "backbone.preprocessing=caffe")
SMALL = ("training.crop=32", "training.reference=false", "evaluator=none", "size=40")


def maps(convolutions: list[nn.Conv2d], blocks: tuple[int, ...], picture: Tensor) -> dict[str, Tensor]:
    """Every rectified map of VGG by its name, of RGB in [0, 1]."""
    found, left = {}, iter(convolutions)
    value = 255 * picture.flip(1) - torch.tensor(MEAN, dtype=torch.float64).view(1, 3, 1, 1)
    for block, count in enumerate(blocks, 1):
        for number in range(1, count + 1):
            if (convolution := next(left, None)) is None:
                return found
            value = nnf.conv2d(value, convolution.weight, convolution.bias, padding=1).relu()
            found[f"relu{block}_{number}"] = value
        value = nnf.max_pool2d(value, 2)
    return found


def gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def johnson2016(ours: dict[str, Tensor], photo: dict[str, Tensor], style: dict[str, Tensor], y: Tensor) -> Tensor:
    """Means over a batch of 4, but the total variation, a sum over it: 1e-6 * 1/2 * squared differences of bytes."""
    loss = (ours["relu2_2"] - photo["relu2_2"]).square().mean()
    for name in ("relu1_2", "relu2_2", "relu3_3", "relu4_3"):
        loss = loss + 5 * (gram(ours[name]) - gram(style[name])).square().mean()
    squares = (255 * y).diff(dim=2).square().sum() + (255 * y).diff(dim=3).square().sum()
    return loss + 1e-6 * squares / 2


def ulyanov2017(ours: dict[str, Tensor], photo: dict[str, Tensor], style: dict[str, Tensor], y: Tensor) -> Tensor:
    loss = (ours["relu4_2"] - photo["relu4_2"]).square().mean()
    for name in ("relu1_1", "relu2_1", "relu3_1", "relu4_1"):
        loss = loss + 1e3 * (gram(ours[name]) - gram(style[name])).square().mean()
    return loss


class Noisy(nn.Module):
    """Paints the photograph with seeded noise on it."""

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.painted = (images + 0.1 * noise).requires_grad_()
        return self.painted


@pytest.mark.parametrize(("name", "stated"), [("johnson2016", johnson2016), ("ulyanov2017", ulyanov2017)])
def test_the_loss_and_its_gradient_are_those_of_the_recipe(name: str, stated: object, tmp_path: Path) -> None:
    config = composed(f"experiment={name}", *RANDOM, *SMALL, "precision=float64")
    check(config)
    runtime.prepare("cpu", "float64")
    backbone, inputs = load_network(config, CPU), load_images(config, CPU)
    method = configuration.build(config.training)
    assert isinstance(method, Perceptual)
    method.prepare(TrainingContext(config, tmp_path, inputs, backbone, runtime.PoliteStop(), lambda **facts: None))
    method.begin_step(0)
    batch = {"johnson2016": 4, "ulyanov2017": 1}[name]
    assert method.batch == batch
    photos = torch.stack([method.item(index)[0] for index in range(batch)]).double()
    network = Noisy()
    total = method.losses(network, [photos, torch.zeros(batch, dtype=torch.long)]).total.mean()
    (gradient,) = torch.autograd.grad(total, network.painted)
    y = network.painted.detach().clone().requires_grad_()
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    seen = [maps(convolutions, BLOCKS[name], picture) for picture in (y, photos, inputs.style)]
    expected = stated(*seen, y)  # type: ignore[operator]
    assert float(total) == pytest.approx(float(expected), rel=1e-9)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, y)[0], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["johnson2016", "ulyanov2017"])
def test_it_runs_to_its_end_from_the_command_line(name: str, tmp_path: Path) -> None:
    network = "transformer.width=2" if name == "johnson2016" else "transformer.channels=2"
    result = run(f"experiment={name}", *RANDOM, *SMALL, "steps=2", network, f"hydra.run.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "network.safetensors").is_file()
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "done"


def test_settings_are_those_of_the_table() -> None:
    johnson, ulyanov = (composed(f"experiment={name}") for name in ("johnson2016", "ulyanov2017"))
    assert (johnson.steps, johnson.training.batch, johnson.training.crop, johnson.optimizer.lr) == (40000, 4, 256, 1e-3)
    assert (ulyanov.steps, ulyanov.training.batch, ulyanov.training.crop, ulyanov.optimizer.lr) == (50000, 1, 256, 1e-3)
    assert (johnson.backbone.architecture, ulyanov.backbone.architecture) == ("vgg16", "vgg19")
    assert (ulyanov.lr_schedule.step_size, ulyanov.lr_schedule.gamma) == (2000, 0.8)
