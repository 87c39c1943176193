"""How a run begins: the margin, targets that follow the jitter, the units of its rate, its steps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from problems import posed

from nst.images.pixels import with_margin
from nst.images.rgb import locate

SIZE = "size=48"


@pytest.mark.parametrize("margin", [1, 5, 8])
def test_the_margin_is_torchs_reflection_with_its_gradient(margin: int) -> None:
    picture = torch.rand(2, 3, 9, 12, dtype=torch.float64, requires_grad=True)
    ours = with_margin(picture, margin)
    reference = torch.nn.functional.pad(picture, (margin,) * 4, mode="reflect")
    assert torch.equal(ours, reference)
    weights = torch.rand_like(ours)
    (ours_gradient,) = torch.autograd.grad((ours * weights).sum(), picture)
    (reference_gradient,) = torch.autograd.grad((reference * weights).sum(), picture)
    torch.testing.assert_close(ours_gradient, reference_gradient, rtol=1e-12, atol=0)


def test_a_margin_wider_than_the_picture_takes_what_there_is() -> None:
    assert with_margin(torch.rand(1, 3, 4, 20), 8).shape == (1, 3, 4 + 2 * 3, 20 + 2 * 8)
    assert with_margin(torch.rand(1, 3, 1, 20), 8).shape == (1, 3, 1, 20 + 2 * 8)
    picture = torch.rand(1, 3, 4, 4)
    assert torch.equal(with_margin(picture, 0), picture)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (3, 5), (7, 7)])
def test_the_content_image_is_at_its_own_target_whatever_the_shift(shift: tuple[int, int]) -> None:
    assert float(posed(SIZE).evaluate(shift=shift).content) == 0
    assert float(posed(SIZE, "init=style").evaluate(shift=shift).content) > 0.1


def test_a_shift_moves_what_the_network_sees_and_the_margin_is_seen() -> None:
    problem = posed(SIZE, "init=style")
    style = {shift: float(problem.evaluate(shift=shift).style) for shift in ((0, 0), (1, 0), (0, 1))}
    assert len(set(style.values())) == 3
    assert float(posed(SIZE, "init=style", "margin=0").evaluate().style) != style[0, 0]


# ---------------------------------------------------------------- rates in every pixel space, and steps that are typed


def painted(folder: Path, *overrides: str) -> tuple[np.ndarray, str]:
    """Return the pixels of a result, and what the run logged."""
    result = run("evaluator=none", f"hydra.run.dir={folder}", *overrides)
    assert result.returncode == 0, result.stderr
    with Image.open(folder / "result.png") as picture:
        return np.asarray(picture.convert("RGB"), np.float64), result.stdout + result.stderr


def test_a_recipe_of_bytes_paints_with_an_optimiser_of_ours(tmp_path: Path) -> None:
    small = ("size=64", "experiment=gatys2016_code", "backbone=vgg16", "backbone.weights=bundled", "steps=40")
    ours, log = painted(tmp_path / "ours", *small, "optimizer=adam")
    content = np.asarray(Image.open(locate("coffee")).convert("RGB").resize(ours.shape[1::-1]), np.float64)
    assert np.abs(ours - content).mean() > 10  # of 255; with 0.025 of 255 a step it was below 1
    assert "raise optimizer.lr" not in log
    _, log = painted(tmp_path / "slow", *small, "optimizer=adam", "optimizer_units=pixels", "steps=3")
    assert "optimizer.lr=0.025 moves a pixel by 0.00029 of the range from black to white at most in 3 steps" in log


def test_typed_steps_win_over_a_recipes_list(tmp_path: Path) -> None:
    small = ("backbone=vgg16", "backbone.weights=bundled", "size=48", "schedule.from=32", "experiment=crowsonkb")
    painted(tmp_path, *small, "steps=2")
    assert [scale["steps"] for scale in json.loads((tmp_path / "run.json").read_text())["scales"]] == [2, 2]
