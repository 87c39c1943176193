"""The optimiser's own pictures, painted within a training, against those of runs that optimise one picture."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import command_line
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from problems import CPU, composed
from torch import Tensor

from nst import runtime
from nst.errors import ConfigError
from nst.images import rgb
from nst.setup.inputs import load_images
from nst.setup.network import load_network
from nst.training import reference
from nst.training.reference import Painted

PAINTER = {
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.025, "betas": [0.9, 0.99]},
    **{"steps": 5, "clamp": "step", "jitter": 8, "margin": 8, "at_once": 4},
}
# What a training sets for its own descent, and what must not touch the painter's.
OF_THE_NETWORK = ("steps=77", "clamp=never", "jitter=0", "margin=0", "optimizer.lr=9", "lr_schedule=exponential",
                  "init=noise", "schedule=pyramid")  # fmt: skip


def training(*overrides: str, **painter: Any) -> DictConfig:
    """Compose the configuration of a training."""
    config = composed("size=48", "seed=3", *OF_THE_NETWORK, *overrides)
    OmegaConf.update(config, "training", {"painter": {**PAINTER, **painter}}, merge=False, force_add=True)
    return config


def paint(config: DictConfig, contents: dict[str, Tensor] | None = None, **options: Any) -> Painted:
    inputs = load_images(config, CPU)
    contents = {str(config.content): inputs.content} if contents is None else contents
    runtime.prepare("cpu", config.precision)
    with runtime.PoliteStop() as stop:
        stop.hold()  # a signal waits until it is asked for
        return reference.paint(config, inputs, contents, load_network(config, CPU), stop, **options)


@pytest.mark.parametrize(
    ("overrides", "painter", "typed"),
    [
        ((), {}, ()),
        (
            ("beta=0.1", "tv=0.5", "style=mosaic", "content_loss=mse_raw", "alpha=2", "style_size=64"),
            {"steps": 4, "jitter": 0, "margin": 3, "clamp": "end"},
            ("jitter=0", "margin=3", "clamp=end", "steps=4"),
        ),
        (
            ("style_loss=moments", "style=[wave,mosaic]", "style_weights=[1,3]"),
            {"optimizer": {"_target_": "torch.optim.LBFGS", "_partial_": True, "lr": 1.0, "line_search_fn": None,
                           "history_size": 100, "tolerance_grad": 0.0, "tolerance_change": 0.0},
             "clamp": "end", "jitter": 0},
            ("optimizer=lbfgs",),
        ),
    ],
)  # fmt: skip
def test_a_picture_has_the_bytes_of_a_run_that_optimises_it(
    tmp_path: Path, overrides: tuple[str, ...], painter: dict[str, Any], typed: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    ran = command_line.run("size=48", "seed=3", "steps=5", "evaluator=none", *overrides, *typed,
                           f"hydra.run.dir={folder}")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    config = training(*overrides, **painter)
    painted = paint(config)
    assert rgb.encode(painted.pictures["coffee"]) == (folder / "result.png").read_bytes()
    assert painted.steps == painter.get("steps", 5)
    assert painted.seconds > 0
    assert config == training(*overrides, **painter)  # it is not changed
    assert config.steps == 77


def test_several_contents_are_painted_together_as_each_alone() -> None:
    config = training("precision=float64")
    contents = {name: rgb.load(name, 48, "square").double() for name in ("coffee", "chelsea", "rocket")}
    together = paint(config, contents)
    assert list(together.pictures) == list(contents)
    for name, content in contents.items():
        alone = paint(config, {name: content})
        torch.testing.assert_close(together.pictures[name], alone.pictures[name], rtol=0, atol=1e-9)
        assert together.final[name]["loss/total"] == pytest.approx(alone.final[name]["loss/total"], rel=1e-9)
    assert (together.pictures["coffee"] - contents["coffee"]).abs().mean() > 0.01


def test_a_signal_stops_it_between_two_steps() -> None:
    done: list[int] = []

    def watch(step: int) -> None:
        done.append(step)
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(runtime.Interrupted):
        paint(training(), watch=watch)
    assert done == [0, 1, 2]


def test_the_global_generator_has_the_seed_of_the_run_and_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeds: set[int] = set()
    paint(training(), watch=lambda step: seeds.add(torch.initial_seed()))
    assert torch.equal(torch.rand(3), expected)
    assert seeds == {3}  # as in a run, for a loss of one's own that draws


@pytest.mark.parametrize(
    ("overrides", "optimizer", "expected"),
    [
        ((), "torch.optim.Adam", 4),
        ((), "torch.optim.LBFGS", 4),
        ((), "nst.optimization.optimizers.ScipyLBFGSB", 1),
        (("style_loss=sliced_wasserstein",), "torch.optim.Adam", 4),
        (("backbone._target_=my.own",), "torch.optim.Adam", 1),
    ],
)
def test_contents_are_painted_at_once_where_they_do_not_touch(
    overrides: tuple[str, ...], optimizer: str, expected: int
) -> None:
    assert reference.at_once(training(*overrides, optimizer={"_target_": optimizer})) == expected


@pytest.mark.parametrize(
    ("painter", "words"),
    [
        ({"steps": 0}, r"training\.painter\.steps=0 is out of range: it must be from 1"),
        ({"steps": "many"}, "no whole number"),
        ({"jitter": True}, "no whole number"),
        ({"margin": -1}, "out of range"),
        ({"clamp": "steps"}, "Did you mean 'step'"),
        ({"step": 4}, "Did you mean 'steps'"),
    ],
)
def test_what_is_wrong_with_the_painter_is_told(painter: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        paint(training(**painter))
    assert len(reference.problems({**PAINTER, **painter})) == 1
    assert reference.problems({}) == [f"training.painter.{name} is missing." for name in PAINTER]
    assert reference.problems(None)
