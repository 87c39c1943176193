"""What becomes of the pixels that are optimised: parts that stay the content's, and colours that stay the content's."""

from dataclasses import dataclass, field

from torch import Tensor

from nst.images import color, palette
from nst.images.palette import Palette
from nst.images.pixels import PixelSpace


@dataclass(frozen=True)
class Canvas:
    """From optimised pixels to what the network sees of them, and to the picture that is shown and saved."""

    space: PixelSpace  # where the optimiser works
    content: Tensor  # as the network sees it, (1, 3, H, W) RGB in [0, 1]
    protected: Tensor | None = None  # (1, 1, H, W), 1 where the content stays as it is
    colors: Tensor | None = None  # (1, 3, H, W), whose colours the picture gets, of its own keeping the luminance
    palettes: list[Palette] = field(default_factory=list)  # in whose colours the picture is shown; none: in its own

    def paint(self, pixels: Tensor) -> Tensor:
        """Return the pixels ``(B, 3, H, W)`` as they count: grey if colours do not, the content where protected."""
        if self.colors is not None:
            grey = color.luminance(self.space.decode(pixels))
            pixels = self.space.encode(grey.expand(-1, 3, -1, -1))
        if self.protected is not None:
            pixels = pixels + self.protected * (self.space.encode(self.content) - pixels)
        return pixels

    def seen(self, pixels: Tensor) -> Tensor:
        """Return what the network sees, RGB ``(B, 3, H, W)``, not clamped: the picture before it gets its colours."""
        return self.space.decode(self.paint(pixels))

    def decode(self, pixels: Tensor) -> Tensor:
        """Return the picture, RGB ``(B, 3, H, W)``, not clamped."""
        picture = self.seen(pixels)
        if self.colors is not None:
            return color.with_luminance(self.colors, color.luminance(picture))
        if not self.palettes:
            return picture
        picture = palette.recolored(picture, self.palettes)
        return picture if self.protected is None else picture + self.protected * (self.content - picture)
