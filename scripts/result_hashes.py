"""Hash what small runs of every kind leave, to see whether a change of the code has changed a result.

    python scripts/result_hashes.py > hashes.txt            what this machine makes of them
    python scripts/result_hashes.py --compare hashes.txt    the same again, and what differs

A line a run: the SHA-256 (first 16 digits) of its picture, of its metrics without the seconds, and of its network if
it has trained one. Bytes hold for one kind of machine, number of threads and version of torch, which the first line
names; networks whose weights would be downloaded have random ones.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
SMALL = ("size=64", "steps=10", "log_every=1")
TINY = (
    "task=train",
    "steps=10",
    "training.batch=2",
    "training.crop=64",
    "size=64",
    "log_every=1",
    "training.workers=0",
)
RUNS: dict[str, tuple[str, ...]] = {
    "default": (),
    "small": SMALL,
    "single": (*SMALL, "schedule=single"),
    "noise": (*SMALL, "schedule=single", "init=noise", "pooling=avg", "tv=0.1"),
    "sgd": (*SMALL, "schedule=single", "optimizer=sgd"),
    "lbfgs": (*SMALL, "schedule=single", "optimizer=lbfgs"),
    "lbfgs pyramid": (*SMALL, "optimizer=lbfgs"),
    "lbfgsb": (*SMALL, "schedule=single", "optimizer=lbfgsb"),
    "lbfgsb pyramid": (*SMALL, "optimizer=lbfgsb"),
    "plain float32": (*SMALL, "schedule=single", "engine=plain", "precision=float32"),
    "fused float32": (*SMALL, "schedule=single", "engine=fused", "precision=float32"),
    "bfloat16": (*SMALL, "schedule=single", "precision=bfloat16"),
    "vgg16": (*SMALL, "schedule=single", "backbone=vgg16"),
    "tiled": ("size=256", "steps=4", "log_every=1", "schedule=single", "tile=128", "backbone=vgg16"),
    "average": (*SMALL, "schedule=single", "optimizer=adam", "average=0.9", "jitter=4", "lr_schedule=cosine"),
    "two styles": (*SMALL, "style=[wave,mosaic]", "style_weights=[1,2]"),
    "colours kept": (*SMALL, "color=luminance"),
    "drawn": (*SMALL, "style_loss=sliced_wasserstein"),
    "drawn and shifted": (*SMALL, "style_loss=histogram", "optimizer=adam", "jitter=3"),
    "patches": (*SMALL, "style_loss=mrf"),
    "emd": (*SMALL, "style_loss=relaxed_emd", "content_loss=self_similarity"),
    "average of iterates, two scales": ("steps=10", "log_every=1", "schedule.sizes=[32,64]", "average=0.9"),
    "train": TINY,
    "train pairs": (*TINY, "training=supervised", "training.count=2", "training.painter.steps=3"),
}
SWEEPS: dict[str, tuple[str, ...]] = {
    "batch of seeds": ("-m", "seed=0,1,2", "init=noise", "hydra/launcher=batch", *SMALL),
    "batch of betas": (
        *("-m", "beta=0.001,0.01", "hydra/launcher=batch", *SMALL, "schedule=single", "optimizer=adam", "jitter=4"),
    ),
    "batch with L-BFGS": ("-m", "beta=0.001,0.01", "hydra/launcher=batch", *SMALL, "optimizer=lbfgs"),
    "batch that draws": (
        *("-m", "alpha=1,2", "hydra/launcher=batch", *SMALL, "style_loss=sliced_wasserstein", "precision=float32"),
    ),
    "sweep": ("-m", "style=wave,mosaic", *SMALL),
}
RESUMED = ("steps=60", "size=64", "log_every=5", "checkpoint_steps=7", "optimizer=adam", "jitter=4")


def main() -> None:
    """Make the runs, print a line for each, and compare them with those of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", type=Path, metavar="FILE", help="lines of another time")
    parser.add_argument("--only", default="", help="names that contain this")
    chosen = parser.parse_args()
    presets = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
    wanted = {name: words for name, words in RUNS.items()} | {f"experiment={name}": preset(name) for name in presets}
    before = dict(line.split(": ", 1) for line in chosen.compare.read_text().splitlines()) if chosen.compare else {}
    where = f"{cpu()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"# machine: {where}", flush=True)
    differences = 0
    with tempfile.TemporaryDirectory() as name:
        lines = []
        for place, (what, words) in enumerate([*wanted.items(), *SWEEPS.items(), ("resumed", RESUMED)]):
            if chosen.only not in what:
                continue
            folder = Path(name) / str(place)
            knob = "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
            if what == "resumed":
                kill_early([*words, f"{knob}={folder}"], folder)
                words, knob = (f"resume={folder}",), ""
            told = run([*words, *([f"{knob}={folder}"] if knob else [])])
            lines = [f"{what}: failed: {told}"] if told else [f"{what}{job}: {text}" for job, text in hashes(folder)]
            for line in lines:
                print(line, flush=True)
                label, text = line.split(": ", 1)
                if chosen.compare and before.get(label) != text:
                    differences += 1
                    print(f"    before: {before.get(label, 'nothing')}", flush=True)
    if chosen.compare:
        print(f"# {differences} differ")
    sys.exit(1 if differences else 0)


def preset(name: str) -> tuple[str, ...]:
    """Return what runs ten steps of a preset at 64 pixels."""
    text = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()
    words = [f"experiment={name}", "size=64", "steps=10"]
    words += [] if name in ("sketch", "showpiece") or name.startswith("approach") else ["backbone.weights=random"]
    if "override /task: train" in text:
        pairs = ["training.count=2", "training.painter.steps=3"] if "override /training: supervised" in text else []
        return (*words, "training.batch=2", "training.workers=0", *pairs)
    return (*words, "log_every=1")


def run(words: list[str]) -> str:
    """Run the program; return its last line if it failed."""
    done = subprocess.run([sys.executable, ROOT / "run.py", *words], capture_output=True, text=True, check=False)
    return (done.stderr.strip() or "no word").splitlines()[-1] if done.returncode else ""


def kill_early(words: list[str], folder: Path) -> None:
    """Run the program, and kill it as soon as there is a checkpoint."""
    process = subprocess.Popen([sys.executable, ROOT / "run.py", *words], stderr=subprocess.DEVNULL)
    while not (folder / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()


def hashes(folder: Path) -> list[tuple[str, str]]:
    """Return the name of each job below a folder, if there are several, and what it has left."""
    results = sorted(folder.rglob("result.png"))
    jobs = [result.parent for result in results]
    return [(f" {job.name}" if job != folder else "", of(job)) for job in jobs] or [("", "no result")]


def of(job: Path) -> str:
    """Return the hashes of a job's files."""
    parts = [digest((job / "result.png").read_bytes())]
    with (job / "metrics.csv").open(newline="") as file:
        rows = [{tag: text for tag, text in row.items() if tag != "seconds"} for row in csv.DictReader(file)]
    parts.append(digest(repr(rows).encode()))
    parts.append(f"loss {rows[-1].get('loss/total', '')}")
    if (network := job / "network.safetensors").is_file():
        tensors = network.read_bytes()
        parts.append(digest(tensors[8 + int.from_bytes(tensors[:8], "little") :]))
    return " ".join(parts)


def digest(data: bytes) -> str:
    """Return the first digits of a SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def cpu() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return os.uname().machine
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), os.uname().machine)


if __name__ == "__main__":
    main()
