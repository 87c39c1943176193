"""Learning to make the losses of the optimiser small for any photograph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from nst import configuration
from nst.errors import UserError, unknown
from nst.losses.objective import Losses
from nst.runs import resume
from nst.training import reference
from nst.training.features import Features
from nst.training.method import TrainingContext, TrainingMethod
from nst.training.photos import FITS, Photos


@dataclass
class Perceptual(TrainingMethod):
    """Alpha times content, beta times style and tv times variation of what the network makes of photographs.

    These are the terms that the optimiser of pixels makes small, with the photograph as the content image of each
    (Johnson, Alahi & Fei-Fei 2016, section 3, eq. 5; Ulyanov et al. 2016, section 4). Of several styles each photograph
    of a batch is painted in one, in turn (Dumoulin, Shlens & Kudlur 2017, section 2.2).

    Args:
        fit: how a photograph becomes as large as a crop, see ``Photos``. The others: see ``TrainingMethod``.
    """

    fit: str = "crop"

    def problems(self) -> list[str]:
        """Return what is wrong with the arguments; see ``TrainingMethod``."""
        found = super().problems()
        if self.fit not in FITS:
            found.append(unknown("training.fit", self.fit, FITS))
        return found + (reference.problems(self.painter) if self.reference else [])

    def prepare(self, context: TrainingContext) -> None:
        """Find the photographs, and take the targets of the styles; see ``TrainingMethod``."""
        config = context.config
        crop = (self.crop, config.seed, self.flip, config.background)
        self.photos = Photos(config.photos, *crop, scale=self.scale, fit=self.fit)
        self.photos.refuse_changes(resume.read(context.folder / "run.json").get("photos") or {})
        context.note(**self.about())
        self.features = Features(context, self.crop)
        self.styles = [self.features.targets(style, style=True) for style in context.inputs.styles]
        if len(self.styles) > 1:
            _check_that_they_go_together(self.styles, configuration.styles(config))

    def item(self, index: int) -> tuple[Tensor, int]:
        """Return a photograph, ``(3, crop, crop)`` float32 RGB in [0, 1], and which style it is to be painted in."""
        return self.photos.item(index), index % len(self.styles)

    def losses(self, network: nn.Module, items: Sequence[Tensor]) -> Losses:
        """Compare what the network makes of photographs with these, and with the styles; see ``TrainingMethod``."""
        photos, styles = items
        if len(self.styles) == 1:
            painted, targets = network(photos), self.styles[0]
        else:
            painted = network(photos, torch.eye(len(self.styles), dtype=photos.dtype, device=photos.device)[styles])
            targets = tree_map(lambda *rows: torch.cat(rows), *(self.styles[style] for style in styles.tolist()))
        return self.features.compare(painted, self.features.targets(photos, content=True) | targets)

    def about(self) -> dict[str, Any]:
        """Return what to record: the photographs, with those found broken so far."""
        return {"photos": self.photos.about()}


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
