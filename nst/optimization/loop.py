"""The loop: gradient descent on the pixels of one picture, a ``Step`` at a time, for torch's and SciPy's optimisers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nst.losses.functional import sum_of_squares
from nst.optimization.optimizers import ScipyLBFGSB
from nst.optimization.parameterization import Pixels
from nst.optimization.state import (
    CLAMPS,
    Callback,
    Descent,
    LossOfPicture,
    Options,
    State,
    Step,
    Variable,
)


@dataclass
class Outcome:
    """How an optimisation ended.

    Attributes:
        last: the final picture, with its losses.
        reason: why it stopped, in words.
        state: at the end, for another scale to go on from; see ``at_size``.
    """

    last: Step
    reason: str
    state: State = field(default_factory=dict)


def optimize(
    picture: Tensor,
    losses: LossOfPicture,
    optimizer: Callable[[list[Tensor]], Any],
    options: Options,
    callback: Callback | None = None,
    state: State | None = None,
) -> Outcome:
    """Minimise the total loss over the pixels.

    Args:
        picture: the start, ``(1, 3, H, W)`` in pixel space; it is not changed.
        losses: of a picture that was rolled by a shift before the network saw it, at a step.
        optimizer: given the tensors that it moves, ``[pixels]`` or their coefficients, makes a
            ``torch.optim.Optimizer``; or a ``ScipyLBFGSB``.
        options: for how long, and what else is done to the pixels.
        callback: is handed every step.
        state: what ``callback.between`` was offered; the optimisation goes on from there, to the same bytes.

    Raises:
        Diverged: a loss became NaN or infinite.
        ValueError: there is no such clamp, it has no bounds, or SciPy's optimiser cannot do what is asked for.
    """
    if options.clamp not in CLAMPS or (options.clamp != "never" and options.bounds is None):
        raise ValueError(f"clamp={options.clamp} must be one of {', '.join(CLAMPS)}, and needs bounds unless never")
    is_scipy = isinstance(optimizer, ScipyLBFGSB)
    if is_scipy and (options.average or options.lr_schedule or options.clip_gradient or options.clamp == "evaluation"):
        raise ValueError("SciPy's optimiser knows no average, lr_schedule or clip_gradient, nor clamp=evaluation")
    if is_scipy and options.clamp == "step" and not isinstance(options.parameterization, Pixels):
        raise ValueError("SciPy's bounds are those of pixels: clamp=step goes with parameterization=pixels")
    descent = Descent(picture, losses, options, callback or Callback(), state)
    if isinstance(optimizer, ScipyLBFGSB):
        reason, rate, rest = optimizer.minimize(descent, state), None, {}
    else:
        reason, rate, rest = _minimize_with_torch(descent, optimizer, state)
    pixels, progress = descent.pixels, descent.progress
    if descent.average:
        pixels.copy_(descent.average.value())
    options.keep_in_bounds(pixels, progress.step)
    started = time.perf_counter()
    with torch.no_grad():
        final = losses(pixels, (0, 0), progress.step)
    progress.record(pixels, final)
    progress.check()
    progress.seconds += time.perf_counter() - started
    last = Step(progress.step, progress.evaluations, final, pixels, progress.seconds, last=options.is_last, rate=rate)
    if options.is_last:
        descent.callback.step(replace(last, logged=True))
    return Outcome(last, reason, descent.state() | rest)


def _minimize_with_torch(
    descent: Descent, make: Callable[[list[Tensor]], torch.optim.Optimizer], state: State | None
) -> tuple[str, float | None, State]:
    """Run any torch optimiser in place on the pixels; returns why it stopped, the learning rate if it changes, and
    what state it has beyond that of the descent."""
    options, pixels, progress, average = descent.options, descent.pixels, descent.progress, descent.average
    pixels.requires_grad_(True)
    variable = Variable(pixels, options.parameterization, options.unit, (state or {}).get("coefficients"))
    optimizer: Any = make(variable.tensors)
    scheduler = options.lr_schedule(optimizer) if options.lr_schedule else None
    for own, name in ((optimizer, "optimizer"), (scheduler, "lr_schedule")):
        if own is not None and state is not None and name in state:
            own.load_state_dict(state[name])
    is_lbfgs = isinstance(optimizer, torch.optim.LBFGS)
    for group in optimizer.param_groups if is_lbfgs else ():
        group["max_iter"] = 1  # one iteration a step; its history carries over, so the path is the same as in one call

    def rate() -> float | None:
        return float(scheduler.get_last_lr()[0]) if scheduler else None

    def own_state() -> State:
        rates = {"lr_schedule": scheduler.state_dict()} if scheduler else {}
        return {"optimizer": optimizer.state_dict()} | variable.state() | rates

    reason = f"all {options.steps} steps done"
    try:
        for index in range(progress.step, options.steps):
            started = time.perf_counter()
            evaluation = _Evaluation(descent, variable, index)
            logged, step_rate = index % options.log_every == 0, rate()
            optimizer.step(evaluation)
            variable.to_pixels()
            options.keep_in_bounds(pixels, index + 1, "step")
            variable.follow_pixels()
            is_stuck = is_lbfgs and torch.equal(pixels, evaluation.picture)
            if average and not is_stuck:
                average.update(pixels)
            if scheduler:
                scheduler.step()
            if logged:
                progress.check()
            has_converged = descent.has_converged(evaluation.picture, pixels)
            progress.seconds += time.perf_counter() - started
            if is_stuck:
                largest = float(pixels.grad.abs().max()) if pixels.grad is not None else 0.0
                reason = f"L-BFGS found no further step after {index} iterations (largest gradient {largest:.3g})"
                break
            descent.callback.step(replace(evaluation.step, seconds=progress.seconds, logged=logged, rate=step_rate))
            progress.step = index + 1
            if has_converged:
                reason = f"step {index + 1} changed the picture by less than stop_change={options.stop_change:g}"
                break
            descent.callback.between(lambda: descent.state() | own_state())
    finally:
        pixels.requires_grad_(False)
    return reason, rate(), own_state()


class _Evaluation:
    """The closure of a step: computes the loss and its gradient, and remembers the picture that the step began with."""

    step: Step
    picture: Tensor

    def __init__(self, descent: Descent, variable: Variable, index: int) -> None:
        self.descent, self.variable, self.index, self.is_first = descent, variable, index, True
        self.shift = descent.draw_shift()

    @torch.enable_grad()
    def __call__(self) -> Tensor:
        descent, pixels, progress = self.descent, self.descent.pixels, self.descent.progress
        self.variable.to_pixels()
        descent.options.keep_in_bounds(pixels, self.index, "evaluation")
        pixels.grad = None
        losses = descent.losses(pixels, self.shift, self.index)
        total = losses.total.sum()
        total.backward()
        if descent.options.clip_gradient and pixels.grad is not None:
            _clip(pixels.grad, descent.options.clip_gradient)
        self.variable.follow_pixels()
        self.variable.take_gradient()
        progress.record(pixels, losses)
        if self.is_first:
            self.is_first, self.picture = False, pixels.detach().clone()
            shown = descent.average.value() if descent.average else self.picture
            self.step = Step(self.index, progress.evaluations, losses, shown, 0.0)
        return total.detach()


@torch.no_grad()
def _clip(gradient: Tensor, most: float) -> None:
    """Shorten a gradient in place to at most so much for each of its numbers."""
    norm = sum_of_squares(gradient, gradient.dtype).sqrt()
    gradient *= (most * gradient[0].numel() / norm).clamp(max=1).view(-1, 1, 1, 1)
