"""What an optimisation works on and remembers: steps, jitter, the best picture, the state to carry on from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.optim.lr_scheduler import LRScheduler

from nst.errors import UserError
from nst.losses.functional import sum_of_squares
from nst.losses.objective import Losses, Roll, Shift

CLAMPS = ("never", "step", "end", "evaluation", "block")
Evaluate = Callable[[Tensor, Roll], Losses]
Bounds = tuple[Tensor, Tensor]
OF_EACH_IMAGE = ("finite", "best_loss", "best")  # of what progress remembers
State = dict[str, Any]  # what an optimisation needs to carry on as if it had never stopped; tensors and plain values
Between = Callable[[Callable[[], State] | None], None]
Rates = Callable[[torch.optim.Optimizer], LRScheduler]


@dataclass
class Step:
    """One picture on the way, with its own losses: step 0 is the start, step n the picture after n updates.

    Attributes:
        index: n.
        evaluations: closure evaluations (forward and backward passes) made so far, this picture's included.
        losses: of exactly this picture, on the device; where an average of the iterates is shown, of the iterate
            instead, but for the final picture.
        pixels: the picture ``(B, 3, H, W)`` in pixel space, a copy that stays as it is.
        seconds: optimisation time so far, without the time of those who watch.
        last: this is the final picture.
        rate: the learning rate of the update that follows, if it changes on the way.
    """

    index: int
    evaluations: int
    losses: Losses
    pixels: Tensor
    seconds: float
    last: bool = False
    rate: float | None = None


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


@dataclass(frozen=True)
class Box:
    """What pixels are kept between, and when.

    Attributes:
        clamp: one of ``CLAMPS``.
        bounds: the pixels of black and white, or other limits; None only with ``never``.
        until: pictures from this step on are free; None keeps all.
    """

    clamp: str
    bounds: Bounds | None
    until: int | None = None

    def keep(self, pixels: Tensor, index: int, moment: str = "end") -> None:
        """Clamp the picture of a step in place, if this is a moment to do so; the end always is."""
        if self.bounds is None or self.clamp == "never" or moment not in (self.clamp, "end"):
            return
        if self.until is None or index < self.until:
            clamp_to(pixels, self.bounds)


class Average:
    """An exponential average of the iterates, corrected for its beginning at 0 (Kingma & Ba 2015, section 3).

    With decay d it is (1 - d) * sum over k of d^(n - k) x_k / (1 - d^n) of the n pictures x_1 ... x_n seen, the start
    among them.

    Args:
        like: ``(B, 3, H, W)``, a picture; not counted.
        decay: between 0 and 1: how much of the average stays at each update.
    """

    def __init__(self, like: Tensor, decay: float) -> None:
        self.decay = decay
        self.sum = torch.zeros_like(like, requires_grad=False)
        self.missing = 1.0

    def update(self, pixels: Tensor) -> None:
        """Count another picture in."""
        self.missing *= self.decay
        self.sum.mul_(self.decay).add_(pixels.detach(), alpha=1 - self.decay)

    def value(self) -> Tensor:
        """Return the average, a picture of its own."""
        return self.sum / (1 - self.missing)

    def state(self) -> State:
        """Return everything that ``restore`` needs."""
        return {"sum": self.sum.clone(), "missing": self.missing}

    def restore(self, state: State) -> None:
        """Carry on from a state."""
        self.sum.copy_(state["sum"])
        self.missing = state["missing"]


@dataclass
class Descent:
    """What an optimiser works on, and whom it tells.

    Attributes:
        pixels: ``(B, 3, H, W)``, changed in place.
        evaluate: losses of a picture that was rolled by a shift before the network saw it.
        steps: the index to end at.
        watch: is handed every ``Step`` but the final picture's.
        is_logged: the steps at which waiting for the device is allowed.
        box: what to keep the pixels between.
        shifts: one for each step.
        progress: counts, and stops a loss that is not finite.
        between: is called between two steps, after ``watch``, with a function that returns the state to carry on from,
            or None where that cannot be had.
        begin_step: is told of a step before it begins.
        average: of the iterates, to show in their place, or None.
        rates: makes what changes the learning rate after each step, or None.
        clip: the gradient's norm is at most this times the numbers of a picture; 0 is off.
        stop_change: stop when a step changes every picture by less than this share of its norm; 0 is off.
        unit: what the optimiser counts pixels in, ``(1, 3, 1, 1)`` above 0, such as their range; None: as they are.
    """

    pixels: Tensor
    evaluate: Evaluate
    steps: int
    watch: Watch
    is_logged: Callable[[int], bool]
    box: Box
    shifts: Shifts
    progress: Progress
    between: Between
    begin_step: BeginStep
    average: Average | None = None
    rates: Rates | None = None
    clip: float = 0.0
    stop_change: float = 0.0
    unit: Tensor | None = None

    def state(self) -> State:
        """Return the part of the state that every optimiser needs."""
        pixels = self.pixels.detach().clone()
        average = {"average": self.average.state()} if self.average else {}
        return {"pixels": pixels, "shifts": self.shifts.state(), "progress": self.progress.state(), **average}

    def restore(self, state: State) -> None:
        """Carry on from a state."""
        with torch.no_grad():
            self.pixels.copy_(state["pixels"])
        self.shifts.restore(state["shifts"])
        self.progress.restore(state["progress"])
        if self.average and "average" in state:
            self.average.restore(state["average"])

    def has_settled(self, before: Tensor, after: Tensor) -> bool:
        """Tell whether a step changed the pictures too little to go on."""
        if not self.stop_change:
            return False
        change, size = (sum_of_squares(picture.detach(), picture.dtype) for picture in (after - before, after))
        return bool((change < self.stop_change**2 * size).all())


def split(state: State, image: int) -> State:
    """Return the state of one image of a batch, as it would be alone.

    Args:
        state: of a batch under an elementwise optimiser: what is shaped like the pixels ``(B, 3, H, W)`` belongs to the
            images, anything else, such as the number of steps, to all of them; under L-BFGS each has a state of its
            own.
        image: which one.
    """
    images = slice(image, image + 1)
    shape = state["pixels"].shape
    own = _leafwise(lambda leaves: leaves[0][images].clone() if _is_shaped(leaves[0], shape) else leaves[0])
    optimizer = state.get("optimizer", {})
    progress = {name: state["progress"][name][images].clone() for name in OF_EACH_IMAGE}
    return {
        **state,
        **{name: state[name][images].clone() for name in ("pixels", "shifts")},
        **{name: own(state[name]) for name in ("optimizer", "average") if name in state},
        **({"optimizer": optimizer["images"][image]} if "images" in optimizer else {}),
        "progress": state["progress"] | progress,
    }


def join(states: Sequence[State]) -> State:
    """Return the state of a batch from those of its images: ``split`` undone.

    Args:
        states: each of a single image after the same number of steps; the seconds are taken from the first.
    """
    first = states[0]
    shape = first["pixels"].shape
    joined = _leafwise(lambda leaves: torch.cat(leaves) if _is_shaped(leaves[0], shape) else leaves[0])
    optimizers = [state.get("optimizer", {}) for state in states]
    has_history = any("old_dirs" in own for own in optimizers[0].get("state", {}).values())  # L-BFGS: each its own
    progress = {name: torch.cat([state["progress"][name].reshape(1, *first["progress"][name].shape[1:])
                                 for state in states]) for name in OF_EACH_IMAGE}  # fmt: skip
    return {
        **first,
        "pixels": torch.cat([state["pixels"] for state in states]),
        "shifts": torch.stack([state["shifts"].flatten() for state in states]),
        **({"optimizer": {"images": optimizers}} if has_history else {}),
        **{
            name: joined(*[state[name] for state in states])
            for name in ("optimizer", "average")
            if name in first and not (name == "optimizer" and has_history)
        },
        "progress": first["progress"] | progress,
    }


def at_size(state: State, size: tuple[int, int], box: Box, carry: bool) -> State:
    """Return the state to begin a scale with, given that at the end of the scale before.

    The picture is resampled (bicubic, antialiased where it shrinks) and kept in its box; the counts and the jitter go
    on, an average of the iterates begins anew. The best picture so far is the new one, but anything with a number is
    better.

    Args:
        state: the picture, ``(B, 3, H, W)``, is that which the scale ended with.
        size: (height, width) of the new scale.
        box: what to keep the pixels between.
        carry: take along the learning rate and the optimiser's state, resampled where it is shaped like the picture, as
            crowsonkb/style-transfer-pytorch does. What is nowhere negative, such as Adam's second moments, is resampled
            bilinearly, which keeps it so.
    """
    pixels = _resampled(state["pixels"], size, "bicubic")
    box.keep(pixels, state["progress"]["step"])
    worst = torch.full_like(state["progress"]["best_loss"], torch.finfo(state["progress"]["best_loss"].dtype).max)
    begun = {
        "pixels": pixels,
        "shifts": state["shifts"],
        "progress": state["progress"] | {"best": pixels.clone(), "best_loss": worst},
    }
    if carry:
        shape = state["pixels"].shape
        resample = _leafwise(lambda leaves: _moment(leaves[0], size) if _is_shaped(leaves[0], shape) else leaves[0])
        begun["optimizer"] = resample(state["optimizer"])
        begun |= {"lr_schedule": state["lr_schedule"]} if "lr_schedule" in state else {}
    return begun


def _resampled(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    shrinks = size[0] < picture.shape[2] or size[1] < picture.shape[3]
    return interpolate(picture, size, mode=mode, antialias=shrinks, align_corners=False)


def _moment(moment: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample what an optimiser keeps of each pixel; each image by itself."""
    positive = (moment >= 0).flatten(1).all(dim=1).view(-1, 1, 1, 1)
    return torch.where(positive, _resampled(moment, size, "bilinear"), _resampled(moment, size, "bicubic"))


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


@torch.no_grad()
def clamp_to(pixels: Tensor, bounds: Bounds) -> None:
    """Clamp in place to the pixels of black and white; which of the two is lower does not matter."""
    torch.clamp(pixels, torch.minimum(*bounds), torch.maximum(*bounds), out=pixels.data)
