"""Engines against each other and against autograd: values, gradients, and what falls back to autograd."""

import itertools
import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as nnf

from nst import engines
from nst.engines import operators, tiles
from nst.engines.fused import Fused
from nst.engines.plain import Plain
from nst.engines.tiles import Tiled
from nst.errors import UserError
from nst.images.pixels import PREPROCESSINGS
from nst.losses import GramLoss, MSELoss, functional
from nst.losses.objective import LossRequest, TargetRequest
from nst.networks import backbones
from nst.networks.backbones import Backbone
from nst.networks.weights import Source

SQUEEZE = ("conv1", "relu1", "pool1", "fire3", "fire4")
VGG = ("relu1_1", "conv2_1", "pool2", "relu3_1", "conv4_2", "relu4_2")
NETWORKS = {
    "squeezenet avg": ("squeezenet1_1", SQUEEZE, "avg", 1.0),
    "squeezenet max": ("squeezenet1_1", SQUEEZE, "max", 1.0),
    "vgg16 max": ("vgg16", VGG, "max", 1.0),
    "vgg19 avg scaled": ("vgg19", ("conv1_1", "relu1_1", "conv3_1", "relu4_1"), "avg", 2.0),
    "vgg16_bn max": ("vgg16_bn", ("relu1_1", "bn2_1", "relu2_1", "conv3_1", "relu3_1"), "max", 1.0),
    "squeezenet l2 replicate": ("squeezenet1_1", SQUEEZE, "l2", 1.0, {"padding": "replicate"}),
    "vgg16 l2 reflect": ("vgg16", VGG[:4], "l2", 0.78, {"padding": "reflect"}),
    "vgg16 replicate first": ("vgg16", VGG[:4], "max", 1.0, {"padding": "replicate", "padding_layers": "first"}),
    "resnet18 max": ("resnet18", ("conv1", "relu1", "layer1_1", "layer2_1", "layer2_2"), "max", 1.0),
    "resnet18 avg reflect": ("resnet18", ("bn1", "layer1_2", "layer3_1"), "avg", 1.0, {"padding": "reflect"}),
    "resnet50 max": ("resnet50", ("pool1", "layer1_1", "layer1_3", "layer2_1"), "max", 1.0),
}


def network(kind, dtype=torch.float64):
    """Of random weights; batch normalisations get statistics of their own, or they would do nothing."""
    architecture, layers, pooling, scale, *more = NETWORKS[kind]
    options = more[0] if more else {}
    backbone = backbones.load(architecture, "random", layers, pooling, avg_scale=scale, seed=3, **options)
    generator = torch.Generator().manual_seed(5)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in ((module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2)):
                values.copy_(low + (high - low) * torch.rand(values.shape, generator=generator))
            module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
    return backbone.to(dtype)


def picture(batch, height, width, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64).to(dtype)


def loss_requests(engine, layers, content, style, losses=None):
    content_loss, style_loss = losses or (MSELoss(), GramLoss())
    with torch.no_grad():
        found = {}
        for kind, loss, image in (("content", content_loss, content), ("style", style_loss, style)):
            targets = engine.targets(image, {name: TargetRequest(name, loss) for name in layers})
            found |= {f"{kind} {name}": LossRequest(name, loss, targets[name]) for name in layers}
    return found


def values_and_gradient(engine, image, asked, weights=None):
    image = image.clone().requires_grad_(True)
    values = engine.values(image, asked)
    assert list(values) == list(asked)
    assert all(value.shape == image.shape[:1] for value in values.values())
    weights = weights or [1.0] * len(values)
    (gradient,) = torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, values.values(), strict=True)), image)
    return {tag: value.detach() for tag, value in values.items()}, gradient


def off(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("size", [(48, 48), (43, 50), (37, 61)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_fused_is_plain_in_float64(kind, size):
    backbone = network(kind)
    layers = NETWORKS[kind][1]
    content, style, image = picture(1, *size, seed=1), picture(1, 45, 52, seed=2), picture(2, *size)
    results = []
    for make in (Plain, Fused):
        engine = make(backbone, torch.float64)
        asked = loss_requests(engine, layers, content, style)
        weights = [torch.tensor([0.3 + 0.1 * i, 1.7 - 0.1 * i], dtype=torch.float64) for i in range(len(asked))]
        results.append(values_and_gradient(engine, image, asked, weights))
    (plain, gradient), (fused, other) = results
    for tag in plain:
        torch.testing.assert_close(fused[tag], plain[tag], rtol=1e-10, atol=0)
    assert off(other, gradient) < 1e-10


@pytest.mark.parametrize("kind", NETWORKS)
def test_fused_is_plain_to_the_rounding_of_float32(kind):
    """The median of three pictures: rounding decides whether a ReLU passes a map that is as good as 0."""
    backbone, layers = network(kind, torch.float32), NETWORKS[kind][1]
    differences = []
    for seed in (10, 20, 30):
        content, style, image = (picture(1, 64, 51, seed + i, torch.float32) for i in range(3))
        results = []
        for make in (Plain, Fused):
            engine = make(backbone, torch.float32)
            results.append(values_and_gradient(engine, image, loss_requests(engine, layers, content, style)))
        (plain, gradient), (fused, other) = results
        for tag in plain:
            torch.testing.assert_close(fused[tag], plain[tag], rtol=2e-5, atol=0)
        differences.append(off(other, gradient))
    assert sorted(differences)[1] < 1e-5


@pytest.mark.parametrize("kind", ["squeezenet avg", "vgg16 max", "vgg16 l2 reflect", "resnet18 max"])
@pytest.mark.parametrize("make", [Plain, Fused])
def test_bfloat16_is_float32_to_few_digits(kind, make):
    backbone, layers = network(kind, torch.float32), NETWORKS[kind][1]
    content, style, image = (picture(1, 64, 51, seed, torch.float32) for seed in (1, 2, 3))
    results = []
    for engine in (Plain(backbone, torch.float32), make(backbone, torch.bfloat16)):
        results.append(values_and_gradient(engine, image, loss_requests(engine, layers, content, style)))
    (exact, gradient), (rounded, other) = results
    for tag in exact:
        assert rounded[tag].dtype == torch.float32
        torch.testing.assert_close(rounded[tag], exact[tag], rtol=0.03, atol=0)
    assert other.dtype == torch.float32
    assert 0 < off(other, gradient) < 0.12


def test_a_batch_is_its_images_one_by_one():
    backbone = network("squeezenet avg")
    engine = Fused(backbone, torch.float64)
    asked = loss_requests(engine, SQUEEZE, picture(3, 40, 40, 1), picture(3, 40, 40, 2))
    image = picture(3, 40, 40)
    values, gradient = values_and_gradient(engine, image, asked)
    for i in range(3):
        alone = {tag: r._replace(target=r.target[i : i + 1]) for tag, r in asked.items()}
        one, its = values_and_gradient(engine, image[i : i + 1], alone)
        for tag in values:
            torch.testing.assert_close(values[tag][i], one[tag][0], rtol=1e-11, atol=0)
        torch.testing.assert_close(gradient[i : i + 1], its, rtol=1e-9, atol=1e-18)


class Moments:
    """A loss of somebody's own: means and standard deviations."""

    def target(self, features):
        return features.mean((2, 3)), features.std((2, 3))

    def __call__(self, features, target):
        mean, deviation = target
        return ((features.mean((2, 3)) - mean) ** 2 + (features.std((2, 3)) - deviation) ** 2).sum(1)


class InPlace:
    """A loss that spoils the map it is given, which is its own."""

    def target(self, features):
        return features.mul_(2).mean((2, 3))

    def __call__(self, features, target):
        return (features.mul_(3).mean((2, 3)) - target).square().sum(1)


class Halved(GramLoss):
    """A known loss, changed by a subclass: its sums no longer tell the whole."""

    def __call__(self, features, target):
        return super().__call__(features, target) / 2


class Weighted(MSELoss):
    """A known loss with another target."""

    def target(self, features):
        return 0.5 * features


@pytest.mark.parametrize(("loss", "told"), [(Moments(), "Moments"), (Halved(), "Halved"), (InPlace(), "InPlace")])
def test_a_loss_of_ones_own_has_its_exact_gradient_and_is_named(loss, told):
    backbone = network("vgg16 max")
    results = []
    for make in (Plain, Fused):
        engine = make(backbone, torch.float64)
        asked = loss_requests(engine, VGG, picture(1, 40, 33, 1), picture(1, 35, 40, 2), (MSELoss(), loss))
        results.append(values_and_gradient(engine, picture(2, 40, 33), asked))
    (plain, gradient), (fused, other) = results
    for tag in plain:
        torch.testing.assert_close(fused[tag], plain[tag], rtol=1e-10, atol=0)
    assert off(other, gradient) < 1e-10
    assert engine.describe([MSELoss(), loss]) == f"fused, {told} under autograd"
    assert Plain(backbone, torch.float64).describe([loss]) == "plain"


def test_a_known_loss_with_a_target_of_its_own_keeps_it():
    backbone = network("vgg16 max")
    results = []
    for make in (Plain, Fused):
        engine = make(backbone, torch.float64)
        asked = loss_requests(engine, VGG, picture(1, 40, 33, 1), picture(1, 35, 40, 2), (Weighted(), GramLoss()))
        results.append(values_and_gradient(engine, picture(1, 40, 33), asked))
    assert off(results[1][1], results[0][1]) < 1e-10


class Swish(nn.Module):
    """A layer that the fused engine has never seen."""

    def forward(self, maps):
        return maps * torch.sigmoid(maps)


@pytest.mark.parametrize("place", [0, 2])
def test_a_layer_of_ones_own_runs_under_autograd_and_is_named(place):
    torch.manual_seed(0)
    modules = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3, padding="same")]
    modules.insert(place, Swish())
    modules += [nn.AvgPool2d(3, 3), nn.Conv2d(4, 4, 3, dilation=2)]
    source = Source("random", None, None)
    backbone = Backbone(modules, {2: "early", 6: "late"}, PREPROCESSINGS["none"], source).double()
    results = []
    for make in (Plain, Fused):
        engine = make(backbone, torch.float64)
        asked = loss_requests(engine, ("early", "late"), picture(1, 40, 33, 1), picture(1, 35, 40, 2))
        results.append(values_and_gradient(engine, picture(2, 40, 33), asked))
    (plain, gradient), (fused, other) = results
    for tag in plain:
        torch.testing.assert_close(fused[tag], plain[tag], rtol=1e-10, atol=0)
    assert off(other, gradient) < 1e-10
    assert engine.describe([MSELoss()]) == "fused, AvgPool2d, Conv2d, Swish under autograd"


def test_values_without_weight_cost_nothing_and_a_graph_can_be_kept():
    backbone = network("squeezenet avg")
    engine = Fused(backbone, torch.float64)
    asked = loss_requests(engine, SQUEEZE, picture(1, 40, 40, 1), picture(1, 40, 40, 2))
    image = picture(1, 40, 40).requires_grad_(True)
    values = engine.values(image, asked)
    each = [torch.autograd.grad(value.sum(), image, retain_graph=True)[0] for value in values.values()]
    (whole,) = torch.autograd.grad(sum(value.sum() for value in values.values()), image)
    torch.testing.assert_close(sum(each), whole, rtol=1e-9, atol=1e-15)
    with torch.no_grad():
        again = engine.values(image, asked)
    for tag, value in values.items():
        torch.testing.assert_close(again[tag], value.detach(), rtol=0, atol=0)


def test_a_picture_that_is_too_small_is_refused_with_one_sentence():
    backbone = network("vgg16 max", torch.float32)
    for make in (Plain, Fused):
        with pytest.raises(UserError, match="An image of 4 x 4 pixels is too small"):
            make(backbone, torch.float32).targets(
                picture(1, 4, 4, dtype=torch.float32), {"x": TargetRequest("relu4_2", MSELoss())}
            )


@pytest.mark.parametrize("engine", ["auto", "fused"])
def test_a_network_from_outside_is_run_by_the_plain_engine(engine, caplog):
    with caplog.at_level(logging.INFO):
        assert isinstance(engines.make(engine, nn.Identity(), torch.float32), Plain)
    assert ("engine=plain runs it" in caplog.text) == (engine == "fused")
    backbone = network("squeezenet avg", torch.float32)
    assert isinstance(engines.make(engine, backbone, torch.float32), Fused)
    assert isinstance(engines.make("plain", backbone, torch.float32), Plain)


def test_a_compiler_that_is_missing_is_one_sentence(monkeypatch):
    from torch._inductor.exc import InvalidCxxCompiler

    def refuse(image):
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch, "compile", lambda backbone: refuse)
    engine = engines.make("auto", network("squeezenet avg", torch.float32), torch.float32, compiled=True)
    assert engine.describe([MSELoss()]) == "plain, compiled"
    with pytest.raises(UserError, match=r"compile=true: torch.compile cannot work .* Use compile=false"):
        engine.targets(picture(1, 40, 40, dtype=torch.float32), {"x": TargetRequest("fire4", MSELoss())})


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (1, 1, 0), (3, 2, 0), (3, 1, 0), (5, 2, 2)])
def test_a_convolution_and_its_gradient_are_autograds(size, stride, padding, dtype, packed, monkeypatch):
    if not packed:
        monkeypatch.setattr(operators, "_packing_works", lambda dtype: False)
    weight, bias = picture(1, 1, 1, 5).new_empty(0), None
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(7, 4, size, size, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.randn(7, generator=generator, dtype=torch.float64).to(dtype)
    for height, width in ((12, 12), (11, 14)):
        maps = torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64).to(dtype)
        maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_(True)
        expected = nnf.conv2d(maps, weight, bias, stride, padding).relu()
        gradient = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(dtype)
        (wanted,) = torch.autograd.grad(expected, maps, gradient)
        operator = operators.Convolution(weight, bias, stride, padding, True)
        results = []
        for _ in range(2):
            with torch.no_grad():
                found = operator.forward(maps.detach())
                own = gradient.clone().contiguous(memory_format=torch.channels_last)
                back = operator.backward(operators.rectify_backward(own, found), height, width)
            results.append((found, back))
            assert found.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(back, wanted, rtol=1e-5, atol=1e-5)
        for one, other in zip(results[0], results[1], strict=True):
            assert torch.equal(one, other)  # or a run that is carried on would end with other bytes
        assert bool(operator.kernel.packed) == (packed and dtype == torch.float32 and operators._packing_works(dtype))


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(
    ("size", "shape"), [(size, shape) for size in (2, 3) for shape in ((8, 8), (9, 8), (7, 11), (3, 5))] + [(2, (2, 3))]
)
def test_poolings_send_their_gradient_as_autograd_does(size, ceil, shape):
    generator = torch.Generator().manual_seed(1)
    maps = torch.randint(0, 4, (2, 5, *shape), generator=generator).double()  # few values, so that maxima are shared
    maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    average = nnf.avg_pool2d(maps, size, 2, ceil_mode=ceil)
    gradient = torch.randn(average.shape, generator=generator, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(average * 1.5, maps, gradient)
    found = operators.average_pool_backward(gradient.clone(), *shape, size, 1.5)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)

    maximum, places = nnf.max_pool2d(maps, size, 2, ceil_mode=ceil, return_indices=True)
    (wanted,) = torch.autograd.grad(maximum, maps, gradient)
    found = operators.max_pool_backward(gradient.clone(), maps.detach(), places, operators.Pooling(size, 2, 0, ceil))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", [(4, 4), (1, 3), (33, 37), (64, 67)])
def test_products_of_channels_in_bfloat16_are_added_in_float32(positions):
    maps = picture(2, *positions).repeat(1, 5, 1, 1).relu().bfloat16().contiguous(memory_format=torch.channels_last)
    found = operators.channel_products(maps)
    assert found.dtype == torch.float32
    assert off(found, functional.channel_products(maps.double())) < 2e-3
    assert off(operators.channel_products(maps.double()), functional.channel_products(maps.double())) < 1e-14


def test_a_factor_keeps_its_digits_beside_bfloat16_maps():
    difference = torch.ones(1, 2, 2, 2, dtype=torch.bfloat16)
    factor = torch.tensor([1 + 2.0**-12])
    start = torch.full_like(difference, -2.0)
    found = operators.add_squared_differences_backward(start, factor, difference)  # -2 + 2 (1 + 2^-12)
    torch.testing.assert_close(found.float(), torch.full_like(found.float(), 2.0**-11), rtol=0.01, atol=0)


@pytest.mark.parametrize("size", [(131, 200), (70, 97), (64, 65)])
@pytest.mark.parametrize("inner", [Plain, Fused])
@pytest.mark.parametrize("kind", NETWORKS)
def test_tiles_give_the_losses_and_the_gradient_of_the_whole(kind, inner, size):
    """At odd sizes, on borders, with both poolings, maps before and after their ReLU, and several images."""
    backbone = network(kind)
    layers = NETWORKS[kind][1]
    content, style, image = picture(2, *size, seed=1), picture(1, 150, 83, seed=2), picture(2, *size)
    whole = inner(backbone, torch.float64)
    asked = loss_requests(whole, layers, content, style)
    weights = [torch.tensor([0.3 + 0.1 * i, 1.7 - 0.1 * i], dtype=torch.float64) for i in range(len(asked))]
    expected, gradient = values_and_gradient(whole, image, asked, weights)
    tiled = Tiled(inner(backbone, torch.float64), tiles.receptive_fields(backbone), 64)
    assert len(tiled.spans(size[1])) > 1
    own = loss_requests(tiled, layers, content, style)
    for tag, request in asked.items():
        torch.testing.assert_close(own[tag].target, request.target, rtol=1e-11, atol=1e-13)
    found, other = values_and_gradient(tiled, image, own, weights)
    for tag in expected:
        torch.testing.assert_close(found[tag], expected[tag], rtol=1e-10, atol=0)
    assert off(other, gradient) < 1e-10


@pytest.mark.parametrize("full", [64, 65, 127, 200, 513, 1000])
def test_every_position_of_every_map_belongs_to_one_tile(full):
    backbone = network("vgg16 max", torch.float32)
    tiled = Tiled(Plain(backbone, torch.float32), tiles.receptive_fields(backbone), 100)
    spans = tiled.spans(full)
    for layer, (stride, _, _) in tiled.fields.items():
        positions = []
        for span in spans:
            local = range((span.end - span.begin) // stride)[span.own[layer]]
            positions += [span.begin // stride + i for i in local]
        assert positions == list(range(full // stride))
    assert all(b.begin < a.end or len(spans) == 1 for a, b in itertools.pairwise(spans))
    assert max(span.end - span.begin for span in spans) <= 100 + 2 * 78 + 16


@pytest.mark.parametrize("mode", ["replicate", "reflect"])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (7, 2, 3), (5, 1, 2)])
def test_a_convolution_of_extended_maps_and_its_gradient_are_autograds(size, stride, padding, mode):
    """Torch's own padding is the reference; maps as small as can be mirrored, too."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 4, size, size, generator=generator, dtype=torch.float64)
    operator = operators.Convolution(weight, None, stride, padding, False, mode)
    for height, width in ((12, 9), (padding + 1, padding + 2)):
        maps = torch.randn(2, 4, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
        expected = nnf.conv2d(nnf.pad(maps, [padding] * 4, mode), weight, None, stride)
        gradient = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        (wanted,) = torch.autograd.grad(expected, maps, gradient)
        with torch.no_grad():
            found = operator.forward(maps.detach())
            back = operator.backward(gradient.clone(), height, width)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(back, wanted, rtol=1e-12, atol=1e-12)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert back.is_contiguous(memory_format=torch.channels_last)


def test_what_runs_under_autograd_is_told():
    losses = [MSELoss(), GramLoss()]
    for kind, told in {
        "resnet50 max": "fused",
        "resnet18 avg reflect": "fused, ScaledAvgPool2d under autograd",
        "squeezenet l2 replicate": "fused, L2Pool2d under autograd",
        "vgg16 replicate first": "fused",
    }.items():
        assert Fused(network(kind), torch.float64).describe(losses) == told


def test_a_padding_that_is_not_ours_is_not_cut_into_tiles():
    convolutions = [nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode) for mode in ("zeros", "circular")]
    for convolution, refused in zip(convolutions, (False, True), strict=True):
        backbone = Backbone([convolution], {0: "conv"}, PREPROCESSINGS["none"], Source("random", None, None))
        obstacle = engines.untileable(backbone, [MSELoss()])
        assert obstacle == ("the network (Backbone) has a layer whose reach is not known" if refused else None)


class Cubes:
    """A loss of somebody's own that is a function of sums."""

    target_is_map = False

    def target(self, features):
        return self.target_of_sums(self.sums(features), features.shape[1:])

    def target_of_sums(self, sums, shape):
        return sums / (shape[1] * shape[2])

    def sums(self, features, target=None):
        return features.pow(3).sum((2, 3))

    def value(self, sums, target, shape):
        return (sums / (shape[1] * shape[2]) - target).square().sum(1)

    def __call__(self, features, target):
        return self.value(self.sums(features), target, features.shape[1:])


@pytest.mark.parametrize("inner", [Plain, Fused])
def test_a_summed_loss_of_ones_own_is_tiled_and_another_is_refused(inner):
    backbone = network("squeezenet avg")
    losses = MSELoss(), Cubes()
    assert engines.untileable(backbone, losses) is None
    assert engines.untileable(backbone, [Moments()]) == "Moments is no function of sums over positions"
    assert "Halved" in engines.untileable(backbone, [Halved()])
    assert "Identity" in engines.untileable(nn.Identity(), losses)
    image, content, style = (picture(1, 90, 101, seed) for seed in (0, 1, 2))
    results = []
    for engine in (
        Plain(backbone, torch.float64),
        Tiled(inner(backbone, torch.float64), tiles.receptive_fields(backbone), 64),
    ):
        results.append(values_and_gradient(engine, image, loss_requests(engine, SQUEEZE, content, style, losses)))
    assert off(results[1][1], results[0][1]) < 1e-10


@pytest.mark.parametrize("shift", [0.0, -1.0])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_loss_of_two_layers_is_given_both_by_either_engine(kind, shift):
    backbone, layers = network(kind), NETWORKS[kind][1]
    loss = GramLoss(cross_layers="adjacent", shift=shift)
    results = []
    for make in (Plain, Fused):
        engine = make(backbone, torch.float64)
        with torch.no_grad():
            pairs = {f"{a}-{b}": TargetRequest((a, b), loss) for a, b in itertools.pairwise(layers)}
            targets = engine.targets(picture(1, 35, 46, 2), pairs)
        asked = {tag: LossRequest(layer, loss, targets[tag]) for tag, (layer, loss) in pairs.items()}
        asked |= loss_requests(engine, layers, picture(1, 48, 51, 1), picture(1, 45, 52, 2))
        results.append(values_and_gradient(engine, picture(2, 48, 51), asked))
        assert engines.untileable(backbone, [loss]) == "GramLoss compares layers with each other"
    (plain, gradient), (fused, other) = results
    for tag in plain:
        torch.testing.assert_close(fused[tag], plain[tag], rtol=1e-10, atol=0)
    assert off(other, gradient) < 1e-10
    assert "GramLoss" in engine.describe([loss])
    assert "GramLoss" not in engine.describe([GramLoss()])
