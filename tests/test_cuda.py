"""On a GPU: losses of the CPU to rounding, the same bytes twice, a bad loss stopped. Skipped without one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import sketch
from hydra import compose, initialize_config_dir
from PIL import Image

from nst import configuration, runtime
from nst.optimization.state import Diverged
from nst.setup import posing
from nst.stylization import stylize

CONF = Path(__file__).parent.parent / "conf"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def job(folder: Path, *overrides: str) -> stylize.Job:
    configuration.register()
    folder.mkdir(exist_ok=True)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return stylize.Job(compose("config", sketch(*overrides)), folder, {}, list(overrides))


@pytest.mark.parametrize(
    "choice",
    [
        ["backbone=squeezenet"],
        ["backbone=vgg19", "backbone.weights=random"],
        ["experiment=notebook", "backbone.weights=random"],
    ],
)
def test_losses_and_gradient_are_those_of_the_cpu(tmp_path: Path, choice: list[str]) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        settings = job(tmp_path, *choice, "size=96", "init=blend", f"device={device}").config
        problem = posing.pose(settings, runtime.prepare(device, "float32"))
        pixels = problem.start.clone().requires_grad_(True)
        losses = problem.evaluate(pixels, (1, 2) if settings.jitter else (0, 0))
        (gradient,) = torch.autograd.grad(losses.total.sum(), pixels)
        found[device] = {tag: float(value) for tag, value in losses.named().items()}, gradient.cpu()
    (cpu, gradient), (cuda, other) = found["cpu"], found["cuda"]
    for tag, value in cpu.items():
        assert cuda[tag] == pytest.approx(value, rel=1e-4, abs=1e-12), tag
    assert float((gradient - other).norm() / gradient.norm()) < 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "lbfgsb"])
def test_the_same_bytes_twice(tmp_path: Path, optimizer: str) -> None:
    pictures = []
    for name in ("first", "second"):
        task = job(tmp_path / name, f"optimizer={optimizer}", "size=96", "steps=20", "device=cuda")
        stylize.run(task, runtime.PoliteStop())
        pictures.append((tmp_path / name / "result.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_a_bad_loss_is_noticed_at_the_next_logged_step_and_the_best_picture_is_kept(tmp_path: Path) -> None:
    task = job(
        tmp_path / "run", "size=64", "steps=40", "optimizer=sgd", "optimizer.lr=1e30", "clamp=never", "device=cuda"
    )
    with pytest.raises(Diverged, match="at step 10"):
        stylize.run(task, runtime.PoliteStop())
    assert np.asarray(Image.open(tmp_path / "run" / "best.png")).std() > 10


@pytest.mark.parametrize("together", [False, True])
def test_no_waiting_for_the_device_between_logged_steps(tmp_path: Path, together: bool) -> None:
    settings = [job(tmp_path, "size=64", "device=cuda", f"beta={0.1 * (i + 1)}", f"seed={i}").config for i in range(3)]
    settings = settings if together else settings[:1]
    device = runtime.prepare("cuda", "float32")
    inputs, backbone = [posing.load(one, device) for one in settings], posing.build_network(settings[0], device)
    starts = [posing.start(one, of, backbone) for one, of in zip(settings, inputs, strict=True)]
    problem = posing.pose_together(settings, inputs, starts, backbone, device)
    seen = []

    def watch(step) -> None:  # type: ignore[no-untyped-def]
        torch.cuda.set_sync_debug_mode("error" if 2 <= step.index < 8 else "default")
        seen.append(step.index)

    try:
        stylize.optimize(
            problem.start, problem.evaluate, configuration.build(settings[0].optimizer), 10, watch, lambda index: False,
            problem.space.bounds(problem.start), settings[0].clamp, 0, [one.seed for one in settings],
            lost=lambda image, error: None,
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen == list(range(11))


def test_a_batch_is_its_jobs_run_alone_to_rounding(tmp_path: Path) -> None:
    knobs = ("size=64", "steps=6", "log_every=1", "device=cuda", "precision=float32")
    jobs = [job(tmp_path / str(i), *knobs, f"beta={0.1 * (i + 1)}", f"seed={i}") for i in range(3)]
    ends = stylize.run_together(jobs, runtime.PoliteStop())
    for i, end in enumerate(ends):
        assert isinstance(end, stylize.Outcome)
        alone = stylize.run(
            job(tmp_path / f"alone{i}", *knobs, f"beta={0.1 * (i + 1)}", f"seed={i}"), runtime.PoliteStop()
        )
        assert float(end.last.losses.total) == pytest.approx(float(alone.last.losses.total), rel=1e-3)


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_step_replayed_from_a_graph_is_the_step(tmp_path: Path, engine: str) -> None:
    device = runtime.prepare("cuda", "float32")
    found = []
    for graph in ("true", "false"):
        settings = job(
            tmp_path, "size=96", "device=cuda", "precision=float32", f"engine={engine}", f"cuda_graph={graph}"
        ).config
        problem = posing.pose(settings, device)
        for shift in ((0, 0), (1, 2), (7, 3)):
            pixels = (problem.start + 0.05).requires_grad_(True)
            losses = problem.evaluate(pixels, shift)
            losses.total.sum().backward()
            assert pixels.grad is not None
            found.append((losses.named(), pixels.grad.clone()))
    for (values, gradient), (others, other) in zip(found[:3], found[3:], strict=True):
        for tag, value in values.items():
            torch.testing.assert_close(value, others[tag], rtol=1e-4, atol=1e-6)
        assert (gradient - other).norm() < 1e-3 * other.norm()
