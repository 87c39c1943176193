"""Training a network: the method's losses, the loop, and the command line as a user types it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from command_line import refused, run, start
from PIL import Image
from problems import CPU, composed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.data import default_collate

from nst import configuration, runtime, transformers
from nst.images import rgb
from nst.setup.inputs import load_images
from nst.setup.network import load_network
from nst.training import train
from nst.training.method import TrainingContext
from nst.training.perceptual import Perceptual
from nst.training.photos import Photos
from nst.training.validation import side_by_side

VGG = (
    "backbone=vgg16", "backbone.weights=random", "backbone.preprocessing=imagenet", "layers.content=[relu1_2]",
    "layers.style=[relu1_1,relu1_2:3]",
)  # fmt: skip
SMALL = (
    "task=train", "content=chelsea", "size=40", "training.crop=32", "training.batch=2", "transformer.width=2",
    "transformer.blocks=1", "training.painter.steps=2",
)  # fmt: skip
QUICK = (*SMALL, "training.reference=false", "evaluator=none")


def prepared(folder: Path, *overrides: str) -> tuple[Perceptual, TrainingContext]:
    config = composed(*QUICK, "precision=float64", *overrides)
    runtime.prepare("cpu", config.precision)
    context = TrainingContext(
        config, folder, load_images(config, CPU), load_network(config, CPU),
        runtime.PoliteStop(), lambda **facts: None,
    )  # fmt: skip
    method = configuration.build(config.training)
    assert isinstance(method, Perceptual)
    method.prepare(context)
    return method, context


class Tinted(nn.Module):
    """A network of nine numbers, and three for each further style, which says how it was called."""

    def __init__(self, styles: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.mix = nn.Parameter(torch.eye(3).double() + 0.2 * torch.randn(3, 3, generator=generator).double())
        self.tint = nn.Parameter(0.1 * torch.randn(styles, 3, generator=generator).double())

    def forward(self, images: Tensor, blend: Tensor | None = None) -> Tensor:
        tint = self.tint[:1] if blend is None else blend @ self.tint
        return torch.einsum("ij,bjhw->bihw", self.mix, images) + tint[:, :, None, None]


def maps_of(context: TrainingContext, pictures: Tensor) -> list[Tensor]:
    """relu1_1 and relu1_2, from the first two convolutions alone."""
    weights = [m for m in context.backbone.modules() if isinstance(m, nn.Conv2d)][:2]
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    first = nnf.conv2d((pictures - mean) / std, weights[0].weight, weights[0].bias, padding=1).relu()
    return [first, nnf.conv2d(first, weights[1].weight, weights[1].bias, padding=1).relu()]


def moved(picture: Tensor, shift: tuple[int, int]) -> Tensor:
    """A picture moved down and to the right, a reflection of it coming in."""
    padded = np.pad(picture.detach().numpy(), ((0, 0), (0, 0), (shift[0], 0), (shift[1], 0)), mode="reflect")
    plain = torch.from_numpy(padded[:, :, : picture.shape[2], : picture.shape[3]].copy())
    rows = [abs(row - shift[0]) for row in range(picture.shape[2])]
    columns = [abs(column - shift[1]) for column in range(picture.shape[3])]
    chosen = picture[:, :, rows][:, :, :, columns]  # the same with a gradient
    assert torch.equal(chosen.detach(), plain)
    return chosen


def gram(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat @ flat.T / flat.shape[1]


def stated(
    context: TrainingContext, network: nn.Module, photos: Tensor, styles: list[int], shift: tuple[int, int] = (0, 0)
) -> Tensor:
    """alpha * content + beta * style + tv * variation of each picture of a batch, one by one."""
    config, count, totals = context.config, len(context.inputs.styles), []
    for photo, style in zip(photos.split(1), styles, strict=True):
        painted = network(photo) if count == 1 else network(photo, torch.eye(count).double()[style : style + 1])
        ours, theirs = maps_of(context, moved(painted, shift)), maps_of(context, moved(photo, shift))
        manner = maps_of(context, context.inputs.styles[style])
        content = (ours[1] - theirs[1]).square().mean() / theirs[1].square().mean()
        terms = []
        for our, their in zip(ours, manner, strict=True):
            difference = (gram(our[0]) - gram(their[0])).square().sum()
            terms.append(600 * difference / gram(their[0]).square().sum())  # the scale of style_loss=gram
        variation = painted.diff(dim=2).square().mean() + painted.diff(dim=3).square().mean()
        totals.append(config.alpha * content + config.beta * (terms[0] + 3 * terms[1]) / 4 + config.tv * variation)
    return torch.stack(totals)


@pytest.mark.parametrize("jitter", [0, 5])
@pytest.mark.parametrize("styles", [1, 2])
def test_the_losses_of_a_step_and_their_gradient_are_those_stated(tmp_path: Path, styles: int, jitter: int) -> None:
    chosen = "style=swirls" if styles == 1 else "style=[swirls,mosaic]"
    method, context = prepared(tmp_path, *VGG, chosen, "alpha=2", "beta=0.7", "tv=3", f"jitter={jitter}", "seed=4")
    network = Tinted(styles)
    shift = (0, 0)
    if jitter:
        shift = tuple(np.random.default_rng((4, 2, 9)).integers(jitter, size=2).tolist())  # type: ignore[assignment]
        assert shift != (0, 0)
    method.begin_step(9)
    photos, wanted = default_collate([method.item(index) for index in (3, 4, 6)])
    assert wanted.tolist() == ([0, 0, 0] if styles == 1 else [1, 0, 0])
    found = method.losses(network, [photos.double(), wanted])
    expected = stated(context, network, photos.double(), wanted.tolist(), shift)
    torch.testing.assert_close(found.total, expected, rtol=1e-9, atol=1e-12)
    pairs = zip(
        torch.autograd.grad(found.total.mean(), list(network.parameters())),
        torch.autograd.grad(expected.mean(), list(network.parameters())),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
        assert theirs.abs().max() > 0


def test_after_three_steps_the_weights_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    knobs = (*QUICK, *VGG, "precision=float64", "steps=3", "jitter=0", "beta=0.1", "seed=2", "optimizer.lr=0.01")
    result = run(*knobs, f"hydra.run.dir={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    _, context = prepared(tmp_path, *knobs)
    network = transformers.build(context.config.transformer, 1, 2).double()
    photos = Photos(None, 32, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.9, 0.999))
    for step in range(3):
        batch = torch.stack([photos.item(2 * step), photos.item(2 * step + 1)]).double()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + math.cos(math.pi * step / 3)) / 2
        optimizer.zero_grad()
        stated(context, network, batch, [0, 0]).mean().backward()
        optimizer.step()
    saved = safetensors.torch.load_file(tmp_path / "out" / "network.safetensors")
    begun = transformers.build(context.config.transformer, 1, 2).double().state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=1e-6, atol=1e-7)  # Adam divides by tiny moments
    assert max(float((saved[name] - begun[name]).abs().max()) for name in saved) > 0.01


def left(folder: Path) -> dict[str, Any]:
    """What a training leaves, but for its times."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader((folder / "metrics.csv").open())]
    names = ["network.safetensors", "result.png", *(f"previews/{p.name}" for p in (folder / "previews").iterdir())]
    return {"rows": rows} | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    result = run(*SMALL, "steps=12", "log_every=2", "training.validation=[coffee]", f"hydra.run.dir={folder / 'whole'}")
    assert result.returncode == 0, result.stderr
    return folder / "whole"


def test_a_training_leaves_a_network_and_all_that_a_run_leaves(whole: Path) -> None:
    record = json.loads((whole / "run.json").read_text())
    assert json.loads((whole / "status.json").read_text())["status"] == "done"
    digest = hashlib.sha256((whole / "network.safetensors").read_bytes()).hexdigest()
    assert record["network"] == {"file": "network.safetensors", "sha256": digest}
    assert record["outputs"]["network.safetensors"] == digest
    assert record["scores"]["style_distance"] > 0
    assert record["reference"]["scores"]["style_distance"] > 0
    assert (whole / "reference.png").is_file()
    assert record["photos"]["count"] == 4
    assert (record["steps"], record["processes"]) == (12, 1)
    paid = record["training_seconds"] / (record["reference"]["seconds"] - record["seconds_per_picture"])
    assert record["break_even"] == pytest.approx(paid, abs=1.01)
    network, about = transformers.load(whole / "network.safetensors")
    assert sum(p.numel() for p in network.parameters()) == record["parameters"]
    assert about["config"]["training"]["crop"] == 32
    assert about["styles"][0]["label"] == "swirls"
    with torch.no_grad():
        painted = network(rgb.load("chelsea", 40)).clamp(0, 1)
    assert np.array_equal(rgb.to_bytes(painted), np.asarray(Image.open(whole / "result.png")))
    rows = list(csv.DictReader((whole / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [0, 2, 4, 6, 8, 10, 12]
    for row in rows:
        parts = sum(float(row[f"loss/{term}"]) for term in ("content", "style", "tv"))
        assert float(row["loss/total"]) == pytest.approx(parts, rel=1e-5)
    rates = [float(row["lr"]) for row in rows]
    assert rates[0] == pytest.approx(0.003)
    assert rates == sorted(rates, reverse=True)


def test_tensorboard_shows_photograph_network_and_optimiser(whole: Path) -> None:
    events = EventAccumulator(str(whole), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {"loss", "loss/content", "loss/style", "rate/lr", "result/total"} <= set(tags["scalars"])
    strips = {tag: events.Images(tag)[-1] for tag in tags["images"] if tag.startswith("validation/")}
    assert sorted(strips) == ["validation/1_chelsea", "validation/2_coffee"]
    gap = 6
    assert strips["validation/1_chelsea"].width == 3 * 40 + 2 * gap  # with what the optimiser makes of it
    assert strips["validation/2_coffee"].width == 2 * 40 + gap
    assert len(events.Images("picture/progress")) > 3


def test_a_strip_has_the_pictures_side_by_side() -> None:
    first, second = torch.zeros(1, 3, 4, 5), torch.ones(1, 3, 8, 10)
    strip = np.asarray(side_by_side(first, None, second))
    assert strip.shape == (4, 16, 3)
    assert (strip[:, :5] == 0).all()
    assert (strip[:, 5:] == 255).all()


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(*QUICK, "steps=2", f"seed={seed}", f"hydra.run.dir={tmp_path / name}").returncode == 0
        digests.append(left(tmp_path / name)["network.safetensors"])
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("after", [1, 7])
def test_killed_and_resumed_the_network_has_the_same_bytes(tmp_path: Path, whole: Path, after: int) -> None:
    out = tmp_path / "out"
    process = start(
        *SMALL, "steps=12", "log_every=2", "training.validation=[coffee]", f"checkpoint_steps={after}",
        f"hydra.run.dir={out}",
    )  # fmt: skip
    while not (out / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (out / "network.safetensors").exists()
    result = run(f"resume={out}")
    assert result.returncode == 0, result.stderr
    assert "carried on from step" in result.stderr
    assert left(out) == left(whole)


def test_interrupted_it_leaves_a_picture_and_carries_on(tmp_path: Path) -> None:
    out, knobs = tmp_path / "out", (*QUICK, "steps=400", "log_every=1")
    process = start(*knobs, f"hydra.run.dir={out}")
    while not (out / "metrics.csv").exists() or (out / "metrics.csv").read_text().count("\n") < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert (out / "interrupted.png").is_file()
    assert json.loads((out / "status.json").read_text())["status"] == "interrupted"
    assert run(f"resume={out}").returncode == 0
    assert run(*knobs, f"hydra.run.dir={tmp_path / 'whole'}").returncode == 0
    assert left(out) == left(tmp_path / "whole")
    assert not (out / "interrupted.png").exists()


def test_a_finished_training_is_left_alone_unless_its_network_is_gone(whole: Path) -> None:
    before = left(whole)
    assert "finished already" in run(f"resume={whole}").stderr
    (whole / "network.safetensors").unlink()
    assert run(f"resume={whole}").returncode == 0
    assert left(whole) == before


def test_a_sweep_over_the_style_leaves_a_network_for_each_and_a_report(tmp_path: Path) -> None:
    result = run("-m", *SMALL, "steps=2", "style=swirls,mosaic", f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    digests = {left(path.parent)["network.safetensors"] for path in tmp_path.glob("*/network.safetensors")}
    assert len(digests) == 2
    page = (tmp_path / "report.html").read_text()
    assert "break-even" in page
    header = next(csv.reader((tmp_path / "summary.csv").open()))
    assert {"training_seconds", "seconds_per_picture", "break_even"} <= set(header)


def test_one_network_for_several_styles_paints_them_blended(tmp_path: Path) -> None:
    result = run(*QUICK, "steps=2", "style=[swirls,mosaic]", "style_weights=[3,1]", f"hydra.run.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    network, about = transformers.load(tmp_path / "network.safetensors")
    assert [style["label"] for style in about["styles"]] == ["swirls", "mosaic"]
    with torch.no_grad():
        painted = network(rgb.load("chelsea", 40), torch.tensor([[0.75, 0.25]])).clamp(0, 1)
    assert np.array_equal(rgb.to_bytes(painted), np.asarray(Image.open(tmp_path / "result.png")))


def test_a_loss_that_is_no_number_stops_it_and_keeps_the_last_good_network(tmp_path: Path) -> None:
    knobs = (*QUICK, "optimizer.lr=1e30", "lr_schedule=none", "steps=50", "log_every=1")
    text = refused(run(*knobs, f"hydra.run.dir={tmp_path}"))
    assert "NaN or infinite at step" in text
    assert "optimizer.lr" in text
    transformers.load(tmp_path / "best.safetensors")
    assert (tmp_path / "best.png").is_file()
    assert not (tmp_path / "network.safetensors").exists()
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["photos=nowhere"], "photos=nowhere: there is no such folder"),
        (["training.batch=0"], "training.batch=0 is out of range"),
        (["training.crop=5"], "training.crop=5 is out of range"),
        (["training.crop=many"], "training"),
        (["optimizer=adam"], "optimizer=weights"),
        (["optimizer=lbfgs"], "each batch has another"),
        (["schedule=pyramid", "size=600"], "one size"),
        (["color=luminance"], "color"),
        (["content_mask=coffee"], "content_mask"),
        (["inspect=[relu1]"], "inspect"),
        (["transformer.wdth=3"], "width"),
        (["transformer.kernel=4"], "must be odd"),
        (["training.cropp=3"], "crop"),
        (["training.painter.steps=0", "training.reference=true"], "painter.steps"),
        (["tile=64"], "tile=64"),
        (["model=network.safetensors"], "model"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(tmp_path: Path, overrides: list[str], words: str) -> None:
    from nst.cli import describe
    from nst.errors import ConfigError
    from nst.setup.check import check

    try:
        config = composed(*QUICK, *overrides)
        with pytest.raises(ConfigError) as caught:
            check(config)
        message = str(caught.value)
    except Exception as error:  # Hydra's own, of a key that there is not
        message = describe(error)
    assert words in message


def test_an_empty_folder_of_photographs_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no picture")
    text = refused(run(*QUICK, f"photos={tmp_path / 'none'}", f"hydra.run.dir={tmp_path / 'out'}"))
    assert "There is no photograph in" in text


def test_from_how_many_pictures_on_a_network_pays() -> None:
    assert train.break_even(100.0, 1.0, 6.0) == 20
    assert train.break_even(101.0, 1.0, 6.0) == 21
    assert train.break_even(100.0, 6.0, 6.0) is None
    assert train.break_even(100.0, 6.0, None) is None


def processes(*arguments: str, cwd: Path) -> Any:
    """Two of them, as a user types it."""
    import os
    import subprocess
    import sys

    from command_line import ROOT, environment

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [*command, str(ROOT / "run.py"), *arguments], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    sgd = ("~optimizer.betas", "optimizer._target_=torch.optim.SGD", "optimizer.lr=1e-3", "precision=float64")
    knobs = (*QUICK, *sgd, "steps=3", "training.batch=4", "log_every=1")
    result = processes(*knobs, "hydra.run.dir=two", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert run(*knobs, "hydra.run.dir=one", cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]  # the helper has left nothing
    one, two = (safetensors.torch.load_file(tmp_path / name / "network.safetensors") for name in ("one", "two"))
    begun = transformers.build(composed(*knobs).transformer, 1, 0).state_dict()
    assert max(float((one[name] - begun[name]).abs().max()) for name in one) > 1e-5
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-9, atol=1e-11)
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("one", "two")]
    for ours, theirs in zip(*rows, strict=True):
        assert float(ours["loss/total"]) == pytest.approx(float(theirs["loss/total"]), rel=1e-9)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*QUICK, "training.batch=3"), "cannot be divided among 2 processes"),
        (("-m", *QUICK, "seed=0,1"), "torchrun trains one network"),
        (("size=32", "steps=1"), "torchrun is for task=train"),
    ],
)
def test_what_two_processes_cannot_do_is_told(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = processes(*arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert words in result.stderr + result.stdout
