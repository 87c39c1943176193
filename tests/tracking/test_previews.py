"""The small pictures along the way: which steps, how large, and of which picture."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from watched import run_info, snapshot

from nst.tracking.pictures import LONGEST_SIDE, Previews, encode


def watch(run: Path, steps: int, pixels: torch.Tensor, shape: tuple[int, int] | None = None) -> list[int]:
    run.mkdir(exist_ok=True)
    folder, previews = run / "previews", Previews(run_info(run, steps, shape=shape))
    for index in range(steps + 1):
        previews.step(snapshot(index, pixels, index == steps))
    previews.close("done", "")
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in folder.glob("??????.jpg"))
    return sorted(int(path.stem) for path in folder.iterdir())


def test_the_start_log_spaced_steps_and_the_last_are_saved(tmp_path: Path) -> None:
    saved = watch(tmp_path, 300, torch.rand(1, 3, 8, 12))
    assert saved[:2] == [0, 1]
    assert saved[-1] == 300
    assert len(saved) <= 11
    gaps = np.diff(np.log(saved[1:]))
    assert gaps.max() < 3 * np.log(300) / 9


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_short_run_has_its_start_and_its_end(tmp_path: Path, steps: int) -> None:
    saved = watch(tmp_path, steps, torch.rand(1, 3, 8, 8))
    assert saved[0] == 0
    assert saved[-1] == steps


def test_a_run_that_ends_early_has_its_last_picture_too(tmp_path: Path) -> None:
    previews = Previews(run_info(tmp_path, 300))
    for index in (0, 1, 17):
        previews.step(snapshot(index, torch.rand(1, 3, 8, 8), last=index == 17))
    assert (tmp_path / "previews" / "000017.jpg").exists()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 32), (64, 32)), ((512, 300), (256, 150)), ((300, 600), (128, 256)), ((2000, 2), (256, 1))],
)
def test_the_long_side_has_at_most_256_pixels_and_nothing_is_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(encode(Image.new("RGB", size)))) as picture:
        assert picture.format == "JPEG"
        assert picture.size == expected
        assert max(picture.size) <= LONGEST_SIDE


def test_it_is_the_picture_clamped(tmp_path: Path) -> None:
    pixels = torch.full((1, 3, 16, 16), 1.7)
    pixels[0, 2] = -3.0
    watch(tmp_path, 1, pixels)
    seen = np.asarray(Image.open(tmp_path / "previews" / "000001.jpg"), dtype=float)
    np.testing.assert_allclose(seen, np.broadcast_to([255.0, 255.0, 0.0], seen.shape), atol=3)


def test_a_squeezed_picture_gets_its_shape_back(tmp_path: Path) -> None:
    watch(tmp_path, 1, torch.rand(1, 3, 32, 32), shape=(48, 32))
    assert Image.open(tmp_path / "previews" / "000000.jpg").size == (48, 32)


def test_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    pixels = torch.rand(1, 3, 40, 300)
    watch(tmp_path / "a", 5, pixels)
    watch(tmp_path / "b", 5, pixels)
    for path in (tmp_path / "a" / "previews").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "previews" / path.name).read_bytes()
