"""Sweeps as batches: every job is what it would be alone, whatever happens to its neighbours."""

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import kill_and_resume
import numpy as np
import pytest
import torch
from batches import DiesAt, done_together, rows
from command_line import own_loss, refused, run, sketch, start, wait_for_steps
from hydra import compose, initialize_config_dir
from PIL import Image
from problems import CONF, composed, pose, posed, stylized

from nst import configuration, runtime
from nst.batching import grouping
from nst.batching.grouping import Candidate
from nst.errors import UserError
from nst.images import rgb
from nst.job import _BatchFailed
from nst.losses import (
    GramLoss,
    HistogramLoss,
    MRFLoss,
    MSELoss,
    RelaxedEMDLoss,
    SelfSimilarityLoss,
    SlicedWassersteinLoss,
    SumLoss,
)
from nst.losses.objective import LayerTerm, Losses
from nst.runs import checkpoint, launchers
from nst.setup import estimate, fitting
from nst.setup.objective import PictureLoss

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
BATCH = ("-m", "hydra/launcher=batch")
# Jobs that differ in everything that may differ: weights, seed, style, content, start, layers' weights.
DIFFERENT = (
    ("beta=0.01", "seed=0"),
    ("beta=1", "seed=3", "style=mosaic", "init=noise"),
    ("beta=0.1", "alpha=0", "seed=5", "style=hatching", "tv=2", "init=style"),
    ("beta=0", "seed=3", "content=CONTENT", "init=blend", "layers.content=[fire4:3]"),
    ("beta=0.05", "alpha=2", "seed=0", "content=CONTENT", "layers.style=['conv1:2','fire2:0','fire3:0.5']"),
)
COMMON = ("size=40", "steps=8", "log_every=2", "jitter=4", "layers.style=[conv1,fire2,fire3]", "device=cpu")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A content image of the same shape as ``coffee``."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).resize((600, 400)).save(path)
    return path


def status(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["status"])


def record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


# ---------------------------------------------------------------- the same as alone


def assert_as_alone(ours: Path, alone: Path) -> None:
    assert len(rows(ours)) == len(rows(alone))
    for row, expected in zip(rows(ours), rows(alone), strict=True):
        assert row == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert (ours / "result.png").read_bytes() == (alone / "result.png").read_bytes()


@pytest.mark.parametrize(
    "optimizer",
    [
        ["optimizer=adam"],
        ["optimizer=sgd", "optimizer.lr=0.5", "average=0.8"],
        ["optimizer._target_=torch.optim.NAdam", "stop_change=0.06"],
        ["optimizer=lbfgs", "jitter=0", "lr_schedule=cosine"],
        ["optimizer=lbfgs", "jitter=0", "clamp=step", "pixel_space=network"],
    ],
)
def test_every_job_of_a_batch_is_the_job_run_alone(tmp_path: Path, photo: Path, optimizer: list[str]) -> None:
    jobs = [
        (*COMMON, *optimizer, "precision=float64", *(o.replace("CONTENT", str(photo)) for o in own))
        for own in DIFFERENT
    ]
    done_together(tmp_path / "batch", *jobs)
    lengths = set()
    for number, overrides in enumerate(jobs):
        ours, alone = tmp_path / "batch" / str(number), tmp_path / f"alone{number}"
        stylized(alone, *overrides)
        assert_as_alone(ours, alone)
        lengths.add(record(ours)["steps"])
        assert record(ours)["batch"] == {"images": 5, "index": number, "jobs": ["0", "1", "2", "3", "4"]}
        assert "batch" not in record(alone)
        keys = ("config", "content", "style", "seed", "steps", "evaluations", "stopped_because", "scores", "size")
        assert {key: record(ours)[key] for key in keys} == {key: record(alone)[key] for key in keys}
        previews = {path.name: path.read_bytes() for path in (alone / "previews").glob("*")}
        assert {path.name: path.read_bytes() for path in (ours / "previews").glob("*")} == previews
        assert kill_and_resume.curves(ours).keys() == kill_and_resume.curves(alone).keys()
        assert kill_and_resume.shown(ours) == kill_and_resume.shown(alone)
    assert len({(tmp_path / "batch" / str(number) / "result.png").read_bytes() for number in range(5)}) == 5
    assert (lengths == {8}) == ("stop_change" not in str(optimizer)), lengths


@pytest.mark.parametrize(
    "chosen",
    [
        ["optimizer=adam"],
        ["optimizer=lbfgs", "jitter=0"],
        ["style_loss=sliced_wasserstein", "fit=square"],
        ["style_loss=gram+sliced_wasserstein", "content_loss=mse+self_similarity", "fit=square"],
    ],
)
def test_jobs_that_stand_at_different_steps_go_on_as_one_batch(tmp_path: Path, chosen: list[str]) -> None:
    common = (*COMMON, *chosen, "precision=float64", "evaluator=none", "checkpoint_steps=2", "checkpoint_seconds=0")
    jobs = [(*common, "beta=0.01"), (*common, "beta=1", "init=noise"), (*common, "beta=0.1", "init=style")]
    for number, step in ((0, 6), (1, 2)):
        folder = tmp_path / "batch" / str(number)
        with pytest.raises(runtime.Interrupted):
            stylized(folder, *jobs[number], stop=DiesAt(step + 1))
        assert checkpoint.step(folder) == step
    done_together(tmp_path / "batch", *jobs)
    for number, overrides in enumerate(jobs):
        ours, alone = tmp_path / "batch" / str(number), tmp_path / f"alone{number}"
        stylized(alone, *overrides)
        assert_as_alone(ours, alone)
        assert [once["step"] for once in record(ours).get("resumed") or []] == [[6], [2], []][number]


def test_in_float32_the_losses_of_a_picture_are_those_alone_to_rounding(photo: Path) -> None:
    configs = [
        composed(*COMMON, "precision=float32", *(o.replace("CONTENT", str(photo)) for o in own)) for own in DIFFERENT
    ]
    alone = [pose(one) for one in configs]
    joint = PictureLoss(configs, alone[0].backbone, [one.inputs for one in alone])
    pixels = torch.cat([one.start for one in alone]) * 0.9 + 0.02
    shifts = ((0, 0), (1, 3), (2, 0), (3, 3), (1, 3))
    pixels.requires_grad_(True)
    losses = joint(pixels, shifts, 0)
    (gradient,) = torch.autograd.grad(losses.total.sum(), pixels)
    differences = []
    for i, problem in enumerate(alone):
        expected = problem.evaluate(pixels[i : i + 1].detach(), shifts[i])
        own_gradient = problem.gradient(pixels[i : i + 1], shifts[i])
        for tag, value in expected.named().items():
            assert float(losses.named()[tag][i]) == pytest.approx(float(value), rel=1e-5, abs=1e-9), tag
        differences.append(float((gradient[i : i + 1] - own_gradient).norm() / own_gradient.norm()))
    assert sorted(differences)[-2] <= 1e-4  # all but one, since rounding may decide whether a ReLU passes a map near 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_picture_that_is_at_its_target_stays_there(tmp_path: Path, precision: str) -> None:
    common = (*COMMON, f"precision={precision}", "evaluator=none")
    done_together(tmp_path, *((*common, f"beta={beta}", f"seed={seed}") for beta, seed in ((0, 1), (0.1, 2), (0, 3))))
    expected = rgb.to_bytes(rgb.load("coffee", 40))
    for number, still in enumerate((True, False, True)):
        with Image.open(tmp_path / str(number) / "result.png") as picture:
            assert np.array_equal(np.asarray(picture), expected) is still
        assert rows(tmp_path / str(number))[0]["loss/content"] == 0


def test_weights_that_all_images_share_stay_numbers() -> None:
    like = torch.zeros(2, 3, 1, 1)
    term = LayerTerm.of_batch("style", GramLoss(), [{"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 3.0}], "mean", like)
    assert term.weights == {"a": 0.25, "b": 0.75}
    term = LayerTerm.of_batch("style", GramLoss(), [{"a": 1.0, "b": 3.0}, {"a": 3.0, "b": 3.0}], "mean", like)
    assert [weight.tolist() for weight in term.weights.values()] == [[0.25, 0.5], [0.75, 0.5]]  # type: ignore[union-attr]


# ---------------------------------------------------------------- neighbours


def test_a_diverging_image_does_not_touch_its_neighbours(tmp_path: Path) -> None:
    common = (*COMMON, "optimizer=sgd", "optimizer.lr=0.05", "clamp=never", "precision=float64")
    jobs = [(*common, "beta=0.01"), (*common, "beta=1e300"), (*common, "beta=0.1", "seed=1")]
    sane = [(*common, "beta=0.01"), (*common, "beta=0.02"), (*common, "beta=0.1", "seed=1")]
    ends, _ = done_together(tmp_path / "bad", *jobs), done_together(tmp_path / "good", *sane)
    assert [end["status"] for end in ends] == ["done", "failed", "done"]
    for number in ("0", "2"):
        bad, good = tmp_path / "bad" / number, tmp_path / "good" / number
        assert rows(bad) == rows(good)
        assert (bad / "result.png").read_bytes() == (good / "result.png").read_bytes()
    lost = tmp_path / "bad" / "1"
    assert "NaN or infinite at step 1" in ends[1]["reason"]
    assert (lost / "best.png").exists()
    assert not (lost / "result.png").exists()
    assert [row["step"] for row in rows(lost)] == [0]
    assert not any(np.isnan(list(row.values())).any() for row in rows(lost))


def test_a_batch_all_of_whose_images_diverge_ends(tmp_path: Path) -> None:
    common = (*COMMON, "optimizer=sgd", "optimizer.lr=0.05", "clamp=never", "precision=float64")
    ends = done_together(tmp_path, (*common, "beta=1e300"), (*common, "beta=1e200", "init=noise"))
    assert [end["status"] for end in ends] == ["failed"] * 2
    assert all("NaN or infinite" in end["reason"] for end in ends)


def test_all_of_a_batch_computes_on_its_threads_and_leaves_those_that_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, call, before = [], PictureLoss.__call__, (torch.get_num_threads(), torch.get_rng_state())

    def noting(*arguments: Any) -> Losses:
        seen.append(torch.get_num_threads())
        return call(*arguments)

    monkeypatch.setattr(PictureLoss, "__call__", noting)
    common = (*COMMON, "optimizer=sgd", "optimizer.lr=0.05", "clamp=never", "threads=2", "evaluator=none")
    ends = done_together(tmp_path, (*common, "beta=1e30"), (*common, "beta=0.1"), (*common, "beta=0.01"))
    assert [end["status"] for end in ends] == ["failed", "done", "done"]  # the first one ends first
    assert len(seen) >= 9
    assert set(seen) == {2} != {before[0]}
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_job_that_cannot_begin_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    common = (*COMMON, "precision=float64")
    broken = (*common, f"style={tmp_path / 'broken.png'}")
    ends = done_together(tmp_path / "out", (*common, "seed=1"), broken, (*common, "seed=2"))
    assert [end["status"] for end in ends] == ["done", "failed", "done"]
    assert "not an image" in ends[1]["reason"]
    stylized(tmp_path / "alone", *common, "seed=2")
    assert_as_alone(tmp_path / "out" / "2", tmp_path / "alone")


# ---------------------------------------------------------------- the plan


def planned(folder: Path, jobs: list[tuple[str, ...]], at_once: int | None = 99) -> grouping.Plan:
    found = [Candidate(i, composed("size=32", *own), folder / str(i)) for i, own in enumerate(jobs)]
    return grouping.plan(found, at_once)


def test_what_may_differ_in_a_batch_and_what_not(tmp_path: Path, photo: Path) -> None:
    different = [tuple(o.replace("CONTENT", str(photo)) for o in own if "layers" not in o) for own in DIFFERENT]
    assert planned(tmp_path, [*different, ("title=x",)]).batches == [[0, 1, 2, 3, 4, 5]]
    apart = ["pooling=max", "size=48", "steps=9", "optimizer.lr=0.5", "content=astronaut", "layers.style=[conv1]",
             "style_loss.scale=2", "margin=0", "evaluator=none", "precision=float64", "log_every=1"]  # fmt: skip
    plan = planned(tmp_path, [(), ("seed=1",), *((one,) for one in apart)])
    assert plan.batches == [[0, 1], *([i + 2] for i in range(len(apart)))]
    assert set(plan.alone.values()) == {"no other job goes with it"}


def test_a_loss_that_draws_keeps_jobs_of_other_seeds_out_of_its_batch(tmp_path: Path) -> None:
    jobs = [("seed=0", "beta=1"), ("seed=1",), ("seed=0", "beta=2"), ("seed=1", "init=noise")]
    of_style = ("style_loss=sliced_wasserstein", "style_loss=relaxed_emd", "style_loss=gram+relaxed_emd")
    for drawing in (*of_style, "content_loss=self_similarity"):
        assert planned(tmp_path, [(drawing, *own) for own in jobs]).batches == [[0, 2], [1, 3]]
    for still in ("style_loss=gram", "style_loss=mrf", "style_loss=gram_histogram"):
        assert planned(tmp_path, [(still, *own) for own in jobs]).batches == [[0, 1, 2, 3]]


def test_a_loss_that_keeps_a_map_keeps_styles_of_other_sizes_out_of_its_batch(tmp_path: Path) -> None:
    sizes = (("tall", (20, 30)), ("taller", (40, 60)), ("wide", (30, 20)))
    for name, size in sizes:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    jobs = [(f"style={tmp_path / name}.png",) for name, _ in sizes]
    for keeping in ("histogram", "gram_histogram", "gram+histogram", "mrf", "sliced_wasserstein", "relaxed_emd"):
        assert planned(tmp_path, [(f"style_loss={keeping}", *own) for own in jobs]).batches == [[0, 1], [2]]
    assert planned(tmp_path, jobs).batches == [[0, 1, 2]]


@pytest.mark.parametrize(
    "loss", ["sliced_wasserstein", "gram_histogram", "relaxed_emd", "mrf", "histogram", "self_similarity"]
)
def test_jobs_with_a_loss_of_maps_are_those_run_alone(tmp_path: Path, loss: str) -> None:
    group = "content_loss" if loss == "self_similarity" else "style_loss"
    common = (*COMMON, f"{group}={loss}", "fit=square", "precision=float64", "evaluator=none")
    jobs = [(*common, "beta=0.01"), (*common, "beta=1", "style=mosaic"), (*common, "alpha=2", "init=noise")]
    done_together(tmp_path / "batch", *jobs)
    for number, overrides in enumerate(jobs):
        stylized(tmp_path / f"alone{number}", *overrides)
        assert_as_alone(tmp_path / "batch" / str(number), tmp_path / f"alone{number}")


@pytest.mark.parametrize("other", ["style=mosaic", "content=astronaut"])
def test_images_of_other_sizes_are_not_put_together(
    tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    common = (*COMMON, "style_loss=mrf", "evaluator=none")
    with pytest.raises(_BatchFailed) as caught:
        done_together(tmp_path, common, (*common, other))
    assert (len(caught.value.jobs), caught.value.size, caught.value.failed) == (2, 1, [])
    assert "sizes" in caplog.text


@pytest.mark.parametrize(
    ("optimizer", "fits"),
    [
        (["optimizer=adam"], True),
        (["optimizer=notebook"], True),
        (["optimizer=keras_adam", "lr_schedule=cosine", "average=0.9"], True),
        (["optimizer=sgd"], True),
        (["~optimizer.betas", "optimizer._target_=torch.optim.rmsprop.RMSprop"], True),
        (["optimizer=lbfgs"], True),
        (["optimizer=lbfgs", "optimizer.line_search_fn=strong_wolfe"], False),
        (["optimizer=lbfgs", "lr_schedule=cosine", "stop_change=0.01"], True),
        (["optimizer=lbfgsb"], False),
        (["~optimizer.betas", "optimizer._target_=torch.optim.Adafactor"], True),
    ],
)
def test_only_optimisers_without_a_line_search_batch(tmp_path: Path, optimizer: list[str], fits: bool) -> None:
    plan = planned(tmp_path, [(*optimizer, "seed=0"), (*optimizer, "seed=1")])
    assert plan.batches == ([[0, 1]] if fits else [[0], [1]])
    assert all(why.endswith(" has a line search") for why in plan.alone.values())
    assert str(plan).startswith("2 jobs: 2 in one batch" if fits else "2 jobs; in turn #0, #1: ")


def test_a_setting_cuts_batches(tmp_path: Path) -> None:
    jobs = [(f"seed={i}",) for i in range(5)]
    plan = planned(tmp_path, jobs, 2)
    assert plan.batches == [[0, 1], [2, 3], [4]]
    assert str(plan) == "5 jobs: 4 in 2 batches (2 + 2 images); in turn #4: one is left over"
    assert planned(tmp_path, jobs, 1).batches == [[i] for i in range(5)]


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5", "1000", "null"])
def test_a_setting_that_is_none_is_refused(number: str) -> None:
    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        overrides = ["hydra/launcher=batch", f"hydra.launcher.images={number}"]
        chosen = compose("config", sketch(*overrides), return_hydra_config=True)
    with pytest.raises(UserError, match=r"hydra\.launcher\.images=.* must be auto or a whole number"):
        launchers.prepare(chosen)


@pytest.mark.parametrize(("free", "images"), [(1000, 8), (1112, 9), (250, 1), (0, 1), (10**6, grouping.MOST)])
def test_a_batch_is_as_large_as_the_memory_allows(monkeypatch: pytest.MonkeyPatch, free: int, images: int) -> None:
    need = estimate.Need(total=300, fixed=200, held=100)  # 100 for each image; 100 more than is held for the first
    monkeypatch.setattr("nst.setup.fitting.estimate_memory", lambda *rest: need)
    monkeypatch.setattr("nst.runtime.memory.free_bytes", lambda device: free)
    assert grouping.room(composed("size=32", "device=cpu")) == images
    whole = fitting.of_images(need, images)
    assert whole is not None
    assert whole.further <= free or images == 1


def test_the_estimate_of_a_batch_is_about_what_a_batch_takes() -> None:
    need = posed("size=160", "device=cpu", "precision=float32", "jitter=0").fit.need
    assert need is not None
    four = fitting.of_images(need, 4)
    assert four is not None
    assert four.total - four.fixed == 4 * (need.total - need.fixed)


def test_an_interrupted_batch_is_gathered_again_wherever_its_jobs_stand(tmp_path: Path) -> None:
    jobs = [(f"seed={i}",) for i in range(5)]
    for number, step in {0: 6, 1: 6, 3: 2}.items():
        (tmp_path / str(number)).mkdir()
        checkpoint.save(tmp_path / str(number), {"step": step})
    assert planned(tmp_path, jobs).batches == [[0, 1, 2, 3, 4]]
    (tmp_path / "1" / "status.json").write_text('{"status": "done"}')
    (tmp_path / "1" / "run.json").write_text('{"result": {"file": "result.png", "sha256": "0"}}')
    plan = planned(tmp_path, jobs)
    assert plan.batches == [[0, 2, 3, 4], [1]]
    assert plan.alone[1] == "finished already"


class Mixes:
    def target(self, features: torch.Tensor) -> Any:
        return features.mean((2, 3))

    def __call__(self, features: torch.Tensor, target: Any) -> torch.Tensor:
        return (features.mean((2, 3)) - target).square().mean().expand(len(features))


class Remembers(Mixes):
    def target(self, features: torch.Tensor) -> Any:
        self.kept = features.mean((2, 3))
        return features.new_zeros(1)

    def __call__(self, features: torch.Tensor, target: Any) -> torch.Tensor:
        return (features.mean((2, 3)) - self.kept).square().mean(1)


class KeepsAPair(Mixes):
    def target(self, features: torch.Tensor) -> Any:
        return features.mean((2, 3)), 1

    def __call__(self, features: torch.Tensor, target: Any) -> torch.Tensor:
        return (features.mean((2, 3)) - target[0]).square().mean(1)


class Draws(Mixes):
    def __call__(self, features: torch.Tensor, target: Any) -> torch.Tensor:
        torch.rand(3)
        return (features.mean((2, 3)) - target).square().mean(1)


class Fine(Mixes):
    def __call__(self, features: torch.Tensor, target: Any) -> torch.Tensor:
        return (features.mean((2, 3)) - target).square().mean(1)


@pytest.mark.parametrize(
    ("loss", "fits"),
    [(MSELoss(), True), (GramLoss(), True), (Fine(), True), (Mixes(), False), (Remembers(), False),
     (KeepsAPair(), False), (Draws(), False), (SlicedWassersteinLoss(), True), (HistogramLoss(), True),
     (RelaxedEMDLoss(samples=9), True), (MRFLoss(), True), (SelfSimilarityLoss(samples=9), True),
     (SumLoss({"gram": GramLoss(), "histogram": HistogramLoss()}), True), (SumLoss({"one": Mixes()}), False)],
)  # fmt: skip
def test_a_loss_is_tried_on_two_images(loss: Any, fits: bool) -> None:
    before = torch.get_rng_state()
    assert grouping.is_per_image(loss) is fits
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- as a user types it


SMALL = ("size=32", "steps=4", "log_every=1", "precision=float64", "evaluator=none")


def results(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/result.png")}


def test_a_mixed_sweep_is_what_it_is_without_batches(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    swept = ("pooling=max,avg", "beta=0.01,1", "style=broken.png,wave", "title=A comparison", *SMALL)
    result = run(*BATCH, *swept, "hydra.sweep.dir=out", cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    expected = run("-m", *swept, "hydra.sweep.dir=basic", cwd=tmp_path)
    out, basic = tmp_path / "out", tmp_path / "basic"
    assert "8 jobs: 8 in 2 batches (4 + 4 images)" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert len(results(out)) == 4
    assert results(out) == results(basic)
    names = {path.relative_to(basic).as_posix() for path in basic.rglob("*") if "tfevents" not in path.name}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if "tfevents" not in path.name} == names

    def table(text: str) -> list[list[str]]:
        rows = [line.split() for line in text.splitlines() if line.startswith("  ")]
        return [[word for word in row if not word.isdigit()] for row in rows]  # without the seconds

    assert table(result.stdout) == table(expected.stdout)
    assert len(table(result.stdout)) == 8
    assert (out / "report.html").exists()
    assert (out / "summary.csv").read_text().count("done") == 4
    good, bad = out / "1_pooling=max,beta=0.01,style=wave", out / "0_pooling=max,beta=0.01,style=broken.png"
    assert record(good)["batch"]["images"] == 2
    log, other = (good / "run.log").read_text(), (bad / "run.log").read_text()
    assert log.count("all 4 steps done") == 1
    assert log.count("step 4/4") == 1
    assert "broken.png" not in log
    assert "Traceback" in other
    assert "step 4/4" not in other
    console = result.stdout + result.stderr
    assert console.count("all 4 steps done") == 4
    assert console.count("step 4/4") == 2
    overrides = (good / ".hydra" / "overrides.yaml").read_text()
    assert "beta=0.01" in overrides


def test_scipys_lbfgs_runs_in_turn_and_the_command_says_why(tmp_path: Path) -> None:
    result = run(*BATCH, "optimizer=lbfgsb,adam", "seed=0,1", "init=noise", *SMALL, "hydra.launcher.images=2",
                 "hydra.sweep.dir=out", cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    said = "2 in one batch (2 images); in turn #0, #1: nst.optimization.optimizers.ScipyLBFGSB has a line search"
    assert said in result.stdout + result.stderr
    batches = {path.parent.name: record(path.parent).get("batch") for path in tmp_path.glob("out/*/run.json")}
    assert [bool(batches[name]) for name in sorted(batches)] == [False, False, True, True]
    text = refused(run(*BATCH, "seed=0,1", "hydra.launcher.images=none", cwd=tmp_path))
    assert "hydra.launcher.images=none must be auto or" in text


OUT_OF_MEMORY = """
import torch
class Own:
    def target(self, features):
        return features.mean((2, 3))
    def __call__(self, features, target):
        if len(features) > LIMIT:
            raise ERROR
        return (features.mean((2, 3)) - target).square().mean(1)
"""


@pytest.mark.parametrize(
    ("error", "limit", "sizes"),
    [("torch.OutOfMemoryError('out of memory')", 2, [2, 2, None]), ("ValueError('too many')", 2, [None] * 5)],
)
def test_a_batch_that_fails_as_a_whole_is_tried_in_parts(
    tmp_path: Path, error: str, limit: int, sizes: list[int | None]
) -> None:
    code = OUT_OF_MEMORY.replace("LIMIT", str(limit)).replace("ERROR", error)
    chosen = own_loss(tmp_path, code)
    result = run(*BATCH, "seed=0,1,2,3,4", *chosen, "evaluator=none", f"hydra.sweep.dir={tmp_path}/out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "The batch failed as a whole, so its jobs run in" in result.stderr
    jobs = sorted((tmp_path / "out").glob("*/run.json"))
    assert [status(path.parent) for path in jobs] == ["done"] * 5
    found = [(record(path.parent).get("batch") or {}).get("images") for path in jobs]
    assert found == [2, 2, 2, 2, None] if sizes[0] else found == [None] * 5


def test_a_sweep_that_stops_at_a_failure_begins_no_further_batch(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    result = run(*BATCH, "style=wave,broken.png", "seed=0,1", *SMALL, "hydra.launcher.images=3", "on_failure=stop",
                 "hydra.sweep.dir=out", cwd=tmp_path)  # fmt: skip
    assert result.returncode == 1
    found = {path.parent.name[0]: status(path.parent) for path in tmp_path.glob("out/*/status.json")}
    assert found == {"0": "done", "1": "done", "2": "failed", "3": "skipped"}
    assert run("resume=out", "on_failure=continue", cwd=tmp_path).returncode == 1
    found = {path.parent.name[0]: status(path.parent) for path in tmp_path.glob("out/*/status.json")}
    assert found == {"0": "done", "1": "done", "2": "failed", "3": "failed"}


@posix
def test_a_killed_batch_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    assert kill_and_resume.trial(tmp_path, 2, True, "batch", ["precision=float64", "size=32"]) == []


@posix
def test_a_killed_batch_of_lbfgs_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    knobs = ["precision=float64", "size=48", "optimizer=lbfgs", "jitter=0", "schedule=pyramid", "schedule.from=32"]
    knobs += ["init=noise"]  # so that the seed counts
    assert kill_and_resume.trial(tmp_path, 2, True, "batch", [*knobs, "steps=30"]) == []


@posix
def test_an_interrupted_batch_leaves_each_job_as_it_stands_and_is_carried_on_either_way(tmp_path: Path) -> None:
    knobs = ("seed=0,1", "size=32", "steps=150", "log_every=1", "precision=float64", "checkpoint_seconds=0")
    whole = run(*BATCH, *knobs, "evaluator=none", "hydra.sweep.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    process = start(*BATCH, *knobs, "evaluator=none", "hydra.sweep.dir=out", cwd=tmp_path)
    wait_for_steps(tmp_path / "out" / "1_seed=1")
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    jobs = [tmp_path / "out" / name for name in ("0_seed=0", "1_seed=1")]
    assert [status(folder) for folder in jobs] == ["interrupted"] * 2
    assert all((folder / "interrupted.png").exists() for folder in jobs)
    steps = {folder.name: checkpoint.step(folder) or 0 for folder in jobs}
    assert max(steps.values()) - min(steps.values()) <= 1  # those that the signal found between two steps stop there
    shutil.copytree(tmp_path / "out", tmp_path / "again")
    assert run("resume=out", cwd=tmp_path).returncode == 0
    assert run("resume=again", "hydra/launcher=basic", cwd=tmp_path).returncode == 0
    for folder in (tmp_path / "out", tmp_path / "again"):
        for name in ("0_seed=0", "1_seed=1"):
            assert kill_and_resume.differences(tmp_path / "whole" / name, folder / name) == []
            (resumed,) = record(folder / name)["resumed"]
            assert resumed["step"] == steps[name]
            seconds = [float(line.split(",")[2]) for line in (folder / name / "metrics.csv").read_text().split()[1:]]
            assert seconds == sorted(seconds)
