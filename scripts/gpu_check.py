"""Everything that needs an NVIDIA GPU, in under eight minutes, on one page.

    python scripts/gpu_check.py [--out docs/gpu.md]

The tests of tests/engines/test_cuda.py; the same run with and without CUDA graphs; bytes twice; what a batch gains; the
speed of a step by engine and size. Each part is begun with what is left of the time; one that fails is told and passed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nst.runtime import device_name

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 480
COMMON = ("device=cuda", "evaluator=none", "report=false", "precision=float32")
KINDS = {"default": (), "small network": ("experiment=sketch",), "random pairs": ("style_loss=sliced_wasserstein",)}


def main() -> None:
    """Run every part and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="write the page there as well")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for all of it")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("Error: torch sees no NVIDIA GPU here.")
    end = time.monotonic() + arguments.seconds
    page = [f"# On a GPU\n\n{device_name(torch.device('cuda'))}, torch {torch.__version__}, CUDA {torch.version.cuda}."]
    parts: dict[str, Callable[[float], str]] = {
        "Tests": tests, "Bytes twice, and graphs against eager": bytes_and_graphs,
        "A sweep of eight as a batch": batches, "Speed of a step": steps,
    }  # fmt: skip
    for title, part in parts.items():
        left = end - time.monotonic()
        try:
            text = part(left) if left > 20 else "Not begun: the time was over."
        except Exception as error:  # the other parts are worth having
            text = f"Failed: {type(error).__name__}: {error}"
        page.append(f"## {title}\n\n{text}")
        print(page[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n\n".join(page) + "\n", encoding="utf-8")


def tests(left: float) -> str:
    """Run the tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-n", "0", "-rs", "tests/engines/test_cuda.py"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=min(left, 200), check=False)
    return "```\n" + "\n".join(done.stdout.splitlines()[-12:]) + "\n```"


def run(folder: Path, *overrides: str) -> tuple[str, dict[str, float], float]:
    """Run once; return the hash of the picture, the final losses, and the seconds of the descent."""
    words = [sys.executable, str(ROOT / "run.py"), *COMMON, *overrides, f"hydra.run.dir={folder}"]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((folder / record["result"]["file"]).read_bytes()).hexdigest()
    return digest, record["final"], float(record["seconds"]["optimisation"])


def bytes_and_graphs(left: float) -> str:
    """Run each kind twice eagerly and once recorded."""
    rows = ["| recipe | same bytes twice | loss, eager | loss, graph | seconds, eager | seconds, graph |"]
    rows.append("|---|---|---|---|---|---|")
    for name, overrides in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            first, eager, slow = run(Path(folder) / "a", *overrides)
            second, _, _ = run(Path(folder) / "b", *overrides)
            _, graph, fast = run(Path(folder) / "c", *overrides, "cuda_graph=true")
        same = "yes" if first == second else "NO"
        losses = f"{eager['loss/total']:.6g} | {graph['loss/total']:.6g}"
        rows.append(f"| {name} | {same} | {losses} | {slow:.2f} | {fast:.2f} |")
    return "\n".join(rows)


def batches(left: float) -> str:
    """Run a sweep in turn and as one batch."""
    took = {}
    for launcher in ("basic", "batch"):
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, str(ROOT / "run.py"), "-m", "beta=0.001,0.002,0.005,0.01,0.02,0.05,0.1,0.2"]
            words += [*COMMON, f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}"]
            began = time.monotonic()
            subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=min(left, 200))
            took[launcher] = time.monotonic() - began
    return (
        f"In turn {took['basic']:.1f} s, as a batch {took['batch']:.1f} s: {took['basic'] / took['batch']:.2f} times."
    )


def steps(left: float) -> str:
    """Time steps of the engines in turn."""
    words = [sys.executable, "scripts/benchmark.py", "--device", "cuda", "--sizes", "256", "512", "--rounds", "3"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=min(left, 150), check=False)
    return f"```\n{done.stdout or done.stderr[-800:]}\n```"


if __name__ == "__main__":
    main()
