"""Learning from pairs: a photograph, and what is to become of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nst import configuration
from nst.errors import UserError, unknown
from nst.losses import TotalVariation
from nst.losses.functional import squared_error
from nst.losses.objective import Losses
from nst.runs import resume
from nst.training import reference
from nst.training.features import Features
from nst.training.method import TrainingContext, TrainingMethod
from nst.training.pairs import Pairs, generate
from nst.training.photos import Photos

LOSSES = ("l1", "mse", "perceptual")
PAIRS = ("generate", "folders")


@dataclass
class Supervised(TrainingMethod):
    """To make of a photograph what stands beside it.

    Args:
        loss: of what the network paints against what it should have painted, RGB in [0, 1]: ``l1``, the mean absolute
            difference; ``mse``, the mean squared difference; or ``perceptual``: alpha times the content loss of their
            feature maps at the content layers, and beta times the style loss at the style layers (Johnson, Alahi &
            Fei-Fei 2016, section 3.2, with one picture as both targets). To that ``tv`` of the run times the
            total variation is added.
        tv: weight of the total variation beside ``l1`` or ``mse``.
        pairs: ``generate``: the optimiser paints them; ``folders``: files of the same name; None: what ``stylised``
            says.
        stylised: folder of what the files in ``photos`` are to become.
        count: pairs that are painted.
        side: pixels of their sides. The others: see ``TrainingMethod``; ``scale`` is that of crops that are painted.
    """

    loss: str = "l1"
    tv: float = 0.0
    pairs: str | None = None
    stylised: str | None = None
    count: int = 16
    side: int = 192

    def __post_init__(self) -> None:
        self.source = self.pairs or ("generate" if self.stylised is None else "folders")
        super().__post_init__()

    def problems(self) -> list[str]:
        """Return what is wrong with the arguments; see ``TrainingMethod``."""
        source, stylised = self.source, self.stylised
        told = {
            unknown("training.loss", self.loss, LOSSES): self.loss not in LOSSES,
            unknown("training.pairs", source, PAIRS): source not in PAIRS,
            "training.pairs=folders needs training.stylised=FOLDER, what the files in photos are to become.": (
                source == "folders" and stylised is None
            ),
            f"training.stylised={stylised} has no use with training.pairs=generate: leave one of them out.": (
                source == "generate" and stylised is not None
            ),
            f"training.tv={self.tv} is out of range: it must be 0 or more.": not 0 <= self.tv < math.inf,
            f"training.crop={self.crop} is more than training.side={self.side}, the size of the pairs. Lower the one "
            "or raise the other.": source == "generate" and self.crop > self.side,
        }
        paints = source == "generate" or self.reference
        found = super().problems() + [text for text, is_wrong in told.items() if is_wrong]
        return found + (reference.problems(self.painter) if paints else [])

    def prepare(self, context: TrainingContext) -> None:
        """Find the pairs, or have them painted, and make what compares pictures; see ``TrainingMethod``."""
        config = context.config
        if len(configuration.styles(config)) > 1:
            raise UserError("training=supervised learns one style. Name one, or use training=perceptual for several.")
        recorded = resume.read(context.folder / "run.json")
        originals, stylised = config.photos, str(self.stylised)
        self.photos: Photos | None = None
        self.facts: dict[str, Any] = {"made": self.source}
        if self.source == "generate":
            crop = (self.side, config.seed, False, config.background)
            self.photos = Photos(config.photos, *crop, scale=self.scale)
            self.photos.refuse_changes(recorded.get("photos") or {})
            context.note(photos=self.photos.about())
            *folders, seconds = generate(context, self.photos, self.count)
            originals, stylised = map(str, folders)
            self.facts |= {"seconds": round(seconds, 3), "painter": reference.settings(config)}
        crop = (self.crop, config.seed, self.flip, config.background)
        self.data = Pairs(originals, *crop, stylised=stylised)
        if self.source == "folders":
            self.data.refuse_changes(recorded.get("pairs") or {})
            self.data.warn_of_unmatched()
        context.note(**self.about())
        self.variation = TotalVariation(config.tv_kind, config.tv_reduction)
        self.features = Features(context, self.crop) if self.loss == "perceptual" else None

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a photograph and what is to become of it, ``(3, crop, crop)`` float32 RGB in [0, 1] each."""
        return self.data.item(index)

    def losses(self, network: nn.Module, items: Sequence[Tensor]) -> Losses:
        """Compare what the network makes of photographs with what it should have made; see ``TrainingMethod``.

        Returns:
            The losses. Under the tags ``unweighted/l1`` and ``unweighted/mse`` stand the differences of pixels,
            whichever is learnt from. Of a loss of pixels the terms ``content`` and ``style`` are 0.
        """
        originals, stylised = items
        painted = network(originals)
        pixels = {
            "unweighted/l1": (painted - stylised).abs().flatten(1).mean(1),
            "unweighted/mse": squared_error(painted, stylised),
        }
        if self.features is not None:
            losses = self.features.compare(painted, self.features.targets(stylised, content=True, style=True))
            losses.unweighted |= {tag: value.detach() for tag, value in pixels.items()}
            return losses
        learnt = pixels[f"unweighted/{self.loss}"]
        variation = self.variation(painted if self.tv else painted.detach())
        nothing = torch.zeros_like(learnt)
        total = learnt + self.tv * variation
        return Losses(total, nothing, nothing, self.tv * variation, pixels | {"unweighted/tv": variation})

    def about(self) -> dict[str, Any]:
        """Return what to record: the pairs, and the photographs that they were made of, with those found broken."""
        photos = {} if self.photos is None else {"photos": self.photos.about()}
        return photos | {"pairs": self.data.about() | self.facts}
