"""Measure what beta does, by a network that the run used and by one that it did not.

    python scripts/calibrate.py [--backbones vgg16 squeezenet] [--sizes 256 512] [--schedules pyramid single]

For every backbone, schedule, size and pair of images it sweeps beta = 0.001, 0.01, 0.1 with the defaults, and has each
result scored by both evaluators (docs/evaluator.md). The recipe is calibrated if each decade of beta takes at least
20 % off the style distance of both while their content distance rises. Prints the table of docs/calibration.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from itertools import pairwise, product
from pathlib import Path

import torch

from nst.evaluation.evaluator import Evaluator
from nst.runs import folders
from nst.runtime import device_name

ROOT = Path(__file__).resolve().parent.parent
BETAS = (0.001, 0.01, 0.1)
PAIRS = (("astronaut", "swirls"), ("chelsea", "mosaic"), ("coffee", "wave"))
STEPS = {"pyramid": [], "single": ["steps=100"]}  # one scale alone has further to go
SCORES = ("style_distance", "content_distance")
LEAST = 0.2  # what a decade takes off the style distance


def load_evaluators() -> dict[str, Evaluator]:
    """Return both evaluators, as conf/evaluator has them."""
    from hydra import compose, initialize_config_dir

    from nst import configuration

    configuration.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        nodes = {name: compose("config", [f"evaluator={name}"]).evaluator for name in ("vgg16", "squeezenet")}
    return {name: configuration.build(node) for name, node in nodes.items()}


def sweep(folder: Path, overrides: list[str]) -> list[Path]:
    """Run the sweep over beta; return the folders of its runs in order."""
    betas = ",".join(map(str, BETAS))
    command = [sys.executable, str(ROOT / "run.py"), "-m", f"beta={betas}", *overrides]
    common = ["evaluator=none", "report=false", f"hydra.sweep.dir={folder}"]
    subprocess.run([*command, *common], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sorted(folders.find(folder)[0], key=lambda path: float(folders.read(path).record["config"]["beta"]))


def main() -> None:
    """Run all, print the table, and fail if the recipe is not calibrated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbones", nargs="+", default=["vgg16", "squeezenet"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--schedules", nargs="+", choices=STEPS, default=list(STEPS))
    arguments = parser.parse_args()
    evaluators = load_evaluators()
    print(f"Measured on {device_name(torch.device('cpu'))}, torch {torch.__version__}.\n")
    print(
        f"| backbone | schedule | size | images | beta | {' | '.join(f'style, content by {n}' for n in evaluators)} |"
    )
    print(f"|---|---|---|---|---|{'---|' * len(evaluators)}")
    calibrated = True
    for backbone, schedule, size, (content, style) in product(
        arguments.backbones, arguments.schedules, arguments.sizes, PAIRS
    ):
        overrides = [f"backbone={backbone}", f"schedule={schedule}", f"size={size}", *STEPS[schedule]]
        with tempfile.TemporaryDirectory() as folder:
            runs = sweep(Path(folder), [*overrides, f"content={content}", f"style={style}"])
            scored = [
                {name: one.scores(run / "result.png", content, style) for name, one in evaluators.items()}
                for run in runs
            ]
        for name in evaluators:
            found = [tuple(float(str(of[name][score])) for score in SCORES) for of in scored]
            calibrated &= all(b[0] <= (1 - LEAST) * a[0] and b[1] > a[1] for a, b in pairwise(found))
        for number, (beta, scores) in enumerate(zip(BETAS, scored, strict=True)):
            cells = []
            for name, of_run in scores.items():
                distance, before = of_run["style_distance"], scored[number - 1][name]["style_distance"]
                change = f" ({float(str(distance)) / float(str(before)) - 1:+.0%})" if number else ""
                cells.append(f"{distance:.3f}{change}, {of_run['content_distance']:.3f}")
            row = " | ".join(cells)
            print(f"| {backbone} | {schedule} | {size} | {content}, {style} | {beta} | {row} |", flush=True)
    print(f"\nEvery decade of beta takes at least {LEAST:.0%} off." if calibrated else "\nNOT calibrated.")
    raise SystemExit(0 if calibrated else 1)


if __name__ == "__main__":
    main()
