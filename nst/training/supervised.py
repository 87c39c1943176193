"""Learning from pairs: a photograph, and what is to become of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nst import configuration
from nst.errors import ConfigError, UserError, unknown
from nst.losses import TotalVariation
from nst.losses.functional import squared_error
from nst.losses.objective import Losses
from nst.runs import resume
from nst.training import Context, reference
from nst.training.features import Features
from nst.training.pairs import Pairs, generate
from nst.training.photos import LARGEST_CROP, SMALLEST_CROP, Photos, check_crop

log = logging.getLogger(__name__)
LOSSES = ("l1", "mse", "perceptual")
PAIRS = ("generate", "folders")
MOST_PAIRS = 100_000


class Supervised:
    """Lesson: make of a photograph what stands beside it.

    Args:
        batch: pairs of a step.
        crop: pixels of their sides.
        flip: whether half of them are flipped left to right.
        workers: threads that load pairs ahead.
        validation: names of further photographs that are shown painted.
        reference: whether the optimiser's own picture of the content is wanted.
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
        side: pixels of their sides.
        scale: of the crops that are painted, see ``Photos``.
        painter: how the optimiser paints; see ``reference``.

    Raises:
        ConfigError: all that is wrong with the arguments.
    """

    def __init__(
        self,
        batch: int = 4,
        crop: int = 128,
        flip: bool = True,
        workers: int = 0,
        validation: Sequence[str] = (),
        reference: bool = False,
        loss: str = "l1",
        tv: float = 0.0,
        pairs: str | None = None,
        stylised: str | None = None,
        count: int = 16,
        side: int = 192,
        scale: float = 0.5,
        painter: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch, self.crop, self.flip, self.workers = batch, crop, flip, workers
        self.validation, self.reference = list(validation), reference
        self.loss, self.stylised, self.count, self.side, self.scale = loss, stylised, count, side, scale
        self.source = pairs or ("generate" if stylised is None else "folders")
        self.painter, self.tv = painter, tv
        if wrong := self._problems():
            raise ConfigError(wrong)

    def prepare(self, context: Context) -> None:
        """Find the pairs, or have them painted, and make what compares pictures; see ``Lesson``."""
        config = context.config
        if len(configuration.styles(config)) > 1:
            raise UserError("training=supervised learns one style. Name one, or use training=perceptual for several.")
        recorded = resume.read(context.folder / "run.json")
        originals, stylised, facts = config.photos, self.stylised, dict[str, Any]()
        self.photos: Photos | None = None
        if self.source == "generate":
            self.photos = Photos(config.photos, self.side, config.seed, False, self.scale, config.background)
            self.photos.refuse_changes(recorded.get("photos") or {})
            context.note(photos=self.photos.about())
            *folders, seconds = generate(context, self.photos, self.count)
            originals, stylised = map(str, folders)
            facts = {"seconds": round(seconds, 3), "painter": reference.settings(config)}
        assert stylised is not None
        self.pairs = Pairs(originals, stylised, self.crop, config.seed, self.flip, config.background)
        if self.source == "folders":
            self.pairs.refuse_changes(recorded.get("pairs") or {})
            self.pairs.tell_unmatched()
        self.facts = {"made": self.source, **facts}
        context.note(**self.about())
        self.variation = TotalVariation(config.tv_kind, config.tv_reduction)
        self.features = Features(context, self.crop) if self.loss == "perceptual" else None

    def item(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a photograph and what is to become of it, ``(3, crop, crop)`` float32 RGB in [0, 1] each."""
        return self.pairs.item(index)

    def losses(self, network: nn.Module, items: Sequence[Tensor]) -> Losses:
        """Compare what the network makes of photographs with what it should have made; see ``Lesson``.

        Args:
            network: to be trained.
            items: photographs and what is to become of them, ``(B, 3, H, W)`` each.

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

    def begin_step(self, step: int) -> None:
        """Tell losses that draw random numbers which step begins."""
        if self.features is not None:
            self.features.begin_step(step)

    def about(self) -> dict[str, Any]:
        """Return what to record: the pairs, and the photographs that they were made of, with those found broken."""
        photos = {} if self.photos is None else {"photos": self.photos.about()}
        return photos | {"pairs": self.pairs.about() | self.facts}

    def _problems(self) -> list[str]:
        """Return what is wrong with the arguments."""
        found = []
        if self.loss not in LOSSES:
            found.append(unknown("training.loss", self.loss, LOSSES))
        if self.source not in PAIRS:
            found.append(unknown("training.pairs", self.source, PAIRS))
        if self.source == "folders" and self.stylised is None:
            found.append(
                "training.pairs=folders needs training.stylised=FOLDER, what the files in photos are to become."
            )
        if self.source == "generate" and self.stylised is not None:
            found.append(
                f"training.stylised={self.stylised} has no use with training.pairs=generate: leave one of them out."
            )
        try:
            check_crop(self.crop)
        except UserError as error:
            found.append(str(error))
        limits = {"batch": (1, 65536), "workers": (0, 1024), "count": (1, MOST_PAIRS)}
        limits |= {"side": (SMALLEST_CROP, LARGEST_CROP)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                found.append(f"training.{name}={getattr(self, name)} is out of range: it must be from {low} to {high}.")
        if not (math.isfinite(self.tv) and self.tv >= 0):
            found.append(f"training.tv={self.tv} is out of range: it must be 0 or more.")
        if not 0 < self.scale <= 1:
            found.append(f"training.scale={self.scale} is out of range: it must be above 0, and 1 at most.")
        if self.source == "generate" and self.crop > self.side:
            found.append(
                f"training.crop={self.crop} is more than training.side={self.side}, the size of the pairs. Lower the "
                "one or raise the other."
            )
        if self.source == "generate" or self.reference:
            found += reference.problems(self.painter)
        return found
