"""Videos, read and written with PyAV: the rate, the times of the frames and, where MP4 can hold it, the sound are kept.

Each segment is encoded on its own, without frames that look ahead (B-frames), so that packets can be joined as they are
and the whole has the same bytes whether or not the run was stopped on the way.
"""

from __future__ import annotations

import contextlib
import heapq
import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from nst.applying.clips import Clip
from nst.errors import UserError
from nst.files import write_atomic, writing
from nst.images import decoding

log = logging.getLogger(__name__)
CRF = 18  # H.264's constant rate factor: hardly to be told from what was painted (0 is lossless, 23 libx264's own)
QSCALE, LAMBDA = 2, 118  # of MPEG-4 in its stead, on a scale from 1 (best) to 31, and what FFmpeg multiplies it by
LARGEST_TIMESCALE = 65535  # ticks a second that MPEG-4 can tell
HD_LINES = 576  # beyond, colours that do not say how they are coded are coded as ITU-R BT.709 has it, else BT.601
BT709, BT470BG, BT601 = 1, 5, 6  # colour matrices, by their numbers in ITU-T H.273
WITH_ALPHA = ("pal8",)  # whose palette may have some
STUDIO_RANGE = 1  # black is 16 and white 235
HDR = {16: "PQ", 18: "HLG"}  # transfer functions, likewise


def library() -> Any:
    """Return PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av  # here, since it is optional, and heavy
    except ImportError as error:
        raise UserError(
            "Videos need PyAV, which is not installed: pip install -e '.[video]'. Pictures, folders of pictures and "
            "GIFs need nothing more."
        ) from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong is told once, in our words
    return av


def holds_video(path: Path) -> bool:
    """Tell whether FFmpeg finds moving pictures in a file, whatever its name; no if PyAV is not installed."""
    with contextlib.suppress(Exception), library().open(str(path)) as container:
        if not re.search(r"image2|_pipe|jpeg|gif|png|webp", container.format.name):  # a picture that is broken
            return any(stream.codec_context is not None for stream in container.streams.video)
    return False


@dataclass
class Video(Clip):
    """A video.

    Attributes:
        rate: frames a second, on average; ``time_base``: seconds of a tick; ``step``: ticks of a frame.
        times: of the frames that have been read, in ticks from the beginning of the file.
        matrix: by which its colours are coded.
        turn: quarters of a turn that it is shown turned by, counterclockwise.

    Raises:
        UserError: PyAV is not installed, or the file holds no video.
    """

    per_segment, suffix, segment_suffix = 120, ".mp4", ".mp4"

    def __post_init__(self) -> None:
        self.av = library()
        self.times: list[int] = []
        self.turn, self.is_squeezed = 0, False
        self.encoder = "libx264" if "libx264" in self.av.codecs_available else "mpeg4"
        with self._opened() as container:
            stream = self._stream(container)
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or stream.base_rate or 25)
            self.time_base = Fraction(stream.time_base)
            self.step = max(round(1 / self.rate / self.time_base), 1)
            seconds = (stream.duration or 0) * self.time_base
            seconds = seconds or Fraction(container.duration or 0, self.av.time_base)
            self.frames = stream.frames or round(seconds * self.rate) or None
            is_too_fine = self.encoder == "mpeg4" and max(self.rate.as_integer_ratio()) > LARGEST_TIMESCALE
            self.encoded_rate = Fraction(max(round(self.rate), 1)) if is_too_fine else self.rate
            context = stream.codec_context
            self.facts = {"format": container.format.name, "codec": context.name, "encoder": self.encoder}
            self.facts |= {"rate": str(self.rate), "width": context.width, "height": context.height}
            self.facts["sound"] = [track.codec_context.name for track in container.streams.audio]
            self.matrix = context.colorspace
            if self.matrix not in (BT709, BT470BG, BT601):
                self.matrix = BT709 if context.height > HD_LINES else BT601
            self.aspect = stream.sample_aspect_ratio
            if hdr := HDR.get(int(context.color_trc)):
                self.notes.append(f"{self.path} is HDR ({hdr}): its colours look pale. Convert it to SDR first.")

    def read(self) -> Iterator[Image.Image]:
        """Read the frames in order; see ``Clip``."""
        self.times.clear()
        with self._opened() as container:
            begin = Fraction(container.start_time or 0, self.av.time_base)
            for frame in self._decoded(container):
                previous = self.times[-1] if self.times else -1
                time = previous + self.step if self.times else 0
                if frame.pts is not None:
                    time = round((frame.pts * Fraction(frame.time_base) - begin) / self.time_base)
                self.times.append(max(time, previous + 1))
                yield self._upright(frame)
        if not self.times:
            raise UserError(f"{self.path} has not a single frame that can be read. Is the file complete?")

    def segment(self, folder: Path) -> VideoSegment:
        """Begin a segment; see ``Clip``."""
        return VideoSegment(self, folder)

    def join(self, segments: Sequence[Path], path: Path) -> None:
        """Write the segments as one video, with the sound of as much; see ``Clip``."""

        def write(file: BinaryIO) -> None:
            with self._opened() as source:
                sounds = [track for track in source.streams.audio if track.codec_context is not None]
                kept = [track for track in sounds if self._can_hold(track)]
                if lost := [track.codec_context.name for track in sounds if track not in kept]:
                    self.notes.append(f"The sound ({', '.join(lost)}) cannot be put into an MP4 as it is: left out.")
                try:
                    self._mux(segments, file, source, kept)
                except (self.av.error.FFmpegError, ValueError) as error:
                    if not kept:
                        raise
                    log.debug("The sound cannot be copied.", exc_info=error)
                    self.notes.append(f"The sound cannot be copied ({error}): left out.")
                    file.seek(0)
                    file.truncate()
                    self._mux(segments, file, source, [])

        write_atomic(path, write)

    def _mux(self, segments: Sequence[Path], file: BinaryIO, source: Any, sounds: list[Any]) -> None:
        """Copy the packets of the segments and of the sound, by their times, into a file."""
        with self.av.open(file, "w", format="mp4") as output, self.av.open(str(segments[0])) as first:
            video = output.add_stream_from_template(first.streams.video[0])
            video.time_base = self.time_base
            tracks = {track.index: output.add_stream_from_template(track) for track in sounds}
            packets = [self._pictures(segments, video), *([self._sound(source, sounds, tracks)] if sounds else [])]
            for _, _, packet in heapq.merge(*packets, key=lambda item: item[:2]):
                output.mux(packet)

    def _pictures(self, segments: Sequence[Path], video: Any) -> Iterator[tuple[float, int, Any]]:
        """Yield the packets of the segments with the times that were read, each after its second and a 0."""
        times = iter([*self.times, self.times[-1] + self.step])
        time = next(times)
        for segment in segments:
            with self.av.open(str(segment)) as container:
                for packet in container.demux(video=0):
                    if packet.size == 0 or (after := next(times, None)) is None:
                        continue
                    packet.stream, packet.time_base = video, self.time_base
                    packet.pts = packet.dts = time
                    packet.duration = after - time
                    yield float(time * self.time_base), 0, packet
                    time = after

    def _sound(self, source: Any, sounds: list[Any], tracks: dict[int, Any]) -> Iterator[tuple[float, int, Any]]:
        """Yield the packets of the sound up to where the pictures end, each after its second and a 1."""
        begin = Fraction(source.start_time or 0, self.av.time_base)
        end = float((self.times[-1] + self.step) * self.time_base)
        with contextlib.suppress(self.av.error.FFmpegError):  # which has been told of when the frames were read
            for packet in source.demux(*sounds):
                if packet.size == 0 or packet.dts is None:
                    continue
                base = Fraction(packet.time_base)
                shift = round(begin / base)
                packet.pts, packet.dts = (None if t is None else t - shift for t in (packet.pts, packet.dts))
                time = float(packet.dts * base)
                if time < end:
                    packet.stream = tracks[packet.stream.index]
                    yield time, 1, packet

    def _can_hold(self, track: Any) -> bool:
        """Tell whether an MP4 can hold a track's packets as they are."""
        with self.av.open(io.BytesIO(), "w", format="mp4") as container:
            return track.codec_context.codec.canonical_name in container.supported_codecs

    def _opened(self) -> Any:
        try:
            return self.av.open(str(self.path))
        except Exception as error:  # a broken file leads the demuxers to whatever they raise
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.path} cannot be read as a video: {reason}. Is the file complete?") from error

    def _stream(self, container: Any) -> Any:
        """Return the video stream; the picture on the cover of a piece of music is none."""
        for stream in container.streams.video:
            is_cover = bool(stream.disposition & self.av.stream.Disposition.attached_pic)
            if not is_cover and stream.codec_context is not None and stream.codec_context.width:
                return stream
        has = "only sound" if container.streams.audio else "no picture that can be read"
        raise UserError(f"{self.path} holds {has}, so there is nothing to paint. Name a video that has pictures.")

    def _decoded(self, container: Any) -> Iterator[Any]:
        """Yield the frames that can be decoded; note what is broken or missing."""
        stream, damaged = self._stream(container), 0
        stream.thread_type = "AUTO"
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except self.av.error.FFmpegError:
                    damaged += 1
                    continue
                yield from frames
        except self.av.error.FFmpegError as error:
            self.notes.append(f"{self.path} is broken after {len(self.times)} frames ({error.strerror}).")
        told, count = self.frames or 0, len(self.times)
        if damaged:
            self.notes.append(f"{self.path}: {damaged} packets are broken, and their frames left out.")
        elif told - count > max(told // 20, 2):  # what the file tells is often an estimate
            self.notes.append(f"{self.path} ends after {count} of {told} frames; they are kept.")

    def _upright(self, frame: Any) -> Image.Image:
        """Return a decoded frame as RGB, turned as its file asks for."""
        if any(part.is_alpha for part in frame.format.components) or frame.format.name in WITH_ALPHA:
            layers = frame.to_ndarray(format="rgba", src_colorspace=self.matrix)
            array = np.asarray(decoding.flattened(Image.fromarray(layers), self.background))
        else:
            array = frame.to_ndarray(format="rgb24", src_colorspace=self.matrix)
        height, width = array.shape[:2]
        if (height, width) != (self.facts["height"], self.facts["width"]) and not self.is_squeezed:
            self.is_squeezed = True
            to = f"{width} x {height}"
            self.notes.append(f"{self.path} changes its size on the way, to {to}: it is squeezed into the first size.")
        self.turn = round(frame.rotation / 90) % 4
        return Image.fromarray(np.ascontiguousarray(np.rot90(array, self.turn)))


class VideoSegment:
    """Some frames as a video of their own; see ``nst.applying.clips.Segment``."""

    def __init__(self, video: Video, folder: Path) -> None:
        self.video = video
        self.temporary = folder / f".part.{os.getpid()}.tmp"
        self.container: Any = None
        self.count = 0

    def add(self, painted: np.ndarray) -> None:
        """Encode a frame; an odd size loses its last row or column, since colours are kept for two by two pixels."""
        height, width = (side - side % 2 for side in painted.shape[:2])
        if self.container is None:
            self._begin(width, height)
        pixels = np.ascontiguousarray(painted[:height, :width])
        frame = self.video.av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=self.video.matrix, dst_color_range=STUDIO_RANGE, interpolation="BICUBIC"
        )
        frame.pts, frame.time_base = self.count, 1 / self.video.encoded_rate
        with writing(self.temporary):
            self.container.mux(self.stream.encode(frame))
        self.count += 1

    def finish(self, path: Path) -> None:
        """Write what is still with the encoder, and name the segment; see ``Segment``."""
        with writing(path):
            self.container.mux(self.stream.encode())
            self.container.close()
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self.temporary.replace(path)

    def _begin(self, width: int, height: int) -> None:
        video = self.video
        with writing(self.temporary):
            self.file = self.temporary.open("wb")
        self.container = video.av.open(self.file, "w", format="mp4")
        options = {"crf": str(CRF)} if video.encoder == "libx264" else {"flags": "+qscale"}
        self.stream = stream = self.container.add_stream(video.encoder, rate=video.encoded_rate, options=options)
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context.max_b_frames = 0
        context.colorspace, context.color_range = video.matrix, STUDIO_RANGE
        if video.encoder != "libx264":
            context.global_quality = QSCALE * LAMBDA
        if video.aspect:
            aspect = Fraction(video.aspect)
            context.sample_aspect_ratio = 1 / aspect if video.turn % 2 else aspect
