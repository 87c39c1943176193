"""Optimisers beyond ``torch.optim``: Adam as Keras writes it, and SciPy's L-BFGS-B."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nst.losses.objective import Losses
from nst.optimization.state import Descent, State, Step, Variable


class KerasAdam(torch.optim.Adam):
    """Adam as Keras and TensorFlow write it, with "epsilon hat" (Kingma & Ba 2015, end of section 2).

    Epsilon is added to the root of the second moment before that is corrected for its beginning at 0, so that it counts
    for more at first: TensorFlow's tutorial on style transfer has an epsilon of 0.1, where it makes a difference.
    Arguments are those of torch's Adam.
    """

    def step(self, closure: Any = None) -> Any:
        """Take a step; torch's own, with the epsilon that comes to the same."""
        given = [group["eps"] for group in self.param_groups]
        for group in self.param_groups:
            done = max(float(self.state.get(pixels, {}).get("step", 0)) for pixels in group["params"])
            group["eps"] /= math.sqrt(1 - group["betas"][1] ** (done + 1))
        try:
            return super().step(closure)
        finally:
            for group, eps in zip(self.param_groups, given, strict=True):
                group["eps"] = eps


class ScipyLBFGSB:
    """SciPy's L-BFGS-B, the bounded quasi-Newton method that fast.ai's course uses, in restarted blocks.

    SciPy drives its own loop and cannot hand out its state, so it runs in blocks of at most ``block`` evaluations, each
    starting afresh from where the last one ended. It works in float64.

    Args:
        history: corrections kept to approximate the Hessian (SciPy's ``maxcor``).
        block: evaluations after which it restarts.
        ftol: stop when the loss falls by less than this share of itself.
        gtol: stop when no projected gradient is larger than this.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, history: int = 20, block: int = 100, ftol: float = 1e-9, gtol: float = 0.0) -> None:
        if not (history >= 1 and block >= 2 and ftol >= 0 and gtol >= 0):
            raise ValueError("optimizer: history must be at least 1, block at least 2, ftol and gtol not negative")
        self.history, self.block, self.ftol, self.gtol = history, block, ftol, gtol

    def minimize(self, descent: Descent, state: State | None = None) -> str:
        """Run in place on the pixels; returns why it stopped."""
        options, pixels, progress = descent.options, descent.pixels, descent.progress
        path, limits = _Path(descent, state), None
        if options.clamp == "step" and options.bounds is not None:
            low, high = (bound.expand(pixels.shape).cpu().double().numpy().ravel() for bound in options.bounds)
            limits = np.stack([low, high], axis=1)
        while progress.step < options.steps:
            path.begin = progress.step
            result = minimize(
                path.value_and_gradient,
                path.restart(),
                jac=True,
                method="L-BFGS-B",
                bounds=limits,
                callback=path.iteration,
                options={
                    "maxcor": self.history,
                    "maxfun": self.block,
                    "maxiter": options.steps - progress.step,
                    "ftol": self.ftol,
                    "gtol": self.gtol,
                },
            )
            if path.has_converged:
                return f"step {progress.step} changed the picture by less than stop_change={options.stop_change:g}"
            message = result.message if isinstance(result.message, str) else result.message.decode()
            if result.success or progress.step == path.begin:
                why = message if result.success else "the line search found no lower loss"
                return f"L-BFGS-B stopped after {progress.step} iterations: {why}"
            options.keep_in_bounds(pixels, progress.step, "block")
            path.restart()
            path.between(path.take_state)
        return f"all {options.steps} steps done"


class _Path:
    """The pictures that SciPy evaluates and accepts, between its flat float64 arrays and a descent.

    Attributes:
        begin: the first step of the block.
        current: the picture evaluated last, on which a line search has settled when an iteration ends.
        pending: accepted last; handed out with the next one, since the final picture is not an iteration's.
    """

    def __init__(self, descent: Descent, state: State | None) -> None:
        self.descent, self.begin, self.has_converged = descent, descent.progress.step, False
        self.current: Step | None = None
        self.pending: Step | None = None
        given = (state or {}).get("coefficients")
        self.variable = Variable(descent.pixels.clone(), descent.options.parameterization, coefficients=given)
        self.accepted = _flat(self.variable.tensors)
        if state is not None and "pending" in state:
            index, evaluations, losses, seconds = state["pending"]
            shown = state.get("pending_pixels", descent.pixels).to(descent.pixels, copy=True)
            self.pending = Step(index, evaluations, Losses(**losses), shown, seconds)
        self.started = time.perf_counter()

    def take_state(self) -> State:
        """Return the state to carry on from at the end of a block."""
        step = self.pending
        assert step is not None
        losses = {name: getattr(step.losses, name).detach() for name in ("total", "content", "style", "tv")}
        losses["unweighted"] = {tag: value.detach() for tag, value in step.losses.unweighted.items()}
        about = [step.index, step.evaluations, losses, step.seconds]
        return self.descent.state() | self.variable.state() | {"pending": about, "pending_pixels": step.pixels}

    def between(self, take_state: Callable[[], State] | None) -> None:
        paused = time.perf_counter()
        self.descent.callback.between(take_state)
        self.started += time.perf_counter() - paused

    def value_and_gradient(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        variable, progress = self.variable, self.descent.progress
        self.load(flat)
        variable.to_pixels()
        trial = variable.pixels.detach().clone().requires_grad_(True)
        losses = self.descent.losses(trial, (0, 0), self.begin)
        total = losses.total.sum()
        (variable.pixels.grad,) = torch.autograd.grad(total, trial)
        variable.take_gradient()
        progress.record(trial, losses)
        progress.check()
        self.current = Step(progress.step, progress.evaluations, losses, trial.detach(), 0.0)
        if self.pending is None:
            self.accept()
        return float(total.detach()), _flat(tensor.grad for tensor in variable.tensors if tensor.grad is not None)

    def restart(self) -> np.ndarray:
        """Return where a block begins: what was accepted last, with what was done to the pixels since."""
        self.load(self.accepted)
        self.variable.pixels.copy_(self.descent.pixels)
        self.variable.follow_pixels()
        self.accepted = _flat(self.variable.tensors)
        return self.accepted

    def load(self, flat: np.ndarray) -> None:
        """Give the coefficients the values of a flat array."""
        sizes = [tensor.numel() for tensor in self.variable.tensors]
        with torch.no_grad():
            for tensor, part in zip(self.variable.tensors, torch.from_numpy(flat).split(sizes), strict=True):
                tensor.copy_(part.reshape(tensor.shape))

    def iteration(self, flat: np.ndarray) -> None:
        assert self.current is not None
        self.descent.progress.step += 1
        self.has_converged = self.descent.has_converged(self.descent.pixels, self.current.pixels)
        self.accept()
        if self.has_converged:
            raise StopIteration

    def accept(self) -> None:
        """Take over the picture that the line search settled on."""
        descent, progress, step = self.descent, self.descent.progress, self.current
        assert step is not None
        descent.pixels.copy_(step.pixels)
        self.accepted = _flat(self.variable.tensors)
        progress.seconds += time.perf_counter() - self.started
        earlier, logged = self.pending, progress.step % descent.options.log_every == 0
        self.pending = replace(step, index=progress.step, seconds=progress.seconds, logged=logged)
        if earlier is not None:
            descent.callback.step(replace(earlier, logged=earlier.index % descent.options.log_every == 0))
        descent.callback.between(None)
        self.started = time.perf_counter()


def _flat(tensors: Iterable[Tensor]) -> np.ndarray:
    """Return the numbers of all tensors in float64, as SciPy works with them."""
    return np.concatenate([tensor.detach().cpu().double().numpy().ravel() for tensor in tensors])
