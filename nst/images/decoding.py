"""Picture files to upright 8-bit sRGB: which formats are read, and what a file says about its own pixels."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageColor, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from nst.errors import UserError

log = logging.getLogger(__name__)
Image.init()
KNOWN = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")  # others may start programs
FORMATS = tuple(name for name in KNOWN if name in Image.OPEN)
ORIENTATION = 0x0112  # a tag of EXIF data
PIXELS = 2**20 * 171  # at most, as Pillow has it: a small file may claim any size
WAYS = "JPEG, PNG, WebP, TIFF and BMP work"
SRGB_GAMMA = 0.45455
SRGB_PRIMARIES = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue: x and y each
INTEROPERABILITY = 0xA005  # part of EXIF data
NEW_SUBFILE_TYPE, PHOTOMETRIC, PLANAR, BITS, SAMPLE_FORMAT = 254, 262, 284, 258, 339  # tags of TIFF
REDUCED = 1  # bit of a TIFF's page that is a small copy of another
FULL = 1.05  # floats up to here count as [0, 1], a few of them above white
EIGHT_BIT = (25, 255)  # floats between count as 0..255
WHITE_IS_ZERO = "white is zero"
GUARD = b"\x55" * 64  # more data for a JPEG that ends too early, to see what they change
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation to what turns it upright
warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow says of sizes and metadata
# Texts are not read, however long they are: metadata must not stop pixels.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**28


def parse_color(color: str) -> tuple[int, int, int]:
    """Return the (red, green, blue) bytes of a colour name or ``#rrggbb``; raise ValueError if it is no colour."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return red, green, blue


def flattened(image: Image.Image, background: tuple[int, int, int], path: Path | None = None) -> Image.Image:
    """Return a picture of any of Pillow's modes upright, as 8-bit sRGB, transparency over a colour (RGB)."""
    return _srgb(_upright(image), background, path)


def read(path: Path, background: tuple[int, int, int], least: int = 0, most: int = PIXELS) -> Image.Image:
    """Read a file as an upright 8-bit sRGB picture; several threads may do so at once.

    Args:
        path: the file.
        background: what shows through transparent pixels, as bytes of red, green and blue.
        least: pixels of the short side that are enough: a JPEG is decoded at a half, a quarter or an eighth of its size
            where so many are left, which takes less time and memory; 0 is its full size.
        most: pixels that may be decoded; of a JPEG with more a fraction is.

    Raises:
        UserError: the file is missing or broken, or says of its pixels what is not understood.
    """
    try:
        with path.open("rb") as file, opened(file) as image:
            _choose_page(image)
            _draft(image, least, most)
            if image.width * image.height > most:
                raise UserError(f"{path} has {image.width} x {image.height} pixels, too many to read. Scale it down.")
            if why := _unreadable_layout(image):
                raise UserError(f"{path} is a TIFF {why}, which is not understood. Save it as PNG.")
            if image.mode.startswith("I;16") and image.format == "TIFF" and _tag(image, PHOTOMETRIC, 1)[0] == 0:
                image.info[WHITE_IS_ZERO] = True  # for 8 bits Pillow sees to it
            try:
                image.load()
            except OSError:
                if image.format not in ("JPEG", "MPO"):
                    raise
                image = _without_its_end(path, image)
            return flattened(image, background, path)
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large to be read safely ({error}). Scale it down first.") from error
    except Image.UnidentifiedImageError as error:
        raise UserError(_unidentified(path)) from error
    except Exception as error:  # decoders raise whatever a broken file drives them to
        raise UserError(f"{path} cannot be read as an image: {error}. Is the file complete?") from error


@contextlib.contextmanager
def opened(file: BinaryIO | Path) -> Iterator[Any]:
    """Open a picture in one of the ``FORMATS``, of whatever size it says it has; nothing is decoded yet."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        stream = file if not isinstance(file, Path) else io.BytesIO(file.read_bytes())
        stream.seek(0)
        if stream.read(2) != b"\xff\xd8":
            raise
        stream.seek(0)
        image = JpegImagePlugin.JpegImageFile(stream)  # which can be decoded at a fraction of its size
    with image:
        yield image


def upright_size(path: Path) -> tuple[int, int] | None:
    """Return the (width, height) that a file says its picture has once upright; None if that cannot be read."""
    try:
        with opened(path) as image:
            is_turned = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if is_turned else image.size
    except Exception:  # decoders raise whatever a broken file drives them to
        return None


def _draft(image: Image.Image, least: int, most: int) -> None:
    """Have a JPEG decoded at as small a part of its size as leaves so many pixels of the short side, or at most."""
    width, height = image.size
    for part in (8, 4, 2):
        is_enough = least and min(width, height) // part >= least
        is_needed = width * height > most * (part / 2) ** 2
        if is_enough or is_needed:
            image.draft(None, (width // part, height // part))
            return


def _choose_page(image: Any) -> None:
    """Go to the page of a TIFF that is the picture, where the first is a small copy of it."""
    if image.format != "TIFF" or not _tag(image, NEW_SUBFILE_TYPE, 0)[0] & REDUCED:
        return
    for page in range(1, getattr(image, "n_frames", 1)):
        image.seek(page)
        if not _tag(image, NEW_SUBFILE_TYPE, 0)[0] & REDUCED:
            return
    image.seek(0)


def _tag(image: Any, number: int, default: int) -> tuple[int, ...]:
    value = image.tag_v2.get(number, default)
    return value if isinstance(value, tuple) else (int(value),)


def _unreadable_layout(image: Any) -> str | None:
    """Return what Pillow would misread in a TIFF without a word, or None."""
    if image.format == "TIFF" and _tag(image, PLANAR, 1)[0] == 2 and (bits := max(_tag(image, BITS, 8))) > 8:
        return f"whose planes of {bits} bits are stored one after the other"
    return None


def _unidentified(path: Path) -> str:
    """Tell what a file is that cannot be read as a picture."""
    with path.open("rb") as file:
        head = file.read(32)
        if not head:
            return f"{path} is not an image that can be read (the file is empty). {WAYS}."
        if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
            return f"{path} is a HEIC picture, which cannot be read. Save it as JPEG or PNG: {WAYS}."
        if head[4:8] == b"ftyp" or head[:4] in (b"\x1aE\xdf\xa3", b"FLV\x01") or head[8:12] == b"AVI ":
            return f"{path} is a video. task=apply paints one, with a network that has been trained."
        if head[:4] in (b"II*\0", b"MM\0*"):
            with contextlib.suppress(Exception):
                file.seek(0)
                pages = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
                file.seek(pages.next)
                pages.load(file)
                bits = pages.get(BITS, (1,))
                kind = {2: "signed ", 3: "floating-point "}.get(pages.get(SAMPLE_FORMAT, (1,))[0], "")
                layout = f"{len(bits)} channels of {bits[0]} {kind}bits"
                return f"{path} is a TIFF of {layout}, a layout that cannot be read. Save it as PNG."
    return f"{path} is not an image that can be read. {WAYS}."


def _without_its_end(path: Path, image: Image.Image) -> Image.Image:
    """Read a JPEG that lacks its last bytes, no more than a few rows; raise OSError if more is missing, or may be."""
    if "progressive" in image.info:  # which has all rows long before its end
        raise OSError("image file is truncated")
    data, factor, pictures = path.read_bytes(), 1, []
    for more in (b"", GUARD):  # what lies behind the last pixel changes nothing; what stands for missing ones does
        with Image.open(io.BytesIO(data + more + b"\xff\xd9"), formats=("JPEG",)) as again:
            if image.size != again.size:
                factor = round(again.height / image.height)
                again.draft(None, image.size)
            again.load()
            pictures.append(again.copy())
            pictures[-1].info = dict(again.info)
            pictures[-1].getexif().update(again.getexif())
    different = np.argwhere(np.any(np.atleast_3d(np.asarray(pictures[0]) != np.asarray(pictures[1])), axis=(1, 2)))
    height = pictures[0].height
    if len(different) and different[0, 0] < height - min(32 // factor, height // 8):
        raise OSError("image file is truncated")
    log.warning("%s lacks its end, but hardly a pixel: it is read as it is", path)
    return pictures[0]


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture by its EXIF orientation; the rest of the EXIF data, often malformed, is not touched."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # unreadable EXIF data turns no picture
        return image
    turned = image if turn is None else image.transpose(turn)
    turned.info = image.info
    return turned


def _srgb(image: Image.Image, background: tuple[int, int, int], path: Path | None) -> Image.Image:
    """Bring any of Pillow's modes to 8-bit RGB: deep greyscale scaled, profile applied, transparency composited."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if "srgb" in image.info or not gamma or abs(gamma / SRGB_GAMMA - 1) < 0.02:
        gamma = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bit(image, path)
    if image.mode == "L" and "transparency" in image.info:
        image = image.convert("LA")
    elif image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = None
    if image.mode in ("RGBA", "LA", "La", "RGBa"):
        image = image.convert("RGBA" if image.mode.startswith("RGB") else "LA")
        alpha = image.getchannel("A")
        image = image.convert("RGB") if image.mode == "RGBA" else image.getchannel("L")
    if path is not None and not profile and (other := _other_primaries(image.info)):
        log.warning("%s says that its colours are %s, which are taken as sRGB. Convert it first.", path, other)
    if profile:
        image = _apply_profile(image, profile)
    else:
        image = _gamma_applied(image, gamma) if gamma else image.convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, background), alpha)
    return image


def _other_primaries(info: dict[Any, Any]) -> str | None:
    """Return what a file without a profile says of its colours, if they are not sRGB's."""
    stated = info.get("chromaticity")
    if stated and "srgb" not in info and any(abs(a - b) > 0.005 for a, b in zip(stated, SRGB_PRIMARIES, strict=False)):
        return f"of the primaries {', '.join(f'{number:g}' for number in stated)}"
    with contextlib.suppress(Exception):  # EXIF data are often malformed
        exif = Image.Exif()
        exif.load(info.get("exif", b""))
        if exif.get_ifd(INTEROPERABILITY).get(1) == "R03":
            return "Adobe RGB"
    return None


def _eight_bit(image: Any, path: Path | None) -> Image.Image:
    """Scale 16-bit, 32-bit or floating-point greyscale to 8 bits, with transparency if one value stands for it."""
    # Integers are taken as 16-bit where the mode or a value says so; floats as [0, 1] where hardly a value exceeds 1,
    # as 0..255 where they come near it. Another range is scaled by itself, with a warning. Not finite is black.
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = min(values.min(initial=0), 0.0), values.max(initial=0)
    if image.mode == "F":
        is_bytes = EIGHT_BIT[0] <= high <= EIGHT_BIT[1]
        white = 1.0 if high <= FULL else 255.0 if is_bytes else high
        is_guess, low = high > 1 or low < 1 - FULL, 0.0
    else:
        white = 65535.0 if image.mode.startswith("I;16") or 255 < high <= 65535 else 255.0 if high <= 255 else high
        is_guess = low < 0 or high > 65535
        white = high if low < 0 else white
    if is_guess:
        span = f"{low:g} to {high:g}"
        log.warning("%s: its numbers reach from %s; %g is taken for black, %g for white", path, span, low, white)
    if WHITE_IS_ZERO in image.info:
        values = white - values
    grey = Image.fromarray(np.clip(np.rint((values - low) * 255 / max(white - low, 1e-30)), 0, 255).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _gamma_applied(image: Image.Image, gamma: float) -> Image.Image:
    """Convert RGB or greyscale from the encoding with an exponent, as a PNG's gAMA states it, to sRGB's."""
    linear = (np.arange(256) / 255) ** (1 / gamma)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return image.convert("RGB").point([int(value) for value in np.rint(255 * encoded)] * 3)


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert to sRGB by the embedded ICC profile; a broken or unfitting profile is ignored, as viewers do."""
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if converted := ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"):
            return converted
    return image.convert("RGB")
