"""What can be painted: kinds, sizes, folders, and animations, read and written."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from torch import Tensor

from nst.applying import media
from nst.applying.animation import Animation
from nst.applying.clips import Clip
from nst.errors import UserError
from nst.files import pictures_below
from nst.images import rgb
from nst.training import photos

WHITE = (255, 255, 255)


def ramp(width: int, height: int, blue: int = 0) -> np.ndarray:
    """Return a picture that is no mirror image of itself: red grows to the right, green downwards."""
    picture = np.full((height, width, 3), blue, np.uint8)
    picture[..., 0] = np.linspace(20, 220, width).astype(np.uint8)
    picture[..., 1] = np.linspace(20, 220, height).astype(np.uint8)[:, None]
    return picture


def painted_in_segments(clip: Clip, folder: Path, target: Path) -> list[np.ndarray]:
    """Write a clip as it is, in segments, and join them; return its frames."""
    segments: list[Path] = []
    frames = [np.asarray(picture) for picture in clip.read()]
    for begin in range(0, len(frames), clip.per_segment):
        segment = clip.segment(folder)
        for pixels in frames[begin : begin + clip.per_segment]:
            segment.add(pixels)
        segments.append(folder / f"{begin}{clip.segment_suffix}")
        segment.finish(segments[-1])
    clip.join(segments, target)
    return frames


def seen(sizing: media.Sizing, path: Path) -> Tensor:
    return sizing.seen(rgb.opened(str(path), sizing.background), path)


def test_kinds_are_told_by_what_a_file_holds(tmp_path: Path) -> None:
    still, other = Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20), "red")
    for name in ("moving.gif", "pages.tiff", "moving.webp", "moving.png"):
        still.save(tmp_path / name, save_all=True, append_images=[other], duration=50)
    still.save(tmp_path / "still.gif")
    (tmp_path / "film.MP4").write_bytes(b"")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8")
    kinds = {path.name: media.kind_of(str(path)) for path in tmp_path.iterdir()}
    assert {name for name, kind in kinds.items() if kind == "animation"} == {"moving.gif", "moving.webp", "moving.png"}
    assert {name for name, kind in kinds.items() if kind == "picture"} == {"pages.tiff", "still.gif", "broken.jpg"}
    assert kinds["film.MP4"] == "video"
    assert media.kind_of(str(tmp_path)) == "folder"
    assert media.kind_of("coffee") == "picture"
    with pytest.raises(UserError, match="no image file 'nowhere'"):
        media.kind_of("nowhere")


def test_pictures_of_a_folder_have_paintings_of_different_names(tmp_path: Path) -> None:
    names = ["b10.jpg", "b2.jpg", "a.jpg", "A.png", "a.jpg.bmp", "sub/a.jpg", "sub/deep/x.tif"]
    for name in [*names, "notes.txt", ".hidden.jpg", ".hidden/y.jpg", "out/results/z.png", "film.mp4"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = media.pictures_in(tmp_path, leave_out=tmp_path / "out")
    named = {path.relative_to(tmp_path).as_posix(): name for path, name in found.items()}
    assert sorted(named) == sorted(names)
    assert list(named).index("b2.jpg") < list(named).index("b10.jpg")
    assert len({name.casefold() for name in named.values()}) == len(names)
    assert named["b2.jpg"] == "b2"
    assert named["sub/a.jpg"] == "sub/a"
    assert named["A.png"] == "A.png"
    assert named["a.jpg.bmp"] == "a.jpg"
    assert named["a.jpg"] == "a.jpg-2"


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="no picture in"):
        media.pictures_in(tmp_path)


def test_sizes(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(ramp(60, 30)).save(path)
    own = seen(media.Sizing(0, "square"), path)
    assert np.array_equal(rgb.to_bytes(own), ramp(60, 30))
    assert tuple(seen(media.Sizing(40, "long"), path).shape[2:]) == (20, 40)
    assert tuple(seen(media.Sizing(40, "height"), path).shape[2:]) == (40, 80)
    assert tuple(seen(media.Sizing(40, "square"), path).shape[2:]) == (40, 40)
    assert media.Sizing(40, "square").kept(60, 30, path) == (40, 20)
    assert media.Sizing(40, "long").kept(60, 30, path) is None
    assert media.Sizing(0, "square").kept(60, 30, path) is None
    assert np.array_equal(seen(media.Sizing(40), path), rgb.load(str(path), 40))
    with pytest.raises(UserError, match="20 x 10 pixels"):
        seen(media.Sizing(20), path)


def composed(frames: list[np.ndarray], background: tuple[int, int, int]) -> list[np.ndarray]:
    """Lay RGBA frames over a colour, each by itself (disposal 2)."""
    found = []
    for frame in frames:
        alpha = frame[..., 3:] / 255
        found.append((frame[..., :3] * alpha + np.array(background) * (1 - alpha)).astype(np.uint8))
    return found


def test_an_animation_is_read_with_its_times_over_the_background(tmp_path: Path) -> None:
    path, frames = tmp_path / "moving.gif", []
    for place in range(4):
        frame = np.zeros((24, 32, 4), np.uint8)
        frame[4:12, 4 * place : 4 * place + 10] = (255, 0, 0, 255)
        frames.append(frame)
    first, *rest = map(Image.fromarray, frames)
    first.save(path, save_all=True, append_images=rest, duration=[30, 70, 110, 20], loop=2, disposal=2)
    clip = Animation(path, (0, 0, 255))
    pictures = [np.asarray(picture) for picture in clip.read()]
    assert clip.frames == 4
    assert clip.loop == 2
    assert clip.durations == [30, 70, 110, 20]
    assert clip.notes == []
    for picture, expected in zip(pictures, composed(frames, (0, 0, 255)), strict=True):
        assert np.array_equal(picture, expected)


def test_a_frame_that_covers_a_part_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    path, whole = tmp_path / "moving.gif", np.full((20, 20, 3), 60, np.uint8)
    second = whole.copy()
    second[5:9, 5:9] = 200
    Image.fromarray(whole).save(path, save_all=True, append_images=[Image.fromarray(second)], duration=40, disposal=1)
    pictures = [np.asarray(picture) for picture in Animation(path, WHITE).read()]
    assert np.array_equal(pictures[0], whole)
    assert np.array_equal(pictures[1], second)


@pytest.mark.parametrize("loop", [None, 0, 3])
def test_an_animation_is_written_with_its_times_and_repetitions(tmp_path: Path, loop: int | None) -> None:
    path, target = tmp_path / "moving.gif", tmp_path / "painted.gif"
    frames = [Image.fromarray(np.roll(ramp(32, 24, 40 * place), 3 * place, 1)) for place in range(5)]
    durations = [40, 50, 60, 70, 80]
    options: dict[str, Any] = {} if loop is None else {"loop": loop}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, **options)
    read = painted_in_segments(clip := Animation(path, WHITE), tmp_path, target)
    assert clip.loop == loop
    with Image.open(target) as file:
        assert file.n_frames == 5  # type: ignore[attr-defined]
        assert file.info.get("loop") == loop
        for place in range(5):
            file.seek(place)
            assert file.info["duration"] == durations[place]
            # the frames have at most 256 colours already, so that not a pixel may change
            assert np.array_equal(np.asarray(file.convert("RGB")), read[place])


def test_frames_that_are_the_same_keep_their_time(tmp_path: Path) -> None:
    path, target = tmp_path / "moving.webp", tmp_path / "painted.gif"
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "red", "blue", "blue", "green", "green", "red")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=33, lossless=True, minimize_size=False)
    painted_in_segments(clip := Animation(path, WHITE), tmp_path, target)
    with Image.open(target) as file:
        times = []
        for place in range(file.n_frames):  # type: ignore[attr-defined]
            file.seek(place)
            times.append(file.info["duration"])
    assert all(time % 10 == 0 for time in times)
    assert abs(sum(times) - sum(clip.durations)) <= 5


def test_a_truncated_animation_keeps_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    generator = np.random.default_rng(0)
    frames = [Image.fromarray(generator.integers(0, 255, (40, 40, 3), np.uint8)) for _ in range(6)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    clip = Animation(path, WHITE)
    count = len(list(clip.read()))
    assert 1 <= count <= 3
    path.write_bytes(data[:200])
    with pytest.raises(UserError, match="Is the file complete"):
        list(Animation(path, WHITE).read())


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_applying_and_training_find_the_same_pictures_over_links_but_not_in_a_circle(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    for path in (
        folder / "a.jpg",
        folder / "sub" / "b.PNG",
        elsewhere / "c.webp",
        folder / "notes.txt",
        folder / ".d.jpg",
    ):
        path.touch()
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    expected = {"a.jpg", "sub/b.PNG", "linked/c.webp"}
    found, others = pictures_below(folder)
    assert (set(found), others) == (expected, 1)
    assert {path.relative_to(folder).as_posix() for path in media.pictures_in(folder)} == expected
    assert set(photos.find_images(str(folder))[1]) == expected


@pytest.mark.parametrize(
    ("kind", "plays", "repeats"), [("png", 3, 2), ("webp", 3, 2), ("png", 1, None), ("webp", 0, 0)]
)
def test_how_often_an_animation_is_shown_stays_the_same_in_a_gif(
    tmp_path: Path, kind: str, plays: int, repeats: int | None
) -> None:
    first, second = (Image.fromarray(ramp(24, 20, blue)) for blue in (0, 200))
    first.save(tmp_path / f"a.{kind}", save_all=True, append_images=[second], duration=50, loop=plays)
    clip = Animation(tmp_path / f"a.{kind}", WHITE)
    painted_in_segments(clip, tmp_path, tmp_path / "b.gif")
    with Image.open(tmp_path / "b.gif") as file:
        assert file.info.get("loop") == repeats


def test_no_frame_of_a_gif_is_so_short_that_browsers_slow_it_down(tmp_path: Path) -> None:
    frames = [Image.fromarray(ramp(24, 20, 20 * number)) for number in range(8)]
    frames[0].save(
        tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=[16] * 4 + [50] * 4, lossless=True
    )
    clip = Animation(tmp_path / "a.webp", WHITE)
    painted_in_segments(clip, tmp_path, tmp_path / "b.gif")
    with Image.open(tmp_path / "b.gif") as file:
        shown = [frame.info["duration"] for frame in ImageSequence.Iterator(file)]
    assert min(shown) == 20
    assert sum(shown) == pytest.approx(4 * 16 + 4 * 50, abs=10)  # what the first were too long, the others are shorter
    assert "Frames shorter than 20 ms" in clip.notes[0]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_itself_does_not_stop_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert pictures_below(tmp_path) == ({"a.jpg": 0}, 1)
