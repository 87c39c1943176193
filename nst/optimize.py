"""The loop: gradient descent on pixels, one ``Step`` at a time to whoever watches, for torch and SciPy optimisers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from nst.errors import UserError
from nst.objective import Losses, Roll, Shift

CLAMPS = ("never", "step", "end")
Evaluate = Callable[[Tensor, Roll], Losses]
Bounds = tuple[Tensor, Tensor]
OF_EACH_IMAGE = ("finite", "best_loss", "best")  # of what progress remembers
State = dict[str, Any]  # what an optimisation needs to carry on as if it had never stopped; tensors and plain values
Between = Callable[[Callable[[], State] | None], None]


@dataclass
class Step:
    """One picture on the way, with its own losses: step 0 is the start, step n the picture after n updates.

    Attributes:
        index: n.
        evaluations: closure evaluations (forward and backward passes) made so far, this picture's included.
        losses: of exactly this picture, on the device.
        pixels: the picture ``(B, 3, H, W)`` in pixel space, a copy that stays as it is.
        seconds: optimisation time so far, without the time of those who watch.
        last: this is the final picture.
    """

    index: int
    evaluations: int
    losses: Losses
    pixels: Tensor
    seconds: float
    last: bool = False


Watch = Callable[[Step], None]


class Diverged(UserError):
    """A loss became NaN or infinite.

    Attributes:
        best: the picture with the lowest finite loss, ``(B, 3, H, W)``, or None if the start was already bad.
    """

    def __init__(self, step: int, evaluations: int, best: Tensor | None) -> None:
        kept = "The best picture so far is kept." if best is not None else "Already the start image gives no number."
        super().__init__(
            f"The loss became NaN or infinite at step {step} (evaluation {evaluations}). {kept} "
            "Lower the learning rate (optimizer.lr) or the weights, use clamp=step, or for L-BFGS "
            "optimizer.line_search_fn=strong_wolfe."
        )
        self.best = best


Lost = Callable[[int, Diverged], None]
BeginStep = Callable[[int], None]


class Progress:
    """Counts evaluations and remembers the best picture, without waiting for the device.

    The flags and the best pictures stay on the device; ``check`` reads the flags, which on a GPU means waiting for it.

    Args:
        pixels: the start, ``(B, 3, H, W)``.
        lost: is told, once, of each image whose loss is not finite; without it the first such image ends them all.
    """

    def __init__(self, pixels: Tensor, lost: Lost | None = None) -> None:
        self.evaluations = 0
        self.step = 0
        self.seconds = 0.0
        self.waits = pixels.device.type != "cpu"
        self.lost = lost
        self.told: set[int] = set()
        self.finite = torch.ones(pixels.shape[0], dtype=torch.bool, device=pixels.device)
        self.best_loss = torch.full((pixels.shape[0],), torch.inf, dtype=pixels.dtype, device=pixels.device)
        self.best = pixels.detach().clone()

    def record(self, pixels: Tensor, losses: Losses) -> None:
        """Take note of an evaluated picture; on a CPU, where looking costs nothing, stop at once if it is bad."""
        self.evaluations += 1
        total = losses.total.detach()
        self.finite &= torch.isfinite(total)
        better = total < self.best_loss
        self.best_loss = torch.where(better, total, self.best_loss).to(self.best_loss.dtype)
        self.best = torch.where(better.view(-1, 1, 1, 1), pixels.detach(), self.best)
        if not self.waits:
            self.check()

    def check(self) -> None:
        """Tell of the images that had a loss that was not finite; raise ``Diverged`` if no image is left."""
        bad = [image for image, finite in enumerate(self.finite.tolist()) if not finite]
        if bad and self.lost is None:
            raise self._diverged(self.best_loss, self.best)
        for image in (image for image in bad if image not in self.told):
            error = self._diverged(self.best_loss[image], self.best[image : image + 1])
            self.told.add(image)
            if self.lost is not None:
                self.lost(image, error)
            if len(self.told) == len(self.finite):
                raise error

    def _diverged(self, best_loss: Tensor, best: Tensor) -> Diverged:
        return Diverged(self.step, self.evaluations, best if bool(torch.isfinite(best_loss).all()) else None)

    def state(self) -> State:
        """Return everything that ``restore`` needs."""
        counts = {"evaluations": self.evaluations, "step": self.step, "seconds": self.seconds}
        return counts | {"finite": self.finite, "best_loss": self.best_loss, "best": self.best}

    def restore(self, state: State) -> None:
        """Carry on from a state, on this device."""
        self.evaluations, self.step, self.seconds = state["evaluations"], state["step"], state["seconds"]
        self.finite = state["finite"].to(self.finite.device).reshape(self.finite.shape)
        self.best_loss, self.best = state["best_loss"].to(self.best_loss), state["best"].to(self.best)


class Shifts:
    """The jitter: a shift (rows, columns) of each image for each step, from a generator for each image.

    Args:
        jitter: shifts are 0 to jitter - 1 rows and columns; 0 is off.
        seeds: of the generators, one for each image; one alone moves all images together.
    """

    def __init__(self, jitter: int, seeds: Sequence[int]) -> None:
        self.jitter = jitter
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def draw(self) -> Roll:
        """Return the next shifts: one for all images where they are equal."""
        if not self.jitter:
            return 0, 0
        drawn = tuple(self._draw(generator) for generator in self.generators)
        return drawn[0] if len(set(drawn)) == 1 else drawn

    def _draw(self, generator: torch.Generator) -> Shift:
        rows, columns = torch.randint(self.jitter, (2,), generator=generator).tolist()
        return rows, columns

    def state(self) -> Tensor:
        """Return the generators' states, a row for each."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def restore(self, state: Tensor) -> None:
        """Carry on from a state."""
        for generator, row in zip(self.generators, state.cpu().reshape(len(self.generators), -1), strict=True):
            generator.set_state(row.clone())  # of a row that is part of a larger tensor it takes the first


@dataclass
class Descent:
    """What an optimiser works on, and whom it tells.

    Attributes:
        pixels: ``(B, 3, H, W)``, changed in place.
        evaluate: losses of a picture that was rolled by a shift before the network saw it.
        steps: iterations at most.
        watch: is handed every ``Step`` but the final picture's.
        is_logged: the steps at which waiting for the device is allowed.
        box: pixels of black and white to keep between at every step, or None.
        shifts: one for each step.
        progress: counts, and stops a loss that is not finite.
        between: is called between two steps, after ``watch``, with a function that returns the state to carry on from,
            or None where that cannot be had.
        begin_step: is told of a step before it begins.
    """

    pixels: Tensor
    evaluate: Evaluate
    steps: int
    watch: Watch
    is_logged: Callable[[int], bool]
    box: Bounds | None
    shifts: Shifts
    progress: Progress
    between: Between
    begin_step: BeginStep

    def state(self) -> State:
        """Return the part of the state that every optimiser needs."""
        pixels = self.pixels.detach().clone()
        return {"pixels": pixels, "shifts": self.shifts.state(), "progress": self.progress.state()}

    def restore(self, state: State) -> None:
        """Carry on from a state."""
        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
        self.shifts.restore(state["shifts"])
        self.progress.restore(state["progress"])


def split(state: State, image: int) -> State:
    """Return the state of one image of a batch, as it would be alone.

    Args:
        state: of a batch under an elementwise optimiser: what is shaped like the pixels ``(B, 3, H, W)`` belongs to the
            images, anything else, such as the number of steps, to all of them.
        image: which one.
    """
    images = slice(image, image + 1)
    shape = state["pixels"].shape
    optimizer = _leafwise(lambda leaves: leaves[0][images].clone() if _is_shaped(leaves[0], shape) else leaves[0])
    progress = {name: state["progress"][name][images].clone() for name in OF_EACH_IMAGE}
    return {
        **{name: state[name][images].clone() for name in ("pixels", "shifts")},
        "progress": state["progress"] | progress,
        "optimizer": optimizer(state["optimizer"]),
    }


def join(states: Sequence[State]) -> State:
    """Return the state of a batch from those of its images: ``split`` undone.

    Args:
        states: each of a single image after the same number of steps; the seconds are taken from the first.
    """
    first = states[0]
    shape = first["pixels"].shape
    optimizer = _leafwise(lambda leaves: torch.cat(leaves) if _is_shaped(leaves[0], shape) else leaves[0])
    progress = {name: torch.cat([state["progress"][name].reshape(1, *first["progress"][name].shape[1:])
                                 for state in states]) for name in OF_EACH_IMAGE}  # fmt: skip
    return {
        "pixels": torch.cat([state["pixels"] for state in states]),
        "shifts": torch.stack([state["shifts"].flatten() for state in states]),
        "progress": first["progress"] | progress,
        "optimizer": optimizer(*[state["optimizer"] for state in states]),
    }


def _is_shaped(leaf: Any, shape: torch.Size) -> bool:
    return isinstance(leaf, Tensor) and leaf.shape == shape


def _leafwise(function: Callable[[list[Any]], Any]) -> Callable[..., Any]:
    """Return what applies a function to the corresponding leaves of nested mappings and lists."""

    def apply(*trees: Any) -> Any:
        if isinstance(trees[0], dict):
            return {key: apply(*(tree[key] for tree in trees)) for key in trees[0]}
        if isinstance(trees[0], list):
            return [apply(*leaves) for leaves in zip(*trees, strict=True)]
        return function(list(trees))

    return apply


@dataclass
class Outcome:
    """How an optimisation ended.

    Attributes:
        last: the final picture, with its losses.
        reason: why it stopped, in words.
    """

    last: Step
    reason: str


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
) -> Outcome:
    """Minimise the total loss over the pixels.

    Args:
        pixels: the start, ``(B, 3, H, W)`` in pixel space.
        evaluate: losses of a picture that was rolled by a shift before the network saw it.
        optimizer: given ``[pixels]``, makes a ``torch.optim.Optimizer``; or a ``ScipyLBFGSB``.
        steps: iterations of the optimiser at most.
        watch: is handed every ``Step``, the start and the final picture included.
        is_logged: the steps at which waiting for the device is allowed.
        bounds: pixels of black and white, needed unless ``clamp`` is ``never``.
        clamp: ``never``, every ``step``, or at the ``end``. SciPy's optimiser takes ``step`` as its bounds.
        jitter: the picture is rolled by 0 to jitter - 1 rows and columns, at random each step; 0 is off.
        seed: of the jitter; a list has one for each image.
        between: is called after every step with a function that returns the state to carry on from, or with None
            where there is none: SciPy's optimiser has one only between two of its blocks.
        state: what that function returned; the optimisation goes on from there, to the same bytes.
        lost: is told, once, of each image whose loss became NaN or infinite, while the others go on.
        begin_step: is told the index of each step before its first evaluation, and that of the final picture before
            its own; SciPy's optimiser tells only of the first step of each block. What draws random numbers draws them
            then, so that a line search works on one function.

    Raises:
        Diverged: a loss became NaN or infinite; with ``lost``, that of every image.
        ValueError: there is no such clamp, or it has no bounds.
    """
    if clamp not in CLAMPS or (clamp != "never" and bounds is None):
        raise ValueError(f"clamp={clamp} must be one of {', '.join(CLAMPS)}, and needs bounds unless it is never")
    pixels = pixels.detach().clone()
    progress = Progress(pixels, lost)
    seeds = [seed] if isinstance(seed, int) else seed
    box = bounds if clamp == "step" else None
    shifts = Shifts(jitter, seeds)
    descent = Descent(pixels, evaluate, steps, watch, is_logged, box, shifts, progress, between, begin_step)
    if state is not None:
        descent.restore(state)
    if isinstance(optimizer, ScipyLBFGSB):
        reason = optimizer.minimize(descent, state)
    else:
        reason = _minimize_with_torch(descent, optimizer, state)
    if clamp != "never" and bounds is not None:
        _clamp(pixels, bounds)
    started = time.perf_counter()
    begin_step(progress.step)
    with torch.no_grad():
        losses = evaluate(pixels, (0, 0))
    progress.record(pixels, losses)
    progress.check()
    seconds = progress.seconds + time.perf_counter() - started
    last = Step(progress.step, progress.evaluations, losses, pixels, seconds, last=True)
    watch(last)
    return Outcome(last, reason)


def _minimize_with_torch(
    descent: Descent, make: Callable[[list[Tensor]], torch.optim.Optimizer], state: State | None
) -> str:
    """Run any torch optimiser in place on the pixels; returns why it stopped."""
    pixels, progress = descent.pixels, descent.progress
    pixels.requires_grad_(True)
    optimizer = make([pixels])
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    is_lbfgs = isinstance(optimizer, torch.optim.LBFGS)
    for group in optimizer.param_groups if is_lbfgs else ():
        group["max_iter"] = 1  # one iteration a step; its history carries over, so the path is the same as in one call

    def take_state() -> State:
        return descent.state() | {"optimizer": optimizer.state_dict()}

    try:
        for index in range(progress.step, descent.steps):
            started = time.perf_counter()
            descent.begin_step(index)
            shift = descent.shifts.draw()
            seen: list[Step] = []

            def closure(shift: Roll = shift, index: int = index, seen: list[Step] = seen) -> Tensor:
                optimizer.zero_grad(set_to_none=True)
                losses = descent.evaluate(pixels, shift)
                total = losses.total.sum()
                total.backward()
                progress.record(pixels, losses)
                if not seen:
                    seen.append(Step(index, progress.evaluations, losses, pixels.detach().clone(), 0.0))
                return total.detach()

            optimizer.step(closure)  # type: ignore[arg-type]
            if descent.box is not None:
                _clamp(pixels, descent.box)
            if descent.is_logged(index):
                progress.check()
            progress.seconds += time.perf_counter() - started
            if is_lbfgs and torch.equal(pixels, seen[0].pixels):
                largest = float(pixels.grad.abs().max()) if pixels.grad is not None else 0.0
                return f"L-BFGS found no further step after {index} iterations (largest gradient {largest:.3g})"
            seen[0].seconds = progress.seconds
            descent.watch(seen[0])
            progress.step = index + 1
            descent.between(take_state)
    finally:
        pixels.requires_grad_(False)
    return f"all {descent.steps} steps done"


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
        if state is not None:
            index, evaluations, losses, seconds = state["pending"]
            pending.append(Step(index, evaluations, Losses(**losses), pixels.clone(), seconds))

        def take_state() -> State:
            (step,) = pending
            losses = {name: getattr(step.losses, name).detach() for name in ("total", "content", "style", "tv")}
            losses["unweighted"] = {tag: value.detach() for tag, value in step.losses.unweighted.items()}
            return descent.state() | {"pending": [step.index, step.evaluations, losses, step.seconds]}

        def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            trial = torch.from_numpy(flat).to(pixels).reshape(pixels.shape).requires_grad_(True)
            losses = descent.evaluate(trial, (0, 0))
            total = losses.total.sum()
            (gradient,) = torch.autograd.grad(total, trial)
            progress.record(trial, losses)
            progress.check()
            current[:] = [Step(progress.step, progress.evaluations, losses, trial.detach(), 0.0)]
            if progress.evaluations == 1:
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
            accept()

        limits = None
        if descent.box is not None:
            low, high = (bound.expand(pixels.shape).cpu().double().numpy().ravel() for bound in descent.box)
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
            message = result.message if isinstance(result.message, str) else result.message.decode()
            if result.success or progress.step == before:
                why = message if result.success else "the line search found no lower loss"
                return f"L-BFGS-B stopped after {progress.step} iterations: {why}"
            paused = time.perf_counter()
            descent.between(take_state)
            started += time.perf_counter() - paused
        return f"all {descent.steps} steps done"


@torch.no_grad()
def _clamp(pixels: Tensor, bounds: Bounds) -> None:
    """Clamp in place to the pixels of black and white; which of the two is lower does not matter."""
    torch.clamp(pixels, torch.minimum(*bounds), torch.maximum(*bounds), out=pixels.data)
