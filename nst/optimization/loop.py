"""The loop: gradient descent on pixels, one ``Step`` at a time to whoever watches, for torch and SciPy optimisers."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nst.losses.functional import sum_of_squares
from nst.losses.objective import Losses, Roll
from nst.optimization.state import (
    CLAMPS,
    Average,
    BeginStep,
    Between,
    Bounds,
    Box,
    Descent,
    Evaluate,
    Lost,
    Progress,
    Rates,
    Shifts,
    State,
    Step,
    Watch,
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
    pixels: Tensor,
    evaluate: Evaluate,
    optimizer: Callable[[list[Tensor]], Any],
    steps: int,
    watch: Watch,
    is_logged: Callable[[int], bool],
    bounds: Bounds | None = None,
    clamp: str = "never",
    jitter: int = 0,
    seed: int | Sequence[int] = 0,
    between: Between = lambda take_state: None,
    state: State | None = None,
    lost: Lost | None = None,
    begin_step: BeginStep = lambda step: None,
    clamp_until: int | None = None,
    average: float = 0.0,
    lr_schedule: Rates | None = None,
    clip_gradient: float = 0.0,
    stop_change: float = 0.0,
    more: bool = False,
    unit: Tensor | None = None,
) -> Outcome:
    """Minimise the total loss over the pixels.

    Args:
        pixels: the start, ``(B, 3, H, W)`` in pixel space.
        evaluate: losses of a picture that was rolled by a shift before the network saw it.
        optimizer: given ``[pixels]``, makes a ``torch.optim.Optimizer``; or a ``ScipyLBFGSB``.
        steps: iterations of the optimiser at most, those that lie behind ``state`` included.
        watch: is handed every ``Step``, the start and the final picture included.
        is_logged: the steps at which waiting for the device is allowed.
        bounds: pixels of black and white, or other limits; needed unless ``clamp`` is ``never``.
        clamp: ``never``; at the ``end``; or then and before: after every ``step`` (SciPy's optimiser takes it as its
            bounds), before every ``evaluation``, those of a line search included, or, SciPy's only, after every
            ``block``.
        jitter: the picture is rolled by 0 to jitter - 1 rows and columns, at random each step; 0 is off.
        seed: of the jitter; a list has one for each image.
        between: is called after every step with a function that returns the state to carry on from, or with None
            where there is none: SciPy's optimiser has one only between two of its blocks.
        state: what that function returned; the optimisation goes on from there, to the same bytes.
        lost: is told, once, of each image whose loss became NaN or infinite, while the others go on.
        begin_step: is told the index of each step before its first evaluation, and that of the final picture before
            its own; SciPy's optimiser tells only of the first step of each block. What draws random numbers draws them
            then, so that a line search works on one function.
        clamp_until: the picture of this step, and those after it, are not clamped.
        average: decay of an exponential average of the iterates, which is handed out in their place and is the final
            picture; 0 is off. The losses handed out before the end are the iterates'.
        lr_schedule: given the optimiser, makes a scheduler of ``torch.optim``, which is stepped after each step.
        clip_gradient: the norm of an image's gradient is at most this times the number of its numbers, 3 H W (Li et al.
            2017 in their code, with 1); 0 is off.
        stop_change: stop after a step that changes every image by less than this share of its norm (ibid.); 0 is off.
        more: another scale follows, so that the final picture, which it begins with, is not handed to ``watch``.
        unit: what torch's optimiser counts pixels in, ``(1, 3, 1, 1)`` above 0: with their range from black to white a
            learning rate means the same in every pixel space; None: as they are. SciPy's has no rate, and no unit.

    Raises:
        Diverged: a loss became NaN or infinite; with ``lost``, that of every image.
        ValueError: there is no such clamp, it has no bounds, or SciPy's optimiser cannot do what is asked for.
    """
    if clamp not in CLAMPS or (clamp != "never" and bounds is None):
        raise ValueError(f"clamp={clamp} must be one of {', '.join(CLAMPS)}, and needs bounds unless it is never")
    if isinstance(optimizer, ScipyLBFGSB) and (average or lr_schedule or clip_gradient or clamp == "evaluation"):
        raise ValueError("SciPy's optimiser knows no average, lr_schedule or clip_gradient, nor clamp=evaluation")
    pixels = pixels.detach().clone()
    progress = Progress(pixels, lost)
    shifts = Shifts(jitter, [seed] if isinstance(seed, int) else seed)
    box = Box(clamp, bounds, clamp_until)
    descent = Descent(pixels, evaluate, steps, watch, is_logged, box, shifts, progress, between, begin_step)
    descent.rates, descent.clip, descent.stop_change, descent.unit = lr_schedule, clip_gradient, stop_change, unit
    descent.average = Average(pixels, average) if average else None
    if state is not None:
        descent.restore(state)
    if descent.average and "average" not in (state or {}):
        descent.average.update(pixels)
    if isinstance(optimizer, ScipyLBFGSB):
        reason, rate, rest = optimizer.minimize(descent, state), None, {}
    else:
        reason, rate, rest = _minimize_with_torch(descent, optimizer, state)
    if descent.average:
        pixels.copy_(descent.average.value())
    box.keep(pixels, progress.step)
    started = time.perf_counter()
    begin_step(progress.step)
    with torch.no_grad():
        losses = evaluate(pixels, (0, 0))
    progress.record(pixels, losses)
    progress.check()
    progress.seconds += time.perf_counter() - started
    last = Step(progress.step, progress.evaluations, losses, pixels, progress.seconds, last=not more, rate=rate)
    if not more:
        watch(last)
    return Outcome(last, reason, descent.state() | rest)


def _minimize_with_torch(
    descent: Descent, make: Callable[[list[Tensor]], torch.optim.Optimizer], state: State | None
) -> tuple[str, float | None, State]:
    """Run any torch optimiser in place on the pixels; returns why it stopped, the learning rate if it changes, and
    what state it has beyond that of the descent."""
    pixels, progress, average, unit = descent.pixels, descent.progress, descent.average, descent.unit
    pixels.requires_grad_(True)
    variable = pixels if unit is None else (pixels.detach() / unit).requires_grad_(True)  # what the optimiser moves
    optimizer: Any = make([variable])
    is_lbfgs = isinstance(optimizer, torch.optim.LBFGS)
    if is_lbfgs and len(pixels) > 1:
        optimizer = LBFGSOfEach(make, variable)
    rates = descent.rates(optimizer) if descent.rates else None
    if state is not None and "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    if rates and state is not None and "lr_schedule" in state:
        rates.load_state_dict(state["lr_schedule"])
    for group in optimizer.param_groups if is_lbfgs else ():
        group["max_iter"] = 1  # one iteration a step; its history carries over, so the path is the same as in one call

    @torch.no_grad()
    def to_pixels() -> None:
        if unit is not None:
            pixels.copy_(variable * unit)

    @torch.no_grad()
    def to_variable() -> None:  # after each step, so that the pixels are all there is to carry on from
        if unit is not None:
            variable.copy_(pixels / unit)
            variable.grad = None if pixels.grad is None else pixels.grad * unit

    def rate() -> float | None:
        return float(rates.get_last_lr()[0]) if rates else None

    def own_state() -> State:
        return {"optimizer": optimizer.state_dict()} | ({"lr_schedule": rates.state_dict()} if rates else {})

    def take_state() -> State:
        return descent.state() | own_state()

    reason = f"all {descent.steps} steps done"
    try:
        for index in range(progress.step, descent.steps):
            started = time.perf_counter()
            descent.begin_step(index)
            shift = descent.shifts.draw()
            seen: list[Step] = []
            begun: list[Tensor] = []

            def closure(
                shift: Roll = shift, index: int = index, seen: list[Step] = seen, begun: list[Tensor] = begun
            ) -> Tensor:
                to_pixels()
                descent.box.keep(pixels, index, "evaluation")
                pixels.grad = None
                losses = descent.evaluate(pixels, shift)
                total = losses.total.sum()
                total.backward()
                if descent.clip and pixels.grad is not None:
                    _clip(pixels.grad, descent.clip)
                to_variable()
                progress.record(pixels, losses)
                if not seen:
                    begun.append(pixels.detach().clone())
                    shown = average.value() if average else begun[0]
                    seen.append(Step(index, progress.evaluations, losses, shown, 0.0, rate=rate()))
                return total.detach() if len(pixels) == 1 else losses.total.detach()

            optimizer.step(closure)
            to_pixels()
            descent.box.keep(pixels, index + 1, "step")
            to_variable()
            is_stuck = is_lbfgs and torch.equal(pixels, begun[0])
            if average and not is_stuck:
                average.update(pixels)
            if rates:
                rates.step()
            if descent.is_logged(index):
                progress.check()
            has_settled = descent.has_settled(begun[0], pixels)
            progress.seconds += time.perf_counter() - started
            if is_stuck:
                largest = float(pixels.grad.abs().max()) if pixels.grad is not None else 0.0
                reason = f"L-BFGS found no further step after {index} iterations (largest gradient {largest:.3g})"
                break
            seen[0].seconds = progress.seconds
            descent.watch(seen[0])
            progress.step = index + 1
            if has_settled:
                reason = f"step {index + 1} changed the picture by less than stop_change={descent.stop_change:g}"
                break
            descent.between(take_state)
    finally:
        pixels.requires_grad_(False)
    return reason, rate(), own_state()


@torch.no_grad()
def _clip(gradient: Tensor, most: float) -> None:
    """Shorten the gradient of each image in place to at most so much for each of its numbers."""
    norm = sum_of_squares(gradient, gradient.dtype).sqrt()
    gradient *= (most * gradient[0].numel() / norm).clamp(max=1).view(-1, 1, 1, 1)


class LBFGSOfEach:
    """torch's L-BFGS without a line search, one for each image of a batch, which takes the very steps it would alone.

    Args:
        make: given ``[image]``, makes a ``torch.optim.LBFGS``.
        pixels: ``(B, 3, H, W)``, changed in place.

    Raises:
        ValueError: there is a line search, which would evaluate each image at a place of its own.
    """

    def __init__(self, make: Callable[[list[Tensor]], torch.optim.Optimizer], pixels: Tensor) -> None:
        self.pixels = pixels
        self.images = [image.requires_grad_(True) for image in pixels.detach().split(1)]  # they share its memory
        self.optimizers = [make([image]) for image in self.images]
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        if any(group["line_search_fn"] is not None for group in self.param_groups):
            raise ValueError("L-BFGS with a line search cannot optimise several images at once")

    def step(self, closure: Callable[[], Tensor]) -> None:
        """Take a step of each image, after one evaluation of all: the closure returns their losses ``(B,)``."""
        losses = closure()
        assert self.pixels.grad is not None
        gradients = self.pixels.grad.split(1)
        for optimizer, image, gradient, loss in zip(self.optimizers, self.images, gradients, losses, strict=True):
            image.grad = gradient
            optimizer.step(functools.partial(float, loss))

    def state_dict(self) -> State:
        """Return the state of each image's optimiser, under ``images``."""
        return {"images": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: State) -> None:
        """Carry on from a state; one that nothing was done in yet is every image's."""
        states = state.get("images", [state] * len(self.optimizers))
        for optimizer, own in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(own)


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
    starting afresh from where the last one ended. It works in float64 and takes the images of a batch as one problem.

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
        pixels, progress = descent.pixels, descent.progress
        started = time.perf_counter()
        current: list[Step] = []  # evaluated last
        pending: list[Step] = []  # accepted last; handed out with the next one, since the final picture is not ours
        if state is not None and "pending" in state:
            index, evaluations, losses, seconds = state["pending"]
            shown = state.get("pending_pixels", pixels).to(pixels, copy=True)
            pending.append(Step(index, evaluations, Losses(**losses), shown, seconds))

        def take_state() -> State:
            (step,) = pending
            losses = {name: getattr(step.losses, name).detach() for name in ("total", "content", "style", "tv")}
            losses["unweighted"] = {tag: value.detach() for tag, value in step.losses.unweighted.items()}
            about = [step.index, step.evaluations, losses, step.seconds]
            return descent.state() | {"pending": about, "pending_pixels": step.pixels}

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            trial = torch.from_numpy(flat).to(pixels).reshape(pixels.shape).requires_grad_(True)
            losses = descent.evaluate(trial, (0, 0))
            total = losses.total.sum()
            (gradient,) = torch.autograd.grad(total, trial)
            progress.record(trial, losses)
            progress.check()
            current[:] = [Step(progress.step, progress.evaluations, losses, trial.detach(), 0.0)]
            if not pending:
                accept()
            return float(total.detach()), gradient.cpu().double().numpy().ravel()

        def accept() -> None:
            """Take over the picture that the line search settled on, which is the one evaluated last."""
            nonlocal started
            step = current[0]
            step.index = progress.step
            pixels.copy_(step.pixels)
            progress.seconds += time.perf_counter() - started
            step.seconds = progress.seconds
            for earlier in pending:
                descent.watch(earlier)
            pending[:] = [step]
            descent.between(None)
            started = time.perf_counter()

        def iteration(flat: np.ndarray) -> None:
            progress.step += 1
            settled.append(descent.has_settled(pixels, current[0].pixels))
            accept()
            if settled[-1]:
                raise StopIteration

        settled: list[bool] = []
        limits = None
        if descent.box.clamp == "step" and descent.box.bounds is not None:
            low, high = (bound.expand(pixels.shape).cpu().double().numpy().ravel() for bound in descent.box.bounds)
            limits = np.stack([low, high], axis=1)
        while progress.step < descent.steps:
            before = progress.step
            descent.begin_step(before)
            result = minimize(
                value_and_gradient,
                pixels.cpu().double().numpy().ravel(),
                jac=True,
                method="L-BFGS-B",
                bounds=limits,
                callback=iteration,
                options={
                    "maxcor": self.history,
                    "maxfun": self.block,
                    "maxiter": descent.steps - progress.step,
                    "ftol": self.ftol,
                    "gtol": self.gtol,
                },
            )
            if settled and settled[-1]:
                return f"step {progress.step} changed the picture by less than stop_change={descent.stop_change:g}"
            message = result.message if isinstance(result.message, str) else result.message.decode()
            if result.success or progress.step == before:
                why = message if result.success else "the line search found no lower loss"
                return f"L-BFGS-B stopped after {progress.step} iterations: {why}"
            descent.box.keep(pixels, progress.step, "block")
            paused = time.perf_counter()
            descent.between(take_state)
            started += time.perf_counter() - paused
        return f"all {descent.steps} steps done"
