"""Sweep folders made by hand, so that what reads them is tested without running anything.

python tests/synthetic_runs.py FOLDER                       # 3 x 2 x 2 runs at 256 pixels, some of them not done
python tests/synthetic_runs.py FOLDER beta=0.001,0.01,0.1   # the axes given
"""

import copy
import hashlib
import itertools
import json
import math
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

SAMPLES = Path(__file__).parent.parent / "nst" / "samples"
EVALUATOR = "squeezenet-256-1a2b3c"
SCORES = (
    "content_distance",
    "style_distance",
    "ssim",
    "edge_correlation",
    "color_histogram_distance",
    "total_variation",
)

# group -> option -> what it sets: its own node under the group's name, anything else at the top
OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "backbone": {
        name: {
            "backbone": {
                "_target_": "nst.networks.backbones.load",
                "architecture": architecture,
                "weights": weights,
                "seed": 0,
            },
            "layers": {"content": content, "style": style, "combine": "mean"},
        }
        for name, architecture, weights, content, style in (
            ("squeezenet", "squeezenet1_1", "bundled", ["fire4"], ["conv1:5", "fire2", "fire4"]),
            ("vgg16", "vgg16", "torchvision", ["relu4_2"], ["relu1_1", "relu2_1", "relu3_1"]),
            ("vgg19", "vgg19", "torchvision", ["relu4_2"], ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]),
        )
    },
    "content_loss": {"mse": {"content_loss": {"_target_": "nst.losses.MSELoss", "norm": "relative", "scale": 1.0}}},
    "style_loss": {
        "gram": {"style_loss": {"_target_": "nst.losses.GramLoss", "gram_norm": "N", "scale": 300.0}},
        "gram_raw": {"style_loss": {"_target_": "nst.losses.GramLoss", "gram_norm": "none", "scale": 1.0}},
    },
    "init": {
        "content": {"init": {"_target_": "nst.optimization.initial.from_content", "_partial_": True}},
        "noise": {"init": {"_target_": "nst.optimization.initial.from_noise", "_partial_": True, "amplitude": 0.5}},
    },
    "optimizer": {
        "adam": {
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.025, "betas": [0.9, 0.99]},
            "clamp": "step",
            "jitter": 8,
        },
        "lbfgs": {
            "optimizer": {"_target_": "torch.optim.LBFGS", "_partial_": True, "lr": 1.0, "history_size": 100},
            "clamp": "end",
            "jitter": 0,
        },
        "sgd": {
            "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 50.0, "momentum": 0.9},
            "clamp": "step",
            "jitter": 8,
        },
    },
}
SCALARS: dict[str, Any] = {
    "content": "coffee",
    "style": "swirls",
    "size": 256,
    "fit": "long",
    "alpha": 1.0,
    "beta": 0.01,
    "tv": 0.0,
    "steps": 300,
    "margin": 8,
    "pooling": "avg",
    "seed": 0,
    "device": "auto",
    "precision": "float32",
    "log_every": 10,
    "save_every": 0,
    "output_format": "png",
}


def make_sweep(
    folder: Path,
    axes: dict[str, list[Any]],
    failed: Iterable[int] = (),
    killed: Iterable[int] = (),
    interrupted: Iterable[int] = (),
    out_of_memory: Iterable[int] = (),
    never: Iterable[int] = (),
    skipped: Iterable[int] = (),
    title: str | None = None,
    question: str | None = None,
    fixed: dict[str, Any] | None = None,
    listed: bool = True,
    **options: Any,
) -> Path:
    """Make a sweep over every combination of the axes and return its folder.

    Args:
        folder: of the sweep; made if need be.
        axes: key to values, in the order of the command line; ``optimizer``, ``init``, ... are groups.
        failed: numbers of the jobs that failed; likewise ``killed`` (status still running), ``interrupted``,
            ``out_of_memory``, ``skipped`` (a status and nothing else) and ``never`` (planned, without a folder).
        title: of the report; likewise ``question``.
        fixed: what all jobs have in common besides the defaults.
        listed: False leaves ``swept`` and ``jobs`` empty, as a sampler does.
        options: for ``make_run``: size, previews, evaluator, quick, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    statuses = {"failed": failed, "running": killed, "interrupted": interrupted, "out_of_memory": out_of_memory}
    statuses |= {"skipped": skipped, "never": never}
    of = {number: status for status, numbers in statuses.items() for number in numbers}
    jobs = []
    for number, values in enumerate(itertools.product(*axes.values())):
        swept = dict(zip(axes, values, strict=True))
        overrides = [f"{key}={_typed(value)}" for key, value in {**swept, **(fixed or {})}.items()]
        brief = ",".join(f"{key}={_typed(value).rpartition('/')[2]}" for key, value in swept.items())
        name = f"{number}_{re.sub(r'[^A-Za-z0-9_.,=+-]+', '-', brief)}"
        jobs.append({"folder": name, "overrides": overrides})
        if of.get(number) != "never":
            make_run(folder / name, {**(fixed or {}), **swept}, of.get(number, "done"), overrides=overrides, **options)
    typed = [f"{key}={','.join(_typed(value) for value in values)}" for key, values in axes.items()]
    typed += [f"{key}={_typed(value)}" for key, value in (fixed or {}).items()]
    write_json(
        folder / "sweep.json",
        {
            "command": f"python run.py -m {' '.join(typed)}",
            "arguments": ["-m", *typed],
            "cwd": "/home/ada/nst",
            "started": "2026-11-22T10:00:00+00:00",
            "title": title,
            "question": question,
            "launcher": "basic",
            "sweeper": "basic" if listed else "optuna",
            "swept": {key: [_typed(value) for value in values] if listed else [] for key, values in axes.items()},
            "jobs": jobs if listed else [],
        },
    )
    return folder


def make_run(
    folder: Path,
    values: dict[str, Any] | None = None,
    status: str = "done",
    overrides: list[str] | None = None,
    size: tuple[int, int] = (256, 171),
    previews: int = 11,
    evaluator: str | None = EVALUATOR,
    rows: int = 31,
    quick: bool = False,
    diff: str | None = None,
) -> Path:
    """Make one run's folder and return it.

    Args:
        folder: of the run.
        values: key to value, where it differs from the defaults.
        status: as in ``status.json``; only ``done`` has results.
        overrides: what was typed.
        size: (width, height) of the result in pixels.
        previews: how many; fewer for a run that did not end.
        evaluator: that scored the result, if any.
        rows: of ``metrics.csv``.
        quick: flat pictures instead of blended photographs.
        diff: text of ``uncommitted.diff``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = values or {}
    config, choices = resolved(values)
    done = status == "done"
    about: dict[str, Any] = {"status": status, "started": "2026-11-22T10:00:00+00:00", "pid": 4711, "host": "lovelace"}
    if status != "running":
        about["ended"] = "2026-11-22T10:01:00+00:00"
    if not done and status != "running":
        about["reason"] = {"failed": "Error: layers.style names conv1 twice.", "skipped": "the sweep was stopped"}.get(
            status, f"it was {status}"
        )
    write_json(folder / "status.json", about)
    if status == "skipped":
        return folder
    overrides = [f"{key}={_typed(value)}" for key, value in values.items()] if overrides is None else overrides
    record: dict[str, Any] = {
        "config": config,
        "choices": choices,
        "overrides": overrides,
        "command": f"python run.py {' '.join(overrides)}".strip(),
        "arguments": overrides,
        "cwd": "/home/ada/nst",
        "config_folders": [],
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": diff is not None, "diff": None},
        "versions": {"python": "3.12.3", "nst": "0.1.0", "torch": "2.11.0"},
        "machine": {"platform": "Linux", "device": "cpu", "device_name": "AMD EPYC", "cpu": "AMD EPYC", "threads": 2},
        "determinism": {"deterministic_algorithms": True},
        "content": image_facts(str(config["content"])),
        "style": image_facts(str(config["style"])),
        "init": None,
        "weights": {
            "name": config["backbone"]["weights"],
            "file": "/home/ada/.cache/weights.pth",
            "sha256": hashlib.sha256(str(config["backbone"]).encode()).hexdigest(),
        },
    }
    if diff is not None:
        (folder / "uncommitted.diff").write_text(diff)
        record["git"]["diff"] = "uncommitted.diff"

    beta, steps = float(config["beta"]), int(config["steps"])
    chance = random.Random(json.dumps(config, sort_keys=True))
    reached = steps if done else steps // 3
    table = _metrics(beta, steps, reached, rows, chance)
    lines = [",".join(table[0]), *(",".join(str(cell) for cell in row.values()) for row in table)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")

    paint = _painter(config, size, beta, quick)
    (folder / "previews").mkdir(exist_ok=True)
    for step in preview_steps(steps, previews):
        if step <= reached:
            paint(step / steps, 256).save(folder / "previews" / f"{step:06d}.jpg", quality=85)

    if done:
        paint(1.0, max(size)).save(folder / "result.png")
        seconds = table[-1]["seconds"]
        record |= {
            "size": {"width": size[0], "height": size[1]},
            "result": {"file": "result.png", "sha256": sha256(folder / "result.png")},
            "outputs": {"result.png": sha256(folder / "result.png")},
            "stopped_because": f"{steps} steps done",
            "steps": steps,
            "evaluations": steps + 1,
            "final": {key: value for key, value in table[-1].items() if "/" in key},
            "seconds": {"setup": 0.5, "optimisation": seconds, "total": round(seconds + 0.75, 3)},
            "peak_memory_bytes": 700_000_000 + chance.randrange(10_000_000),
            "memory_estimate_bytes": 800_000_000,
            "scores": {"evaluator": evaluator, **_scores(beta, chance)} if evaluator else None,
        }
    write_json(folder / "run.json", record)
    return folder


def resolved(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a run's configuration and the chosen options."""
    config = copy.deepcopy(SCALARS)
    choices = {group: str(values.get(group, next(iter(options)))) for group, options in OPTIONS.items()}
    for group, option in choices.items():
        config |= copy.deepcopy(OPTIONS[group][option])
    choices["layers"] = choices["backbone"]
    for key, value in values.items():
        if key in OPTIONS:
            continue
        *parents, last = key.lstrip("+").split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = _parsed(value)
    return config, choices


def image_facts(name: str) -> dict[str, Any]:
    """Return what run.json says of an input image: a sample, or a file."""
    path = SAMPLES / f"{name}.jpg" if (SAMPLES / f"{name}.jpg").is_file() else Path(name)
    there = path.is_file()
    return {
        "name": name,
        "file": str(path.resolve()),
        "sha256": sha256(path) if there else "0" * 64,
        "bytes": path.stat().st_size if there else 0,
    }


def preview_steps(steps: int, count: int) -> list[int]:
    """Return 0, log-spaced steps, and the last."""
    if count < 2:
        return [steps][:count]
    spaced = {max(1, round(steps ** (i / (count - 2)))) for i in range(count - 1)} if count > 2 else {steps}
    return sorted({0, steps, *spaced})


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parsed(value: Any) -> Any:
    """Return what the command line makes of a text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value)


def _metrics(beta: float, steps: int, reached: int, rows: int, chance: random.Random) -> list[dict[str, Any]]:
    """Losses that fall (style) and rise (content) along the way to where beta balances them."""
    wanted = [round(i * steps / (rows - 1)) for i in range(rows)] if rows > 1 else [steps]
    strength = _strength(beta)
    pace = 0.05 * chance.uniform(0.9, 1.1)
    table = []
    for step in (step for step in wanted if step <= reached):
        share = 1 - math.exp(-6 * step / steps)
        content = 15 * beta * (strength * share) ** 2
        style = 40.0 * (1 - strength * share) ** 2 + 0.3
        table.append(
            {
                "step": step,
                "evaluations": step + 1,
                "seconds": round(step * pace, 6),
                "loss/content": content,
                "loss/style": beta * style,
                "loss/tv": 0.0,
                "loss/total": content + beta * style,
                "unweighted/content": content,
                "unweighted/style": style,
                "unweighted/tv": 0.01 * share,
                "content_layers/fire4": content,
                "style_layers/conv1": style * 0.7,
                "style_layers/fire4": style * 0.3,
            }
        )
    return table


def _scores(beta: float, chance: random.Random) -> dict[str, float | None]:
    strength = _strength(beta)
    jitter = [chance.uniform(0.95, 1.05) for _ in SCORES]
    plain = (1.5 * strength, 0.8 * (1 - strength) + 0.05, 1 - 0.8 * strength, 0.9 - 0.6 * strength, 0.5, 0.02)
    return {name: round(value * factor, 6) for name, value, factor in zip(SCORES, plain, jitter, strict=True)}


def _strength(beta: float) -> float:
    """BatchedLoss of the style in the picture, 0 to 1, from the weight of its loss."""
    return min(max((math.log10(max(beta, 1e-9)) + 4) / 4, 0.05), 0.95)


def _painter(config: dict[str, Any], size: tuple[int, int], beta: float, quick: bool) -> Callable[..., Image.Image]:
    """Return a function of (share of the run, long side) that makes the picture as it stood then."""
    strength = _strength(beta)

    def paint(share: float, side: int) -> Image.Image:
        scale = min(1.0, side / max(size))
        shape = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        weight = strength * (1 - math.exp(-6 * share))
        if quick:
            return Image.new("RGB", shape, (round(255 * weight), round(120 * share), 80))
        content, style = (_photo(str(config[name]), shape) for name in ("content", "style"))
        return Image.blend(content, style, weight)

    return paint


_photos: dict[tuple[str, tuple[int, int]], Image.Image] = {}


def _photo(name: str, shape: tuple[int, int]) -> Image.Image:
    if (name, shape) not in _photos:
        path = Path(image_facts(name)["file"])
        image = Image.open(path).convert("RGB") if path.is_file() else Image.radial_gradient("L").convert("RGB")
        _photos[name, shape] = image.resize(shape)
    return _photos[name, shape]


if __name__ == "__main__":
    chosen = {key: values.split(",") for key, values in (argument.split("=", 1) for argument in sys.argv[2:])}
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    some = {"failed": [5], "killed": [7], "never": [11], "out_of_memory": [8]} if not chosen else {}
    made = make_sweep(
        Path(sys.argv[1]),
        chosen or {"beta": ["0.001", "0.01", "0.1"], "optimizer": ["adam", "lbfgs"], "seed": [0, 1]},
        title="How strong is the style?",
        question="Does a larger beta pull the picture away from its content, whatever the optimiser?",
        **some,
    )
    print(made)
