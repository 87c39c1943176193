"""Learning to make the losses of the optimiser small for any photograph."""

from __future__ import annotations

from collections.abc import Sequence


class Perceptual:
    """A stub."""

    def __init__(
        self,
        batch: int = 4,
        crop: int = 128,
        flip: bool = True,
        workers: int = 0,
        validation: Sequence[str] = (),
        reference: bool = False,
    ) -> None:
        self.batch, self.crop, self.flip, self.workers = batch, crop, flip, workers
        self.validation, self.reference = list(validation), reference
