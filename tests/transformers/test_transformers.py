"""Image-transformation networks against NumPy, torch's own modules and a network written out, and their files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as nnf

from nst import transformers
from nst.errors import ConfigError, UserError
from nst.transformers import layers
from nst.transformers.layers import ConditionalInstanceNorm, Convolution, given, measured, normalisations

CONF = Path(__file__).parents[2] / "conf" / "transformer"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
TINY: dict[str, Any] = {"_target_": "nst.transformers.ResidualTransformer", "width": 3, "blocks": 2, "kernel": 5}
PYRAMID: dict[str, Any] = {"_target_": "nst.transformers.PyramidTransformer", "channels": 2, "levels": 3}
VARIANTS = [
    TINY,
    {**TINY, "upsampling": "transposed"},
    {**TINY, "padding": "reflect_start"},
    {**TINY, "output": "tanh", "gains": "uniform"},
    {**TINY, "output": "added"},
    PYRAMID,
]


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def network(node: dict[str, Any], styles: int = 1, seed: int = 0, double: bool = True) -> nn.Module:
    """A network whose styles differ from each other, as they do after training."""
    made = transformers.build(node, styles, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for norm in normalisations(made):
            norm.gain.add_(0.5 * torch.randn(norm.gain.shape, generator=generator))
            norm.bias.add_(0.5 * torch.randn(norm.bias.shape, generator=generator))
    return made.double() if double else made


def normalised(maps: np.ndarray, gain: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Instance normalisation of ``(B, C, H, W)`` with gains and biases ``(B, C)`` (Ulyanov 2016, eqs. 1 and 2)."""
    out = np.empty_like(maps)
    for image in range(maps.shape[0]):
        for channel in range(maps.shape[1]):
            one = maps[image, channel]
            mean = one.sum() / one.size
            variance = ((one - mean) ** 2).sum() / one.size
            out[image, channel] = gain[image, channel] * (one - mean) / np.sqrt(variance + 1e-5) + bias[image, channel]
    return out


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("rows", ["none", "shared", "own"])
def test_normalisation_is_the_formula_with_blended_rows(images: int, rows: str) -> None:
    rng = np.random.default_rng(0)
    norm = ConditionalInstanceNorm(4, styles=3).double()
    gain, bias = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    norm.load_state_dict({"gain": torch.from_numpy(gain), "bias": torch.from_numpy(bias)})
    maps = rng.normal(2, 3, size=(images, 4, 5, 6))
    blend = {"none": None, "shared": rng.random((1, 3)), "own": rng.random((images, 3))}[rows]
    weights = np.array([[1.0, 0, 0]]) if blend is None else blend
    of_each = np.broadcast_to(weights, (images, 3))
    expected = normalised(maps, of_each @ gain, of_each @ bias)
    for layout in (torch.contiguous_format, torch.channels_last):
        given_maps = torch.from_numpy(maps).to(memory_format=layout)
        found = norm(given_maps, None if blend is None else torch.from_numpy(blend))
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_normalisation_of_large_maps_far_from_zero_keeps_its_digits_in_float32() -> None:
    maps = 1000 + picture(1, 2, 128, 128)
    found = ConditionalInstanceNorm(2)(maps).detach().numpy()
    ones, zeros = np.ones((1, 2)), np.zeros((1, 2))
    np.testing.assert_allclose(found, normalised(maps.double().numpy(), ones, zeros), atol=2e-3)


@pytest.mark.parametrize("node", VARIANTS)
def test_gradients_are_those_of_finite_differences(node: dict[str, Any]) -> None:
    made, images = network(node, styles=2), picture(2, 3, 16, 17).double()
    blend = torch.tensor([[0.3, 0.7], [0.9, -0.2]], dtype=torch.float64)
    loss_of = lambda: (made(images, blend) * picture(2, 3, 16, 17, seed=5).double()).sum()  # noqa: E731
    loss_of().backward()
    for parameter in made.parameters():
        assert parameter.grad is not None
        place = int(parameter.grad.abs().argmax())
        values, step, sums = parameter.data.flatten(), 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                moved = values.clone()
                moved[place] += sign * step
                kept = parameter.data.clone()
                parameter.data.copy_(moved.view_as(parameter))
                sums.append(float(loss_of()))
                parameter.data.copy_(kept)
        slope = (sums[0] - sums[1]) / (2 * step)
        assert slope == pytest.approx(float(parameter.grad.flatten()[place]), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("node", VARIANTS)
def test_a_one_hot_blend_is_the_network_with_that_row_alone(node: dict[str, Any]) -> None:
    made, images = network(node, styles=3), picture(2, 3, 20, 24).double()
    for style in range(3):
        alone = transformers.build(node, 1, 0).double()
        rows = {
            k: v[style : style + 1] if k.endswith((".gain", "norm.bias")) else v for k, v in made.state_dict().items()
        }
        rows |= {k: v[style : style + 1] for k, v in made.state_dict().items() if "norms" in k}
        alone.load_state_dict(rows)
        one_hot = torch.eye(3, dtype=torch.float64)[style : style + 1]
        torch.testing.assert_close(made(images, one_hot), alone(images))
        torch.testing.assert_close(made(images, one_hot.expand(2, 3)), alone(images))
    torch.testing.assert_close(made(images), made(images, torch.eye(3, dtype=torch.float64)[:1]))


@pytest.mark.parametrize("node", VARIANTS)
def test_each_image_of_a_batch_has_its_own_blend_and_is_painted_as_it_is_alone(node: dict[str, Any]) -> None:
    made, images = network(node, styles=2), picture(3, 3, 18, 21).double()
    blend = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]], dtype=torch.float64)
    together = made(images, blend)
    for index in range(3):
        own = slice(index, index + 1)
        torch.testing.assert_close(together[own], made(images[own], blend[own]))
    assert (together[0] - made(images[:1], blend[2:])[0]).abs().max() > 1e-3  # the styles do differ


def test_a_blend_is_linear_in_gains_and_biases() -> None:
    norm, maps = ConditionalInstanceNorm(3, styles=4).double(), picture(2, 3, 6, 6).double()
    with torch.no_grad():
        norm.gain.copy_(picture(4, 3, seed=1))
        norm.bias.copy_(picture(4, 3, seed=2))
    blend = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    parts = [weight * norm(maps, torch.eye(4, dtype=torch.float64)[i : i + 1]) for i, weight in enumerate(blend[0])]
    torch.testing.assert_close(norm(maps, blend), torch.stack(parts).sum(0))


def written_out(state: dict[str, Tensor], image: Tensor, blocks: int, kernel: int) -> Tensor:
    """The residual network as one reads it in the papers, of torch's own functions."""

    def pad(x: Tensor, width: int) -> Tensor:
        return nnf.pad(x, (width,) * 4, mode="reflect")

    def layer(x: Tensor, name: str, size: int = 3, stride: int = 1) -> Tensor:
        x = nnf.conv2d(pad(x, size // 2), state[f"{name}.convolution.weight"], stride=stride)
        return nnf.instance_norm(x, weight=state[f"{name}.norm.gain"][0], bias=state[f"{name}.norm.bias"][0])

    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = (image - mean) / deviation
    x = layer(x, "down.0", kernel).relu()
    x = layer(x, "down.1", stride=2).relu()
    x = layer(x, "down.2", stride=2).relu()
    for block in range(blocks):
        x = x + layer(layer(x, f"blocks.{block}.first").relu(), f"blocks.{block}.second")
    height, width = image.shape[2:]
    for up, ratio in enumerate((2, 1)):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = x[:, :, : math.ceil(height / ratio), : math.ceil(width / ratio)]
        x = layer(x, f"up.{up}.convolution").relu()
    x = nnf.conv2d(pad(x, kernel // 2), state["last.convolution.weight"], state["last.convolution.bias"])
    return x * deviation + mean


@pytest.mark.parametrize("size", [(24, 32), (21, 34), (18, 27)])
def test_the_residual_network_is_that_of_the_papers(size: tuple[int, int]) -> None:
    made, images = network(TINY), picture(2, 3, *size).double()
    torch.testing.assert_close(made(images), written_out(made.state_dict(), images, 2, 5))


def test_the_last_maps_are_added_to_the_image() -> None:
    linear, added = network(TINY), network({**TINY, "output": "added"})
    images = picture(2, 3, 20, 24).double()
    grey = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(added(images) - images, linear(images) - grey, rtol=1e-6, atol=1e-6)


def test_the_johnson_option_has_the_layers_of_the_papers_table() -> None:
    made = transformers.build(OmegaConf.load(CONF / "johnson.yaml"), 1, 0)
    shapes = [tuple(value.shape) for name, value in made.state_dict().items() if name.endswith("convolution.weight")]
    residual = [(128, 128, 3, 3)] * 10
    outer = [(32, 3, 9, 9), (64, 32, 3, 3), (128, 64, 3, 3)], [(64, 128, 3, 3), (32, 64, 3, 3), (3, 32, 9, 9)]
    assert shapes == [*outer[0], *residual, *outer[1]]


def test_padding_at_the_start_is_the_authors_network() -> None:
    node = {**TINY, "padding": "reflect_start", "upsampling": "transposed", "output": "tanh"}
    made, images = network(node, double=False), picture(1, 3, 24, 28)
    state = made.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        return nnf.instance_norm(x, weight=state[f"{name}.gain"][0], bias=state[f"{name}.bias"][0])

    def layer(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        x = nnf.conv2d(x, state[f"{name}.convolution.weight"], stride=stride, padding=padding)
        return norm(x, f"{name}.norm")

    bytes_mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = nnf.pad((images - mean) / deviation, (16,) * 4, mode="reflect")  # 40 with five blocks
    x = layer(layer(layer(x, "down.0", 1, 2).relu(), "down.1", 2, 1).relu(), "down.2", 2, 1).relu()
    for block in range(2):
        x = x[:, :, 2:-2, 2:-2] + layer(layer(x, f"blocks.{block}.first").relu(), f"blocks.{block}.second")
    for up in range(2):
        weight = state[f"up.{up}.convolution.weight"]
        x = norm(nnf.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1), f"up.{up}.norm").relu()
    x = nnf.conv2d(x, state["last.convolution.weight"], state["last.convolution.bias"], padding=2)
    torch.testing.assert_close(made(images), (150 * x.tanh() + bytes_mean) / 255, rtol=1e-4, atol=1e-5)


def test_the_pyramid_is_that_of_the_authors_code() -> None:
    made, images = network(PYRAMID, double=False), picture(1, 3, 24, 32)
    state = made.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        return nnf.instance_norm(x, weight=state[f"{name}.gain"][0], bias=state[f"{name}.bias"][0])

    def three(x: Tensor, name: str) -> Tensor:
        for index, margin in enumerate((1, 1, 0)):
            padded = nnf.pad(x, (margin,) * 4, mode="replicate")
            x = norm(nnf.conv2d(padded, state[f"{name}.{index}.convolution.weight"]), f"{name}.{index}.norm").relu()
        return x

    up = nn.Upsample(scale_factor=2)
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    z = (images - mean) / deviation
    x = three(nn.AvgPool2d(4)(z), "branches.0")
    for level, branch in ((1, nn.AvgPool2d(2)(z)), (2, z)):
        parts = (
            norm(up(x), f"deep_norms.{level - 1}"),
            norm(three(branch, f"branches.{level}"), f"branch_norms.{level - 1}"),
        )
        x = three(torch.cat(parts, 1), f"joined.{level - 1}")
    x = nnf.conv2d(x, state["last.convolution.weight"], state["last.convolution.bias"])
    bytes_mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    torch.testing.assert_close(made(images), (x + bytes_mean) / 255, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("node", VARIANTS)
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (31, 33), (64, 18), (35, 50)])
def test_pictures_come_out_as_large_as_they_went_in(node: dict[str, Any], size: tuple[int, int]) -> None:
    made, images = network(node, double=False), picture(1, 3, *size)
    painted = made(images)
    assert painted.shape == images.shape
    assert torch.isfinite(painted).all()
    assert painted[:, :, -1].std() > 0
    assert painted[:, :, :, -1].std() > 0  # the last row and column are painted, too


@pytest.mark.parametrize("node", VARIANTS)
def test_a_picture_that_is_too_small_is_refused(node: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="15 x 40 pixels is too small: each side needs 16"):
        network(node, double=False)(picture(1, 3, 40, 15))


@pytest.mark.parametrize("node", VARIANTS)
def test_a_picture_given_its_own_statistics_is_painted_as_before(node: dict[str, Any]) -> None:
    made, images = network(node, styles=2), picture(1, 3, 32, 40).double()
    blend = torch.tensor([[0.4, 0.6]], dtype=torch.float64)
    with torch.no_grad(), measured(made) as statistics:
        whole = made(images, blend)
    assert len(statistics) == len(normalisations(made))
    with torch.no_grad(), given(made, statistics):
        torch.testing.assert_close(made(images, blend), whole, rtol=1e-6, atol=1e-9)
        part = made(images[:, :, :20], blend)
    assert (made(images[:, :, :20], blend) - part).abs().max() > 1e-3  # which has others of its own
    torch.testing.assert_close(made(images, blend), whole)  # and they are forgotten


def test_a_tile_with_the_whole_pictures_statistics_is_a_part_of_the_whole() -> None:
    made, images = network({**TINY, "blocks": 0}), picture(1, 3, 64, 64).double()
    with torch.no_grad(), measured(made) as statistics:
        whole = made(images)
    with torch.no_grad(), given(made, statistics):
        tile = made(images[:, :, :48])
    torch.testing.assert_close(tile[:, :, :28], whole[:, :, :28])  # 20 rows is as far as a pixel sees


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_maps_are_continued_from_pieces_where_a_gpu_needs_it(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = picture(1, 2, 9, 11).double().requires_grad_()
    expected = layers.continued(maps, 4, mode)
    torch.testing.assert_close(expected, nnf.pad(maps, (4,) * 4, mode=mode))
    (slopes,) = torch.autograd.grad(expected.square().sum(), maps)
    monkeypatch.setattr(layers.nnf, "pad", None)
    found = layers.extended(maps, 4, mode)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), maps)[0], slopes)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_makes_a_network_with_as_many_rows_as_styles(option: str) -> None:
    made = transformers.build(OmegaConf.load(CONF / f"{option}.yaml"), 2, 0)
    assert all(norm.gain.shape[0] == 2 for norm in normalisations(made))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout) for module in made.modules())
    assert made(picture(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_every_option_names_every_argument() -> None:
    for option in OPTIONS:
        node = OmegaConf.load(CONF / f"{option}.yaml")
        kind = getattr(transformers, node._target_.rpartition(".")[2])
        names = set(kind.__init__.__annotations__) - {"return", "styles"}
        assert set(node) - {"_target_"} == names, option


@pytest.mark.parametrize("node", VARIANTS)
def test_a_seed_makes_the_network_and_nothing_else_does(node: dict[str, Any]) -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = transformers.build(node, 1, 7).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = transformers.build(node, 1, 7).state_dict(), transformers.build(node, 1, 8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_gains_are_ones_or_drawn() -> None:
    for norm in normalisations(transformers.build(TINY, 2, 0)):
        assert (norm.gain == 1).all()
    drawn = torch.cat([norm.gain.flatten() for norm in normalisations(transformers.build(PYRAMID, 30, 0))])
    assert 0 <= drawn.min() < 0.1 < 0.9 < drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.05)


def test_arguments_that_make_no_network_are_told_together() -> None:
    with pytest.raises(ConfigError) as told:
        transformers.build({**TINY, "width": 0, "kernel": True, "output": "tan", "padding": "zeros"}, 1, 0)
    assert len(told.value.problems) == 4
    assert "transformer.width=0 must be a whole number from 1 to 1024." in str(told.value)
    assert "Did you mean 'tanh'?" in str(told.value)
    with pytest.raises(ConfigError, match="kernel=4 must be odd"):
        transformers.build({**TINY, "kernel": 4}, 1, 0)
    with pytest.raises(ConfigError, match="levels=9"):
        transformers.build({**PYRAMID, "levels": 9}, 1, 0)


def test_convolutions_before_a_normalisation_have_no_biases() -> None:
    for made in (network(TINY), network(PYRAMID)):
        for module in made.modules():
            if isinstance(module, Convolution):
                assert (module.convolution.bias is None) == (module.norm is not None)


# files


ABOUT = {"styles": [{"label": "swirls", "file": "swirls.jpg", "sha256": "0" * 64}, {"label": "b", "file": "ü.png"}]}


def saved(path: Path, node: dict[str, Any] = TINY) -> nn.Module:
    made = network(node, styles=2, double=False)
    transformers.save(path, made, {**ABOUT, "steps": 300})
    return made


@pytest.mark.parametrize("node", VARIANTS)
def test_a_network_is_read_as_it_was_written(node: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    made = saved(path, node)
    found, about = transformers.load(path)
    assert about == {**ABOUT, "steps": 300}
    assert not found.training
    assert found.node == node
    images, blend = picture(1, 3, 20, 22), torch.tensor([[0.5, 0.5]])
    assert torch.equal(found(images, blend), made(images, blend))
    again = tmp_path / "again.safetensors"
    transformers.save(again, found, about)
    assert again.read_bytes() == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.safetensors", "network.safetensors"]


def test_other_programs_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    made = saved(path)
    tensors = safetensors.torch.load_file(path)
    assert tensors.keys() == made.state_dict().keys()
    with safetensors.safe_open(path, framework="np") as file:
        facts = json.loads(file.metadata()["nst_transformer"])
    assert facts["format"] == 1
    assert facts["transformer"] == TINY
    assert [style["label"] for style in facts["about"]["styles"]] == ["swirls", "b"]


def test_styles_that_are_not_the_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 styles are named of a network that has 1"):
        transformers.save(tmp_path / "n.safetensors", network(TINY), ABOUT)


def rewritten(path: Path, tensors: dict[str, Tensor] | None = None, **changes: Any) -> None:
    """Write a file anew with other metadata, or other weights."""
    with safetensors.safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["nst_transformer"])
    facts = {key: value for key, value in {**facts, **changes}.items() if value is not None}
    safetensors.torch.save_file(
        tensors or safetensors.torch.load_file(path), path, {"nst_transformer": json.dumps(facts)}
    )


def test_files_that_are_no_networks_are_told(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    with pytest.raises(UserError, match="There is no network file"):
        transformers.load(path)
    saved(path)
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[:-7], b"\x89PNG" + whole, whole.replace(b"dtype", b"dtypf")):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"cannot be read|damaged") as told:
            transformers.load(path)
        assert "network.safetensors" in str(told.value)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="does not say of which network"):
        transformers.load(path)
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, {"nst_transformer": "[1, 2"})
    with pytest.raises(UserError, match="damaged"):
        transformers.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "newer version"),
        ({"format": "x"}, "newer version"),
        ({"styles": 3}, "do not belong"),
        ({"styles": None}, "does not say 'styles'"),
        ({"transformer": "ResidualTransformer"}, "does not say 'transformer'"),
        ({"transformer": {**TINY, "width": 4}}, "do not belong"),
        ({"transformer": {**TINY, "width": -1}}, "width=-1 must be"),
        ({"transformer": {**TINY, "depth": 4}}, "arguments that are not known"),
        ({"transformer": {**TINY, "width": 1024, "blocks": 100}}, "do not belong"),
        ({"transformer": {**TINY, "_target_": "os.system", "command": "true"}}, "os.system, which is none of"),
        ({"transformer": {**TINY, "output": {"_target_": "os.getcwd"}}}, "output"),
    ],
)
def test_files_with_other_facts_are_told(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    saved(path)
    rewritten(path, **changes)
    with pytest.raises(UserError, match=message):
        transformers.load(path)


@pytest.mark.parametrize("argument", ["width", "output", "kernel"])
def test_nothing_that_a_file_describes_is_built_or_looked_up(argument: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "network.safetensors", tmp_path / "executed"
    saved(path)
    call = {"_target_": "os.mkdir", "path": str(marker)}
    for value in (call, [call], f"${{oc.decode:'{{_target_: os.mkdir, path: {marker}}}'}}"):
        rewritten(path, transformer={**TINY, argument: value})
        with pytest.raises(UserError, match=f"no plain value, {argument}"):
            transformers.load(path)
    assert not marker.exists()


def test_weights_that_are_not_finite_or_missing_are_told(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    saved(path)
    tensors = safetensors.torch.load_file(path)
    rewritten(path, tensors | {"last.convolution.bias": torch.tensor([0.0, float("nan"), 0.0])})
    with pytest.raises(UserError, match=r"not finite, in last\.convolution\.bias"):
        transformers.load(path)
    del tensors["last.convolution.bias"]
    rewritten(path, tensors)
    with pytest.raises(UserError, match=r"do not belong.*last\.convolution\.bias"):
        transformers.load(path)


class Own(nn.Module):
    """A network from outside the package."""

    def __init__(self, styles: int, gamma: float) -> None:
        super().__init__()
        self.styles, self.gamma = styles, gamma
        self.weight = nn.Parameter(torch.rand(3))

    def forward(self, images: Tensor, blend: Tensor | None = None) -> Tensor:
        return images**self.gamma * self.weight[:, None, None]


def test_a_network_from_outside_is_made_only_if_the_caller_names_it(tmp_path: Path) -> None:
    path, node = tmp_path / "network.safetensors", {"_target_": f"{__name__}.Own", "gamma": 2.0}
    made = transformers.build(node, 1, 3)
    transformers.save(path, made, {})
    with pytest.raises(UserError, match=r"Own, which is none of this package"):
        transformers.load(path)
    found, _ = transformers.load(path, node)
    assert torch.equal(found(picture(1, 3, 16, 16)), made(picture(1, 3, 16, 16)))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.safetensors"
    saved(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left"):
        transformers.save(path, network(TINY, seed=9), {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
