"""A view as the data side of a report makes it, invented: what the page is tested and measured with.

Seeded and without torch, so that 200 runs with eleven previews each take seconds.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import itertools
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image, ImageChops, ImageFilter, ImageOps

from nst.report.pairs import trade_offs
from nst.samples import samples

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300)
EVALUATOR = "squeezenet-256-1a2b3c"
SERIES = ("loss/total", "loss/content", "loss/style", "unweighted/content", "unweighted/style")
NOTES = {
    "failed": "The loss is no longer a number at step 41. Lower optimizer.lr.",
    "out_of_memory": "The GPU has 8.0 GB and 9.1 GB would be needed. Use a smaller size or precision=float32.",
    "interrupted": "Stopped by Ctrl-C at step 120.",
    "running": "",
    "skipped": "The sweep was stopped before this run.",
}


def view(
    axes: dict[str, Sequence[str]] | None = None,
    *,
    status: dict[int, str] | None = None,
    left_out: Sequence[int] = (),
    repeat: int = 1,
    long_side: int = 256,
    tile: int = 160,
    quality: int = 78,
    points: int = 60,
    evaluators: Sequence[str] = (EVALUATOR,),
    seed: int = 0,
) -> dict[str, Any]:
    """Return a view with one run for each combination of the axes' values.

    Args:
        axes: values of each swept key, as typed; None: beta times optimizer. An empty one gives three picked runs.
        status: status of runs that are not done, by index. A failed run keeps its first previews, the others none.
        left_out: indices of combinations that have no run at all.
        repeat: runs of each combination, as when a key is swept that is not listed as an axis.
        long_side: pixels of the long side of the final previews.
        tile: pixels of the long side of the small previews.
        quality: of the JPEGs, 1 to 95.
        points: logged points of a curve.
        evaluators: names of the evaluators that scored the runs.
        seed: everything random follows from it.
    """
    swept = {"beta": ("0.001", "0.01", "0.1"), "optimizer": ("adam", "lbfgs")} if axes is None else dict(axes)
    grid = list(itertools.product(*(range(len(texts)) for texts in swept.values()))) if swept else [()] * 3
    places = [place for i, place in enumerate(grid) if i not in left_out for _ in range(repeat)]
    content_names = list(swept.get("content", ("coffee",)))
    style_names = list(swept.get("style", ("swirls",)))
    inputs = [_input(f"content{i}", "content", name) for i, name in enumerate(content_names)]
    inputs += [_input(f"style{i}", "style", name) for i, name in enumerate(style_names)]
    runs = []
    for i, place in enumerate(places):
        state = (status or {}).get(i, "done")
        runs.append(
            _run(
                i, place, swept, state, inputs, (long_side, tile, quality, points), evaluators, random.Random(seed + i)
            )
        )
    counts: dict[str, int] = {}
    for run in runs:
        counts[run["status"]] = counts.get(run["status"], 0) + 1
    typed = " ".join(f"{key}={','.join(texts)}" for key, texts in swept.items())
    return {
        "title": "How strong should the style be?",
        "question": "Which weight of the style loss keeps the cup recognisable, and does the optimiser matter?",
        "command": f"python run.py -m {typed} +sweep.title='How strong should the style be?'".replace("-m  ", "-m "),
        "again": [f"python run.py -m {typed}".replace("-m  ", "-m ")],
        "resume": "python run.py resume=outputs/multirun/2026-11-22/14-03-07",
        "started": "2026-11-22T14:03:07+00:00",
        "counts": counts,
        "total": len(runs),
        "axes": [_axis(key, texts) for key, texts in swept.items()],
        "inputs": inputs,
        "columns": _columns(swept, evaluators),
        "pairs": [f"{c} and {s}" for c in content_names for s in style_names],
        "pareto": trade_offs(_columns(swept, evaluators), runs),
        "runs": runs,
        "licences": [],
        "networks": [],
        "notes": ["The runs were made with different versions of torch: 2.13.0, 2.14.0."],
        "bibtex": "@inproceedings{gatys2016image,\n  title = {Image Style Transfer Using Convolutional Neural "
        "Networks},\n  author = {Gatys, Leon A. and Ecker, Alexander S. and Bethge, Matthias},\n  booktitle = {CVPR},"
        "\n  year = {2016}\n}",
    }


def write_results(invented: dict[str, Any], folder: Path, long_side: int = 640) -> None:
    """Write a larger final picture for each finished run where its ``full`` points to, seen from ``folder``."""
    names = {item["id"]: item["name"] for item in invented["inputs"]}
    for run in invented["runs"]:
        if run["full"]:
            path = folder / unquote(run["full"])
            path.parent.mkdir(parents=True, exist_ok=True)
            beta = dict(line.split("=", 1) for line in run["overrides"]).get("beta", "0.01")
            painted = _painted(names[run["content"]], names[run["style"]], _strength(beta), long_side)[1]
            painted.save(path)


def empty() -> dict[str, Any]:
    """Return the view of a folder in which nothing is: every key there, every value null or empty."""
    return {
        "title": "",
        "question": None,
        "command": None,
        "again": [],
        "resume": None,
        "started": None,
        "counts": {},
        "total": 0,
        "axes": [],
        "inputs": [],
        "columns": [],
        "pairs": [],
        "pareto": [],
        "runs": [],
        "licences": [],
        "networks": [],
        "notes": [],
        "bibtex": "",
    }


def bare_run() -> dict[str, Any]:
    """Return a run of which nothing is known."""
    return {
        "id": 0,
        "name": "run",
        "label": "",
        "status": "failed",
        "reason": "",
        "axis": [],
        "values": {},
        "content": None,
        "style": None,
        "pair": None,
        "sprite": None,
        "preview": None,
        "full": None,
        "width": None,
        "height": None,
        "curves": None,
        "config": "",
        "overrides": [],
        "command": "",
        "reproduce": "",
        "provenance": [],
    }


@functools.cache
def large() -> dict[str, Any]:
    """Return 200 runs over four axes with eleven previews each, or nine. Not to be changed: it is made once."""
    return view(
        {
            "style": ("swirls", "mosaic", "wave", "hatching", "geometry"),
            "beta": ("0.001", "0.003", "0.01", "0.03", "0.1"),
            "optimizer": ("adam", "lbfgs"),
            "seed": ("0", "1", "2", "3"),
        },
        status={7: "failed", 50: "out_of_memory", 120: "interrupted", 198: "skipped", 199: "skipped"},
        points=200,
    )


def _axis(key: str, texts: Sequence[str]) -> dict[str, Any]:
    try:
        numbers: list[float] | None = [float(text) for text in texts]
    except ValueError:
        numbers = None
    log = numbers is not None and min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
    return {"key": key, "label": key, "texts": list(texts), "numbers": numbers, "log": log}


def _columns(swept: dict[str, Sequence[str]], evaluators: Sequence[str]) -> list[dict[str, Any]]:
    def column(key: str, kind: str, better: str | None, unit: str | None, text: str, **more: Any) -> dict[str, Any]:
        label = more.get("label", key)
        return {
            "key": key,
            "label": label,
            "kind": kind,
            "evaluator": more.get("evaluator"),
            "better": better,
            "unit": unit,
            "help": text,
        }

    columns = [column("status", "status", None, None, "How the run ended.")]
    columns += [column(key, "parameter", None, None, f"The value of {key}.") for key in swept]
    for evaluator in evaluators:
        for name, better, text in (
            ("content_distance", "lower", "Distance to the content image: 0 the content itself, 1 the style picture."),
            ("style_distance", "lower", "Distance to the style image: 0 the style itself, 1 the content picture."),
            ("ssim", "higher", "Structural similarity of the luminance to the content image."),
            ("edge_correlation", "higher", "Correlation of edge maps with the content image."),
        ):
            key = f"{evaluator}/{name}"
            label = name.replace("_", " ")
            columns.append(column(key, "score", better, None, text, label=label, evaluator=evaluator))
    columns += [
        column("final/content", "loss", None, None, "Unweighted content loss at the end.", label="content loss"),
        column("final/style", "loss", None, None, "Unweighted style loss at the end.", label="style loss"),
        column("final/total", "loss", None, None, "Weighted total at the end.", label="total loss"),
        column("seconds", "cost", "lower", "s", "Seconds of the whole run."),
        column("evaluations", "cost", None, None, "Times the objective was evaluated."),
        column("peak_memory", "cost", "lower", "MB", "Peak memory of the process.", label="peak memory"),
    ]
    return columns


def _run(
    i: int,
    place: Sequence[int],
    swept: dict[str, Sequence[str]],
    state: str,
    inputs: list[dict[str, Any]],
    sizes: tuple[int, int, int, int],
    evaluators: Sequence[str],
    rng: random.Random,
) -> dict[str, Any]:
    long_side, tile, quality, points = sizes
    chosen = {key: texts[k] for (key, texts), k in zip(swept.items(), place, strict=True)}
    label = ", ".join(f"{key}={value}" for key, value in chosen.items()) or f"picked {i}"
    names = {kind: [item for item in inputs if item["kind"] == kind] for kind in ("content", "style")}
    content = next((x for x in names["content"] if x["name"] == chosen.get("content")), names["content"][0])
    style = next((x for x in names["style"] if x["name"] == chosen.get("style")), names["style"][0])
    strength = _strength(chosen.get("beta", "0.01"))
    lbfgs = chosen.get("optimizer") == "lbfgs"
    done, partial = state == "done", state in ("failed", "interrupted", "running")
    steps = list(STEPS if done else STEPS[:6])
    if lbfgs and done:
        steps = [*STEPS[:8], 100 + i]  # stopped early, each at a step of its own
    sprite = preview = None
    width = height = None
    if done or partial:
        frames = _frames(content["name"], style["name"], strength, i, tile, tuple(steps))
        sprite = {
            "src": _uri(_film(frames), quality),
            "steps": steps,
            "width": frames[0].width,
            "height": frames[0].height,
        }
        width, height = _fitted(content["name"], long_side)
        last = _frames(content["name"], style["name"], strength, i, long_side, (steps[-1],))
        preview = _uri(last[-1], quality)
    values: dict[str, Any] = {"status": state}
    for (key, texts), k in zip(swept.items(), place, strict=True):
        axis = _axis(key, texts)
        values[key] = axis["numbers"][k] if axis["numbers"] else texts[k]
    curves = _curves(strength, lbfgs, points, steps[-1], rng) if done or partial else None
    if done:
        for n, evaluator in enumerate(evaluators):
            shift = 0.05 * n + rng.uniform(-0.02, 0.02)
            values |= {
                f"{evaluator}/content_distance": round(0.12 + 0.5 * strength**1.5 + shift, 5),
                f"{evaluator}/style_distance": round(0.62 - 0.45 * strength - 0.05 * lbfgs + rng.uniform(0, 0.05), 5),
                f"{evaluator}/ssim": round(0.95 - 0.6 * strength + shift, 5),
                f"{evaluator}/edge_correlation": None if i % 11 == 5 else round(0.9 - 0.5 * strength + shift, 5),
            }
        assert curves is not None
        values |= {
            "final/content": curves["series"]["unweighted/content"][-1],
            "final/style": curves["series"]["unweighted/style"][-1],
            "final/total": curves["series"]["loss/total"][-1],
            "seconds": round(24 + 9 * lbfgs + rng.uniform(0, 4), 2),
            "evaluations": steps[-1] + (25 if lbfgs else 0),
            "peak_memory": round(612 + 80 * lbfgs + rng.uniform(0, 9)),
        }
    folder = f"{i}_{label.replace(', ', ',')}"
    return {
        "id": i,
        "name": folder,
        "label": label,
        "status": state,
        "reason": NOTES.get(state, ""),
        "axis": list(place),
        "values": values,
        "content": content["id"],
        "style": style["id"],
        "pair": names["content"].index(content) * len(names["style"]) + names["style"].index(style),
        "sprite": sprite,
        "preview": preview,
        "full": folder.replace("=", "%3D").replace(",", "%2C") + "/result.png" if done else None,
        "width": width,
        "height": height,
        "curves": curves,
        "config": "\n".join(f"{key}: {value}" for key, value in ({"content": "coffee", "size": 256} | chosen).items())
        + "\nlayers:\n  content:\n  - fire4\n  style:\n  - conv1\n  - fire2\n  - fire4\n",
        "overrides": [f"{key}={value}" for key, value in chosen.items()],
        "command": "python run.py " + " ".join(f"{key}={value}" for key, value in chosen.items()),
        "reproduce": f"python scripts/reproduce.py {folder}",
        "provenance": [
            [
                "commit",
                "fd213f4a6ad1",
            ],
            ["torch", "2.14.0"],
            ["machine", "Linux, x86_64, 2 threads"],
            ["weights", "squeezenet1_1, SHA-256 " + hashlib.sha256(b"weights").hexdigest()],
            ["result", "SHA-256 " + hashlib.sha256(folder.encode()).hexdigest()],
        ],
    }


def _strength(beta: str) -> float:
    number = float(beta) if beta.replace(".", "", 1).isdigit() else 0.01
    return round(min(max((math.log10(max(number, 1e-4)) + 3.6) / 2.8, 0.15), 1.0), 2)


def _curves(strength: float, lbfgs: bool, points: int, last: int, rng: random.Random) -> dict[str, Any]:
    step = sorted({round(last * (k / (points - 1)) ** 1.6) for k in range(points)})
    rate = 0.05 if lbfgs else 0.02
    series: dict[str, list[float | None]] = {name: [] for name in SERIES}
    for s in step:
        content = 0.9 * strength * (1 - math.exp(-s * rate)) + 0.01
        style = (1.2 - 0.8 * strength) * math.exp(-s * rate) + 0.03 / strength + 0.004 * rng.random()
        values = (content + strength * style, content, strength * style, content, style)
        for name, value in zip(SERIES, values, strict=True):
            series[name].append(float(f"{value:.5g}"))
    seconds = [round(0.6 + s * (0.11 if lbfgs else 0.08), 2) for s in step]
    return {"step": step, "evaluations": [s + 25 * lbfgs for s in step], "seconds": seconds, "series": series}


def _input(name: str, kind: str, sample: str) -> dict[str, Any]:
    about = samples()[sample]
    picture = ImageOps.contain(_sample(sample), (200, 200))
    return {
        "id": name,
        "kind": kind,
        "name": sample,
        "title": about["title"],
        "author": about["author"],
        "licence": about["licence"],
        "source": about["source"],
        "sha256": hashlib.sha256(sample.encode()).hexdigest(),
        "thumb": _uri(picture, 80),
    }


@functools.cache
def _sample(name: str) -> Image.Image:
    from nst.samples import __file__ as package

    path = package.replace("__init__.py", f"{name}.jpg")
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _fitted(name: str, long_side: int) -> tuple[int, int]:
    return ImageOps.contain(_sample(name), (long_side, long_side)).size


@functools.cache
def _painted(content: str, style: str, strength: float, long_side: int) -> tuple[Image.Image, Image.Image]:
    """Return the content and something like it in the colours and strokes of the style."""
    plain = ImageOps.contain(_sample(content), (long_side, long_side))
    manner = ImageOps.fit(_sample(style), plain.size)
    grey = ImageOps.autocontrast(ImageOps.grayscale(plain))
    # the style's colours in order of brightness, laid on the content's brightness
    small = manner.resize((48, 48)).convert("RGB")
    colours = sorted(small.get_flattened_data() if hasattr(small, "get_flattened_data") else small.getdata(), key=sum)
    lut = [colours[min(len(colours) - 1, v * len(colours) // 256)] for v in range(256)]
    channels = [grey.point([colour[c] for colour in lut]) for c in range(3)]
    toned = Image.merge("RGB", channels).filter(ImageFilter.ModeFilter(5))
    # Pillow's subtract adds an offset: grey 128 is no stroke
    strokes = ImageChops.subtract(manner, manner.filter(ImageFilter.GaussianBlur(long_side / 20)), 1, 128)
    textured = ImageChops.overlay(toned, strokes)
    textured = ImageChops.overlay(textured, strokes) if strength > 0.5 else textured
    mixed = Image.blend(textured, manner, 0.25 * strength)
    return plain, Image.blend(plain, mixed, 0.25 + 0.75 * strength)


def _frames(
    content: str, style: str, strength: float, salt: int, long_side: int, steps: tuple[int, ...]
) -> list[Image.Image]:
    plain, painted = _painted(content, style, strength, long_side)
    noise = Image.effect_noise(plain.size, 70).convert("RGB") if salt % 4 == 3 else plain
    return [Image.blend(noise, painted, 1 - math.exp(-(step + 0.5 * (salt % 3) * (step > 0)) / 30)) for step in steps]


def _film(frames: list[Image.Image]) -> Image.Image:
    width, height = frames[0].size
    film = Image.new("RGB", (width * len(frames), height))
    for i, frame in enumerate(frames):
        film.paste(frame, (i * width, 0))
    return film


def _uri(picture: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
