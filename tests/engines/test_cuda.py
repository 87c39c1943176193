"""On a GPU: losses of the CPU to rounding, the same bytes twice, a bad loss stopped. Skipped without one."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import done_together, rows
from PIL import Image
from problems import composed, pose, stylized

from nst import configuration, runtime
from nst.batching import together
from nst.optimization.loop import Outcome, optimize
from nst.optimization.state import Callback, Diverged, Step
from nst.stylization.stylize import options_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize(
    "choice",
    [
        ["backbone=squeezenet"],
        ["backbone=vgg19", "backbone.weights=random"],
        ["experiment=notebook", "backbone.weights=random"],
    ],
)
def test_losses_and_gradient_are_those_of_the_cpu(choice: list[str]) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        settings = composed(*choice, "size=96", "init=blend", f"device={device}")
        problem = pose(settings, runtime.prepare(device, "float32"))
        shift = (1, 2) if settings.jitter else (0, 0)
        losses, gradient = problem.evaluate(shift=shift), problem.gradient(problem.start, shift)
        found[device] = {tag: float(value) for tag, value in losses.named().items()}, gradient.cpu()
    (cpu, gradient), (cuda, other) = found["cpu"], found["cuda"]
    for tag, value in cpu.items():
        assert cuda[tag] == pytest.approx(value, rel=1e-4, abs=1e-12), tag
    assert float((gradient - other).norm() / gradient.norm()) < 1e-3


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "lbfgsb"])
def test_the_same_bytes_twice(tmp_path: Path, optimizer: str) -> None:
    pictures = []
    for name in ("first", "second"):
        stylized(tmp_path / name, f"optimizer={optimizer}", "size=96", "steps=20", "device=cuda")
        pictures.append((tmp_path / name / "result.png").read_bytes())
    assert pictures[0] == pictures[1]


def test_a_bad_loss_is_noticed_at_the_next_logged_step_and_the_best_picture_is_kept(tmp_path: Path) -> None:
    rate = ("optimizer=sgd", "optimizer.lr=1e30", "clamp=never")
    with pytest.raises(Diverged, match="at step 10"):
        stylized(tmp_path, "size=64", "steps=40", *rate, "device=cuda")
    assert np.asarray(Image.open(tmp_path / "best.png")).std() > 10


class Impatient(Callback):
    """Lets nobody wait for the device while steps 2 to 7 are made."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def step(self, step: Step) -> None:
        torch.cuda.set_sync_debug_mode("error" if 2 <= step.index < 8 else "default")
        self.seen.append(step.index)


@pytest.mark.parametrize("images", [1, 3])
def test_no_waiting_for_the_device_between_logged_steps(images: int) -> None:
    device, callbacks = runtime.prepare("cuda", "float32"), [Impatient() for _ in range(images)]

    def story(number: int) -> Outcome:
        config = composed("size=64", "steps=10", "device=cuda", f"beta={0.1 * (number + 1)}", f"seed={number}")
        problem = pose(config, device)
        losses, _ = together.take_targets(config, problem.backbone, problem.inputs)
        options = options_of(config, problem.space, problem.start, config.steps)
        assert options.log_every > 8
        make = configuration.build(config.optimizer)
        return optimize(problem.start, losses, make, options, callbacks[number])

    try:
        if images == 1:
            pose(composed("size=64", "steps=10", "device=cuda"), device).optimize(callbacks[0])
            ends = []
        else:
            ends = together.run_together([functools.partial(story, number) for number in range(images)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [end for end in ends if isinstance(end, BaseException)] == []
    assert [callback.seen for callback in callbacks] == [list(range(11))] * images


def test_a_batch_is_its_jobs_run_alone_to_rounding(tmp_path: Path) -> None:
    knobs = ("size=64", "steps=6", "log_every=1", "device=cuda", "precision=float32")
    jobs = [(*knobs, f"beta={0.1 * (i + 1)}", f"seed={i}") for i in range(3)]
    done_together(tmp_path, *jobs)
    for i, overrides in enumerate(jobs):
        stylized(tmp_path / f"alone{i}", *overrides)
        ours, alone = (rows(tmp_path / name)[-1]["loss/total"] for name in (str(i), f"alone{i}"))
        assert ours == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("engine", ["plain", "fused"])
def test_a_step_replayed_from_a_graph_is_the_step(engine: str) -> None:
    device = runtime.prepare("cuda", "float32")
    chosen = ("size=96", "device=cuda", "precision=float32", f"engine={engine}")
    replayed, eager = (pose(composed(*chosen, f"cuda_graph={graph}"), device) for graph in ("true", "false"))
    for shift in ((0, 0), (1, 2), (7, 3)):
        found = []
        for problem in (replayed, eager):
            pixels = (problem.start + 0.05).requires_grad_(True)
            losses = problem.evaluate(pixels, shift)
            losses.total.sum().backward()
            assert pixels.grad is not None
            found.append((losses.named(), pixels.grad.clone()))
        (values, gradient), (others, other) = found
        for tag, value in values.items():
            torch.testing.assert_close(value, others[tag], rtol=1e-4, atol=1e-6)
        assert (gradient - other).norm() < 1e-3 * other.norm()
