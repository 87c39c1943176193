"""Photographs in seeded crops: what is cut out, in which order, whoever asks and whatever is broken."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nst.errors import UserError
from nst.training.perceptual import Perceptual
from nst.training.photos import WARNED, Photos, load_batches

COLORS = [(10 * n, 255 - 10 * n, 5 * n) for n in range(12)]


def ramp(width: int, height: int) -> Image.Image:
    """Red is the column, green the row, in whole bytes: where a crop was cut can be read off it."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8))


def flat(folder: Path, count: int = 12, suffix: str = "png") -> Path:
    """Make a folder of photographs in one colour each."""
    folder.mkdir()
    for number, color in enumerate(COLORS[:count]):
        Image.new("RGB", (40, 30), color).save(folder / f"{number:02d}.{suffix}")
    return folder


def colors(photos: Photos, indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the colour of flat photographs."""
    items = [photos.item(index) for index in indices]
    assert all(item.std((1, 2)).max() < 1e-6 for item in items)
    return [tuple((item[:, 0, 0] * 255).round().int().tolist()) for item in items]


def photos_of(folder: Path, picture: Image.Image, name: str = "a.png", crop: int = 16, **options: object) -> Photos:
    folder.mkdir(exist_ok=True)
    picture.save(folder / name)
    return Photos(str(folder), crop, options.pop("seed", 0), **options)  # type: ignore[arg-type]


# ---- what is cut out


def test_crops_are_squares_of_the_photograph_between_scale_and_all_of_its_short_side(tmp_path: Path) -> None:
    crop, scale, (width, height) = 16, 0.5, (200, 100)
    photos = photos_of(tmp_path / "one", ramp(width, height), crop=crop, scale=scale)
    sides, flips, lefts, tops = [], [], [], []
    for index in range(200):
        item = photos.item(index)
        assert item.shape == (3, crop, crop)
        assert item.dtype == torch.float32
        red, green, blue = (item * 255).numpy()
        # the centre of output pixel i lies at left + (i + 1/2) * side / crop - 1/2
        slope = (red[8, 12] - red[8, 3]) / 9
        side = abs(slope) * crop
        np.testing.assert_allclose((green[12, 8] - green[3, 8]) / 9 * crop, side, atol=2)
        middle_x, middle_y = red[8, 3:13].mean(), green[3:13, 8].mean()  # of columns 3 to 12: at 8 of 16
        left, top = middle_x + 0.5 - side / 2, middle_y + 0.5 - side / 2
        assert -2 < left < width - side + 2
        assert -2 < top < height - side + 2
        assert blue.max() == 0
        sides.append(side)
        flips.append(slope < 0)
        lefts.append(left)
        tops.append(top)
    assert scale * height - 2 < min(sides) < 55
    assert 95 < max(sides) < height + 2
    assert min(lefts) < 10 and max(lefts) > 100
    assert min(tops) < 5 and max(tops) > 30
    assert 70 < sum(flips) < 130


def test_the_whole_of_a_square_photograph_is_scaled_as_pillow_does(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    photos = photos_of(tmp_path / "one", noise, scale=1.0, flip=False)
    expected = np.asarray(noise.resize((16, 16), Image.Resampling.LANCZOS), dtype=np.float32) / 255
    for index in (0, 1, 7):
        np.testing.assert_array_equal(photos.item(index).permute(1, 2, 0).numpy(), expected)


def test_no_more_is_cut_off_than_leaves_enough_pixels(tmp_path: Path) -> None:
    photos = photos_of(tmp_path / "one", ramp(100, 100), crop=90, scale=0.1)
    for index in range(50):
        red = photos.item(index)[0, 45] * 255
        side = abs(float(red[80] - red[10])) / 70 * 90
        assert side > 89


@pytest.mark.parametrize("size", [(5, 9), (1, 3000), (3000, 2)])
def test_small_and_narrow_photographs_are_enlarged(tmp_path: Path, size: tuple[int, int]) -> None:
    photos = photos_of(tmp_path / "one", Image.new("RGB", size, (200, 100, 50)), crop=64)
    expected = torch.tensor([200.0, 100.0, 50.0]).view(3, 1, 1).expand(3, 64, 64) / 255
    assert torch.equal(photos.item(3), expected)


def test_photographs_are_turned_upright_by_their_exif_data(tmp_path: Path) -> None:
    upright = ramp(60, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stored = upright.transpose(Image.Transpose.ROTATE_90)  # counter-clockwise
    (tmp_path / "turned").mkdir()
    stored.save(tmp_path / "turned" / "a.png", exif=exif)
    turned, plain = Photos(str(tmp_path / "turned"), 16, 0), photos_of(tmp_path / "plain", upright)
    assert torch.equal(turned.item(0), plain.item(0))


def test_grey_and_transparent_photographs_become_rgb(tmp_path: Path) -> None:
    grey = photos_of(tmp_path / "grey", Image.new("L", (30, 30), 51))
    assert torch.equal(grey.item(0), torch.full((3, 16, 16), 51 / 255))
    clear = Image.new("RGBA", (30, 30), (9, 9, 9, 0))
    seen = photos_of(tmp_path / "clear", clear, background="#336699").item(0)
    assert torch.equal(seen, torch.tensor([0x33, 0x66, 0x99]).view(3, 1, 1).expand(3, 16, 16) / 255)


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_that_is_enough(tmp_path: Path) -> None:
    smooth = ramp(250, 250).resize((1000, 800), Image.Resampling.BICUBIC)
    lossless = photos_of(tmp_path / "png", smooth, crop=64, scale=0.5)
    photos = photos_of(tmp_path / "jpeg", smooth, "a.jpg", crop=64, scale=0.5)
    for index in range(10):
        assert (photos.item(index) - lossless.item(index)).abs().max() < 0.04
    ((decoded,),) = photos.cache.values()
    assert decoded.size == (250, 200)  # a quarter, since an eighth would leave 100 pixels, and 64 / 0.5 are needed


# ---- the order


def test_an_epoch_has_every_photograph_once_in_a_seeded_order(tmp_path: Path) -> None:
    folder = flat(tmp_path / "all")
    photos = Photos(str(folder), 16, 3)
    first, second = colors(photos, range(12)), colors(photos, range(12, 24))
    assert sorted(first) == sorted(second) == sorted(COLORS)
    assert first != second
    assert colors(Photos(str(folder), 16, 4), range(12)) != first
    assert first != COLORS


def test_an_item_is_the_same_whoever_asks_and_whenever(tmp_path: Path) -> None:
    one, other = Photos(None, 32, 5), Photos(None, 32, 5, cache_bytes=0)
    forward = [one.item(index) for index in range(9)]
    backward = [other.item(index) for index in reversed(range(9))]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert not other.cache
    assert len({a.numpy().tobytes() for a in forward}) == 9  # four photographs, but other crops of them
    assert not torch.equal(Photos(None, 32, 6).item(0), forward[0])


def test_the_cache_keeps_within_its_bound(tmp_path: Path) -> None:
    folder = flat(tmp_path / "all")
    photos = Photos(str(folder), 16, 3, cache_bytes=4 * 40 * 30 * 5 + 100)
    for index in range(24):
        photos.item(index)
    assert len(photos.cache) == 5


def test_the_bundled_photographs_are_the_default() -> None:
    photos = Photos(None, 16, 0)
    assert photos.names == ["astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg"]
    assert photos.about()["count"] == 4
    assert "/" not in photos.about()["folder"]  # of nobody's machine


# ---- batches


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_are_the_items_in_their_order(workers: int) -> None:
    photos = Photos(None, 16, 1)
    with closing(load_batches(photos.item, 2, 3, workers=workers)) as batches:
        found = list(itertools.islice(batches, 4))
    for step, batch in enumerate(found, 2):
        assert torch.equal(
            torch.stack(batch), torch.stack([photos.item(index) for index in range(3 * step, 3 * step + 3)])
        )


def test_processes_share_a_batch_in_their_order() -> None:
    photos = Photos(None, 16, 1)
    whole = next(load_batches(photos.item, 5, 4))
    shares = [next(load_batches(photos.item, 5, 4, rank=rank, world_size=2, workers=1)) for rank in (0, 1)]
    assert torch.equal(torch.stack(shares[0] + shares[1]), torch.stack(whole))
    with pytest.raises(UserError, match=r"training\.batch=4 cannot be divided among 3 processes.*multiple of 3"):
        next(load_batches(photos.item, 0, 4, world_size=3))


# ---- broken files


def broken_copy(folder: Path, to: Path, numbers: Sequence[int]) -> Path:
    """Copy a folder and break some of its files, each in its own way."""
    shutil.copytree(folder, to)
    for how, number in enumerate(numbers):
        path = to / f"{number:02d}.jpg"
        data = path.read_bytes()
        path.write_bytes([data[: len(data) * 2 // 3], b"", b"this is no picture"][how % 3])
    return to


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_photograph_stands_in_for_a_broken_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    whole = flat(tmp_path / "whole", suffix="jpg")
    bad = [2, 3, 5, 8, 11]
    folder = broken_copy(whole, tmp_path / "broken", bad)
    order = [round((r - 0) / 10) for r, *_ in colors(Photos(str(whole), 16, 7), range(24))]
    assert sorted(order[:12]) == list(range(12))

    def stand_in(index: int) -> int:
        begin = index - index % 12
        epoch = order[begin : begin + 12]
        return next(epoch[(index + more) % 12] for more in range(12) if epoch[(index + more) % 12] not in bad)

    photos = Photos(str(folder), 16, 7)
    with caplog.at_level(logging.WARNING), closing(load_batches(photos.item, 0, 6, workers=workers)) as batches:
        found = torch.stack([item for batch in itertools.islice(batches, 4) for item in batch])
    seen = [round(r / 10) for r in (found[:, 0, 0, 0] * 255).tolist()]
    assert seen == [stand_in(index) for index in range(24)]
    assert photos.about()["broken"] == 5
    assert sorted(photos.broken) == [f"{number:02d}.jpg" for number in bad]
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == WARNED + 1
    assert all(
        message.startswith("Skipped one of the 12 photographs") and str(folder) in message for message in named[:WARNED]
    )
    assert "are skipped and counted" in named[WARNED]


def test_a_broken_file_is_skipped_wherever_one_begins(tmp_path: Path) -> None:
    folder = broken_copy(flat(tmp_path / "whole", suffix="jpg"), tmp_path / "broken", [0, 4, 9])
    photos = Photos(str(folder), 16, 7)
    in_turn = [photos.item(index) for index in range(12)]
    assert all(torch.equal(Photos(str(folder), 16, 7).item(index), in_turn[index]) for index in (11, 6, 0))


def test_nothing_is_decoded_before_it_is_needed(tmp_path: Path) -> None:
    folder = broken_copy(flat(tmp_path / "whole", suffix="jpg"), tmp_path / "broken", range(12))
    photos = Photos(str(folder), 16, 0)
    assert photos.about()["broken"] == 0
    with pytest.raises(UserError, match=r"None of the 12 photographs in .*broken can be read\. .*jpg"):
        photos.item(0)


# ---- folders


def test_folders_below_are_searched_and_what_is_hidden_or_no_photograph_is_not(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("a.png", "B.JPG", "deep/er/c.tiff", "deep/d.webp", "deep/e.bmp", ".hidden.png", ".git/f.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name)
    (root / "notes.txt").write_text("x")
    (root / "folder.png").mkdir()
    (root / "around").symlink_to(root, target_is_directory=True)
    (root / "nowhere.png").symlink_to(root / "not there")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (4, 4)).save(elsewhere / "g.jpeg")
    (root / "link").symlink_to(elsewhere, target_is_directory=True)
    expected = ["B.JPG", "a.png", "deep/d.webp", "deep/e.bmp", "deep/er/c.tiff", "link/g.jpeg"]
    assert Photos(str(root), 16, 0).names == expected


def test_a_folder_without_photographs_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"There is no photograph in .*\.jpg"):
        Photos(str(tmp_path), 16, 0)
    with pytest.raises(UserError, match="There is no folder"):
        Photos(str(tmp_path / "none"), 16, 0)
    with pytest.raises(UserError, match="is a file"):
        Photos(str(tmp_path / "notes.txt"), 16, 0)
    with pytest.raises(UserError):
        Photos("no\0name", 16, 0)


@pytest.mark.parametrize(("crop", "scale"), [(15, 0.5), (2049, 0.5), (64, 0.0), (64, 1.1), (64, float("nan"))])
def test_absurd_settings_are_refused(crop: int, scale: float) -> None:
    with pytest.raises(UserError, match="out of range"):
        Perceptual(crop=crop, scale=scale)


def test_other_photographs_are_refused_where_a_run_is_carried_on(tmp_path: Path) -> None:
    folder = flat(tmp_path / "all", 3)
    recorded = Photos(str(folder), 16, 0).about()
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    Photos(str(moved), 16, 0).refuse_changes(recorded)
    Image.new("RGB", (40, 30)).save(moved / "more.png")
    with pytest.raises(UserError, match=r"3 then, 4 now.*Put the old files back"):
        Photos(str(moved), 16, 0).refuse_changes(recorded)
    (moved / "00.png").unlink()
    with pytest.raises(UserError, match="3 as before"):
        Photos(str(moved), 16, 0).refuse_changes(recorded)
    (folder / "00.png").write_bytes(b"of another size")
    with pytest.raises(UserError, match="names or sizes"):
        Photos(str(folder), 16, 0).refuse_changes(recorded)


# ---- other ways to the size of a crop


def test_squeezed_it_is_the_whole_photograph_whatever_its_shape(tmp_path: Path) -> None:
    picture = ramp(200, 100)
    photos = photos_of(tmp_path / "one", picture, crop=16, fit="squeeze", flip=False)
    wanted = np.asarray(picture.resize((16, 16), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
    for index in range(3):
        assert np.array_equal((photos.item(index) * 255).round().numpy(), wanted)


def test_at_its_own_size_no_pixel_is_changed_and_what_is_smaller_is_enlarged(tmp_path: Path) -> None:
    photos = photos_of(tmp_path / "one", ramp(200, 100), crop=16, fit="natural", flip=False)
    corners = set()
    for index in range(40):
        item = (photos.item(index) * 255).round().numpy().astype(int)
        left, top = item[0, 0, 0], item[1, 0, 0]
        assert np.array_equal(item[0], np.tile(np.arange(left, left + 16), (16, 1)))
        assert np.array_equal(item[1], np.tile(np.arange(top, top + 16)[:, None], (1, 16)))
        corners.add((left, top))
    assert len(corners) > 30
    small = photos_of(tmp_path / "small", ramp(30, 20), crop=32, fit="natural", flip=False)
    assert small.item(0).shape == (3, 32, 32)


def test_another_way_is_refused() -> None:
    with pytest.raises(UserError, match=r"training\.fit"):
        Perceptual(fit="stretch")
