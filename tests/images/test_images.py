"""Image files to tensors and back, checked against NumPy, Pillow's primitives and torchvision's transforms."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, JpegImagePlugin
from torchvision import transforms

from nst.errors import UserError
from nst.images import decoding, rgb
from nst.samples import FOLDER


def noise(height: int = 4, width: int = 6, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def gradient(height: int = 16, width: int = 32) -> np.ndarray:
    """A picture that lossy codecs keep: red grows to the right, green downwards, blue falls to the right."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).round().astype(np.uint8)


def as_bytes(image: torch.Tensor) -> np.ndarray:
    """``(1, 3, H, W)`` in [0, 1] as ``(H, W, 3)`` in 0..255, not rounded."""
    assert image.shape[:2] == (1, 3)
    assert image.dtype == torch.float32
    return image[0].permute(1, 2, 0).numpy().astype(np.float64) * 255


def read(path: Path, **options: Any) -> np.ndarray:
    """Load at the file's own size."""
    with Image.open(path) as image:
        size = max(image.size)
    return as_bytes(rgb.load(str(path), size, **options))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Build a PNG by hand; ``colour`` 0 is grey, 2 RGB, 4 grey with alpha; ``rows`` each open with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png16(values: np.ndarray, colour: int, extra: bytes = b"") -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, colour, rows, extra)


# ---- formats


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("png", {}), ("bmp", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}), ("webp", {"lossless": True})],
)
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    pixels = noise()
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(pixels).save(path, **options)
    np.testing.assert_allclose(read(path), pixels, atol=1e-4)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_are_read_closely(tmp_path: Path, suffix: str) -> None:
    pixels = gradient(64, 64)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(pixels).save(path, quality=95)
    assert np.abs(read(path) - pixels).mean() < 3


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    pixels = noise()
    path = tmp_path / "really-a-png.jpg"
    Image.fromarray(pixels).save(path, "PNG")
    np.testing.assert_allclose(read(path), pixels, atol=1e-4)


# ---- orientation

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    stored = noise()
    path = tmp_path / "picture.png"
    Image.fromarray(stored).save(path, exif=exif(orientation))
    expected = UPRIGHT[orientation](stored)
    np.testing.assert_allclose(read(path), expected, atol=1e-4)
    assert rgb.unsqueezed(str(path), max(expected.shape[:2])) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "tiff", "webp"])
def test_exif_orientation_is_undone_once_in_every_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = gradient(16, 32)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(stored).save(path, exif=exif(orientation), quality=95)
    expected = UPRIGHT[orientation](stored)
    loaded = read(path)
    assert loaded.shape == expected.shape
    assert np.abs(loaded - expected).mean() < 8
    assert rgb.unsqueezed(str(path), max(expected.shape[:2])) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(struct.pack(">HHI4s", 0x0119, 2, 4, b"abc\0"), id="a number stored as text"),
        pytest.param(struct.pack(">HHI4s", 0x011F, 2, 4, b"abc\0"), id="a fraction stored as text"),
    ],
)
def test_a_picture_with_odd_exif_is_still_read_and_turned(tmp_path: Path, entries: bytes) -> None:
    """Cameras and phones write such tags, and every viewer shows the pictures; at worst it is one clear message."""
    orientation = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
    tags = [orientation, entries]
    tags.sort()
    block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags)) + b"".join(tags) + bytes(4)
    path = tmp_path / "odd.jpg"
    Image.fromarray(gradient(16, 32)).save(path, exif=block, quality=95)
    assert read(path).shape == (32, 16, 3)


# ---- transparency


def over(colour: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    weight = alpha[..., None].astype(np.float64) / 255
    return colour * weight + np.array(background) * (1 - weight)


BACKGROUNDS = [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#204080", (32, 64, 128))]


@pytest.mark.parametrize(("name", "rgb"), BACKGROUNDS)
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_rgba_is_laid_over_the_background(tmp_path: Path, suffix: str, name: str, rgb: tuple[int, int, int]) -> None:
    pixels = noise(channels=4)
    pixels[0, :3, 3] = 0, 128, 255
    path = tmp_path / f"picture.{suffix}"
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(path, **options)
    np.testing.assert_allclose(read(path, background=name), over(pixels[..., :3], pixels[..., 3], rgb), atol=1.01)


@pytest.mark.parametrize(("name", "rgb"), BACKGROUNDS)
def test_grey_with_alpha_is_laid_over_the_background(tmp_path: Path, name: str, rgb: tuple[int, int, int]) -> None:
    pixels = noise(channels=2)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels, "LA").save(path)
    expected = over(pixels[..., :1].repeat(3, axis=2), pixels[..., 1], rgb)
    np.testing.assert_allclose(read(path, background=name), expected, atol=1.01)


def test_a_palette_with_graded_transparency_is_laid_over_the_background(tmp_path: Path) -> None:
    indices = np.arange(4, dtype=np.uint8).reshape(2, 2)
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], dtype=np.uint8)
    alphas = np.array([255, 128, 0, 64], dtype=np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    path = tmp_path / "picture.png"
    image.save(path, transparency=alphas.tobytes())
    expected = over(palette[indices], alphas[indices], (32, 64, 128))
    np.testing.assert_allclose(read(path, background="#204080"), expected, atol=1.01)


def test_a_gif_with_one_transparent_colour_is_laid_over_the_background(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette(bytes([255, 0, 0, 0, 0, 255]))
    path = tmp_path / "picture.gif"
    image.save(path, transparency=1)
    red, shown = (255, 0, 0), (32, 64, 128)
    np.testing.assert_allclose(read(path, background="#204080"), [[red, shown], [shown, red]], atol=1.01)


def test_the_one_transparent_colour_of_an_rgb_png_shows_the_background(tmp_path: Path) -> None:
    pixels = noise()
    pixels[0, 0] = pixels[2, 3] = 1, 2, 3
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path, transparency=(1, 2, 3))
    expected = pixels.copy()
    expected[0, 0] = expected[2, 3] = 32, 64, 128
    np.testing.assert_allclose(read(path, background="#204080"), expected, atol=1e-4)


def test_the_one_transparent_grey_of_a_grey_png_shows_the_background(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(np.array([[7, 200]], dtype=np.uint8)).save(path, transparency=7)
    np.testing.assert_allclose(read(path, background="#204080"), [[(32, 64, 128), (200, 200, 200)]], atol=1e-4)


def test_the_one_transparent_grey_of_a_16_bit_png_shows_the_background(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(png16(np.array([[1000, 65535]]), 0, chunk(b"tRNS", struct.pack(">H", 1000))))
    np.testing.assert_allclose(read(path, background="#204080"), [[(32, 64, 128), (255, 255, 255)]], atol=1.01)


def test_hidden_colours_do_not_bleed_into_the_edges_when_scaled(tmp_path: Path) -> None:
    """Composited first, then scaled: black under full transparency must not darken what is white on white."""
    pixels = np.full((32, 32, 4), 255, dtype=np.uint8)
    pixels[::2] = 0
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    np.testing.assert_allclose(as_bytes(rgb.load(str(path), 8)), 255, atol=1e-4)


# ---- other modes


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    grey = noise(channels=1)[..., 0]
    path = tmp_path / "picture.png"
    Image.fromarray(grey).save(path)
    np.testing.assert_allclose(read(path), grey[..., None].repeat(3, axis=2), atol=1e-4)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    bits = noise(channels=1)[..., 0] > 127
    path = tmp_path / "picture.png"
    Image.fromarray(bits).save(path)
    assert Image.open(path).mode == "1"
    np.testing.assert_allclose(read(path), np.where(bits, 255, 0)[..., None].repeat(3, axis=2), atol=1e-4)


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    palette = noise(1, 5)[0]
    indices = np.arange(20, dtype=np.uint8).reshape(4, 5) % 5
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    path = tmp_path / "picture.png"
    image.save(path)
    np.testing.assert_allclose(read(path), palette[indices], atol=1e-4)


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((0, 0, 255, 128), (127, 127, 0)),
    ],
)
def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path, cmyk: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    path = tmp_path / "picture.jpg"
    Image.new("CMYK", (16, 8), cmyk).save(path, quality=100)
    assert Image.open(path).mode == "CMYK"
    np.testing.assert_allclose(read(path).mean(axis=(0, 1)), rgb, atol=4)


DEEP = np.array([[0, 128, 257], [32768, 65278, 65535]], dtype=np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(DEEP).save(path)
    assert Image.open(path).mode.startswith("I;16")
    expected = (DEEP / 65535 * 255)[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(read(path), expected, atol=0.51)


def test_a_big_endian_16_bit_tiff_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    entries = [(256, 3), (257, 2), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 2), (279, 12)]
    strip = DEEP.astype(">u2").tobytes()
    table = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries)
    path = tmp_path / "picture.tiff"
    path.write_bytes(b"MM\0*" + struct.pack(">I", 20) + strip + struct.pack(">H", len(entries)) + table + bytes(4))
    expected = (DEEP / 65535 * 255)[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(read(path), expected, atol=0.51)


def test_32_bit_integer_grey_with_16_bit_values_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "picture.tiff"
    Image.fromarray(DEEP.astype(np.int32)).save(path)
    assert Image.open(path).mode == "I"
    expected = (DEEP / 65535 * 255)[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(read(path), expected, atol=0.51)


def test_32_bit_integer_grey_with_8_bit_values_keeps_them(tmp_path: Path) -> None:
    values = np.array([[0, 17, 255]], dtype=np.int32)
    path = tmp_path / "picture.tiff"
    Image.fromarray(values).save(path)
    np.testing.assert_allclose(read(path), values[..., None].repeat(3, axis=2), atol=1e-4)


def test_a_16_bit_rgb_png_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (3, 5, 3))
    values[0, 0] = 0, 32768, 65535
    path = tmp_path / "picture.png"
    path.write_bytes(png16(values, 2))
    np.testing.assert_allclose(read(path), values / 65535 * 255, atol=1.01)


def test_a_16_bit_png_with_alpha_is_laid_over_the_background(tmp_path: Path) -> None:
    values = np.array([[[0, 65535], [32768, 32768], [65535, 0]]])
    path = tmp_path / "picture.png"
    path.write_bytes(png16(values, 4))
    expected = np.array([0.0, 0.25, 0.0])[None, :, None].repeat(3, axis=2) * 255
    np.testing.assert_allclose(read(path, background="black"), expected, atol=1.51)


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_a_float_tiff_is_read_in_units_of_one_or_of_bytes(tmp_path: Path, top: float) -> None:
    share = np.array([[0.0, 0.25, 0.5], [0.75, 0.9, 1.0]])
    path = tmp_path / "picture.tiff"
    Image.fromarray((share * top).astype(np.float32)).save(path)
    assert Image.open(path).mode == "F"
    np.testing.assert_allclose(read(path), (share * 255)[..., None].repeat(3, axis=2), atol=0.51)


def test_values_of_a_float_tiff_that_are_not_finite_or_negative_are_black(tmp_path: Path) -> None:
    path = tmp_path / "picture.tiff"
    Image.fromarray(np.array([[np.nan, np.inf, -np.inf, -3.0, 1.0]], dtype=np.float32)).save(path)
    np.testing.assert_allclose(read(path)[0, :, 0], [0, 0, 0, 0, 255], atol=1e-4)


# ---- colour profiles

# sRGB's primaries relative to D50, as in every sRGB ICC profile.
PRIMARIES = {"r": (0.4360, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}


def linear_light_profile(order: str, space: bytes = b"RGB ") -> bytes:
    """Build an ICC v2 matrix profile with gamma 1, whose channels are sRGB's primaries in the given order."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    text = b"linear\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, 0x0100)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0" + text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for channel, primary in zip("rgb", order, strict=True):
            tags[channel.encode() + b"XYZ"] = xyz(*PRIMARIES[primary])
            tags[channel.encode() + b"TRC"] = curve
    table, data = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        padded = content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(data), len(content))
        data += padded
    header = struct.pack(">I4sI4s4s4s", start + len(data), bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += b"".join(struct.pack(">i", round(v * 65536)) for v in (0.9642, 1.0, 0.8249))
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, 0..255 to 0..255."""
    value = linear.astype(np.float64) / 255
    return 255 * np.where(value <= 0.0031308, 12.92 * value, 1.055 * value ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("order", ["rgb", "bgr", "gbr"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path, suffix: str, order: str) -> None:
    pixels = noise(8, 8)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(pixels).save(path, icc_profile=linear_light_profile(order))
    expected = srgb_curve(pixels)[..., [order.index(c) for c in "rgb"]]
    np.testing.assert_allclose(read(path), expected, atol=2.5)


def test_an_embedded_profile_of_a_picture_with_alpha_is_applied_before_the_background(tmp_path: Path) -> None:
    pixels = noise(8, 8, 4)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path, icc_profile=linear_light_profile("bgr"))
    expected = over(srgb_curve(pixels[..., 2::-1]), pixels[..., 3], (32, 64, 128))
    np.testing.assert_allclose(read(path, background="#204080"), expected, atol=3)


def test_an_embedded_grey_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    grey = np.arange(20, 256, 5, dtype=np.uint8)[None]
    path = tmp_path / "picture.png"
    Image.fromarray(grey).save(path, icc_profile=linear_light_profile("", b"GRAY"))
    np.testing.assert_allclose(read(path), srgb_curve(grey)[..., None].repeat(3, axis=2), atol=2.5)


def test_an_embedded_grey_profile_of_a_picture_with_alpha_is_converted_too(tmp_path: Path) -> None:
    grey = np.arange(20, 256, 5, dtype=np.uint8)[None]
    path = tmp_path / "picture.png"
    Image.fromarray(np.stack([grey, np.full_like(grey, 255)], axis=2), "LA").save(
        path, icc_profile=linear_light_profile("", b"GRAY")
    )
    np.testing.assert_allclose(read(path), srgb_curve(grey)[..., None].repeat(3, axis=2), atol=2.5)


def test_an_embedded_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path, icc_profile=profile)
    np.testing.assert_allclose(read(path), pixels, atol=1.01)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"no profile at all", id="garbage"),
        pytest.param(linear_light_profile("bgr")[:200], id="truncated"),
        pytest.param(linear_light_profile("", b"GRAY"), id="for grey pictures"),
    ],
)
def test_a_broken_or_unfitting_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    pixels = noise()
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path, icc_profile=profile)
    np.testing.assert_allclose(read(path), pixels, atol=1e-4)


# ---- sizes


@pytest.mark.parametrize(
    ("width", "height", "fit", "expected"),
    [
        (40, 20, "long", (10, 5)),
        (20, 40, "long", (5, 10)),
        (40, 20, "short", (20, 10)),
        (20, 40, "short", (10, 20)),
        (40, 20, "height", (20, 10)),
        (20, 40, "height", (5, 10)),
        (40, 20, "square", (10, 10)),
        (4, 2, "long", (10, 5)),
        (451, 300, "long", (10, 7)),  # 6.65 is rounded, not cut
        (300, 451, "long", (7, 10)),
        (7, 7, "short", (10, 10)),
    ],
)
def test_fit_sets_the_named_side_and_keeps_the_aspect_ratio(
    tmp_path: Path, width: int, height: int, fit: str, expected: tuple[int, int]
) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (width, height)).save(path)
    loaded = rgb.load(str(path), 10, fit)
    assert (loaded.shape[3], loaded.shape[2]) == expected


def test_fit_measures_the_upright_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 20)).save(path, exif=exif(6))
    assert rgb.load(str(path), 10, "height").shape[2:] == (10, 5)


@pytest.mark.parametrize("size", [5, 16, 33, 64])
def test_square_bilinear_is_torchvisions_resize_and_to_tensor(tmp_path: Path, size: int) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(noise(24, 32)).save(path)
    bilinear = transforms.InterpolationMode.BILINEAR
    founding = transforms.Compose([transforms.Resize((size, size), bilinear), transforms.ToTensor()])
    expected = founding(Image.open(path).convert("RGB"))
    assert torch.equal(rgb.load(str(path), size, "square", "bilinear")[0], expected)


@pytest.mark.parametrize("size", [8, 50])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
def test_each_resampling_is_pillows_filter_of_that_name(tmp_path: Path, resample: str, size: int) -> None:
    pixels = noise(20, 20)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    expected = Image.fromarray(pixels).resize((size, size), Image.Resampling[resample.upper()])
    np.testing.assert_allclose(as_bytes(rgb.load(str(path), size, resample=resample)), expected, atol=1e-4)


def test_scaling_down_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    path = tmp_path / "picture.png"
    Image.fromarray(stripes).save(path)
    assert np.abs(as_bytes(rgb.load(str(path), 8, resample="bilinear")) - 127.5).max() < 15


@pytest.mark.parametrize(
    ("width", "height", "size", "fit", "became"),
    [
        (1, 10000, 16, "long", "0 x 16"),
        (10000, 1, 16, "long", "16 x 0"),
        (1, 1000, 16, "short", "16 x 16000"),
        (1000, 1, 16, "height", "16000 x 16"),
    ],
)
def test_an_extreme_aspect_ratio_is_refused(
    tmp_path: Path, width: int, height: int, size: int, fit: str, became: str
) -> None:
    path = tmp_path / "thin.png"
    Image.new("RGB", (width, height)).save(path)
    with pytest.raises(UserError, match="Crop the image, or choose another size or fit") as caught:
        rgb.load(str(path), size, fit)
    assert f"{path} is {width} x {height} pixels and would become {became}" in str(caught.value)


# ---- bad files


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, kind)
    return buffer.getvalue()


def broken_checksum(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 40
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def without_size(kind: str) -> bytes:
    if kind == "png":
        return png(0, 0, 8, 2, b"")
    bmp = encoded("BMP")
    return bmp[:18] + bytes(8) + bmp[26:]


BAD_FILES = {
    "empty": (b"", "is empty"),
    "text": (b"This is no picture.\n" * 9, "JPEG, PNG, WebP, TIFF and BMP work"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "JPEG, PNG, WebP, TIFF and BMP work"),
    "truncated JPEG": (encoded("JPEG")[:1500], "Is the file complete?"),
    "truncated PNG": (encoded("PNG")[:1500], "Is the file complete?"),
    "truncated TIFF": (encoded("TIFF")[:1500], "Is the file complete?"),
    "truncated BMP": (encoded("BMP")[:1500], "Is the file complete?"),
    "truncated WebP": (encoded("WEBP")[:1500], "(JPEG, PNG, WebP, TIFF and BMP work|Is the file complete)"),
    "JPEG cut in its header": (encoded("JPEG")[:20], "(JPEG, PNG, WebP, TIFF and BMP work|Is the file complete)"),
    "damaged header": (
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 64,
        "(JPEG, PNG, WebP, TIFF and BMP work|Is the file complete)",
    ),
    "damaged data": (broken_checksum(encoded("PNG")), "Is the file complete?"),
    "decompression bomb": (png(100_000, 100_000, 8, 2, b""), "Scale it down first"),
    "absurd dimensions": (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "Scale it down first"),
    "zero-size PNG": (without_size("png"), "JPEG, PNG, WebP, TIFF and BMP work"),
    "zero-size BMP": (without_size("bmp"), "JPEG, PNG, WebP, TIFF and BMP work"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_message_that_names_it_and_says_what_to_do(tmp_path: Path, kind: str) -> None:
    data, advice = BAD_FILES[kind]
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(UserError, match=advice.replace("?", r"\?")) as caught:
        rgb.load(str(path), 16)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_the_folder_searched_and_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        rgb.load("nowhere/portrait.jpg", 16)
    for part in ("'nowhere/portrait.jpg'", str(tmp_path), "Samples:", "chelsea"):
        assert part in str(caught.value)


def test_a_folder_is_refused_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; an image file or the name of a sample is needed") as caught:
        rgb.load(str(tmp_path), 16)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["~no-such-user-here/a.jpg", "a" * 300, "nul\0byte.jpg"], ids=["user", "long", "nul"])
def test_a_name_that_no_file_can_have_is_a_missing_file(name: str) -> None:
    with pytest.raises(UserError, match="no image file"):
        rgb.load(name, 16)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(path)
    path.chmod(0)
    with pytest.raises(UserError, match="ermission") as caught:
        rgb.load(str(path), 16)
    assert str(path) in str(caught.value)


def test_a_read_that_the_system_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    Image.new("RGB", (4, 4)).save(path)

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="Permission denied") as caught:
        rgb.load(str(path), 16)
    assert str(path) in str(caught.value)


# ---- samples


def test_every_sample_is_a_picture_with_a_source_and_a_licence() -> None:
    known = rgb.samples()
    assert {"chelsea", "swirls"} <= set(known)
    for name, about in known.items():
        with Image.open(rgb.locate(name)) as image:
            image.load()
        assert about["kind"] in ("content", "style"), name
        assert about["title"], name
        assert about["author"], name
        assert about["source"], name
        assert about.get("licence") or about.get("license"), name


def test_a_sample_is_loaded_by_its_name() -> None:
    with Image.open(FOLDER / "chelsea.jpg") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_allclose(as_bytes(rgb.load("chelsea", 451)), expected, atol=1e-4)


@pytest.mark.parametrize("typed", ["chelsae", "Chelsea", "chelsea.jpg"])
def test_an_unknown_sample_suggests_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Did you mean 'chelsea'"):
        rgb.locate(typed)


def test_a_file_goes_before_a_sample_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / "chelsea", "PNG")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_allclose(as_bytes(rgb.load("chelsea", 6)), pixels, atol=1e-4)


def test_a_leading_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (4, 4)).save(tmp_path / "mine.png")
    assert rgb.locate("~/mine.png") == tmp_path / "mine.png"


# ---- encoding


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def picture(height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).random((1, 3, height, width), dtype=np.float32))


def test_a_png_holds_the_pixels_clamped_and_rounded_to_nearest() -> None:
    values = np.array([-5.0, -0.001, 0.0, 0.4, 0.6, 127.4, 127.6, 254.4, 254.6, 255.0, 255.4, 900.0])
    tensor = torch.from_numpy(values / 255).float().expand(1, 3, 1, -1)
    expected = [0, 0, 0, 0, 1, 127, 128, 254, 255, 255, 255, 255]
    for channel in range(3):
        assert np.asarray(decoded(rgb.encode(tensor)))[0, :, channel].tolist() == expected


def test_channels_rows_and_columns_keep_their_places() -> None:
    tensor = picture()
    image = decoded(rgb.encode(tensor))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (30, 20))
    np.testing.assert_array_equal(np.asarray(image), np.rint(tensor[0].numpy().transpose(1, 2, 0) * 255))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_same_pixels_give_the_same_bytes_whatever_holds_them(kind: str) -> None:
    tensor = picture()
    first = rgb.encode(tensor, kind)
    assert rgb.encode(tensor[0], kind) == first
    assert rgb.encode(tensor.clone().requires_grad_(), kind) == first
    assert rgb.encode(tensor.double(), kind) == first
    assert rgb.encode(tensor.to(memory_format=torch.channels_last), kind) == first
    assert rgb.encode(1 - tensor, kind) != first


def test_what_is_encoded_as_png_is_loaded_back_exactly(tmp_path: Path) -> None:
    pixels = noise(9, 7)
    path = tmp_path / "result.png"
    rgb.save(path, rgb.encode(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), pixels)
    np.testing.assert_allclose(as_bytes(rgb.load(str(path), 9)), pixels, atol=1e-4)


def test_jpeg_quality_trades_size_for_likeness() -> None:
    tensor = picture()
    target = tensor[0].numpy().transpose(1, 2, 0) * 255
    files = [rgb.encode(tensor, "jpeg", quality) for quality in (30, 75, 95)]
    assert [decoded(data).format for data in files] == ["JPEG"] * 3
    assert len(files[0]) < len(files[1]) < len(files[2])
    errors = [np.abs(np.asarray(decoded(data)) - target).mean() for data in files]
    assert errors[0] > errors[1] > errors[2]


def test_a_jpeg_keeps_the_full_resolution_of_colour() -> None:
    assert JpegImagePlugin.get_sampling(decoded(rgb.encode(picture(), "jpeg"))) == 0


@pytest.mark.parametrize("shape", [(45, 20), (30, 20), (10, 5)])
def test_shape_stretches_a_picture_that_was_optimised_squeezed(shape: tuple[int, int]) -> None:
    tensor = picture()
    pixels = Image.fromarray(np.rint(tensor[0].numpy().transpose(1, 2, 0) * 255).astype(np.uint8))
    result = decoded(rgb.encode(tensor, "png", shape=shape))
    assert result.size == shape
    np.testing.assert_array_equal(np.asarray(result), np.asarray(pixels.resize(shape, Image.Resampling.LANCZOS)))


@pytest.mark.parametrize(
    ("color", "expected"), [("white", (255, 255, 255)), ("#0a141e", (10, 20, 30)), ("navy", (0, 0, 128))]
)
def test_colours_are_names_or_hexadecimal(color: str, expected: tuple[int, int, int]) -> None:
    assert decoding.parse_color(color) == expected


def test_no_colour_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nocolour"):
        decoding.parse_color("nocolour")


# ---- saving


def test_save_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.png"
    path.write_bytes(b"old")
    rgb.save(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["result.png"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("before", [b"the old picture", None])
def test_a_save_that_fails_leaves_the_old_file_and_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, before: bytes | None
) -> None:
    path = tmp_path / "result.png"
    if before is not None:
        path.write_bytes(before)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(UserError, match=r"No space left on device.*hydra\.run\.dir") as caught:
        rgb.save(path, b"x" * 100_000)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == before
    assert [p.name for p in tmp_path.iterdir()] == (["result.png"] if before is not None else [])


def test_a_save_into_a_missing_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        rgb.save(tmp_path / "gone" / "result.png", b"x")


def test_the_new_file_is_complete_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.png"
    path.write_bytes(b"old")
    seen = []
    real = os.fsync

    def look(descriptor: int) -> None:
        real(descriptor)
        seen.append((path.read_bytes(), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", look)
    rgb.save(path, b"12345")
    assert seen == [(b"old", 5)]


# ---- what a file says about its own pixels


def tiff(
    path: Path, values: np.ndarray, photometric: int = 1, planar: int = 1, kind: int = 1, subfile: int = 0
) -> Path:
    """Write an uncompressed little-endian TIFF by hand: Pillow writes neither of these layouts."""
    data = values.tobytes()
    height, width, channels = (*values.shape, 1)[:3] if planar == 1 else (*values.shape[1:], values.shape[0])
    bits = 8 * values.itemsize
    tags = [
        (254, 4, [subfile]), (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1]),
        (262, 3, [photometric]), (273, 4, [8]), (277, 3, [channels]), (278, 4, [height]), (279, 4, [len(data)]),
        (284, 3, [planar]), (339, 3, [kind] * channels),
    ]  # fmt: skip
    if planar == 2:
        each = len(data) // channels
        tags[6], tags[9] = (273, 4, [8 + i * each for i in range(channels)]), (279, 4, [each] * channels)
    start = 8 + len(data)
    body, extra = struct.pack("<H", len(tags)), b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, form, numbers in tags:
        packed = struct.pack(f"<{len(numbers)}{'H' if form == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            field = struct.pack("<I", behind + len(extra))
            extra += packed
        else:
            field = packed.ljust(4, b"\0")
        body += struct.pack("<HHI", tag, form, len(numbers)) + field
    path.write_bytes(struct.pack("<2sHI", b"II", 42, start) + data + body + struct.pack("<I", 0) + extra)
    return path


def shown(path: Path) -> np.ndarray:
    return np.asarray(decoding.read(path, (255, 255, 255)))[..., 0].astype(int)


def test_a_16_bit_tiff_whose_white_is_zero_is_no_negative(tmp_path: Path) -> None:
    values = np.array([[0, 16384, 65535]], dtype="<u2")
    assert shown(tiff(tmp_path / "a.tif", values, photometric=0)).tolist() == [[255, 191, 0]]
    assert shown(tiff(tmp_path / "b.tif", values, photometric=1)).tolist() == [[0, 64, 255]]


def test_planes_of_16_bits_are_refused_and_named(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.zeros((3, 4, 5), dtype="<u2"), photometric=2, planar=2)
    with pytest.raises(UserError, match="planes of 16 bits"):
        decoding.read(path, (0, 0, 0))


def test_a_layout_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.zeros((4, 5, 3), dtype="<f4"), photometric=2, kind=3)
    with pytest.raises(UserError, match="3 channels of 32 floating-point bits"):
        decoding.read(path, (0, 0, 0))
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(UserError, match="is a HEIC picture"):
        decoding.read(tmp_path / "b.heic", (0, 0, 0))


@pytest.mark.parametrize(
    ("values", "white", "is_guess"),
    [
        ([0.0, 0.5, 1.0], 1, False),
        ([0.0, 0.5, 1.001], 1, True),
        ([0.0, 0.6, 1.2], 1.2, True),
        ([0.0, 128.0, 250.0], 255, True),
        ([0.0, 2000.0, 4095.0], 4095, True),
    ],
)
def test_floats_are_scaled_by_what_they_plainly_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, values: list[float], white: float, is_guess: bool
) -> None:
    path = tiff(tmp_path / "a.tif", np.array([values], dtype="<f4"), kind=3)
    expected = np.rint(np.clip(np.array([values]) / white, 0, 1) * 255)
    assert np.abs(shown(path) - expected).max() <= 1
    assert ("its numbers reach from" in caplog.text) == is_guess


def test_signed_and_long_integers_are_scaled_by_their_own_range(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signed = tiff(tmp_path / "a.tif", np.array([[-100, 0, 100]], dtype="<i4"), kind=2)
    assert shown(signed).tolist() == [[0, 128, 255]]
    assert "-100 is taken for black" in caplog.text
    assert shown(tiff(tmp_path / "b.tif", np.array([[0, 10**6, 2 * 10**6]], dtype="<i4"), kind=2)).tolist() == [
        [0, 128, 255]
    ]


def test_a_small_copy_on_the_first_page_is_not_the_picture(tmp_path: Path) -> None:
    large, small = Image.fromarray(gradient(48, 64)), Image.fromarray(gradient(12, 16))
    small.save(tmp_path / "a.tif", save_all=True, append_images=[large], tiffinfo={254: 1})
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with Image.open(tmp_path / "a.tif") as file:
        file.seek(1)
        if file.tag_v2.get(254, 0) & 1:  # Pillow gives the tag to every page: take it from the second
            place = data.rfind(struct.pack("<HHI", 254, 4, 1))
            data[place + 8 : place + 12] = bytes(4)
    (tmp_path / "a.tif").write_bytes(data)
    assert decoding.read(tmp_path / "a.tif", (0, 0, 0)).size == (64, 48)


@pytest.mark.parametrize("chunk", [b"zTXt", b"iTXt"])
def test_a_long_text_does_not_stop_a_png(tmp_path: Path, chunk: bytes) -> None:
    Image.fromarray(gradient(8, 8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    packed = zlib.compress(b"x" * 3_000_000)
    text = b"Comment\0\0" + packed if chunk == b"zTXt" else b"Comment\0\1\0\0\0" + packed
    block = struct.pack(">I", len(text)) + chunk + text + struct.pack(">I", zlib.crc32(chunk + text))
    (tmp_path / "a.png").write_bytes(data[:33] + block + data[33:])
    assert np.array_equal(np.asarray(decoding.read(tmp_path / "a.png", (0, 0, 0))), gradient(8, 8))


def test_a_jpeg_without_its_last_bytes_is_read_and_one_without_its_half_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(96, 96)).save(path, quality=90)
    whole, data = np.asarray(decoding.read(path, (0, 0, 0))), path.read_bytes()
    path.write_bytes(data[:-2])
    assert np.array_equal(np.asarray(decoding.read(path, (0, 0, 0))), whole)
    assert "lacks its end" in caplog.text
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="Is the file complete"):
        decoding.read(path, (0, 0, 0))
    Image.fromarray(noise(96, 96)).save(path, quality=90, progressive=True)
    path.write_bytes(path.read_bytes()[: len(data) // 2])
    with pytest.raises(UserError, match="Is the file complete"):
        decoding.read(path, (0, 0, 0))


def test_of_a_jpeg_with_too_many_pixels_a_fraction_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(gradient(64, 96)).save(tmp_path / "a.jpg")
    Image.fromarray(gradient(64, 96)).save(tmp_path / "a.png")
    assert decoding.read(tmp_path / "a.jpg", (0, 0, 0), most=64 * 96).size == (96, 64)
    assert decoding.read(tmp_path / "a.jpg", (0, 0, 0), most=64 * 96 - 1).size == (48, 32)
    with pytest.raises(UserError, match="too many to read"):
        decoding.read(tmp_path / "a.png", (0, 0, 0), most=64 * 96 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    assert decoding.read(tmp_path / "a.jpg", (0, 0, 0)).size == (96, 64)


def test_the_gamma_that_a_png_states_counts(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 64, 128, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()

    def stating(gamma: float) -> list[int]:
        block = b"gAMA" + struct.pack(">I", round(gamma * 100_000))
        chunk = struct.pack(">I", 4) + block + struct.pack(">I", zlib.crc32(block))
        (tmp_path / "b.png").write_bytes(data[:33] + chunk + data[33:])
        return list(shown(tmp_path / "b.png")[0])

    assert stating(0.45455) == [0, 64, 128, 255]  # as sRGB, nearly
    assert stating(1.0) == [0, 137, 188, 255]  # linear light: 64/255 is 137/255 in sRGB


def test_other_formats_are_not_opened_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(UserError, match="is not an image that can be read"):
        decoding.read(tmp_path / "a.jpg", (0, 0, 0))
    with pytest.raises(UserError, match="is an address"):
        rgb.locate("https://example.com/a.jpg")


def test_primaries_other_than_those_of_srgb_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (4, 4), "teal").save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()

    def stating(*numbers: float) -> None:
        block = b"cHRM" + struct.pack(">8I", *(round(number * 100_000) for number in numbers))
        chunk = struct.pack(">I", 32) + block + struct.pack(">I", zlib.crc32(block))
        (tmp_path / "b.png").write_bytes(data[:33] + chunk + data[33:])
        caplog.clear()
        decoding.read(tmp_path / "b.png", (0, 0, 0))

    stating(0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    assert not caplog.messages
    stating(0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)  # Adobe RGB's green
    assert "says that its colours are of the primaries" in caplog.text
