"""Coarse to fine: sizes and steps, what is refused, and that a run of several scales is one run, whatever happens."""

import csv
import functools
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import kill_and_resume
import pytest
import torch
from batches import done_together
from command_line import refused, run
from omegaconf import OmegaConf, open_dict
from PIL import Image
from problems import composed, job, posed, run_here, stylized

from nst import runtime
from nst.batching import grouping
from nst.batching.grouping import Candidate
from nst.errors import ConfigError, UserError
from nst.optimization import schedule
from nst.optimization.schedule import Scale
from nst.runs import checkpoint, resume
from nst.runtime import memory
from nst.setup import check, fitting
from nst.setup.estimate import Need
from nst.stylization import stylize

TINY = ("schedule=pyramid", "schedule.sizes=[32,48]", "steps=3", "log_every=1", "evaluator=none", "device=cpu")
RATES = "torch.optim.lr_scheduler"
LAYERS = "layers.style=[conv1,fire2,fire3]"
NEIGHBORS = ("style_loss=nearest_neighbors", "jitter=0", "schedule.sizes=[48,64]")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


# ---------------------------------------------------------------- sizes and steps


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), [(256, 300)]),
        (("schedule=pyramid", "size=512"), [(128, 300), (181, 300), (256, 300), (362, 300), (512, 300)]),
        (
            ("schedule=pyramid", "size=512", "schedule.from=100", "schedule.factor=2", "steps=[1000,500]"),
            [(128, 1000), (256, 500), (512, 500)],
        ),
        (("schedule=pyramid", "schedule.to=300", "schedule.factor=2.0", "steps=7"), [(150, 7), (300, 7)]),
        (("schedule=pyramid", "size=96", "steps=5"), [(96, 5)]),
        (("schedule=pyramid", "schedule.sizes=[512,800]", "steps=[500,200]"), [(512, 500), (800, 200)]),
        (("schedule=pyramid", "schedule.from=16", "schedule.factor=1.05", "size=17"), [(16, 300), (17, 300)]),
        (
            ("schedule=pyramid", "schedule.from=64", "schedule.factor=2", "schedule.again=2", "size=128"),
            [(64, 300), (128, 300), (128, 300), (128, 300)],
        ),
        (("schedule=pyramid", "schedule.sizes=[64,64,96]", "steps=[5,4,3]"), [(64, 5), (64, 4), (96, 3)]),
        (("schedule=pyramid", "schedule.sizes=[64,96]", "schedule.again=1", "steps=5"), [(64, 5), (96, 5), (96, 5)]),
    ],
)
def test_scales_are_counted_from_the_last(overrides: tuple[str, ...], expected: list[tuple[int, int]]) -> None:
    found = composed(*overrides)
    assert schedule.problems(found, 16, 8192) == []
    assert schedule.scales(found) == [Scale(*scale) for scale in expected]
    assert schedule.total_steps(found) == sum(steps for _, steps in expected)


def test_a_scale_is_a_run_of_its_own_size_and_steps() -> None:
    whole = composed("schedule=pyramid", "schedule.sizes=[64,96]", "steps=[5,4]", "lr_schedule=cosine")
    with open_dict(whole):
        whole.style_size = 48
    one = schedule.at(whole, 0)
    assert (one.size, one.steps, one.style_size) == (64, 5, 32)
    assert schedule.with_length(one.lr_schedule, one.steps)["T_max"] == 5
    assert (schedule.at(whole, -1).size, schedule.at(whole, -1).steps, schedule.at(whole, 1).style_size) == (96, 4, 48)
    assert (whole.size, whole.steps) == (256, [5, 4])
    assert schedule.scales(one) == [Scale(64, 5)]
    changed = {"size", "steps", "style_size", "schedule"}
    assert {key: one[key] for key in one if key not in changed} == {k: whole[k] for k in whole if k not in changed}
    whole.style_size = [48, None]
    assert schedule.at(whole, 0).style_size == [32, None]
    whole.schedule.optimizer = "carry"
    carried = [schedule.at(whole, number) for number in (0, 1)]
    assert [schedule.with_length(one.lr_schedule, one.steps)["T_max"] for one in carried] == [9, 9]


@pytest.mark.parametrize(
    ("factors", "scales", "expected"),
    [
        ("[1,0.5]", 4, [1, 0.5, 0.5, 0.5]),
        ("[1,0.5,0.25]", 2, [1, 0.5]),
        ("[1,'...',0]", 4, [1, 1, 1, 0]),
        ("[2,1,'...',0.5,0]", 6, [2, 1, 1, 1, 0.5, 0]),
        ("[1,'...',0]", 2, [1, 0]),
        ("[1,'...',0]", 1, [0]),
        ("[2,1,'...',0]", 2, [1, 0]),
    ],
)
def test_a_number_changes_scale_by_scale(factors: str, scales: int, expected: list[float]) -> None:
    sizes = ",".join(str(48 + number) for number in range(scales))
    knobs = f"schedule.factors={{alpha:{factors},optimizer:{{lr:{factors}}},schedule:{{detail:{factors}}}}}"
    whole = composed("schedule=pyramid", f"schedule.sizes=[{sizes}]", knobs, "alpha=3", "schedule.detail=0.5")
    assert schedule.problems(whole, 16, 8192) == []
    each = [schedule.at(whole, number) for number in range(scales)]
    assert [one.alpha for one in each] == [3 * factor for factor in expected]
    assert [one.optimizer.lr for one in each] == [whole.optimizer.lr * factor for factor in expected]
    assert [one.schedule.detail for one in each] == [0.5 * factor for factor in expected]
    assert (whole.alpha, whole.schedule.detail) == (3, 0.5)
    assert [schedule.at(each[-1], 0).alpha, schedule.scales(each[-1])] == [each[-1].alpha, [Scale(47 + scales, 300)]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("schedule.sizes=[]",), r"schedule\.sizes=\[\] must be a list of sizes"),
        (("schedule.sizes=64",), r"schedule\.sizes=64 must be a list of sizes"),
        (("schedule.sizes=[64,8]",), r"schedule\.sizes: 8 is no size: a whole number from 16 to 8192"),
        (("schedule.sizes=[64,9000]",), r"9000 is no size"),
        (("schedule.sizes=[64,96.5]",), r"96\.5 is no size"),
        (("schedule.sizes=[64,true]",), r"True is no size"),
        (("schedule.sizes=[64,48]",), r"must not shrink from scale to scale"),
        (("schedule.again=-1",), r"schedule\.again=-1 must be a whole number from 0"),
        (("schedule.again=yes",), r"schedule\.again=yes must be a whole number from 0"),
        (("schedule.detail=-1",), r"schedule\.detail=-1 must be a number from 0"),
        (("schedule.factors=[1]",), r"schedule\.factors must name numbers"),
        (("schedule.factors={alpha:2}",), r"schedule\.factors\.alpha=2 must be a list of numbers"),
        (("schedule.factors={alpha:[]}",), r"schedule\.factors\.alpha=\[\] must be a list of numbers"),
        (("schedule.factors={alpha:['...',1]}",), r"schedule\.factors\.alpha=.* must be a list of numbers"),
        (("schedule.factors={alpha:[1,'...','...']}",), r"must be a list of numbers"),
        (("schedule.factors={alpha:[1,x]}",), r"must be a list of numbers"),
        (("schedule.factors={alpah:[1]}",), r"schedule\.factors\.alpah: alpah is the same at all scales\. alpha, beta"),
        (("schedule.factors={size:[1,2]}",), r"size is the same at all scales"),
        (("schedule.factors={seed:[1,2]}",), r"seed is the same at all scales"),
        (("schedule.factors={schedule:{factor:[1,2]}}",), r"schedule\.factor is the same at all scales"),
        (("schedule.factors={alpha:[1,-1]}", "schedule.sizes=[48,64]"), r"At scale 2, by schedule\.factors: alpha=-"),
        (
            ("schedule.factors={style_loss:{mix:[1,8]}}", *NEIGHBORS),
            r"At scale 2, by schedule\.factors: style_loss: .* mix=2\.0 must be from 0",
        ),
        (
            ("schedule.factors={style_loss:{columns:[1,0]}}", *NEIGHBORS),
            r"At scale 2, by schedule\.factors: style_loss: .*columns and layers are both 0",
        ),
        (
            ("schedule.factors={parameterization:{levels:[1,0.3]}}", "parameterization=laplacian",
             "schedule.sizes=[48,64]", "clamp=end"),
            r"At scale 2, by schedule\.factors: parameterization: .*levels=1\.5 must be a whole number",
        ),
        (("schedule.factors={style_loss:{nothing:[1]}}",), r"style_loss\.nothing is no number of this configuration"),
        (("schedule.from=8",), r"schedule\.from=8: a whole number from 16"),
        (("schedule.to=big",), r"schedule\.to=big: a whole number"),
        (("schedule.factor=1",), r"schedule\.factor=1: a number from 1\.05 up"),
        (("schedule.factor=null",), r"schedule\.factor=None"),
        (("schedule.factor=inf",), r"schedule\.factor=inf"),
        (("steps=0",), r"steps=0 must be a whole number from 1"),
        (("steps=[]",), r"steps=\[\] must be a whole number"),
        (("steps=[5,many]",), r"steps=\[5, 'many'\] must be a whole number"),
        (("steps=true",), r"steps=True must be a whole number"),
        (("schedule.sizes=[64,96]", "steps=[5,4,3]"), r"has 3 entries.*2 scales: 64, 96 pixels\. Use steps=\[5,4\]"),
        (("schedule=single", "+schedule.from=64"), r"schedule\.from=64 goes with schedule=pyramid"),
        (("schedule=single", "steps=[5,4,3]"), r"has 3 entries.*there is 1 scale: 256 pixels\. Use steps=\[5\]"),
        (("schedule.optimizer=keep",), r"schedule\.optimizer=keep is not one of restart, carry"),
        (("+schedule.form=64",), r"no setting of schedule 'form'\. Did you mean 'from'"),
        (("schedule.optimizer=carry", "optimizer=lbfgs"), r"schedule\.optimizer=carry: what L-BFGS remembers"),
        (("schedule.optimizer=carry", "optimizer=lbfgsb"), r"schedule\.optimizer=carry: what L-BFGS remembers"),
        (("average=1",), r"average=1 would never leave the start"),
        (("average=-0.1",), r"average=-0\.1 is out of range"),
        (("clip_gradient=-1",), r"clip_gradient=-1\.0 is out of range"),
        (("stop_change=nan",), r"stop_change=nan is out of range"),
        (("average=0.9", "optimizer=lbfgsb"), r"average goes with an optimiser of torch"),
        (("lr_schedule=step", "optimizer=lbfgsb"), r"SciPy's L-BFGS-B has no learning rate"),
        (("clip_gradient=1", "optimizer=lbfgs"), r"clip_gradient: L-BFGS learns"),
        (("clip_gradient=1", "optimizer=lbfgsb"), r"clip_gradient: L-BFGS learns"),
        (("clamp=evaluation", "optimizer=lbfgsb"), r"clamp=evaluation would change pixels behind SciPy's back"),
        (("clamp=block",), r"clamp=block goes with optimizer=lbfgsb"),
        (("clamp_range=[1,0]",), r"clamp_range=\[1\.0, 0\.0\] must be \[low,high\]"),
        (("clamp_range=[0,1,2]",), r"must be \[low,high\]"),
        (("clamp_range=[0,inf]",), r"must be \[low,high\]"),
        (("clamp_range=[0,1]", "clamp=never"), r"clamp_range says what to clamp to, but clamp=never"),
        (("clamp_until=-1",), r"clamp_until=-1 is out of range"),
        (("clamp_until=9", "clamp=end"), r"clamp_until goes with clamp=step or clamp=evaluation"),
        (("clamp_until=9", "optimizer=lbfgsb"), r"clamp_until goes with clamp=step"),
        (("lr_schedule=step", "lr_schedule.gamma=abc"), r"lr_schedule.gamma=abc: a number is needed"),
        (("lr_schedule=step", "+lr_schedule.gama=1"), r"no argument of StepLR 'gama'\. Did you mean 'gamma'"),
        (("lr_schedule=step", "lr_schedule._target_=torch.optim.lr_scheduler.Steps"), r"cannot be imported"),
        (
            ("lr_schedule=exponential", "~lr_schedule.gamma", f"lr_schedule._target_={RATES}.ReduceLROnPlateau"),
            r"lr_schedule: .*ReduceLROnPlateau cannot be used: .*metrics",
        ),
        (
            ("lr_schedule=exponential", "~lr_schedule.gamma", f"lr_schedule._target_={RATES}.OneCycleLR",
             "+lr_schedule.max_lr=1", "+lr_schedule.total_steps=20"),
            r"OneCycleLR cannot be used: .*20",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_before_anything_is_loaded(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        check.check(composed("schedule=pyramid", *overrides))
    assert len(raised.value.problems) == 1, raised.value.problems


def test_a_style_image_that_would_become_too_small_is_told() -> None:
    found = composed("schedule=pyramid", "schedule.sizes=[32,512]")
    with open_dict(found):
        found.style_size = [None, 128]
    (problem,) = schedule.problems(found, 16, 8192)
    assert "would become 8 pixels at the scale of 32" in problem


@pytest.mark.parametrize("group", ["schedule", "lr_schedule"])
def test_runs_from_before_there_was_a_group_did_what_its_first_option_does(group: str) -> None:
    made = OmegaConf.to_container(composed(f"{group}={resume.OPTIONS_BEFORE[group]}")[group])
    assert made == resume.BEFORE[group]
    assert composed()[group] == made


@pytest.mark.parametrize("name", ["step", "exponential", "cosine", "restart"])
def test_every_learning_rate_schedule_is_accepted(name: str) -> None:
    check.check(composed(f"lr_schedule={name}"))
    check.check(composed(f"lr_schedule={name}", "schedule=pyramid", "schedule.optimizer=carry"))


# ---------------------------------------------------------------- one run of several scales


def test_two_scales_on_the_command_line_are_one_run(tmp_path: Path) -> None:
    result = run(*TINY, "save_every=1", "hydra.run.dir=out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    assert [row["step"] for row in rows(out)] == [str(index) for index in range(7)]
    assert [row["evaluations"] for row in rows(out)] == ["1", "2", "3", "5", "6", "7", "8"]
    assert "lr" not in rows(out)[0]
    curve = kill_and_resume.curves(out)["loss"]
    assert [step for step, _ in curve] == list(range(7))
    sizes = {}
    for path in (out / "frames").glob("*.png"):
        with Image.open(path) as picture:
            sizes[int(path.stem)] = picture.size
    assert sizes == {index: (32, 21) if index < 3 else (48, 32) for index in range(7)}
    with Image.open(out / "result.png") as picture:
        assert picture.size == (48, 32)
    found = record(out)
    assert (found["steps"], found["evaluations"], found["size"]) == (6, 8, {"width": 48, "height": 32})
    scales = [{key: scale[key] for key in ("size", "steps", "width", "height")} for scale in found["scales"]]
    assert scales == [
        {"size": 32, "steps": 3, "width": 32, "height": 21},
        {"size": 48, "steps": 3, "width": 48, "height": 32},
    ]
    assert found["scales"][1]["final"]["loss/total"] == found["final"]["loss/total"]
    assert "step 3/6" in result.stderr
    assert "in 2 scales" in result.stderr


def test_a_scale_begins_with_the_enlarged_result_of_the_one_before(tmp_path: Path) -> None:
    common = ("steps=3", "log_every=1", "evaluator=none", "jitter=0", "clamp=never", "precision=float64", "device=cpu")
    both = stylized(tmp_path / "both", *TINY, *common)
    small = stylized(tmp_path / "small", "size=32", *common)
    assert record(tmp_path / "both")["scales"][0]["final"]["loss/total"] == small.latest.losses["loss/total"]
    enlarged = torch.nn.functional.interpolate(small.latest.step.pixels, (32, 48), mode="bicubic")
    expected = posed("size=48", *common).optimize(picture=enlarged)
    torch.testing.assert_close(both.latest.step.pixels, expected.last.pixels, rtol=1e-9, atol=1e-12)


def test_rates_and_averages_follow_the_scales(tmp_path: Path) -> None:
    common = (*TINY, "lr_schedule=cosine", "optimizer.lr=0.02", "average=0.9")
    stylized(tmp_path / "restart", *common)
    fall = [0.02, 0.015, 0.005]  # half a cosine in three steps
    assert [float(row["lr"]) for row in rows(tmp_path / "restart")] == pytest.approx([*fall, *fall, 0], abs=1e-9)
    stylized(tmp_path / "carry", *common, "schedule.optimizer=carry")
    rates = [float(row["lr"]) for row in rows(tmp_path / "carry")]
    assert rates[3] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert "rate/lr" in kill_and_resume.curves(tmp_path / "carry")


def test_a_pyramid_from_to_loads_each_picture_at_its_own_size(tmp_path: Path) -> None:
    arguments = ("schedule=pyramid", "schedule.from=32", "schedule.factor=1.5", "size=72", *TINY[2:], "save_every=1")
    stylized(tmp_path / "out", *arguments)
    assert [scale["width"] for scale in record(tmp_path / "out")["scales"]] == [32, 48, 72]
    for index, width in {0: 32, 3: 48, 6: 72, 9: 72}.items():
        with Image.open(tmp_path / "out" / "frames" / f"{index:06d}.png") as picture:
            assert picture.width == width
    assert len(rows(tmp_path / "out")) == 10


def test_the_last_size_may_be_gone_through_again(tmp_path: Path) -> None:
    given = (
        "schedule=pyramid",
        "schedule.from=32",
        "schedule.factor=1.5",
        "schedule.again=2",
        "size=48",
        "steps=[3,2]",
    )
    assert [(one.size, one.steps) for one in schedule.scales(composed(*given))] == [(32, 3), (48, 2), (48, 2), (48, 2)]
    kept = (*given, *TINY[3:], "precision=float64", "clamp=never")
    stylized(tmp_path / "out", *kept, "schedule.factors={alpha:[1,...,2]}")
    shown = record(tmp_path / "out")["scales"]
    assert [one["width"] for one in shown] == [32, 48, 48, 48]
    terms = [one["final"]["loss/content"] / one["final"]["unweighted/content"] for one in shown]
    assert terms == pytest.approx([1, 1, 1, 2])


def test_details_of_the_content_are_added_to_the_enlarged_picture(tmp_path: Path) -> None:
    common = ("steps=3", "log_every=1", "evaluator=none", "jitter=0", "clamp=never", "precision=float64", "device=cpu")
    both = stylized(tmp_path / "both", *TINY, *common, "schedule.detail=0.5")
    small = stylized(tmp_path / "small", "size=32", *common)
    problem = posed("size=48", *common)
    content = problem.inputs.content
    lost = torch.nn.functional.interpolate(content, [side // 2 for side in content.shape[2:]], mode="bilinear")
    detail = content - torch.nn.functional.interpolate(lost, content.shape[2:], mode="bilinear")
    enlarged = torch.nn.functional.interpolate(small.latest.step.pixels, (32, 48), mode="bicubic")
    expected = problem.optimize(picture=enlarged + 0.5 * detail)
    torch.testing.assert_close(both.latest.step.pixels, expected.last.pixels, rtol=1e-9, atol=1e-12)


class Drawing:
    """A loss that draws from torch's own generator, for its target and at every step."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings of the loss that it stands in for; they mean nothing."""

    def target(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3)) + torch.randn(features.shape[:2])

    def __call__(self, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (features.mean((2, 3)) - target).square().mean(1) * (1 + torch.rand(()))


RUNS = {
    "adam, carried": ("schedule.optimizer=carry", "average=0.9", "lr_schedule=cosine"),
    "adam, anew": ("lr_schedule=step", "lr_schedule.step_size=2", "init=noise"),
    "sgd, squeezed": ("optimizer=sgd", "optimizer.lr=1", "fit=square", "average=0.5", "schedule.optimizer=carry"),
    "a loss that draws": ("style_loss={_target_: test_schedule.Drawing}", "jitter=3"),
    "lbfgs": ("optimizer=lbfgs", "init=style"),
    "lbfgsb": ("optimizer=lbfgsb", "optimizer.block=2", "clamp=block", "init=file", "init.path=rocket"),
    "fourier": ("parameterization=fourier", "clamp=end", "jitter=2"),
    "laplacian, with details": ("parameterization=laplacian", "schedule.detail=0.5", "clamp=step"),
}
PLAIN = ("backbone.weights=random", "steps=2", "log_every=1", "evaluator=none", "device=cpu")
RECIPES = {  # whose losses draw, find neighbours for what a scale begins with, and change scale by scale
    "strotss": (
        *("experiment=strotss", "size=40", "schedule.sizes=[26,32,40]", "style_loss.style_samples=90", *PLAIN),
        *(f"layers.{kind}=[rgb,relu1_1,relu2_1,relu3_1]" for kind in ("content", "style")),
    ),
    "nnst": ("experiment=nnst", "size=40", "schedule.from=20", "style_loss.side=8", *PLAIN),
}


@pytest.mark.parametrize("name", [*RUNS, *RECIPES])
def test_killed_at_any_step_of_any_scale_it_carries_on_to_the_same_bytes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = RECIPES.get(name) or (*TINY, *RUNS[name], LAYERS)
    arguments = (*chosen, "checkpoint_steps=1", "checkpoint_seconds=0", "save_every=1")
    stylized(tmp_path / "whole", *arguments)
    checkpoint.remove(tmp_path / "whole")
    save, steps = checkpoint.save, []

    def dying(folder: Path, content: dict[str, Any], *name: str) -> None:
        save(folder, content, *name)
        steps.append(content["step"])
        copied = tmp_path / f"killed{len(steps)}"
        shutil.copytree(folder, copied)

    monkeypatch.setattr(checkpoint, "save", dying)
    stylized(tmp_path / "out", *arguments)
    monkeypatch.setattr(checkpoint, "save", save)
    assert steps == [1, 2, 3, 4, 5, 6] or (name == "lbfgsb" and len(steps) > 2)
    for number, step in enumerate(steps, 1):
        out = tmp_path / f"killed{number}"
        # a copy with the state that is kept at the end has the checkpoint before it as well, which is taken
        carried_from = steps[-2] if (out / checkpoint.STATE).is_file() else step
        stylized(out, *arguments)
        checkpoint.remove(out)
        assert kill_and_resume.differences(tmp_path / "whole", out) == [], step
        assert record(out)["resumed"][0]["step"] == carried_from
        mine, whole = (record(folder)["scales"] for folder in (out, tmp_path / "whole"))
        for a, b in zip(mine, whole, strict=True):
            assert {key: a[key] for key in a if key != "seconds"} == {key: b[key] for key in b if key != "seconds"}


def test_killed_in_earnest_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    knobs = ["schedule=pyramid", "schedule.from=32", "schedule.factor=1.5", "steps=30", "average=0.9"]
    assert kill_and_resume.trial(tmp_path, 2, False, None, [*knobs, "schedule.optimizer=carry"]) == []


def test_an_interrupted_scale_leaves_its_picture_and_carries_on(tmp_path: Path) -> None:
    arguments = (*TINY, "save_every=1")
    stylized(tmp_path / "whole", *arguments)
    stop = runtime.PoliteStop()
    poll, polled = stop.poll, []

    def asked() -> None:
        poll()
        polled.append(None)
        if len(polled) == 3:  # heard while the fourth step is made
            stop.asked = signal.SIGTERM

    stop.poll = asked  # type: ignore[method-assign]
    with pytest.raises(runtime.Interrupted):
        stylized(tmp_path / "out", *arguments, stop=stop)
    with Image.open(tmp_path / "out" / "interrupted.png") as picture:
        assert picture.size == (48, 32)
    stylized(tmp_path / "out", *arguments)
    checkpoint.remove(tmp_path / "out")
    assert record(tmp_path / "out")["resumed"][0]["step"] == 4
    assert kill_and_resume.differences(tmp_path / "whole", tmp_path / "out") == []


def test_a_diverging_scale_leaves_the_best_picture_at_its_own_size(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="NaN or infinite"):
        stylized(tmp_path / "out", *TINY, "optimizer=sgd", "optimizer.lr=1e30", "clamp=never")
    with Image.open(tmp_path / "out" / "best.png") as picture:
        assert picture.size == (32, 21)


def test_a_later_scale_that_diverges_leaves_what_it_began_with(tmp_path: Path) -> None:
    def bad_at_48(config: Any, *rest: Any) -> Any:
        losses, fit = stylize.take_targets(config, *rest)

        def bad(pixels: torch.Tensor, shift: Any, step: int) -> Any:
            found = losses(pixels, shift, step)
            found.total = found.total * torch.nan
            return found

        bad.describe, bad.tile, bad.keeps_start = losses.describe, losses.tile, False  # type: ignore[attr-defined]
        return (bad if config.size == 48 else losses), fit

    with pytest.raises(Exception, match="NaN or infinite at step 3"):
        run_here(job(tmp_path / "out", *TINY), functools.partial(stylize.stylize, take_targets=bad_at_48))
    with Image.open(tmp_path / "out" / "best.png") as picture:
        assert picture.size == (48, 32)
    assert [row["step"] for row in rows(tmp_path / "out")] == ["0", "1", "2"]


def test_a_scale_that_ends_early_is_followed_at_once(tmp_path: Path) -> None:
    arguments = (*TINY, "optimizer=sgd", "optimizer.lr=0.001", "stop_change=0.01", "steps=[2,50]")
    stylized(tmp_path / "out", *arguments)
    assert "changed the picture by less than" in record(tmp_path / "out")["stopped_because"]
    assert [row["step"] for row in rows(tmp_path / "out")] == ["0", "1", "2"]
    assert [scale["steps"] for scale in record(tmp_path / "out")["scales"]] == [1, 1]


# ---------------------------------------------------------------- batches


JOBS = (("seed=0",), ("seed=1", "style=mosaic", "init=noise"), ("seed=2", "beta=1"))


@pytest.mark.parametrize("name", ["adam, carried", "adam, anew"])
def test_every_job_of_a_batch_is_the_job_run_alone(tmp_path: Path, name: str) -> None:
    common = [one for one in (*TINY, *RUNS[name], LAYERS, "precision=float64", "save_every=1") if "init" not in one]
    ends = done_together(tmp_path, *((*common, *own) for own in JOBS))
    assert [end["status"] for end in ends] == ["done"] * len(JOBS)
    for number, own in enumerate(JOBS):
        alone = tmp_path / f"alone{number}"
        stylized(alone, *common, *own)
        assert kill_and_resume.frames(tmp_path / str(number)) == kill_and_resume.frames(alone)
        for ours, expected in zip(rows(tmp_path / str(number)), rows(alone), strict=True):
            numbers = ({k: float(v) for k, v in row.items() if k != "seconds"} for row in (ours, expected))
            assert next(numbers) == pytest.approx(next(numbers), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", RECIPES)
def test_every_job_of_a_recipes_batch_is_the_job_run_alone(tmp_path: Path, name: str) -> None:
    """Also where jobs share a style, but each finds its neighbours for its own content and start."""
    common = (*RECIPES[name], "precision=float64", "fit=square", "save_every=1")
    own = [(), ("content=astronaut",), ("style=mosaic",), ("init=noise", "beta=2"), ("content=astronaut", "alpha=1")]
    candidates = [Candidate(i, composed(*common, *one), tmp_path / f"{i}") for i, one in enumerate(own)]
    assert grouping.plan(candidates, 9).batches == [[0, 1, 2, 3, 4]]
    ends = done_together(tmp_path, *((*common, *one) for one in own))
    assert [end["status"] for end in ends] == ["done"] * len(own)
    for number, one in enumerate(own):
        alone = tmp_path / f"alone{number}"
        stylized(alone, *common, *one)
        assert kill_and_resume.frames(tmp_path / str(number)) == kill_and_resume.frames(alone)
        for ours, expected in zip(rows(tmp_path / str(number)), rows(alone), strict=True):
            numbers = ({k: float(v) for k, v in row.items() if k != "seconds"} for row in (ours, expected))
            assert next(numbers) == pytest.approx(next(numbers), rel=1e-9, abs=1e-12)


def test_a_job_that_is_lost_at_the_first_scale_leaves_its_neighbours_to_the_next(tmp_path: Path) -> None:
    common = (*TINY, LAYERS, "optimizer=sgd", "optimizer.lr=0.02", "clamp=never", "precision=float64")
    own = [("beta=0.01",), ("beta=1e300",), ("beta=0.1", "seed=1")]
    ends = done_together(tmp_path, *((*common, *one) for one in own))
    assert [end["status"] for end in ends] == ["done", "failed", "done"]
    assert "NaN or infinite" in ends[1]["reason"]
    for number in (0, 2):
        alone = tmp_path / f"alone{number}"
        stylized(alone, *common, *own[number])
        assert (tmp_path / str(number) / "result.png").read_bytes() == (alone / "result.png").read_bytes()
        assert len(rows(tmp_path / str(number))) == 7
    with Image.open(tmp_path / "1" / "best.png") as picture:
        assert picture.size == (32, 21)


def test_jobs_are_planned_for_their_largest_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("schedule=pyramid", "schedule.sizes=[32,96]", "size=32")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (303, 203), "teal").save(photo)  # 32 x 21 as the sample, but 96 x 64 like it, too
    other = tmp_path / "other.png"
    Image.new("RGB", (300, 206), "teal").save(other)  # 96 x 66
    candidates = [
        Candidate(number, composed(*common, *own), tmp_path / str(number))
        for number, own in enumerate([(), (f"content={photo}",), (f"content={other}",), ("optimizer=lbfgsb",)])
    ]
    plan = grouping.plan(candidates, 9)
    assert plan.batches == [[0, 1], [2], [3]]
    assert "line search" in plan.alone[3]
    sizes = []

    def noting(chosen: Any, *rest: Any) -> None:
        sizes.append(chosen.size)

    monkeypatch.setattr(fitting, "estimate_memory", noting)
    grouping.room(candidates[0].config)
    assert sizes == [96]


# ---------------------------------------------------------------- memory


def test_memory_is_told_of_the_largest_scale_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs: list[int] = []
    estimate = fitting.estimate_memory

    def noting(chosen: Any, *rest: Any) -> Any:
        needs.append(chosen.size)
        need = estimate(chosen, *rest)
        assert need is not None
        return Need(need.held + 10**9 * chosen.size, need.held, need.held)

    monkeypatch.setattr(fitting, "estimate_memory", noting)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 40 * 10**9)
    with caplog.at_level("INFO"):
        stylized(tmp_path / "out", *TINY, "tile=none")
    assert needs[:2] == [48, 32]
    said = [message for message in caplog.messages if "This run needs about" in message or "step 0/6" in message]
    assert "This run needs about 48.0 GB at size=48; 40.0 GB are free. size=32 would fit" in said[0]
    assert record(tmp_path / "out")["memory_estimate_bytes"] > 47 * 10**9


def test_the_largest_scale_decides_on_tiles_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate(chosen: Any, backbone: Any, inputs: Any, tile: int | None = None) -> Need:
        side = tile or max(inputs.content.shape[2:])
        return Need(side * 10**9, 0, 0)

    monkeypatch.setattr(fitting, "estimate_memory", estimate)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 130 * 10**9)
    arguments = ("schedule=pyramid", "schedule.sizes=[32,160]", "steps=1", "evaluator=none", "device=cpu", LAYERS)
    stylized(tmp_path / "out", *arguments)
    assert record(tmp_path / "out")["computation"]["tile"] == "128"
    stylized(tmp_path / "set", *arguments, "tile=128")
    assert (tmp_path / "out" / "result.png").read_bytes() == (tmp_path / "set" / "result.png").read_bytes()


def test_memory_that_runs_out_at_a_later_scale_names_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimize = stylize.optimize

    def too_large(picture: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if picture.shape[3] == 48:
            raise MemoryError
        return optimize(picture, *rest, **named)

    monkeypatch.setattr(stylize, "optimize", too_large)
    with pytest.raises(fitting.OutOfMemory, match="Out of memory"):
        stylized(tmp_path / "out", *TINY, "checkpoint_steps=1")
    assert checkpoint.step(tmp_path / "out") == 3


# ---------------------------------------------------------------- older runs


def test_a_run_from_before_there_were_scales_is_carried_on_with(tmp_path: Path) -> None:
    """Its checkpoint names no scale and its record no schedule."""
    arguments = ("size=32", "steps=4", "evaluator=none", "report=false", "checkpoint_steps=2")
    out = tmp_path / "out"
    assert run(*arguments, "hydra.run.dir=out", cwd=tmp_path).returncode == 0
    kept = record(out)
    for name in ("schedule", "lr_schedule", "average", "clip_gradient", "stop_change", "clamp_range", "clamp_until"):
        del kept["config"][name]
    (out / "run.json").write_text(json.dumps(kept))
    assert "finished already" in run("resume=out", cwd=tmp_path).stderr
    lines = resume.command_lines([f"resume={out}"])[0]
    assert {"schedule=single", "lr_schedule=none", "clamp_range=null", "clamp_until=null", "average=0.0"} <= set(lines)
    text = refused(run("resume=out", "average=0.5", cwd=tmp_path))
    assert "average: 0.0 -> 0.5" in text


def test_a_pyramid_from_before_its_numbers_could_change_is_carried_on_with(tmp_path: Path) -> None:
    chosen = composed("schedule=pyramid")
    kept = resume.settings(chosen)
    for name in ("again", "detail", "factors"):
        del kept["schedule"][name]
    (tmp_path / "run.json").write_text(json.dumps({"config": kept}))
    resume.refuse_changes(tmp_path, chosen)
    with pytest.raises(UserError, match=r"schedule\.again: 0 -> 1"):
        resume.refuse_changes(tmp_path, composed("schedule=pyramid", "schedule.again=1"))
