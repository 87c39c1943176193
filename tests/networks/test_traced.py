"""Networks of torchvision that are cut by the nodes of their graph: against the network's own modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import TINY, refused, run
from problems import posed
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model

from nst.errors import ConfigError, UserError
from nst.images.pixels import PREPROCESSINGS
from nst.networks import traced, weights

# A network of each family, two of its modules, and one whose map its successor changes in place.
FAMILIES = {
    "densenet121": ("features.denseblock1.denselayer2", "features.transition1", "features.norm0"),
    "mobilenet_v2": ("features.2", "features.3", "features.1.conv.2"),
    "efficientnet_b0": ("features.1", "features.2", "features.1.0.block.0"),
    "convnext_tiny": ("features.0", "features.1", "features.1.0"),
    "googlenet": ("conv2", "inception3a", "conv1.bn"),
    "regnet_y_400mf": ("stem", "trunk_output.block1", "trunk_output.block2"),
    "shufflenet_v2_x0_5": ("conv1", "stage2", "conv1.1"),
    "resnet34": ("layer1", "layer2.0", "layer1.0.bn2"),
}


def network(architecture: str) -> nn.Module:
    """Torchvision's network with numbers in all of its statistics, in eval mode."""
    torch.manual_seed(3)
    options = {"transform_input": True, "init_weights": False} if architecture == "googlenet" else {}
    made: nn.Module = get_model(architecture, weights=None, **options).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return made


def hooked(made: nn.Module, names: tuple[str, ...], image: Tensor) -> dict[str, Tensor]:
    """What modules give, copied at once."""
    found: dict[str, Tensor] = {}
    for name in names:
        made.get_submodule(name).register_forward_hook(
            lambda module, given, maps, name=name: found.__setitem__(name, maps.clone())
        )
    with torch.no_grad():
        made(image)
    return found


@pytest.mark.parametrize("architecture", FAMILIES)
def test_maps_are_those_of_torchvisions_modules(architecture: str, tmp_path: Path) -> None:
    names, made = FAMILIES[architecture], network(architecture)
    save_file(made.state_dict(), tmp_path / "own.safetensors")
    net = traced.load(architecture, str(tmp_path / "own.safetensors"), names, preprocessing="imagenet")
    image = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(2))
    before, maps = image.clone(), net(image)
    assert list(maps) == list(names)
    for name, expected in hooked(made, names, image).items():
        torch.testing.assert_close(maps[name], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(image, before)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_network_is_cut_after_its_layers() -> None:
    net = traced.load("densenet121", "random", ["features.denseblock1"])
    assert not any("denseblock2" in name or "classifier" in name for name, _ in net.named_parameters())


def test_an_old_densenet_file_is_read(tmp_path: Path) -> None:
    """Torchvision's files have ``norm.1`` where its network has ``norm1``."""
    state = network("densenet121").state_dict()
    old = {key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value for key, value in state.items()}
    assert old.keys() != state.keys()
    nets = []
    for place, keys in enumerate((state, old)):
        save_file(keys, file := tmp_path / f"{place}.safetensors")
        nets.append(traced.load("densenet121", str(file), ["features.denseblock1"], preprocessing="imagenet"))
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(*(net(image)["features.denseblock1"] for net in nets))


def test_random_weights_depend_on_their_seed_alone() -> None:
    def parameters(seed: int) -> Tensor:
        net = traced.load("convnext_tiny", "random", ["features.1"], seed=seed)
        return torch.cat([value.flatten() for value in net.state_dict().values()])

    before = torch.get_rng_state()
    assert torch.equal(parameters(5), parameters(5))
    assert not torch.equal(parameters(5), parameters(6))
    assert torch.equal(torch.get_rng_state(), before)


def test_grouped_convolutions_are_he_initialised() -> None:
    net = traced.load("mobilenet_v2", "random", ["features.18"])
    deep = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1 and m.weight.numel() > 4000]
    assert deep
    for module in deep:
        assert module.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)


def test_max_pooling_is_replaced() -> None:
    nets = [
        traced.load("densenet121", "random", ["features.relu0", "features.pool0"], pooling=p) for p in ("max", "avg")
    ]
    image = torch.rand(1, 3, 40, 40)
    maps = nets[1](image)
    averaged = nn.AvgPool2d(3, 2, 1, count_include_pad=False)(maps["features.relu0"])
    torch.testing.assert_close(maps["features.pool0"], averaged)
    assert not torch.equal(maps["features.pool0"], nets[0](image)["features.pool0"])


def test_automatic_preprocessing_is_what_torchvision_trained_with() -> None:
    assert traced.load("mobilenet_v2", "random", ["features.0"]).preprocessing == PREPROCESSINGS["imagenet"]
    other = traced.load("efficientnet_v2_l", "random", ["features.0"]).preprocessing
    assert (other.mean, other.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("architecture", ["densenet121", "efficientnet_b0", "regnet_y_128gf", "googlenet"])
def test_a_download_would_be_checked(architecture: str) -> None:
    assert weights.hash_in_name(weights.of_torchvision(architecture).url)


@pytest.mark.parametrize(
    ("architecture", "layers", "pooling", "said"),
    [
        ("denset121", ["features.0"], "max", "Did you mean 'densenet121'"),
        ("vgg16", ["features.0"], "max", "backbone=vgg16"),
        ("squeezenet1_1", ["features.0"], "max", "backbone=squeezenet"),
        ("densenet121", ["features.densblock2"], "max", "Did you mean 'features.denseblock2'.*features.transition1"),
        ("densenet121", ["classifier"], "max", "gives no feature map.*features.transition1"),
        ("mobilenet_v2", ["classifier.0"], "max", "gives no feature map"),
        ("densenet121", [], "max", "No layer is asked for"),
        ("vit_b_16", ["encoder"], "max", "one size only"),
        ("swin_t", ["features.0"], "max", "gives no feature map"),
        ("mobilenet_v2", ["features.3"], "avg", "has no max pooling"),
        ("inception_v3", ["Mixed_6a"], "avg", "by a function"),
        ("densenet121", ["features.pool0"], "mean", "no pooling 'mean'"),
    ],
)
def test_what_cannot_be_had_is_told_before_weights_are_loaded(
    architecture: str, layers: list[str], pooling: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises((ConfigError, UserError), match=said):
        traced.load(architecture, "torchvision", layers, pooling)


def test_a_too_small_image_is_a_user_error(capfd: pytest.CaptureFixture[str]) -> None:
    net = traced.load("alexnet", "random", ["features.5"])
    with pytest.raises(UserError, match=r"too small for the layers features\.5"):
        net(torch.rand(1, 3, 20, 20))
    assert capfd.readouterr().err == ""


def test_it_paints_and_its_memory_is_told() -> None:
    problem = posed(
        "backbone=torchvision", "backbone.architecture=mobilenet_v2", "backbone.weights=random", "size=48",
        "pooling=max", "layers.content=[features.3]", "layers.style=[features.1:2,features.3]",
        "style_loss=gram_smooth", "content_loss=mse_smooth",
    )  # fmt: skip
    assert problem.fit.need is not None
    pixels = (problem.start + 0.01).requires_grad_()
    losses = problem.evaluate(pixels)
    assert torch.autograd.grad(losses.total.sum(), pixels)[0].abs().max() > 0
    assert {"style_layers/features.1", "style_layers/features.3"} < losses.unweighted.keys()


CHOSEN = ("backbone=torchvision", "backbone.architecture=densenet121", "backbone.weights=random")


def test_from_the_command_line(tmp_path: Path) -> None:
    layers = ("layers.content=[features.denseblock1]", "layers.style=[features.relu0,features.denseblock1]")
    out = f"hydra.run.dir={tmp_path}/out"
    result = run(*CHOSEN, *layers, *TINY, "pooling=avg", "evaluator=none", "precision=bfloat16", "engine=fused", out)
    said = result.stdout + result.stderr
    assert result.returncode == 0, said
    assert said.count("precision=bfloat16: densenet121 is not made for it, and computes in float32") == 1
    assert "densenet121 is not made for it, engine=plain runs it" in said
    assert (tmp_path / "out" / "result.png").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ((), ["layers: name them", "features.denseblock1, features.transition1"]),
        (
            ("layers.style=[features.x]", "layers.content=[y]"),
            ["layers.style: There is no", "layers.content: There is"],
        ),
        (("layers.style=[features.relu0]", "+backbone.padding=reflect"), ["There is no argument of load 'padding'"]),
    ],
)
def test_the_command_says_what_to_do(typed: tuple[str, ...], said: list[str]) -> None:
    text = refused(run(*CHOSEN, *TINY, *typed))
    assert all(part in text for part in said)
