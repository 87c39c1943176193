"""Videos, read and written; what is expected of them is read back with PyAV itself."""

import itertools
import os
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_media import painted_in_segments, ramp

from nst.applying import media
from nst.applying.clips import Clip
from nst.errors import UserError
from nst.images import rgb

av = pytest.importorskip("av", reason="PyAV is not installed")


def film(
    path: Path,
    count: int = 12,
    size: tuple[int, int] = (64, 48),
    rate: Fraction = Fraction(30000, 1001),
    times: list[int] | None = None,
    sound: str | None = None,
    **stream_facts: Any,
) -> list[np.ndarray]:
    """Write a video whose frames differ in blue, and return its frames.

    Args:
        path: of the file.
        count: of frames.
        size: (width, height).
        rate: frames a second.
        times: of the frames, in units of 1 / rate; None: one after the other.
        sound: codec of the sound, which is as long.
        stream_facts: attributes of the stream or its codec.
    """
    frames = [ramp(*size, 16 * place % 256) for place in range(count)]
    times = times or list(range(count))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4" if path.suffix == ".avi" else "libx264", rate=rate, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p" if size[0] % 2 else "yuv420p"
        for name, value in stream_facts.items():
            setattr(stream.codec_context, name, value)
        track = container.add_stream(sound, rate=44100, layout="mono") if sound else None
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format=stream.pix_fmt, dst_colorspace=stream.codec_context.colorspace if stream_facts else "ITU601"
            )
            frame.pts, frame.time_base = time, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None:
            for begin in range(0, int(44100 * (times[-1] + 1) / rate), 1024):
                wave = 8000 * np.sin(np.arange(begin, begin + 1024) * 440 * 2 * np.pi / 44100)
                piece = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
                piece.sample_rate, piece.pts, piece.time_base = 44100, begin, Fraction(1, 44100)
                container.mux(track.encode(piece))
            container.mux(track.encode())
    return frames


def decoded(path: Path) -> tuple[list[np.ndarray], list[Fraction]]:
    """Return a video's frames, and their times in seconds."""
    frames, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            frames.append(frame.to_ndarray(format="rgb24"))
            times.append(frame.pts * stream.time_base)
    return frames, times


def packets(path: Path) -> list[tuple[bytes, Fraction]]:
    """Return the packets of a file's sound, and their times in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(bytes(p), p.pts * p.time_base) for p in container.demux(stream) if p.size]


def far(first: np.ndarray, second: np.ndarray) -> float:
    """Return how far two pictures are from each other, on average, of 255."""
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


def video(path: Path, per_segment: int = 5) -> Clip:
    clip = media.open_clip(str(path), "white")
    clip.per_segment = per_segment  # type: ignore[misc]
    return clip


def test_a_video_keeps_its_frames_times_and_rate(tmp_path: Path) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    frames = film(path)
    clip = video(path)
    read = painted_in_segments(clip, tmp_path, target)
    assert clip.frames == 12
    again, times = decoded(target)
    assert times == decoded(path)[1]
    assert len(read) == len(again) == 12
    for original, one, other in zip(frames, read, again, strict=True):
        assert far(original, one) < 4
        assert far(original, other) < 4
    # of all frames each is nearest to its own
    for place, one in enumerate(again):
        assert int(np.argmin([far(one, original) for original in frames])) == place
    with av.open(str(target)) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)
        assert container.streams.video[0].frames == 12
        assert container.streams.video[0].codec_context.name == "h264"
        assert not container.streams.audio
    assert clip.notes == []


def test_a_varying_rate_is_kept(tmp_path: Path) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    film(path, 6, rate=Fraction(25), times=[0, 1, 5, 6, 20, 21])
    painted_in_segments(video(path, 4), tmp_path, target)
    expected = [Fraction(time, 25) for time in (0, 1, 5, 6, 20, 21)]
    assert decoded(path)[1] == expected
    assert decoded(target)[1] == expected


def test_segments_can_be_of_any_length_and_are_joined_to_the_same_bytes_again(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film(path)
    written = []
    for number, per_segment in enumerate((4, 4, 30)):
        folder = tmp_path / str(number)
        folder.mkdir()
        painted_in_segments(video(path, per_segment), folder, folder / "painted.mp4")
        written.append(folder / "painted.mp4")
    assert written[0].read_bytes() == written[1].read_bytes()
    assert decoded(written[0])[1] == decoded(written[2])[1]


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "flac"), (".avi", "mp3"), (".mov", "alac")])
def test_the_sound_is_copied(tmp_path: Path, suffix: str, codec: str) -> None:
    path, target = tmp_path / f"film{suffix}", tmp_path / "painted.mp4"
    film(path, 20, rate=Fraction(25), sound=codec)
    clip = video(path)
    painted_in_segments(clip, tmp_path, target)
    before, after = packets(path), packets(target)
    end = decoded(target)[1][-1] + Fraction(1, 25)
    kept = [packet for packet in before if packet[1] < end]
    assert len(kept) > 5
    assert [data for data, _ in after] == [data for data, _ in kept]
    # it stands to the pictures as it stood: both begin where the file begins
    lead = [sounds[0][1] - decoded(file)[1][0] for sounds, file in ((before, path), (after, target))]
    assert abs(lead[0] - lead[1]) < 0.03
    gaps = [[b - a for (_, a), (_, b) in itertools.pairwise(sounds)] for sounds in (kept, after)]
    assert all(abs(one - other) < 0.002 for one, other in zip(*gaps, strict=True))
    assert clip.notes == []


def test_sound_ends_with_the_pictures_where_these_were_cut_short(tmp_path: Path) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    film(path, 50, rate=Fraction(25), sound="aac")
    clip = video(path, 5)
    frames = [np.asarray(frame) for frame, _ in zip(clip.read(), range(10), strict=False)]
    segments = []
    for begin in (0, 5):
        segment = clip.segment(tmp_path)
        for frame in frames[begin : begin + 5]:
            segment.add(frame)
        segments.append(tmp_path / f"{begin}.mp4")
        segment.finish(segments[-1])
    clip.join(segments, target)
    assert len(decoded(target)[0]) == 10
    assert 0.3 < packets(target)[-1][1] < 0.45 < 1.9 < packets(path)[-1][1]


def test_sound_that_an_mp4_cannot_hold_is_left_out_and_told(tmp_path: Path) -> None:
    path, target = tmp_path / "film.mov", tmp_path / "painted.mp4"
    film(path, sound="pcm_mulaw")
    clip = video(path)
    painted_in_segments(clip, tmp_path, target)
    with av.open(str(target)) as container:
        assert not container.streams.audio
        assert len(decoded(target)[0]) == 12
    assert ["pcm_mulaw" in note and "left out" in note for note in clip.notes] == [True]


def turned(path: Path, degrees: int) -> None:
    """Write into an MP4 that it is to be turned clockwise (ISO 14496-12, the matrix of the box tkhd)."""
    sine, cosine = {90: (1, 0), 180: (0, -1), 270: (-1, 0)}[degrees]
    matrix = [cosine << 16, sine << 16, 0, -(sine << 16), cosine << 16, 0, 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    begin = data.index(b"tkhd") + 4 + 40  # version 0: flags, times, number, length, layer and volume come first
    data[begin : begin + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_video_is_turned_upright(tmp_path: Path, degrees: int) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    frames = film(path, 3)
    turned(path, degrees)
    expected = [np.rot90(frame, -degrees // 90) for frame in frames]
    read = painted_in_segments(video(path), tmp_path, target)
    for one, upright in zip(read, expected, strict=True):
        assert one.shape == upright.shape
        assert far(one, upright) < 4
    again, _ = decoded(target)
    assert far(again[0], expected[0]) < 4
    with av.open(str(target)) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_an_odd_size_is_made_even(tmp_path: Path) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    frames = film(path, 2, size=(65, 47))
    read = painted_in_segments(video(path), tmp_path, target)
    assert read[0].shape == (47, 65, 3)
    again, _ = decoded(target)
    assert again[0].shape == (46, 64, 3)
    assert far(again[0], frames[0][:46, :64]) < 4


def test_pixels_that_are_no_squares_stay_so(tmp_path: Path) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    film(path, 2, sample_aspect_ratio=Fraction(4, 3), colorspace=6)
    painted_in_segments(video(path), tmp_path, target)
    with av.open(str(target)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("matrix", [1, 6])
def test_colours_are_those_that_the_file_says(tmp_path: Path, matrix: int) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    frames = film(path, 2, colorspace=matrix, color_range=1)
    read = painted_in_segments(video(path), tmp_path, target)
    assert far(read[0], frames[0]) < 4
    with av.open(str(target)) as container:
        frame = next(container.decode(video=0))
        assert frame.colorspace == matrix
        assert far(frame.to_ndarray(format="rgb24", src_colorspace=matrix), frames[0]) < 4


def test_without_h264_there_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, target = tmp_path / "film.mp4", tmp_path / "painted.mp4"
    frames = film(path)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    painted_in_segments(video(path), tmp_path, target)
    again, times = decoded(target)
    assert times == decoded(path)[1]
    assert far(again[5], frames[5]) < 5
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"


def test_a_truncated_video_keeps_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    film(path, 60, rate=Fraction(25), gop_size=5)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = video(path)
    count = len(list(clip.read()))
    assert 10 < count < 50
    assert any(f"{count} of 60 frames" in note for note in clip.notes)


def test_damage_within_a_video_costs_only_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    film(path, 40, gop_size=5)
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + len(data) // 3
    data[begin : begin + 400] = bytes(400)
    path.write_bytes(bytes(data))
    clip = video(path)
    count = len(list(clip.read()))
    assert 20 < count < 40
    assert len(clip.notes) == 1


def files_that_are_no_videos(folder: Path) -> Iterator[tuple[Path, str]]:
    (folder / "empty.mp4").touch()
    yield folder / "empty.mp4", "cannot be read as a video"
    (folder / "text.mov").write_text("no video" * 50)
    yield folder / "text.mov", "cannot be read as a video"
    film(folder / "whole.mp4")
    (folder / "half.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:900])
    yield folder / "half.mp4", "Is the file complete"
    with av.open(str(folder / "sound.mp4"), "w") as container:
        track = container.add_stream("aac", rate=44100, layout="mono")
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        piece.sample_rate = 44100
        container.mux(track.encode(piece))
        container.mux(track.encode())
    yield folder / "sound.mp4", "only sound"
    with av.open(str(folder / "music.mp4"), "w") as container:
        track = container.add_stream("aac", rate=44100, layout="mono")
        cover = container.add_stream("png", rate=1, disposition=av.stream.Disposition.attached_pic)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "rgb24"
        container.mux(track.encode(piece))
        container.mux(track.encode())
        container.mux(cover.encode(av.VideoFrame.from_ndarray(ramp(64, 64), format="rgb24")))
    yield folder / "music.mp4", "only sound"
    with av.open(str(folder / "nothing.mp4"), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    yield folder / "nothing.mp4", "not a single frame|cannot be read|no picture"


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    for path, told in files_that_are_no_videos(tmp_path):
        with pytest.raises(UserError, match=told):
            list(video(path).read())


def test_without_pyav_a_video_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[video\]'"):
        video(tmp_path / "film.mp4")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "film.mp4"
    film(path)
    clip = video(path)
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / f".part.{os.getpid()}.tmp").symlink_to("/dev/full")
    segment = clip.segment(folder)
    with pytest.raises(UserError, match="Cannot write"):
        for frame in clip.read():
            segment.add(np.asarray(frame))
        segment.finish(folder / "000000.mp4")
    assert not (folder / "000000.mp4").exists()


@pytest.mark.parametrize("suffix", [".nut", ".f4v", ".bin", ".jpg"])
def test_a_video_is_told_by_what_is_in_it(tmp_path: Path, suffix: str) -> None:
    film(tmp_path / "a.mp4")
    path = (tmp_path / "a.mp4").rename(tmp_path / f"a{suffix}")
    assert media.kind_of(str(path)) == "video"
    with pytest.raises(UserError, match="task=apply paints one"):
        rgb.load(str(path), 32)


def test_what_is_transparent_in_a_video_shows_the_background(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    layers = np.zeros((48, 64, 4), np.uint8)
    layers[:, :32] = (200, 30, 30, 255)  # the other half is clear, with a colour that is hidden
    layers[:, 32:] = (0, 255, 0, 0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgba"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(layers, format="rgba")))
        container.mux(stream.encode())
    (frame,) = media.open_clip(str(path), "blue").read()
    pixels = np.asarray(frame)
    assert np.abs(pixels[:, :31].astype(int) - [200, 30, 30]).max() <= 3
    assert np.abs(pixels[:, 33:].astype(int) - [0, 0, 255]).max() <= 3


def test_a_change_of_size_within_a_stream_is_told(tmp_path: Path) -> None:
    for name, size in (("wide", (64, 48)), ("small", (48, 32))):
        with av.open(str(tmp_path / f"{name}.ts"), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            for number in range(4):
                shade = np.full((size[1], size[0], 3), 60 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
            container.mux(stream.encode())
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "wide.ts").read_bytes() + (tmp_path / "small.ts").read_bytes())
    clip = video(path)
    painted_in_segments(clip, tmp_path, target := tmp_path / "painted.mp4")
    assert {frame.shape for frame in decoded(target)[0]} == {(48, 64, 3)}
    assert len([note for note in clip.notes if "size" in note]) == 1
