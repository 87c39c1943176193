"""Losses added up: by hand against NumPy, and as a user types it, ``style_loss=gram+histogram``."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROOT, TINY, refused, run, script
from omegaconf import OmegaConf
from problems import CONF, composed, posed

from nst.configuration import tasks
from nst.errors import UserError
from nst.losses import GramLoss, Guided, HistogramLoss, MomentsLoss, SlicedWassersteinLoss, SumLoss
from nst.losses.protocols import traits
from nst.setup.check import check


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, shape))


def test_a_sum_is_the_weighted_sum_of_its_losses_as_numpy_says() -> None:
    losses = {"gram": GramLoss(scale=3), "histogram": HistogramLoss(norm="none", scale=0.5)}
    loss = SumLoss(losses, weights={"gram": 2, "histogram": 0.25})
    features, style = maps(3, 4, 5, 6), maps(1, 4, 5, 6, seed=1)
    expected = []
    for image in features.flatten(2).numpy():
        other = style[0].flatten(1).numpy()
        ours, theirs = image @ image.T / 30, other @ other.T / 30
        gram = ((ours - theirs) ** 2).mean() / (theirs**2).mean()
        histogram = ((np.sort(image) - np.sort(other)) ** 2).mean()
        expected.append(2 * 3 * gram + 0.25 * 0.5 * histogram)
    np.testing.assert_allclose(loss(features, loss.target(style)).numpy(), expected, rtol=1e-12)


def test_the_gradient_is_that_of_the_value() -> None:
    loss = SumLoss({"gram": GramLoss(), "sliced": SlicedWassersteinLoss()}, weights={"sliced": 0.3})
    target = loss.target(maps(1, 3, 4, 3, seed=1))
    assert torch.autograd.gradcheck(lambda x: loss(x, target), maps(2, 3, 4, 3).requires_grad_())


def test_a_loss_of_weight_0_is_left_out_whatever_it_would_need() -> None:
    drawing = SumLoss({"gram": GramLoss(), "sliced": SlicedWassersteinLoss()})
    still = SumLoss({"gram": GramLoss(), "sliced": SlicedWassersteinLoss()}, weights={"sliced": 0})
    features, style = maps(2, 3, 4, 5), maps(1, 3, 4, 5, seed=1)
    assert torch.equal(still(features, still.target(style)), GramLoss()(features, GramLoss().target(style)))
    assert hasattr(drawing, "begin_step")
    assert not hasattr(still, "begin_step")
    assert not traits(drawing).takes_guide
    assert traits(still).takes_guide


def test_the_losses_of_a_region_are_added_up() -> None:
    losses, mask = {"gram": GramLoss(scale=3), "moments": MomentsLoss(scale=2)}, maps(1, 1, 8, 10).abs()
    loss, features, style = SumLoss(losses), maps(2, 3, 4, 5), maps(1, 3, 6, 7, seed=1)
    alone = [one.scale * Guided(one, mask)(features, one.target(style)) for one in losses.values()]
    torch.testing.assert_close(Guided(loss, mask)(features, loss.target(style)), alone[0] + alone[1])


@pytest.mark.parametrize(
    ("weights", "message"),
    [({"a": -1}, r"weights\.a=-1"), ({"b": 1}, "loss of weights 'b'"), ({"a": 0}, "every weight is 0")],
)
def test_bad_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SumLoss({"a": GramLoss()}, weights=weights)


# ---------------------------------------------------------------- as it is typed


def option(group: str, name: str) -> Any:
    return OmegaConf.load(CONF / group / f"{name}.yaml")


@pytest.mark.parametrize(
    ("group", "names"),
    [("style_loss", "gram+histogram"), ("style_loss", "mrf+gram+moments"), ("content_loss", "mse+self_similarity")],
)
def test_a_sum_holds_its_options_under_their_names(group: str, names: str) -> None:
    node = composed(f"{group}={names}")[group]
    assert node._target_ == "nst.losses.SumLoss"
    assert node.losses == {name: option(group, name) for name in names.split("+")}
    assert node.weights == dict.fromkeys(names.split("+"), 1.0)
    check(composed(f"{group}={names}"))


def test_what_is_typed_of_a_sum_wins() -> None:
    typed = ("style_loss=gram+histogram", "style_loss.weights.gram=2", "style_loss.losses.histogram.norm=none")
    node = composed(*typed).style_loss
    assert (node.weights.gram, node.losses.histogram.norm) == (2, "none")
    assert node.losses.gram == option("style_loss", "gram")


def test_a_sum_is_computed_of_what_each_loss_would_be_alone() -> None:
    common = ("size=32", "precision=float64", "evaluator=none")
    both = posed(*common, "style_loss=gram+sliced_wasserstein", "style_loss.weights.gram=2")
    alone = [posed(*common, f"style_loss={name}") for name in ("gram", "sliced_wasserstein")]
    for step in (0, 3):
        expected = [one.evaluate(both.start, step=step).style.item() for one in alone]
        assert both.evaluate(step=step).style.item() == pytest.approx(2 * expected[0] + expected[1], rel=1e-9)
    assert alone[1].evaluate(step=0).style != alone[1].evaluate(step=3).style  # directions are drawn for each step


def test_recipes_choose_sums_and_lend_their_losses_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "both.yaml").write_text(
        "# @package _global_\ndefaults: [override /style_loss: gram+moments]\n"
        "style_loss: {weights: {moments: 0.5}, losses: {gram: {shift: -1.0}}}\n"
    )
    (folder / "listed.yaml").write_text("# @package _global_\ndefaults: [override /style_loss: [gram, moments]]\n")

    def node(*words: str) -> Any:
        result = run("--config-dir", str(tmp_path / "own"), *words, "--cfg", "job", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return OmegaConf.create(result.stdout).style_loss

    mine = node("experiment=both")
    assert mine.weights == {"gram": 1.0, "moments": 0.5}
    assert mine.losses.gram == {**option("style_loss", "gram"), "shift": -1.0}
    assert mine.losses.moments == option("style_loss", "moments")
    assert node("experiment=both", "style_loss=gram") == option("style_loss", "gram")
    assert node("experiment=sketch", "style_loss=histogram+both").losses.both == mine
    assert "added with a +" in refused(run("--config-dir", "own", "experiment=listed", cwd=tmp_path))


def test_the_seed_says_nothing_where_no_loss_of_a_sum_draws() -> None:
    still, drawing = (composed(f"style_loss=gram+{one}", "jitter=0") for one in ("moments", "sliced_wasserstein"))
    assert "seed" in tasks.idle(still)
    assert "seed" not in tasks.idle(drawing)


def test_a_loss_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"names gram twice.*style_loss\.weights\.gram=2"):
        composed("style_loss=gram+moments+gram")


def test_a_sweep_with_sums_is_run_resumed_and_reproduced(tmp_path: Path) -> None:
    typed = ("-m", "style_loss=gram,gram+histogram", "content_loss=mse+self_similarity", "evaluator=none", *TINY)
    result = run(*typed, "hydra.sweep.dir=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    both = tmp_path / "out" / "1_style_loss=gram+histogram"
    record = json.loads((both / "run.json").read_text())
    assert record["choices"]["style_loss"] == "gram+histogram"
    assert record["config"]["style_loss"]["weights"] == {"gram": 1.0, "histogram": 1.0}
    picture = (both / "result.png").read_bytes()
    assert picture != (tmp_path / "out" / "0_style_loss=gram" / "result.png").read_bytes()
    again = script(ROOT / "scripts" / "reproduce.py", both, "--out", tmp_path / "again", cwd=tmp_path)
    assert (again.returncode, "Identical" in again.stdout) == (0, True), again.stdout + again.stderr
    shutil.rmtree(both)
    result = run("resume=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (both / "result.png").read_bytes() == picture
