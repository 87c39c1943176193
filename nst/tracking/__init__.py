"""What watches a run: TensorBoard, metrics, pictures, progress, services, a user's own. Knows nothing of formulas.

Each tracker is one class with the same few small methods; which of them watch a run, ``tracking=[...]`` says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from nst.images import rgb
from nst.images.canvas import Canvas
from nst.optimization.state import Step

GAP = 6  # pixels between two pictures
PICTURES = 10  # of the picture on its way, the start among them: TensorBoard keeps so many by default


class Snapshot:
    """A step as trackers see it; what must wait for the device is fetched once, and only if somebody asks.

    Args:
        step: the step, its picture ``(1, 3, H, W)``.
        canvas: what becomes of its pixels, where they are to be seen.
    """

    def __init__(self, step: Step, canvas: Canvas | None = None) -> None:
        self.step, self.canvas, self.logged = step, canvas, step.logged

    @cached_property
    def losses(self) -> dict[str, float]:
        """Losses by tag, as numbers."""
        named = self.step.losses.named()
        return dict(zip(named, torch.cat(list(named.values())).tolist(), strict=True))

    @property
    def values(self) -> dict[str, float]:
        """Losses by tag, and the learning rate ``lr`` if it changes on the way."""
        return self.losses | ({} if self.step.rate is None else {"lr": self.step.rate})

    @cached_property
    def image(self) -> Tensor:
        """The picture as RGB ``(1, 3, H, W)`` in [0, 1], clamped, on the CPU."""
        assert self.canvas is not None
        return self.canvas.decode(self.step.pixels).clamp(0, 1).cpu()


@dataclass
class RunInfo:
    """What a tracker is told of the run that it watches.

    Attributes:
        folder: of the run; what a tracker writes may go there.
        config: every knob, in plain values.
        steps: that the run will make.
        begin: the step that it is carried on from; 0 if it begins.
        content: the content image, ``(1, 3, H, W)`` RGB in [0, 1].
        styles: the style images, ``(1, 3, H', W')`` each.
        shape: (width, height) of the result, if not the picture's own.
        sweep: the folder of the sweep that the run belongs to.
        evaluator: the name of what will score the result.
        tags: the experiment, the study and the like that were chosen.
        hparams: what runs are compared by, name to value.
        varied: those of them that the sweep varies or that were typed.
        shows_progress: the console is this run's.
    """

    folder: Path
    config: Mapping[str, Any]
    steps: int
    content: Tensor
    styles: Sequence[Tensor]
    begin: int = 0
    shape: tuple[int, int] | None = None
    sweep: Path | None = None
    evaluator: str | None = None
    tags: Sequence[str] = ()
    hparams: Mapping[str, Any] = field(default_factory=dict)
    varied: Sequence[str] = ()
    shows_progress: bool = True

    @property
    def name(self) -> str:
        """The last part of the folder's path in a sweep, else the last two."""
        return "/".join(self.folder.resolve().parts[-1 if self.sweep else -2 :])

    @property
    def group(self) -> str | None:
        """The last two parts of the path of the sweep, or None."""
        return "/".join(self.sweep.resolve().parts[-2:]) if self.sweep else None

    @cached_property
    def turns(self) -> set[int]:
        """The steps whose pictures are shown: the start, log-spaced ones, and the last that is planned."""
        return {0} | picture_steps(self.steps, PICTURES - 1)

    def shown(self, snapshot: Snapshot) -> dict[str, Image.Image]:
        """Return the pictures to be shown of a step, by tag: on its way, and at both ends beside the inputs."""
        step, found = snapshot.step, {}
        if step.index in self.turns or step.last:
            found["picture/progress"] = self.picture(snapshot.image)
        if step.index == 0 or step.last:
            found["picture/content_style_result"] = self.beside_inputs(snapshot.image)
        return found

    def picture(self, image: Tensor) -> Image.Image:
        """Return a picture of the run, ``(1, 3, H, W)`` in [0, 1], at the size of the result."""
        return Image.fromarray(rgb.to_bytes(image[:1], self.shape))

    def beside_inputs(self, image: Tensor) -> Image.Image:
        """Return one picture of content, styles and a picture of the run, from left to right, equally high."""
        styles = [Image.fromarray(rgb.to_bytes(style)) for style in self.styles]
        last = self.picture(image)
        row = [self.picture(self.content), *styles, last]
        widths = [max(1, round(one.width * last.height / one.height)) for one in row]
        strip = Image.new("RGB", (sum(widths) + GAP * (len(row) - 1), last.height), "white")
        left = 0
        for one, width in zip(row, widths, strict=True):
            strip.paste(one.resize((width, last.height), Image.Resampling.LANCZOS), (left, 0))
            left += width + GAP
        return strip


class Tracker:
    """Something that watches a run; one of your own overrides what it needs.

    A method that raises UserError ends the run. After any other exception the tracker is left out, and the run goes on.

    Args:
        run: that is watched.
        position: what ``position`` returned when the checkpoint was saved that the run is carried on from, or None.
    """

    needs: str | None = None  # the package that it cannot do without, which is an extra of this one

    def __init__(self, run: RunInfo, position: Any = None) -> None:
        self.run = run

    def step(self, snapshot: Snapshot) -> None:
        """See one step; the first is the start, the last has ``snapshot.step.last``; numbers come at logged ones."""

    def picture(self, tag: str, picture: Image.Image, step: int) -> None:
        """See a picture beside the run's own: of the network's inside, of a photograph to try a network on."""

    def scores(self, scores: Mapping[str, Any], step: int) -> None:
        """See the evaluator's scores of the result, by name."""

    def position(self) -> Any:
        """Put on disk what was seen so far; return what is needed to carry on from here, in plain values."""

    def close(self, status: str, reason: str) -> None:
        """End, whatever happened: ``done``, ``failed``, ``interrupted``, and why."""


def named_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores that are numbers, under the name of their evaluator: ``squeezenet-256-58aa90/ssim``."""
    return {f"{scores['evaluator']}/{name}": one for name, one in scores.items() if isinstance(one, int | float)}


def picture_steps(steps: int, most: int) -> set[int]:
    """Return at most so many steps, log-spaced from 1 to the last; the start is none of them."""
    ratio = steps ** (1 / (most - 1))
    return {max(1, round(ratio**i)) for i in range(most - 1)} | {steps}
