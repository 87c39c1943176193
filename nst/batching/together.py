"""Several runs as one batch: each goes as if it were alone, but their losses are computed together.

Each run goes on in a greenlet until it needs the losses of its picture, and waits there. Once all of them wait, the
network sees their pictures as one batch, and each run is handed its own losses with their gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]
from omegaconf import DictConfig
from torch import Tensor

from nst import runtime
from nst.losses.objective import Losses, Shift
from nst.networks.backbones import Backbone
from nst.runs.session import Retry
from nst.setup import fitting
from nst.setup.fitting import MemoryPlan
from nst.setup.inputs import Inputs
from nst.setup.objective import PictureLoss


@dataclass
class _Targets:
    """What a run asks for: targets of its images."""

    config: DictConfig
    backbone: Backbone
    inputs: Inputs
    name: str


@dataclass
class _Evaluation:
    """What a run asks for: the losses of its picture, with their gradient unless it follows none."""

    batched: BatchedLoss
    pixels: Tensor
    shift: Shift
    step: int
    has_gradient: bool


@dataclass
class _Batch:
    """Pictures whose losses are computed together.

    Attributes:
        loss: of all of them.
        pixels: of each, as it was seen last.
        names: of their runs.
    """

    loss: PictureLoss
    pixels: list[Tensor]
    names: list[str]


class BatchedLoss:
    """The loss of one picture of a batch, for its run; see ``nst.optimization.state.LossOfPicture``."""

    def __init__(self, batch: _Batch, place: int) -> None:
        self.batch, self.place, self.tile = batch, place, batch.loss.tile
        self.keeps_start = batch.loss.keeps_start

    def __call__(self, pixels: Tensor, shift: Shift, step: int) -> Losses:
        """Wait until the other runs need their losses, too, and return those of this picture."""
        has_gradient = torch.is_grad_enabled()
        losses, gradient = _wait(_Evaluation(self, pixels.detach(), shift, step, has_gradient))
        if has_gradient:
            losses.total = _PrecomputedGradient.apply(pixels, losses.total, gradient)
        found: Losses = losses
        return found

    def describe(self) -> str:
        """Say what computes losses and gradient."""
        return self.batch.loss.describe()


class _PrecomputedGradient(torch.autograd.Function):
    """A total whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, total: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return given[0].view(-1, 1, 1, 1) * gradient, None, None


def _wait(request: _Targets | _Evaluation) -> Any:
    """Leave a run until what it asks for is there."""
    parent, had_gradient = getcurrent().parent, torch.is_grad_enabled()
    assert parent is not None
    try:
        return parent.switch(request)
    finally:
        torch.set_grad_enabled(had_gradient)  # which another run has changed meanwhile


def take_targets(
    config: DictConfig, network: Backbone, images: Inputs, name: str = ""
) -> tuple[BatchedLoss, MemoryPlan]:
    """Take the targets of a picture together with those of the other runs; see ``nst.stylization.stylize``."""
    found: tuple[BatchedLoss, MemoryPlan] = _wait(_Targets(config, network, images, name))
    return found


@dataclass
class _Member:
    """A run on its way.

    Attributes:
        greenlet: in which it is.
        request: what it waits for, or None if it has ended.
        ended: what it returned, or the exception that it ended with.
    """

    greenlet: greenlet
    request: _Targets | _Evaluation | None = None
    ended: Any = None


def _continue(member: _Member, *reply: Any, error: BaseException | None = None) -> None:
    """Let a run go on with what it asked for, or with an exception, until it asks again or ends."""
    member.request = None
    try:
        got = member.greenlet.switch(*reply) if error is None else member.greenlet.throw(error)
    except BaseException as ended:
        got = ended
    if member.greenlet.dead:
        member.ended = got
    else:
        member.request = got


def run_together(runs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Carry out runs of pictures that share their configuration, but for what may differ inside a batch.

    Args:
        runs: each takes its targets by ``take_targets`` of this module.

    Returns:
        What each run returned, or the exception that it ended with: ``Retry`` if they could not go on as one batch.
    """
    members = [_Member(greenlet(run)) for run in runs]
    with runtime.seeded(0), runtime.threads(0):  # put back in the end: the runs end in any order
        for member in members:
            _continue(member)
        threads = torch.get_num_threads()
        while waiting := [member for member in members if member.request is not None]:
            try:
                replies = _answers(waiting)
            except BaseException as error:  # a signal, too, ends them all, each in its own way
                for member in waiting:
                    _continue(member, error=_as_retry(error))
                continue
            for member, reply in zip(waiting, replies, strict=True):
                if reply is not None:
                    _continue(member, reply)
                    torch.set_num_threads(threads)  # which a run that has ended put back
    return [member.ended for member in members]


def _as_retry(error: BaseException) -> BaseException:
    if not isinstance(error, Exception):
        return error
    retry = Retry(str(error))
    retry.__cause__ = error
    return retry


def _answers(waiting: Sequence[_Member]) -> list[Any]:
    """Return what each waiting run asked for; None for those that have to wait for others."""
    requests = [member.request for member in waiting]
    answers: list[Any] = [None] * len(requests)
    groups: dict[Any, list[int]] = {}
    for index, request in enumerate(requests):
        if isinstance(request, _Evaluation):
            batch = request.batched.batch
            groups.setdefault((id(batch), request.step if batch.loss.drawing else 0), []).append(index)
    for places in groups.values():
        found = _losses([r for i in places if isinstance(r := requests[i], _Evaluation)])
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer
    if not groups:
        return _shares([request for request in requests if isinstance(request, _Targets)])
    return answers


def _shares(requests: Sequence[_Targets]) -> list[tuple[BatchedLoss, MemoryPlan]]:
    """Take the targets of the pictures."""
    inputs = [request.inputs for request in requests]
    if len({one.content.shape for one in inputs}) > 1:
        raise Retry("The pictures have different sizes.")
    loss, plan = fitting.take_targets([request.config for request in requests], requests[0].backbone, inputs)
    batch = _Batch(loss, [torch.zeros_like(one.content) for one in inputs], [request.name for request in requests])
    return [(BatchedLoss(batch, place), plan) for place in range(len(inputs))]


def _losses(requests: Sequence[_Evaluation]) -> list[tuple[Losses, Tensor | None]]:
    """Compute the losses of a batch; the pictures of runs that do not ask count as they were seen last."""
    batch, step = requests[0].batched.batch, requests[0].step
    shifts = [requests[0].shift] * len(batch.pixels)
    for request in requests:
        batch.pixels[request.batched.place], shifts[request.batched.place] = request.pixels, request.shift
    has_gradient = any(request.has_gradient for request in requests)
    pixels = torch.cat(batch.pixels).requires_grad_(has_gradient)
    with torch.set_grad_enabled(has_gradient):
        losses = batch.loss(pixels, shifts[0] if len(set(shifts)) == 1 else tuple(shifts), step)
        gradient = torch.autograd.grad(losses.total.sum(), pixels)[0] if has_gradient else None
    places = [request.batched.place for request in requests]
    return [(_detached(losses.of(p)), None if gradient is None else gradient[p : p + 1]) for p in places]


def _detached(losses: Losses) -> Losses:
    total, content, style, tv = (term.detach() for term in (losses.total, losses.content, losses.style, losses.tv))
    return Losses(total, content, style, tv, {tag: value.detach() for tag, value in losses.unweighted.items()})
