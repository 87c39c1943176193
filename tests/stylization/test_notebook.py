"""The founding recipe: ours beside a plain restatement of the notebook on torchvision's own network.

The notebook looped over ``vgg19().features[:29]`` and stored the outputs of layers 0, 5, 10, 19 and 28. The ReLUs work
in place, so that all but the last stored map were rectified by the time they were compared.
"""

import numpy as np
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from problems import Steps, composed, pose
from torchvision import transforms

from nst.setup.check import check

STORED = (0, 5, 10, 19, 28)
NAMES = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "conv5_1"]
SIZE = 48


@pytest.fixture(scope="module")
def features():
    """torchvision's VGG-19 up to layer 28, ReLUs in place, with random weights that keep activations near 1."""
    with torch.device("meta"):
        network = torchvision.models.vgg19(weights=None).features[:29]
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        spread = (2 / parameter[0].numel()) ** 0.5 if name.endswith("weight") else 0.1
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    assert all(module.inplace for module in network if isinstance(module, torch.nn.ReLU))
    return network


@pytest.fixture(scope="module")
def files(features, tmp_path_factory):
    """The weights, two pictures that are not square, and a noisy content image to start from."""
    folder = tmp_path_factory.mktemp("notebook")
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, folder / "vgg19.pth")
    rng = np.random.default_rng(0)
    for name, shape in (("content", (9, 12)), ("style", (14, 8))):
        coarse = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        coarse.resize((shape[1] * 10, shape[0] * 10), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    squeezed = np.asarray(Image.open(folder / "content.png").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    noisy = np.clip(squeezed + rng.normal(0, 25, squeezed.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / "noisy.png")
    return folder


def read(path):
    """Open an image as the notebook did."""
    loader = transforms.Compose([transforms.Resize((SIZE, SIZE)), transforms.ToTensor()])
    return loader(Image.open(path).convert("RGB")).unsqueeze(0)


def notebook(features, content, style, start, steps, dtype=torch.float32):
    """Return the (total, content, style) losses of every picture, and the pictures."""
    features = features.to(dtype)
    content, style = content.to(dtype), style.to(dtype)

    def stored_maps(image):
        maps = []
        for index, layer in enumerate(features):
            image = layer(image)
            if index in STORED:
                maps.append(image)
        return maps

    generated = start.to(dtype).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([generated], lr=3e-4)
    losses, pictures = [], []
    for step in range(steps + 1):
        generated_maps, content_maps, style_maps = stored_maps(generated), stored_maps(content), stored_maps(style)
        content_loss = style_loss = 0
        for gen, cont, sty in zip(generated_maps, content_maps, style_maps, strict=True):
            _, channel, height, width = gen.shape
            content_loss = content_loss + torch.mean((gen - cont) ** 2)
            gen_gram = gen.view(channel, height * width).mm(gen.view(channel, height * width).t())
            sty_gram = sty.view(channel, height * width).mm(sty.view(channel, height * width).t())
            style_loss = style_loss + torch.mean((gen_gram - sty_gram) ** 2)
        total = 1 * content_loss + 0.01 * style_loss
        losses.append((total.item(), content_loss.item(), style_loss.item()))
        pictures.append(generated.detach().clone())
        if step < steps:
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    features.to(torch.float32)
    return np.array(losses), torch.cat(pictures)


def compose(*overrides):
    return composed("experiment=notebook", *overrides)


def ours(files, *overrides, steps):
    """Return the (total, alpha x content, beta x style) losses of every picture, and the pictures."""
    config = compose(
        f"backbone.weights={files / 'vgg19.pth'}",
        f"content={files / 'content.png'}",
        f"style={files / 'style.png'}",
        f"size={SIZE}",
        f"steps={steps}",
        "device=cpu",
        *overrides,
    )
    check(config)
    watch = Steps()
    pose(config).optimize(watch)
    losses = [(s.losses.total.item(), s.losses.content.item(), s.losses.style.item()) for s in watch.seen]
    return np.array(losses), torch.cat([step.pixels for step in watch.seen])


def starting_at(start, files):
    """Return the overrides for a start, and the same start as the notebook would read it."""
    if start == "content":
        return [], read(files / "content.png")
    return ["init=file", f"init.path={files / 'noisy.png'}"], read(files / "noisy.png")


def test_preset_has_the_settings_of_the_founding_notebook():
    config = OmegaConf.to_container(compose(), resolve=True)
    expected = {
        "alpha": 1.0,
        "beta": 0.01,
        "tv": 0.0,
        "steps": 2000,
        "size": 224,
        "fit": "square",
        "resample": "bilinear",
        "pooling": "max",
        "pixel_space": "unit",
        "precision": "float32",
        "clamp": "never",
        "jitter": 0,
    }
    assert {name: config[name] for name in expected} == expected
    assert config["layers"] == {"content": NAMES, "style": NAMES, "combine": "sum"}
    assert config["backbone"]["architecture"] == "vgg19"
    assert config["backbone"]["weights"] == "torchvision"
    assert config["backbone"]["preprocessing"] == "none"
    content, style = config["content_loss"], config["style_loss"]
    assert content == {"_target_": "nst.losses.MSELoss", "norm": "none", "reduction": "mean", "scale": 1.0}
    assert style["_target_"] == "nst.losses.GramLoss"
    assert [style[k] for k in ("gram_norm", "term_norm", "reduction", "scale")] == ["none", "none", "mean", 1.0]
    assert config["init"]["_target_"] == "nst.optimization.initial.from_content"
    optimizer = dict(config["optimizer"])
    assert optimizer.pop("_target_") == "torch.optim.Adam"
    assert optimizer.pop("_partial_") is True
    assert optimizer == {"lr": 3e-4, "betas": [0.9, 0.999]}


def test_what_is_typed_beside_the_preset_wins():
    config = compose("beta=0.5", "steps=3", "clamp=end", "optimizer.lr=0.1")
    assert (config.beta, config.steps, config.clamp, config.optimizer.lr) == (0.5, 3, "end", 0.1)


@pytest.mark.parametrize(
    ("start", "steps", "precision", "engine", "tolerance"),
    [
        ("content", 4, "float32", "plain", 1e-4),
        ("content", 4, "float32", "fused", 1e-3),  # Adam's first step takes the sign of gradients as small as rounding
        ("noisy", 3, "float32", "plain", 1e-4),
        ("noisy", 3, "float32", "fused", 1e-4),
        ("noisy", 1, "float64", "plain", 1e-7),
        ("noisy", 1, "float64", "fused", 1e-7),
    ],
)
def test_preset_is_the_notebook_step_by_step(start, steps, precision, engine, tolerance, features, files):
    overrides, picture = starting_at(start, files)
    dtype = getattr(torch, precision)
    expected, pictures = notebook(
        features, read(files / "content.png"), read(files / "style.png"), picture, steps, dtype
    )
    losses, pixels = ours(files, f"precision={precision}", f"engine={engine}", *overrides, steps=steps)
    assert losses.shape == (steps + 1, 3)
    assert torch.equal(pixels[0], pictures[0]), "not the same start"
    assert (losses[0, 1] == 0) == (start == "content")
    np.testing.assert_allclose(losses, expected * [1, 1, 0.01], rtol=tolerance)
    moved = (pictures[-1] - pictures[0]).abs().max().item()
    assert moved > 0.5 * steps * 3e-4
    assert (pixels - pictures).abs().max() < 1e-3 * moved


def test_the_first_layer_before_its_relu_is_not_what_the_notebook_compared(features, files):
    overrides, picture = starting_at("noisy", files)
    expected, _ = notebook(features, read(files / "content.png"), read(files / "style.png"), picture, 0)
    layers = f"[{','.join(['conv1_1', *NAMES[1:]])}]"
    losses, _ = ours(files, f"layers.content={layers}", f"layers.style={layers}", *overrides, steps=1)
    _, content, style = losses[0] / (expected[0] * [1, 1, 0.01])
    assert abs(content - 1) > 0.01
    assert abs(style - 1) > 0.01


def test_activations_of_the_test_network_are_sensible(features, files):
    image = read(files / "content.png")
    for index, layer in enumerate(features):
        image = layer(image)
        if index in STORED:
            assert 0.05 < image.std() < 20
