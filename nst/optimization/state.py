"""What an optimisation works on and remembers: steps, jitter, the best picture, the state to carry on from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.optim.lr_scheduler import LRScheduler

from nst.errors import UserError
from nst.losses.functional import sum_of_squares
from nst.losses.objective import Losses, Shift
from nst.optimization.parameterization import Parameterization, Pixels

CLAMPS = ("never", "step", "end", "evaluation", "block")
Bounds = tuple[Tensor, Tensor]
State = dict[str, Any]  # what an optimisation needs to carry on as if it had never stopped; tensors and plain values


class LossOfPicture(Protocol):
    """The function to minimise."""

    def __call__(self, pixels: Tensor, shift: Shift, step: int) -> Losses:
        """Return the losses of a picture ``(1, 3, H, W)`` in pixel space.

        Args:
            pixels: the picture.
            shift: rows and columns that it is rolled by before the network sees it.
            step: whose evaluation it is; what draws random numbers draws the same at all evaluations of a step.
        """


@dataclass
class Step:
    """One picture on the way, with its own losses: step 0 is the start, step n the picture after n updates.

    Attributes:
        index: n.
        evaluations: closure evaluations (forward and backward passes) made so far, this picture's included.
        losses: of exactly this picture, on the device; where an average of the iterates is shown, of the iterate
            instead, but for the final picture.
        pixels: the picture ``(1, 3, H, W)`` in pixel space, a copy that stays as it is.
        seconds: optimisation time so far, without the time of callbacks.
        last: this is the final picture.
        rate: the learning rate of the update that follows, if it changes on the way.
        logged: its numbers are to be written down, so that waiting for the device is allowed.
    """

    index: int
    evaluations: int
    losses: Losses
    pixels: Tensor
    seconds: float
    last: bool = False
    rate: float | None = None
    logged: bool = False


class Callback:
    """What an optimisation hands its steps to; this one lets them pass."""

    def step(self, step: Step) -> None:
        """See a picture: the start, those on the way, the final one."""

    def between(self, take_state: Callable[[], State] | None) -> None:
        """Do something between two steps, such as saving a checkpoint, or raise what is to end the optimisation.

        Args:
            take_state: returns the state to carry on from; None where there is none: SciPy's optimiser has one only
                between two of its blocks.
        """


@dataclass(frozen=True)
class Options:
    """How an optimisation goes.

    Attributes:
        steps: iterations of the optimiser at most, those that lie behind a state included.
        log_every: steps at which waiting for the device is allowed.
        clamp: ``never``; at the ``end``; or then and before: after every ``step`` (SciPy's optimiser takes it as its
            bounds), before every ``evaluation``, those of a line search included, or, SciPy's only, after every
            ``block``.
        bounds: pixels of black and white, or other limits; needed unless ``clamp`` is ``never``.
        clamp_until: the picture of this step, and those after it, are not clamped.
        jitter: the picture is rolled by 0 to jitter - 1 rows and columns, at random each step; 0 is off.
        seed: of the jitter.
        average: decay of an exponential average of the iterates, which is handed out in their place and is the final
            picture; 0 is off. The losses handed out before the end are the iterates'.
        lr_schedule: given the optimiser, makes a scheduler of ``torch.optim``, which is stepped after each step.
        clip_gradient: the norm of the gradient is at most this times the number of its numbers, 3 H W (Li et al. 2017
            in their code, with 1); 0 is off.
        stop_change: stop after a step that changes the picture by less than this share of its norm (ibid.); 0 is off.
        unit: what torch's optimiser counts pixels in, ``(1, 3, 1, 1)`` above 0: with their range from black to white a
            learning rate means the same in every pixel space; None: as they are. SciPy's has no rate, and no unit.
        parameterization: what the optimiser moves in place of the pixels.
        is_last: no further scale follows, so that the final picture is handed to the callback.
    """

    steps: int
    log_every: int = 1
    clamp: str = "never"
    bounds: Bounds | None = None
    clamp_until: int | None = None
    jitter: int = 0
    seed: int = 0
    average: float = 0.0
    lr_schedule: Callable[[torch.optim.Optimizer], LRScheduler] | None = None
    clip_gradient: float = 0.0
    stop_change: float = 0.0
    unit: Tensor | None = None
    parameterization: Parameterization = field(default_factory=Pixels)
    is_last: bool = True

    def keep_in_bounds(self, pixels: Tensor, index: int, moment: str = "end") -> None:
        """Clamp the picture of a step in place, if this is a moment to do so; the end always is."""
        if self.bounds is None or self.clamp == "never" or moment not in (self.clamp, "end"):
            return
        if self.clamp_until is None or index < self.clamp_until:
            clamp_to(pixels, self.bounds)


class Diverged(UserError):
    """A loss became NaN or infinite.

    Attributes:
        best: the picture with the lowest finite loss, ``(1, 3, H, W)``, or None if the start was already bad.
    """

    def __init__(self, step: int, evaluations: int, best: Tensor | None) -> None:
        kept = "The best picture so far is kept." if best is not None else "Already the start image gives no number."
        super().__init__(
            f"The loss became NaN or infinite at step {step} (evaluation {evaluations}). {kept} "
            "Lower the learning rate (optimizer.lr) or the weights, use clamp=step, or for L-BFGS "
            "optimizer.line_search_fn=strong_wolfe."
        )
        self.best = best


class Progress:
    """Counts evaluations and remembers the best picture, without waiting for the device.

    The flag and the best picture stay on the device; ``check`` reads the flag, which on a GPU means waiting for it.

    Args:
        pixels: the start, ``(1, 3, H, W)``.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.evaluations = 0
        self.step = 0
        self.seconds = 0.0
        self.finite = torch.ones(1, dtype=torch.bool, device=pixels.device)
        self.best_loss = torch.full((1,), torch.inf, dtype=pixels.dtype, device=pixels.device)
        self.best = pixels.detach().clone()

    def record(self, pixels: Tensor, losses: Losses) -> None:
        """Take note of an evaluated picture; on a CPU, where looking costs nothing, stop at once if it is bad."""
        self.evaluations += 1
        total = losses.total.detach()
        self.finite &= torch.isfinite(total)
        better = total < self.best_loss
        self.best_loss = torch.where(better, total, self.best_loss).to(self.best_loss.dtype)
        self.best = torch.where(better.view(-1, 1, 1, 1), pixels.detach(), self.best)
        if pixels.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise ``Diverged`` if a loss was not finite."""
        if not bool(self.finite):
            raise Diverged(self.step, self.evaluations, self.best if bool(torch.isfinite(self.best_loss)) else None)

    def state(self) -> State:
        """Return everything that ``restore`` needs."""
        counts = {"evaluations": self.evaluations, "step": self.step, "seconds": self.seconds}
        return counts | {"finite": self.finite, "best_loss": self.best_loss, "best": self.best}

    def restore(self, state: State) -> None:
        """Carry on from a state, on this device."""
        self.evaluations, self.step, self.seconds = state["evaluations"], state["step"], state["seconds"]
        self.finite = state["finite"].to(self.finite.device).reshape(1)
        self.best_loss, self.best = state["best_loss"].to(self.best_loss).reshape(1), state["best"].to(self.best)


class Average:
    """An exponential average of the iterates, corrected for its beginning at 0 (Kingma & Ba 2015, section 3).

    With decay d it is (1 - d) * sum over k of d^(n - k) x_k / (1 - d^n) of the n pictures x_1 ... x_n seen, the start
    among them.

    Args:
        like: ``(1, 3, H, W)``, a picture; not counted.
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


class Descent:
    """An optimisation on its way: the picture, changed in place, and what every optimiser must remember.

    Args:
        picture: the start; the ``pixels`` are a copy.
        losses: the function to minimise.
        options: how it goes.
        callback: is handed every step.
        state: to carry on from, or None.
    """

    def __init__(
        self, picture: Tensor, losses: LossOfPicture, options: Options, callback: Callback, state: State | None
    ) -> None:
        self.pixels = picture.detach().clone()
        self.losses, self.options, self.callback = losses, options, callback
        self.progress = Progress(self.pixels)
        self.generator = torch.Generator().manual_seed(options.seed)  # of the jitter
        self.average = Average(self.pixels, options.average) if options.average else None
        if state is not None:
            with torch.no_grad():
                self.pixels.copy_(state["pixels"])
            self.generator.set_state(state["shifts"].cpu().flatten().clone())
            self.progress.restore(state["progress"])
        if self.average and state is not None and "average" in state:
            self.average.restore(state["average"])
        elif self.average:
            self.average.update(self.pixels)

    def draw_shift(self) -> Shift:
        """Return the shift of the next step."""
        if not self.options.jitter:
            return 0, 0
        rows, columns = torch.randint(self.options.jitter, (2,), generator=self.generator).tolist()
        return rows, columns

    def state(self) -> State:
        """Return the part of the state that every optimiser needs."""
        pixels, shifts = self.pixels.detach().clone(), self.generator.get_state()[None]
        average = {"average": self.average.state()} if self.average else {}
        return {"pixels": pixels, "shifts": shifts, "progress": self.progress.state(), **average}

    def has_converged(self, before: Tensor, after: Tensor) -> bool:
        """Tell whether a step changed the picture too little to go on."""
        if not self.options.stop_change:
            return False
        change, size = (sum_of_squares(picture.detach(), picture.dtype) for picture in (after - before, after))
        return bool(change < self.options.stop_change**2 * size)


class Variable:
    """What an optimiser moves, and the pixels that it is the coefficients of.

    Args:
        pixels: the picture ``(1, 3, H, W)``, changed in place.
        parameterization: what the coefficients are.
        unit: what a pixel is counted in before it has coefficients, ``(1, 3, 1, 1)``, or None.
        coefficients: to carry on from; None takes the picture's.
    """

    def __init__(
        self,
        pixels: Tensor,
        parameterization: Parameterization,
        unit: Tensor | None = None,
        coefficients: Sequence[Tensor] | None = None,
    ) -> None:
        self.pixels, self.parameterization, self.unit = pixels, parameterization, unit
        self.of_pixels = isinstance(parameterization, Pixels)
        if self.of_pixels and unit is None:
            self.tensors = [pixels]
        else:
            made = self.coefficients(pixels.detach()) if coefficients is None else coefficients
            self.tensors = [one.to(pixels, copy=True).contiguous().requires_grad_(True) for one in made]

    def coefficients(self, pixels: Tensor) -> list[Tensor]:
        """Return those of a picture, or of a change of one."""
        return self.parameterization.coefficients(pixels if self.unit is None else pixels / self.unit)

    def picture(self) -> Tensor:
        """Return what the coefficients make, differentiably."""
        size = self.pixels.shape[2], self.pixels.shape[3]
        made = self.parameterization.picture(self.tensors, size)
        return made if self.unit is None else made * self.unit

    @torch.no_grad()
    def to_pixels(self) -> None:
        """Let the pixels follow the coefficients."""
        if self.tensors[0] is not self.pixels:
            self.pixels.copy_(self.picture())

    @torch.no_grad()
    def follow_pixels(self) -> None:
        """Let the coefficients follow what was done to the pixels, such as a clamp."""
        if self.of_pixels and self.unit is not None:  # the pixels are all there is to carry on from
            self.tensors[0].copy_(self.pixels / self.unit)
        elif not self.of_pixels and not torch.equal(change := self.pixels - self.picture(), torch.zeros_like(change)):
            for tensor, more in zip(self.tensors, self.coefficients(change), strict=True):
                tensor.add_(more)

    def take_gradient(self) -> None:
        """Carry the gradient of the pixels on to the coefficients."""
        if self.tensors[0] is self.pixels or self.pixels.grad is None:
            return
        if self.of_pixels and self.unit is not None:
            self.tensors[0].grad = self.pixels.grad * self.unit
            return
        with torch.enable_grad():
            gradients = torch.autograd.grad(self.picture(), self.tensors, self.pixels.grad)
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = gradient

    def state(self) -> State:
        """Return what is needed beside the pixels to carry on: more coefficients than pixels are not told by these."""
        return {} if self.of_pixels else {"coefficients": [tensor.detach().clone() for tensor in self.tensors]}


def at_size(state: State, size: tuple[int, int], options: Options, carry: bool, added: Tensor | None = None) -> State:
    """Return the state to begin a scale with, given that at the end of the scale before.

    The picture is resampled (bicubic, antialiased where it shrinks) and kept in its bounds; the counts and the jitter
    go on, an average of the iterates begins anew. The best picture so far is the new one, but anything with a number is
    better.

    Args:
        state: the picture, ``(1, 3, H, W)``, is that which the scale ended with.
        size: (height, width) of the new scale.
        options: what to keep the pixels between.
        carry: take along the learning rate and the optimiser's state, resampled where it is shaped like the picture, as
            crowsonkb/style-transfer-pytorch does. What is nowhere negative, such as Adam's second moments, is resampled
            bilinearly, which keeps it so.
        added: ``(1, 3, H, W)``, is added to the enlarged picture, such as details of the content image.
    """
    pixels = _resampled(state["pixels"], size, "bicubic")
    pixels = pixels if added is None else pixels + added
    options.keep_in_bounds(pixels, state["progress"]["step"])
    worst = torch.full_like(state["progress"]["best_loss"], torch.finfo(state["progress"]["best_loss"].dtype).max)
    begun = {
        "pixels": pixels,
        "shifts": state["shifts"],
        "progress": state["progress"] | {"best": pixels.clone(), "best_loss": worst},
    }
    if carry:
        begun["optimizer"] = _resampled_moments(state["optimizer"], state["pixels"].shape, size)
        begun |= {"lr_schedule": state["lr_schedule"]} if "lr_schedule" in state else {}
    return begun


def _resampled_moments(tree: Any, shape: torch.Size, size: tuple[int, int]) -> Any:
    """Resample whatever an optimiser keeps of each pixel, in nested mappings and lists."""
    if isinstance(tree, dict):
        return {key: _resampled_moments(value, shape, size) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_resampled_moments(value, shape, size) for value in tree]
    if not isinstance(tree, Tensor) or tree.shape != shape:
        return tree
    return _resampled(tree, size, "bilinear" if bool((tree >= 0).all()) else "bicubic")


def _resampled(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    shrinks = size[0] < picture.shape[2] or size[1] < picture.shape[3]
    return interpolate(picture, size, mode=mode, antialias=shrinks, align_corners=False)


@torch.no_grad()
def clamp_to(pixels: Tensor, bounds: Bounds) -> None:
    """Clamp in place to the pixels of black and white; which of the two is lower does not matter."""
    torch.clamp(pixels, torch.minimum(*bounds), torch.maximum(*bounds), out=pixels.data)
