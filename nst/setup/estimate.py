"""How much memory a run will need, told before it starts, and what would fit instead.

The run is rehearsed on torch's ``meta`` device, where tensors have shapes but no values: targets are taken and one step
forward and backward is made, by the very code of the run, while every tensor's life is followed. What the rehearsal
cannot see, the scratch space of the kernels, is added by rules that were measured; docs/reproduce.md has the figures.
"""

import copy
import logging
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nst import runtime
from nst.configuration import SMALLEST_SIZE
from nst.optimization.optimizers import ScipyLBFGSB
from nst.optimization.state import LossOfPicture
from nst.runtime import memory

log = logging.getLogger(__name__)

Assemble = Callable[..., LossOfPicture]
# Measured on Linux with 2.15 of torch; see docs/reproduce.md.
PICTURES = 12  # start, best so far, copies for whoever watches, what is saved: as many pictures, roughly
LBFGS_COPIES = 8  # directions, gradients and the like, beside the history
SCIPY_COPIES = 12  # bounds, gradients and SciPy's own copies, beside the algorithm's 2 m n + 5 n
LIBRARIES = 50 * 2**20  # what torch and the trackers load or keep in the process once they are first used
SLACK = 1.1  # memory that is freed does not always come back in one piece
STEP = 16  # sizes that are advised are multiples of it


@dataclass(frozen=True)
class Need:
    """The memory that a run will need, in bytes.

    Attributes:
        total: the most that will be held at once: on a CPU by the whole process, on a GPU by the tensors. It is the
            same quantity as ``peak_memory_bytes`` in ``run.json``.
        fixed: the part of ``total`` that does not grow with the picture.
        held: what is held already, at the time of the estimate.
    """

    total: int
    fixed: int
    held: int

    @property
    def further(self) -> int:
        """Bytes that must still be free."""
        return max(self.total - self.held, 0)


def needed(
    assemble: Assemble,
    backbone: nn.Module,
    content: tuple[int, int],
    styles: Sequence[tuple[int, int]],
    optimizer: Any,
    steps: int,
    shifts: int,
    dtype: torch.dtype,
    device: torch.device,
    targets_bytes: int = 2**29,
) -> Need | None:
    """Estimate the peak memory of a run, when its network is loaded and nothing else has been computed.

    Args:
        assemble: given a network, a content image and each style image ``(1, 3, H, W)``, takes the targets and returns
            the function to minimise; as the run does it.
        backbone: the network, on the run's device; it is not changed.
        content: (height, width) of the content image, which is the picture's.
        styles: (height, width) of each style image.
        optimizer: what the run's configuration makes: given ``[pixels]``, an optimiser; or a ``ScipyLBFGSB``.
        steps: of the run.
        shifts: how many shifts of the picture the jitter may draw; 1 without jitter.
        dtype: of the pixels.
        device: of the run.
        targets_bytes: content targets of so many shifts are kept.

    Returns:
        The need, or None where the network, or a loss, is of a kind that cannot be rehearsed.
    """
    held = memory.held_bytes(device)
    if held is None:
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            step, target = _rehearse(assemble, backbone, [content, *styles], shifts > 1, held_as=(dtype, device))
        state = state_bytes(optimizer, numbers := 3 * content[0] * content[1], dtype, steps)
    except Exception as error:  # a component of the user's own may raise whatever it likes
        log.debug("The memory cannot be estimated: %s", error)
        return None
    kept = min(min(shifts, steps) * target, max(targets_bytes, target))
    bounded = kept if kept == targets_bytes else 0  # these stay as they are when the picture shrinks
    more = max(kept - 2 * target, 0)  # two shifts have been rehearsed
    growing = SLACK * (step + more + PICTURES * numbers * dtype.itemsize + state)
    fixed = held + (LIBRARIES if device.type == "cpu" else 0)
    total = max(fixed + int(growing), runtime.peak_memory_bytes(device) or 0)
    return Need(total, min(fixed + bounded, total), held)


def forward_bytes(
    network: nn.Module, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, *more: Tensor
) -> int | None:
    """Estimate the bytes that one pass of a network over a picture needs, beside the network itself.

    Args:
        network: of any device; it is not changed.
        shape: (height, width) of the picture ``(1, 3, H, W)``, which counts as well.
        dtype: of the network and the picture.
        device: where the pass will be made.
        more: what else the network is given.

    Returns:
        The bytes, or None where the network is of a kind that cannot be rehearsed.
    """
    try:
        rehearsed, given = shapes_only(network), [tensor.to("meta") for tensor in more]
        with torch.no_grad(), _Lives(device) as lives:
            rehearsed(torch.empty(1, 3, *shape, dtype=dtype, device="meta"), *given)
    except Exception as error:  # a network of the user's own may raise whatever it likes
        log.debug("The memory cannot be estimated: %s", error)
        return None
    return int(SLACK * lives.peak)


def state_bytes(optimizer: Any, numbers: int, dtype: torch.dtype, steps: int) -> int:
    """Return the bytes that an optimiser keeps for a picture of so many numbers.

    torch's L-BFGS keeps two pictures for each step of its history, and a few more; SciPy's L-BFGS-B works in float64 on
    2 m n + 5 n numbers (Zhu, Byrd, Lu & Nocedal 1997), beside bounds, gradients and copies; of any other, one step with
    a few numbers shows what it keeps.
    """
    if isinstance(optimizer, ScipyLBFGSB):
        return (2 * optimizer.history + 5 + SCIPY_COPIES) * numbers * 8
    few = torch.zeros(1, 3, 8, 8, dtype=dtype, requires_grad=True)
    few.grad = torch.ones_like(few)
    made = optimizer([few])
    if isinstance(made, torch.optim.LBFGS):
        history = min(int(made.param_groups[0]["history_size"]), steps)
        return (2 * history + LBFGS_COPIES) * numbers * dtype.itemsize
    made.step(lambda: few.new_zeros(()))
    kept = sum(leaf.numel() for leaf in tree_leaves(dict(made.state)) if isinstance(leaf, Tensor) and leaf.numel() > 1)
    return math.ceil(kept / few.numel()) * numbers * dtype.itemsize


def _rehearse(
    assemble: Assemble,
    backbone: nn.Module,
    sizes: Sequence[tuple[int, int]],
    shifted: bool,
    held_as: tuple[torch.dtype, torch.device],
) -> tuple[int, int]:
    """Return the bytes of a step at its worst moment, and of the content targets that each shift adds."""
    network, (dtype, device) = shapes_only(backbone), held_as
    with _Lives(device) as lives:
        images = [torch.empty(1, 3, *size, dtype=dtype, device="meta") for size in sizes]
        evaluate = assemble(network, *images)
        pixels = torch.empty_like(images[0], requires_grad=True)
        evaluate(pixels, (0, 0), 0).total.sum().backward()
        before = lives.now
        if shifted:
            evaluate(pixels, (0, 1), 0).total.sum().backward()
        return lives.peak, lives.now - before


def shapes_only(backbone: nn.Module) -> nn.Module:
    """Return a copy of a network on the meta device, made without copying its weights first."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    tensors += [value for module in backbone.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(backbone, memo)


class _Lives(TorchDispatchMode):
    """Adds up the storages that are alive, with the scratch space of the operation at hand.

    Attributes:
        now: bytes alive.
        peak: the most that were, scratch space included.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self.alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        self.peak = max(self.peak, self.now + _scratch(func, args, result, self.device))
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self.alive[key]

        self.now += size
        self.alive[key] = weakref.ref(storage, gone)


def _scratch(func: Any, args: tuple[Any, ...], result: Any, device: torch.device) -> int:
    """Return the bytes that a convolution works with beside its inputs and outputs."""
    packet = getattr(func, "overloadpacket", None)
    forward = packet is torch.ops.aten.convolution
    if not forward and packet is not torch.ops.aten.convolution_backward:
        return 0
    image, weight = (args[0], args[1]) if forward else (args[1], args[2])
    maps = result if forward else args[0]
    has_onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    if device.type != "cpu" or (has_onednn and image.dtype != torch.float64):
        return _bytes(image) + _bytes(maps) + _bytes(weight)  # oneDNN reorders them into blocks; of cuDNN a guess
    taps = math.prod(weight.shape[2:])
    unfolded = image.shape[1] * taps * maps.shape[2] * maps.shape[3] * image.element_size()
    return unfolded if taps > 1 else 0  # a matrix of all patches


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def fitting_size(size: int, need: Need, free: int) -> int | None:
    """Return the largest size, a multiple of 16, at which a run would fit, or None if none would.

    Args:
        size: that the need was estimated for; what grows, grows with its square.
        need: at that size.
        free: bytes that can be had beside those held already.
    """
    growing, room = need.total - need.fixed, need.held + free - need.fixed
    if room <= 0 or growing <= 0:
        return size if growing <= 0 < room else None
    fitting = min(size, int(size * math.sqrt(room / growing)) // STEP * STEP)
    return fitting if fitting >= SMALLEST_SIZE else None


def advice(need: Need, free: int, size: int, smaller: str = "a smaller backbone") -> str | None:
    """Return what to tell before a run that will probably not fit; None if it fits.

    Args:
        need: of the run.
        free: bytes that can be had beside those held already.
        size: of the run.
        smaller: what else would need less.
    """
    if need.further <= free:
        return None
    fitting = fitting_size(size, need, free)
    way_out = f"size={fitting} would fit, or choose" if fitting else "No size would fit; choose"
    return (
        f"This run needs about {memory.amount(need.further)} at size={size}; {memory.amount(free)} are free. "
        f"{way_out} {smaller}."
    )
