"""Every preset beside an independent statement of its recipe: terms, gradient, and the pixels after three steps."""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import command_line
import make_recipes_docs
import numpy as np
import pytest
import recipes_stated as stated
import torch
import torchvision
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from problems import CONF, job, run_here
from problems import composed as composed_from_files
from torch import Tensor

from nst import configuration
from nst.errors import UserError
from nst.losses import GaussianMMDLoss, NearestNeighborLoss, RelaxedEMDLoss
from nst.losses.transport import SlicedWassersteinLoss, unit_directions
from nst.networks import backbones, rescaling, weights
from nst.optimization.loop import Outcome
from nst.optimization.state import LossOfPicture
from nst.runs import resume
from nst.samples import FOLDER, samples
from nst.setup import fitting
from nst.setup.check import check
from nst.setup.layers import layer_weights
from nst.stylization import stylize

TRAINED = {"johnson2016", "ulyanov2017"}  # of networks: tests/training/test_training_presets.py
PRESETS = sorted(set(make_recipes_docs.published()) - TRAINED)
DEEPEST = {"vgg16": "features.26", "vgg19": "features.30", "squeezenet1_1": "features.7"}
SMALL = 24  # pixels of the photographs over which activations are rescaled

# What is made smaller than the recipe has it, so that three steps at 32 pixels meet it; the statements know.
SMALLER = {
    "crowsonkb": ["schedule.from=20", "steps=[2,1]"],
    "fastai": [f"optimizer.block={stated.FASTAI_BLOCK}"],
    **{
        f"cs231n_{name}": [
            f"clamp_until={stated.CS231N_UNTIL}",
            f"lr_schedule.milestones=[{stated.CS231N_DECAY}]",
            f"style_size={size}",
        ]
        for name, size in stated.CS231N_STYLES.items()
    },
    **{
        f"li2017_{name}": [f"lr_schedule.step_size={stated.LI2017_DECAY}"]
        for name in ("linear", "poly", "gaussian", "bn")
    },
    "strotss": [
        f"schedule.sizes=[{','.join(str(size) for size, _ in stated.STROTSS_SCALES)}]",
        f"steps=[{','.join(str(steps) for _, steps in stated.STROTSS_SCALES)}]",
        *(f"{kind}_loss.samples={stated.STROTSS_SAMPLES[0]}" for kind in ("content", "style")),
        f"style_loss.style_samples={stated.STROTSS_SAMPLES[1]}",
    ],
    "nnst": [f"schedule.from={stated.NNST_SCALES[0][0]}", "steps=2", f"style_loss.side={stated.NNST_SIDE}"],
}


def composed(name: str, *overrides: str) -> DictConfig:
    return composed_from_files(f"experiment={name}", *overrides)


@functools.cache
def random_weights(architecture: str) -> stated.State:
    """Weights that keep activations near their input's size, with small biases, by torchvision's keys."""
    with torch.device("meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, parameter in network.named_parameters():
        if key.startswith("features."):
            spread = (2 / parameter[0].numel()) ** 0.5 if key.endswith("weight") else 0.1
            state[key] = (spread * torch.randn(parameter.shape, generator=generator)).double()
            if key == f"{DEEPEST[architecture]}.bias":
                break
    return state


@pytest.fixture(autouse=True, scope="module")
def small_world() -> Iterator[None]:
    """Random weights wherever a preset asks for others, so that its preprocessing is what follows those it names."""

    def load(features: torch.nn.Module, architecture: str, source: str, *more: Any, **rest: Any) -> weights.Source:
        state = random_weights(architecture)
        with torch.no_grad():
            for name, parameter in features.named_parameters():
                parameter.copy_(state[f"features.{name}"])
        return weights.Source(source, None, None)

    fitting.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones.weight_sources, "load", load)
        patch.setattr(rescaling, "SIZE", SMALL)
        yield
    fitting.forget()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A content image of 32 x 24, a noisy one, and a style image of 28 x 40."""
    folder = tmp_path_factory.mktemp("presets")
    rng = np.random.default_rng(0)
    for name, (width, height) in (("content", (32, 24)), ("style", (28, 40))):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    content = np.asarray(Image.open(folder / "content.png"))
    noisy = np.clip(content + rng.normal(0, 25, content.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / "noisy.png")
    return folder


def drawn(loss: object) -> Any:
    """Return the numbers that a preset's style loss draws, of which the statements know no more than what they are."""

    def directions(step: int, channels: int, positions: int) -> Tensor:
        assert isinstance(loss, SlicedWassersteinLoss)
        loss.begin_step(step, 0)
        return unit_directions(channels, channels, loss.generator())

    def pairs(step: int, channels: int, positions: int) -> list[tuple[Tensor, Tensor]]:
        assert isinstance(loss, GaussianMMDLoss)
        loss.begin_step(step, 0)
        places = torch.arange(positions).view(1, -1, 1)
        found = [(a.flatten(), b.flatten()) for a, b in loss._draw(places, places)]
        for first, second in found:
            assert len(set(first.tolist()) | set(second.tolist())) == positions // 2 * 2, "a position twice"
        return found

    def places(step: int, count: int, positions: int) -> Tensor:
        assert isinstance(loss, RelaxedEMDLoss)
        loss.begin_step(step, 0)
        numbered = torch.arange(positions, dtype=torch.float64).view(1, 1, 1, -1)
        found = loss.columns((numbered,), count).flatten().long()
        assert len(set(found.tolist())) == min(count, positions), "a position twice"
        return found

    def offsets(step: int, *strides: int) -> list[tuple[int, int]]:
        assert isinstance(loss, NearestNeighborLoss)
        loss.begin_step(step, 0)
        generator, found = loss.generator(), []
        for side in (stride * loss.side for stride in strides):
            numbered = torch.arange(side * side).view(1, 1, side, side)
            found.append(divmod(int(loss._sampled(numbered, numbered, generator)[0].min()), side))
        return found

    kinds = {SlicedWassersteinLoss: directions, RelaxedEMDLoss: places, NearestNeighborLoss: offsets}
    return next((draw for kind, draw in kinds.items() if isinstance(loss, kind)), pairs)


def given(files: Path, job: DictConfig) -> stated.Given:
    networks = {name: random_weights(name) for name in ("vgg16", "vgg19", "squeezenet1_1")}
    photographs = [FOLDER / about["file"] for about in samples().values() if about["kind"] == "content"]
    return stated.Given(
        networks["vgg16"],
        networks["vgg19"],
        networks["squeezenet1_1"],
        files / "content.png",
        files / "style.png",
        photographs,
        SMALL,
        drawn(configuration.build(job.style_loss)),
    )


@dataclass
class Seen:
    """What a run was about: the start of the first scale, its terms and gradient, and the picture at the end."""

    start: list[Tensor] = field(default_factory=list)
    terms: list[list[float]] = field(default_factory=list)
    gradient: list[Tensor] = field(default_factory=list)
    end: list[Tensor] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch) -> Seen:
    """Look over the shoulder of a run, which goes its ordinary way."""
    seen, optimize = Seen(), stylize.optimize

    def watched(picture: Tensor, losses_of: LossOfPicture, *more: Any, **rest: Any) -> Outcome:
        pixels = picture.clone().requires_grad_(True)
        losses = losses_of(pixels, (0, 0), 0)
        (gradient,) = torch.autograd.grad(losses.total.sum(), pixels)
        seen.start.append(picture.clone())
        seen.terms.append([float(term.detach()) for term in (losses.content, losses.style, losses.tv)])
        seen.gradient.append(gradient)
        outcome = optimize(picture, losses_of, *more, **rest)
        seen.end.append(outcome.last.pixels.clone())
        return outcome

    monkeypatch.setattr(stylize, "optimize", watched)
    return seen


def run(name: str, files: Path, folder: Path, *overrides: str) -> DictConfig:
    """Run a preset to its end, small."""
    style = f"style={files / 'style.png'}"
    small = job(folder, f"experiment={name}", style, "evaluator=none", "device=cpu", *overrides)
    run_here(small)
    assert (folder / "result.png").is_file()
    return small.config


@functools.cache
def plain(name: str) -> DictConfig:
    """A preset as it is, to be read only."""
    return composed(name)


def on(files: Path, name: str) -> list[str]:
    """Return the overrides for a test's content image, away from which a preset starts that would start there."""
    texture = plain(name).content == plain(name).style
    from_content = plain(name).init._target_ == "nst.optimization.initial.from_content"
    content = [] if texture else [f"content={files / 'content.png'}"]
    return content + (["init=file", f"init.path={files / 'noisy.png'}"] if from_content else [])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_computed_as_published(name: str) -> None:
    preset = plain(name)
    assert (preset.margin, preset.jitter, preset.precision) == (0, 0, "float32")


@pytest.mark.parametrize("name", sorted(stated.RECIPES))
def test_a_preset_is_as_long_and_as_large_as_its_recipe(name: str) -> None:
    expected = stated.SETTINGS[name]
    assert {knob: OmegaConf.select(plain(name), knob) for knob in expected} == expected


def test_every_preset_but_the_founding_one_which_has_its_own_test_is_stated() -> None:
    assert sorted(stated.RECIPES) == [name for name in PRESETS if name != "notebook"]


@pytest.mark.parametrize("name", sorted(stated.RECIPES))
def test_a_preset_is_its_recipe(name: str, files: Path, seen: Seen, tmp_path: Path) -> None:
    exact = [f"size={stated.SIZE}", f"steps={stated.STEPS}", "precision=float64", "engine=plain"]
    job = run(name, files, tmp_path, *exact, *on(files, name), *SMALLER.get(name, []))
    recipe = stated.RECIPES[name](given(files, job))
    start = seen.start[0]
    assert start.shape == recipe.content.shape
    if recipe.start is not None:
        assert torch.allclose(start, recipe.start(), rtol=0, atol=1e-6 * float(start.std()))

    theirs = [float(term) for term in recipe.terms(start)]
    np.testing.assert_allclose(seen.terms[0], theirs, rtol=1e-9)
    assert [term > 0 for term in theirs] == [weight > 0 for weight in (job.alpha, job.beta, job.tv)]
    gradient = stated.gradient(recipe.total, start)
    assert float((seen.gradient[0] - gradient).norm()) <= 1e-9 * float(gradient.norm())

    end = recipe.descend(start, recipe.total)
    moved = end - start if end.shape == start.shape else end
    assert float(moved.norm()) > 0
    assert float((seen.end[-1] - end).norm()) <= 1e-8 * float(moved.norm())


def test_the_tensorflow_tutorials_second_run_takes_one_word(files: Path, seen: Seen, tmp_path: Path) -> None:
    exact = [f"size={stated.SIZE}", "steps=1", "precision=float64", "tv=30"]
    job = run("tensorflow", files, tmp_path, *exact, *on(files, "tensorflow"))
    recipe = stated.tensorflow(given(files, job), tv=30.0)
    np.testing.assert_allclose(seen.terms[0], [float(term) for term in recipe.terms(seen.start[0])], rtol=1e-9)


@pytest.mark.parametrize("name", ["jcjohnson", "gatys2016_paper", "cs231n_scream", "heitz2021", "li2017_gaussian"])
def test_the_fused_engine_gives_a_preset_the_same_gradient_in_float32(
    name: str, files: Path, seen: Seen, tmp_path: Path
) -> None:
    small = [f"size={stated.SIZE}", "steps=1", *on(files, name), *SMALLER.get(name, [])]
    assert (plain(name).precision, plain(name).engine) == ("float32", "auto")
    run(name, files, tmp_path, *small)
    recipe = stated.RECIPES[name](given(files, plain(name)))
    gradient = stated.gradient(recipe.total, seen.start[0].double())
    assert float((seen.gradient[0] - gradient).norm()) <= 1e-3 * float(gradient.norm())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_it_departs_in_and_can_be_given_another_optimizer_loss_or_start(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    assert name == "notebook" or "# Departs from it:" in text
    assert text.splitlines()[1].endswith(".")
    check(composed(name, "optimizer=adam", "init=blend", "style_loss=gram", "content_loss=mse"))
    check(composed(name, "optimizer=lbfgs", "schedule=single"))


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_the_way_out_of_a_download_that_a_preset_is_told_passes_the_check(name: str) -> None:
    preset = composed(name)
    if name.startswith("cs231n"):
        return  # which is told to take another recipe
    layers = [layer for kind in ("content", "style") for layer in layer_weights(preset, kind)]
    words = backbones.no_download(preset.backbone.architecture, layers)
    typed = words.rpartition(": ")[2].rstrip(".").split()
    assert "backbone.weights=bundled" in typed
    check(composed(name, *typed))


def test_every_preset_runs_to_its_end_from_the_command_line(tmp_path: Path) -> None:
    small = ["size=32", "steps=2", "schedule=single", "backbone.weights=random", "backbone.rescale=none"]
    where = [f"hydra.sweep.dir={tmp_path}", "report=false", "evaluator=none"]
    result = command_line.run("-m", f"experiment={','.join(PRESETS)}", *small, *where, cwd=tmp_path, timeout=600)
    assert result.returncode == 0, result.stderr
    for number, name in enumerate(PRESETS):
        folder = tmp_path / f"{number}_experiment={name}"
        assert (folder / "result.png").is_file()
        assert json.loads((folder / "status.json").read_text())["status"] == "done"


def test_the_table_of_recipes_is_that_of_the_files() -> None:
    made = make_recipes_docs.page()
    assert (CONF.parent / "docs" / "recipes.md").read_text() == made, "run scripts/make_recipes_docs.py"
    assert all(f"[`{name}`]" in made for name in [*PRESETS, *TRAINED])


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_of_a_preset_can_be_resumed(name: str, tmp_path: Path) -> None:
    """Also where the preset's options leave arguments at what the code has them at by default."""
    chosen = composed(name)
    (tmp_path / "run.json").write_text(json.dumps({"config": resume.settings(chosen)}))
    resume.refuse_changes(tmp_path, chosen)
    chosen.style_loss.scale = 17.5
    with pytest.raises(UserError, match=r"style_loss\.scale"):
        resume.refuse_changes(tmp_path, chosen)
