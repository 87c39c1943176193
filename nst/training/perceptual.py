"""Learning to make the losses of the optimiser small for any photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nst import configuration
from nst.errors import ConfigError, UserError, unknown
from nst.losses.objective import Losses
from nst.runs import resume
from nst.training import Context, reference
from nst.training.features import Features
from nst.training.photos import FITS, Photos, check_crop


class Perceptual:
    """Lesson: alpha times content, beta times style and tv times variation of what the network makes of photographs.

    These are the terms that the optimiser of pixels makes small, with the photograph as the content image of each
    (Johnson, Alahi & Fei-Fei 2016, section 3, eq. 5; Ulyanov et al. 2016, section 4). Of several styles each photograph
    of a batch is painted in one, in turn (Dumoulin, Shlens & Kudlur 2017, section 2.2).

    Args:
        batch: photographs of a step.
        crop: pixels of their sides.
        flip: whether half of them are flipped left to right.
        scale: of the crops, see ``Photos``.
        fit: how a photograph becomes as large as a crop, see there.
        workers: threads that load photographs ahead.
        validation: names of further photographs that are shown painted.
        reference: whether the optimiser's own picture of the content is wanted.
        painter: how that optimiser paints; see ``nst.training.reference``.

    Raises:
        ConfigError: all that is wrong with the arguments.
    """

    def __init__(
        self,
        batch: int = 4,
        crop: int = 128,
        flip: bool = True,
        scale: float = 0.5,
        fit: str = "crop",
        workers: int = 0,
        validation: Sequence[str] = (),
        reference: bool = False,
        painter: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch, self.crop, self.flip, self.scale, self.fit, self.workers = batch, crop, flip, scale, fit, workers
        self.validation, self.reference, self.painter = list(validation), reference, painter
        if wrong := self._problems():
            raise ConfigError(wrong)

    def prepare(self, context: Context) -> None:
        """Find the photographs, and take the targets of the styles; see ``Lesson``."""
        config, inputs = context.config, context.inputs
        self.photos = Photos(config.photos, self.crop, config.seed, self.flip, self.scale, config.background, self.fit)
        self.photos.refuse_changes(resume.read(context.folder / "run.json").get("photos") or {})
        context.note(**self.about())
        self.features = Features(context, self.crop)
        self.styles = [self.features.targets(style, style=True) for style in inputs.styles]
        if len(self.styles) > 1:
            _check_that_they_go_together(self.styles, configuration.styles(config))

    def item(self, index: int) -> tuple[Tensor, int]:
        """Return a photograph, ``(3, crop, crop)`` float32 RGB in [0, 1], and which style it is to be painted in."""
        return self.photos.item(index), index % len(self.styles)

    def losses(self, network: nn.Module, items: Sequence[Tensor]) -> Losses:
        """Compare what the network makes of photographs with these, and with the styles; see ``Lesson``."""
        photos, styles = items
        if len(self.styles) == 1:
            painted, manner = network(photos), self.styles[0]
        else:
            painted = network(photos, torch.eye(len(self.styles), dtype=photos.dtype, device=photos.device)[styles])
            chosen = [self.styles[style] for style in styles.tolist()]
            manner = tree_map(lambda *rows: torch.cat(rows), *chosen)
        return self.features.compare(painted, self.features.targets(photos, content=True) | manner)

    def begin_step(self, step: int) -> None:
        """Tell losses that draw random numbers which step begins."""
        self.features.begin_step(step)

    def about(self) -> dict[str, Any]:
        """Return what to record: the photographs, with those found broken so far."""
        return {"photos": self.photos.about()}

    def _problems(self) -> list[str]:
        """Return what is wrong with the arguments."""
        found = []
        try:
            check_crop(self.crop)
        except UserError as error:
            found.append(str(error))
        for name, (low, high) in {"batch": (1, 65536), "workers": (0, 1024)}.items():
            if not low <= getattr(self, name) <= high:
                found.append(f"training.{name}={getattr(self, name)} is out of range: it must be from {low} to {high}.")
        if not 0 < self.scale <= 1:
            found.append(f"training.scale={self.scale} is out of range: it must be above 0, and 1 at most.")
        if self.fit not in FITS:
            found.append(unknown("training.fit", self.fit, FITS))
        return found + (reference.problems(self.painter) if self.reference else [])


def _check_that_they_go_together(targets: list[dict[str, Any]], styles: Sequence[configuration.Style]) -> None:
    """Refuse styles of which a loss keeps something that cannot be put into one batch, such as maps of two sizes."""
    try:
        tree_map(lambda *rows: torch.cat(rows), *targets)
    except Exception as error:
        names = ", ".join(style.image for style in styles)
        raise UserError(
            f"This style loss keeps whole maps of the style images, and those of {names} differ in size. Use "
            "style_fit=square, or style_loss=gram."
        ) from error
