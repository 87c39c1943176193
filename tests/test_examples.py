"""The examples of one's own optimiser and preset; those of a loss, a network and a tracker stand by their rooms."""

import json
from pathlib import Path

import numpy as np
import torch
from command_line import ROOT, TINY, refused, run

from nst.configuration import config_folders, use_config_folders
from nst.configuration.schema import build

LION = ("--config-dir", str(ROOT / "examples" / "own_optimizer"), "optimizer=lion", *TINY)
PRESET = ("--config-dir", str(ROOT / "examples" / "own_preset"), "experiment=pen_and_ink")


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_each_example_is_at_most_two_short_files() -> None:
    for example in (ROOT / "examples").iterdir():
        files = [path for path in example.rglob("*") if path.suffix in (".py", ".yaml", ".ipynb")]
        assert 1 <= len(files) <= 2, example
        assert all(len(path.read_text().splitlines()) <= 60 for path in files if path.suffix != ".ipynb"), example


def test_an_optimiser_of_ones_own_needs_a_target_and_a_rate_and_is_computed_as_its_paper_says() -> None:
    before = config_folders()
    use_config_folders([ROOT / "examples" / "own_optimizer"])
    try:
        make = build({"_target_": "lion.Lion", "lr": 0.1, "betas": [0.9, 0.99]})
    finally:
        use_config_folders(before)
    scales = np.array([1.0, -3.0, 0.5])
    pixels = torch.tensor([0.3, 0.2, -0.4], dtype=torch.float64, requires_grad=True)
    optimizer = make([pixels])

    def closure() -> torch.Tensor:
        pixels.grad = None
        with torch.enable_grad():
            loss = (torch.tensor(scales) * pixels.square()).sum()
        loss.backward()
        return loss

    x, m = np.array([0.3, 0.2, -0.4]), np.zeros(3)
    for _ in range(8):
        gradient = 2 * scales * x
        x = x - 0.1 * np.sign(0.9 * m + 0.1 * gradient)
        m = 0.99 * m + 0.01 * gradient
        optimizer.step(closure)
        np.testing.assert_allclose(pixels.detach().numpy(), x, rtol=0, atol=1e-12)


def test_it_paints_from_the_command_line_and_gets_the_defaults_of_clamp_and_jitter(tmp_path: Path) -> None:
    done = run(*LION, f"hydra.run.dir={tmp_path / 'run'}", "report=false")
    assert done.returncode == 0, done.stdout + done.stderr
    config = record_of(tmp_path / "run")["config"]
    assert (config["clamp"], config["jitter"], config["optimizer"]["lr"]) == ("step", 0, 0.01)
    done = run(*LION, "clamp=never", "jitter=4", f"hydra.run.dir={tmp_path / 'typed'}")
    config = record_of(tmp_path / "typed")["config"]
    assert (config["clamp"], config["jitter"]) == ("never", 4)


def test_a_step_that_never_calls_its_closure_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "idle.yaml").write_text("_target_: idle.Idle\nlr: 0.1\n")
    code = (
        "import torch\nclass Idle(torch.optim.SGD):\n    def step(self, closure=None):\n        return super().step()\n"
    )
    (tmp_path / "idle.py").write_text(code)
    message = refused(run("--config-dir", str(tmp_path), "optimizer=idle", *TINY, f"hydra.run.dir={tmp_path / 'run'}"))
    assert "loss = closure()" in message


def test_a_preset_of_ones_own_is_one_file_and_what_is_typed_wins(tmp_path: Path) -> None:
    where = (f"hydra.run.dir={tmp_path / 'run'}", "report=false")
    done = run(*PRESET, "backbone=vgg16", "size=32", "steps=2", "beta=0.5", "optimizer=adam", *where)
    assert done.returncode == 0, done.stdout + done.stderr
    record = record_of(tmp_path / "run")
    assert Path(record["config"]["style"]).stem == "hatching" and record["config"]["beta"] == 0.5
    assert "history_size" not in record["config"]["optimizer"]
