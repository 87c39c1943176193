"""scripts/benchmark.py: what it counts and computes, not how long anything takes."""

import csv
import importlib.util
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise

import benchmark
import benchmark_steps as steps
import benchmark_tables as tables
import pytest
import torch
from benchmark_steps import Case
from command_line import ROOT, environment
from PIL import Image
from torch import nn

CPU = torch.device("cpu")
ROW = tables.Row(
    study="pixels", backbone="vgg19", recipe="notebook", size=1024, layers=5, batch=4, engine="fused",
    precision="bfloat16", seconds=123.456, seconds_min=120.1, reference="notebook", ratio=0.123, flops=10**12,
    flops_per_second=1e12, roofline_seconds=100.0, times_roofline=1.2346, peak_bytes=12_345_000_000, to_loss=0.05,
    to_loss_steps=None, to_loss_seconds=None, device="a processor", torch="2.15.0", threads=2,
)  # fmt: skip


def test_operations_of_a_network_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 5, 1, stride=2))
    by_hand = 2 * 3 * 8 * 9 * 12 * 16 + 2 * 8 * 5 * 1 * 3 * 4
    assert steps.convolution_flops(network, (1, 3, 12, 16)) == by_hand
    assert steps.convolution_flops(network, (4, 3, 12, 16)) == 4 * by_hand
    assert next(network.parameters()).device.type == "cpu"


def test_operations_of_a_step_of_the_notebook_counted_by_hand():
    channels = {1: [3, 64, 64], 2: [64, 128, 128], 3: [128, 256, 256, 256, 256], 4: [256, 512, 512, 512, 512]}
    channels[5] = [512, 512]  # conv5_1 is the last
    forward = 0
    for block, through in channels.items():
        side = 64 // 2 ** (block - 1)
        forward += sum(2 * a * b * 9 * side**2 for a, b in pairwise(through))
    assert steps.step_flops(Case("vgg19", "notebook", 64, batch=3)) == 2 * forward * 3
    first_block = 2 * (3 * 64) * 9 * 64**2  # relu1_1 alone
    assert steps.step_flops(Case("vgg19", "notebook", 64, depth=1)) == 2 * first_block


def test_the_default_recipe_is_counted_with_its_margin():
    first = 2 * 3 * 64 * 9 * 39**2  # conv1 of 64 + 2 * 8 pixels: 3x3, stride 2, no padding
    assert steps.step_flops(Case("squeezenet", "default", 64, depth=1)) == 2 * first


def test_the_roofline_is_operations_over_a_rate():
    assert steps.roofline_seconds(6 * 10**9, 2e9) == 3.0
    assert steps.product_rate("float32", CPU, repeats=1) > 1e8


@pytest.fixture(scope="module")
def three():
    case = Case("vgg19", "notebook", 48, batch=2)
    return [steps.build(case, name, CPU) for name in ("notebook", "plain/float32", "fused/float32")]


def test_every_contestant_makes_the_same_descent(three):
    pictures, losses = [], []
    for contestant in three:
        contestant.restart()
        for _ in range(3):
            contestant.step()
        pictures.append(contestant.picture())
        losses.append(contestant.losses(pictures[0]))
    assert losses[0].shape == (2,) and losses[0][0] != losses[0][1]
    for contestant, picture, loss in zip(three[1:], pictures[1:], losses[1:], strict=True):
        assert torch.allclose(loss, losses[0], rtol=1e-4), contestant.name
        assert float((picture - pictures[0]).abs().max()) < 2e-4, contestant.name  # steps are of 3e-4


def test_the_notebook_forwards_three_images_and_does_not_freeze():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    forwarded = []
    features[0].register_forward_hook(lambda *_: forwarded.append(1))
    content, style = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    pixels = torch.rand(1, 3, 6, 6, requires_grad=True)
    loss = steps.notebook_loss(features, content, style)(pixels)
    loss.sum().backward()
    assert loss.shape == (1,) and len(forwarded) == 3
    assert all(parameter.grad is not None for parameter in features.parameters())


def test_the_default_recipe_has_the_same_loss_under_both_engines():
    case = Case("squeezenet", "default", 64)
    plain, fused = (steps.build(case, f"{engine}/float32", CPU) for engine in ("plain", "fused"))
    for contestant in (plain, fused):
        contestant.step()
    assert float(fused.losses(plain.picture())) == pytest.approx(float(plain.losses(plain.picture())), rel=1e-4)
    assert plain.bounds is not None and float(plain.picture().max()) <= 1


def test_who_can_compute_what():
    both, two = ("notebook", "fused"), ("float32", "bfloat16")
    assert steps.contestants(Case("vgg19", "notebook", 64), both, two) == [
        "notebook", "fused/float32", "fused/bfloat16",
    ]  # fmt: skip
    assert steps.contestants(Case("vgg19", "default", 64), both, two) == ["fused/float32", "fused/bfloat16"]
    assert steps.contestants(Case("vgg19", "notebook", 64, depth=2), both, two) == ["fused/float32", "fused/bfloat16"]


def halving(name, calls=None):
    """Return a contestant whose every step halves its pixels, so that the loss, their square, falls to a quarter."""
    start = torch.ones(1, 3, 2, 2)
    pixels = start.clone().requires_grad_(True)

    def loss(pixels):
        if calls is not None and torch.is_grad_enabled():
            calls.append(name)
        return pixels.square().sum((1, 2, 3))

    return steps.Contestant(name, [steps.Part(pixels, start, loss, torch.optim.SGD([pixels], lr=0.25))], None)


def test_turns_rotate_and_every_one_counts():
    calls = []
    field = [halving(name, calls) for name in "abc"]
    seconds = steps.interleave(field, 3, 2, CPU)
    assert "".join(calls) == "aabbcc" + "bbccaa" + "ccaabb"
    assert all(len(own) == 3 for own in seconds.values())


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    ratios = steps.median_ratios({"a": [1.0, 2.0, 9.0], "b": [2.0, 2.0, 3.0]}, "b")
    assert ratios == {"a": 1.0, "b": 1.0}


def test_steps_to_a_loss_are_counted_from_the_start():
    field = [halving("a"), halving("b")]
    field[0].step()  # a step before the race does not count
    found = steps.race(field, halving("judge"), 0.05, 10, CPU)
    assert [found[name][0] for name in "ab"] == [3, 3]  # 1/4, 1/16, 1/64
    assert found["a"][1] > 0
    assert steps.race(field, halving("judge"), 0.05, 2, CPU) == {"a": None, "b": None}


def test_a_table_is_narrow_and_names_what_was_not_reached():
    text = tables.table([replace(ROW, engine="notebook", precision="float32"), ROW], 500)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100 and len({len(line) for line in lines}) == 1
    assert "> 500" in lines[3] and "12345" in lines[3] and lines[3].startswith("| fused/bfloat16 |")
    assert max(map(len, tables.title([ROW]).splitlines())) <= 100
    assert "peak" not in tables.table([replace(ROW, peak_bytes=None)], 500)


def test_growth_is_the_power():
    rows = [replace(ROW, size=size, seconds=1e-6 * size**3) for size in (64, 128, 512)]
    assert tables.growth(rows, "pixels").endswith("fused/bfloat16 1.50")
    rows = [replace(ROW, study="batch", batch=batch, seconds=0.1 * batch) for batch in (1, 2, 8)]
    assert tables.growth(rows, "batch").endswith("fused/bfloat16 1.00")
    assert tables.growth(rows[:1], "batch") == ""


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--sizes", "0"], "0 is no whole number from 16 to 8192"),
        (["--batch", "1.5"], "1.5 is no whole number from 1 up"),
        (["--to-loss", "2"], "2 is no number between 0 and 1"),
        (["--engines", "quick"], "invalid choice: 'quick'"),
        (["--device", "cpu", "--engines", "graph"], "graph needs an NVIDIA GPU"),
        (["--device", "tpu"], "device=tpu is not one of"),
        (["--device", "cpu", "--precisions", "tf32"], "precision=tf32 exists on NVIDIA's GPUs only"),
        (["--recipe", "notebook"], "names layers of VGG"),
        (["--backbones", "squeezenet", "--engines", "notebook"], "nobody is left"),
        (["--engines", "fused", "--reference", "notebook"], "--reference notebook is not measured here"),
        (["--csv", "no/such/folder/steps.csv"], "the folder of no/such/folder/steps.csv does not exist"),
    ],
)
def test_a_mistake_is_one_line(typed, said, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(typed)
    last = capsys.readouterr().err.splitlines()[-1]
    assert said in last


def test_what_is_measured_without_options_and_for_scaling():
    found = [case for _, case in benchmark.cases(benchmark.parse([]))]
    assert found == [
        Case("vgg19", "notebook", 224), Case("vgg19", "notebook", 512), Case("squeezenet", "default", 512),
    ]  # fmt: skip
    options = benchmark.parse(["--scaling", "--backbones", "vgg19", "--sizes", "64", "96", "128", "--batch", "1", "2"])
    assert "notebook" not in options.engines
    found = benchmark.cases(options)
    assert [(case.size, case.depth, case.batch) for study, case in found if study == "pixels"] == [
        (64, None, 1), (96, None, 1), (128, None, 1),
    ]  # fmt: skip
    assert [case.depth for study, case in found if study == "layers"] == [1, 2, 3, 4, 5]
    assert [(case.size, case.batch) for study, case in found if study == "batch"] == [(96, 1), (96, 2)]


def test_the_command_prints_a_table_and_writes_csv_and_plot(tmp_path):
    plots = importlib.util.find_spec("matplotlib") is not None
    arguments = ["--sizes", "64", "--rounds", "1", "--warmup", "1", "--precisions", "float32", "--device", "cpu"]
    arguments += ["--to-loss", "0.9", "--max-steps", "2", "--csv", str(tmp_path / "steps.csv")]
    arguments += ["--plot", str(tmp_path / "steps.png")] if plots else []
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "1 threads, torch" in result.stdout
    assert "vgg19, notebook recipe (5 layers), 64 x 64, batch 1: 5.917 GFLOP" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    with (tmp_path / "steps.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [field.name for field in fields(tables.Row)]
    assert [(row["backbone"], row["engine"]) for row in rows] == [
        ("vgg19", "notebook"), ("vgg19", "plain"), ("vgg19", "fused"), ("squeezenet", "plain"), ("squeezenet", "fused"),
    ]  # fmt: skip
    for row in rows:
        assert float(row["seconds"]) >= float(row["seconds_min"]) > 0
        assert float(row["times_roofline"]) == pytest.approx(float(row["seconds"]) / float(row["roofline_seconds"]))
        assert row["peak_bytes"] == ""
    assert [row["reference"] for row in rows] == ["notebook"] * 3 + ["plain/float32"] * 2
    assert float(rows[0]["ratio"]) == float(rows[3]["ratio"]) == 1
    if plots:
        assert Image.open(tmp_path / "steps.png").size[0] > 500


def test_memory_of_a_process_of_its_own():
    peak = steps.peak_alone(Case("squeezenet", "default", 64), "plain/float32", 1)
    assert peak is None or 10**6 < peak < 10**9
