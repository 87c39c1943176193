"""Measure what beta does, by a network that the run did not use.

    python scripts/calibrate.py --vgg16 FILE [--device cuda] [--sizes 256 512]

For every backbone, size and pair of images it runs beta = 0.001, 0.01, 0.1 with the defaults, and scores each result on
the other network: style distance is the mean over layers of |G - A|^2 / |A|^2 (Gram matrices of result and style),
content distance is |F - P|^2 / |P|^2 at the content layer. The recipe is calibrated if each decade of beta takes at
least 20 % off the style distance while the content distance rises. ``--vgg16`` is a file of VGG-16's original (Caffe)
weights; without it, torchvision's download is used. Writes the table of docs/calibration.md to standard output.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from nst import config, experiment, posing, runtime
from nst.losses import functional

CONF = Path(__file__).resolve().parent.parent / "conf"
BETAS = (0.001, 0.01, 0.1)
PAIRS = (("astronaut", "swirls"), ("chelsea", "mosaic"), ("coffee", "wave"))
JUDGE = {"squeezenet": "vgg16", "vgg16": "squeezenet"}


def overrides_for(backbone: str, vgg16: str | None) -> list[str]:
    """Return what chooses a backbone with its weights."""
    chosen = [f"backbone={backbone}"]
    if backbone == "vgg16" and vgg16:
        chosen += [f"backbone.weights={vgg16}", "backbone.preprocessing=caffe"]
    return chosen


def stylise(job: DictConfig, device: torch.device) -> torch.Tensor:
    """Run one job without trackers; returns the picture in [0, 1]."""
    problem = posing.pose(job, device)
    outcome = experiment.descend(job, problem, lambda step: None, lambda index: False)
    return problem.space.decode(outcome.last.pixels).clamp(0, 1)


@torch.no_grad()
def score(picture: torch.Tensor, job: DictConfig, device: torch.device) -> tuple[float, float]:
    """Return (style distance, content distance) of a picture, by the network of a job that it did not come from."""
    judge = posing.pose(job, device)
    maps, content, style = (
        judge.backbone(judge.backbone.preprocessing(image)) for image in (picture, judge.content, judge.style)
    )
    grams = [
        functional.gram_loss(maps[layer], functional.gram_matrix(style[layer]))
        for layer in config.layer_weights(job, "style")
    ]
    (deep,) = config.layer_weights(job, "content")
    return float(torch.stack(grams).mean()), float(functional.content_loss(maps[deep], content[deep]))


def main() -> None:
    """Run all, print the table, and fail if the recipe is not calibrated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vgg16", help="file of VGG-16's Caffe weights")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    config.register()
    device = runtime.prepare(arguments.device, "float32")
    print(f"Measured on {runtime.device_name(device)}, torch {torch.__version__}.\n")
    print("| backbone | judged by | size | images | beta | style distance | change | content distance |")
    print("|---|---|---|---|---|---|---|---|")
    calibrated = True
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        for backbone, judge in JUDGE.items():
            for size in arguments.sizes:
                for content, style in PAIRS:
                    common = [f"size={size}", f"content={content}", f"style={style}"]
                    jury = compose("config", [*overrides_for(judge, arguments.vgg16), *common])
                    rows = []
                    for beta in BETAS:
                        job = compose("config", [*overrides_for(backbone, arguments.vgg16), *common, f"beta={beta}"])
                        rows.append((beta, *score(stylise(job, device), jury, device)))
                        change = f"{rows[-1][1] / rows[-2][1] - 1:+.0%}" if len(rows) > 1 else ""
                        print(
                            f"| {backbone} | {judge} | {size} | {content}, {style} | {beta} | {rows[-1][1]:.4f} "
                            f"| {change} | {rows[-1][2]:.4f} |",
                            flush=True,
                        )
                    calibrated &= all(b[1] <= 0.8 * a[1] and b[2] > a[2] for a, b in pairwise(rows))
    print("\nEvery decade of beta takes at least 20 % off the style distance." if calibrated else "\nNOT calibrated.")
    raise SystemExit(0 if calibrated else 1)


if __name__ == "__main__":
    main()
