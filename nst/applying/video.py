"""Videos, read and written with PyAV: the rate, the times of the frames and, where MP4 can hold it, the sound are kept.

Each part is encoded on its own, without frames that look ahead (B-frames), so that packets can be joined as they are
and the whole has the same bytes whether or not the run was stopped on the way.
"""

from __future__ import annotations

import heapq
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from nst.applying.media import Frame
from nst.errors import UserError
from nst.files import write_atomic, writing
from nst.images import decoding

log = logging.getLogger(__name__)
CRF = 18  # H.264's constant rate factor: hardly to be told from what was painted (0 is lossless, 23 libx264's own)
QSCALE, LAMBDA = 2, 118  # of MPEG-4 in its stead, on a scale from 1 (best) to 31, and what FFmpeg multiplies it by
LARGEST_TIMESCALE = 65535  # ticks a second that MPEG-4 can tell
PER_PART = 120  # frames
HD_LINES = (
    576  # beyond as many, colours that do not say how they are coded are coded as ITU-R BT.709 has it, else BT.601
)
BT709, BT601, UNSPECIFIED = 1, 6, 2  # colour matrices, by their numbers in ITU-T H.273
WITH_ALPHA = ("pal8",)  # whose palette may have some
STUDIO_RANGE = 1  # black is 16 and white 235
HDR = {16: "PQ", 18: "HLG"}  # transfer functions, likewise


def library() -> ModuleType:
    """Return PyAV.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise UserError(
            "Videos need PyAV, which is not installed: pip install -e '.[video]'. Pictures, folders of pictures and "
            "GIFs need nothing more."
        ) from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong is told once, in our words
    return av


@dataclass
class Video:
    """A video; see ``nst.applying.media.Clip``.

    Attributes:
        background: what shows through transparent pixels.
        rate: frames a second, on average.
        time_base: seconds of a tick.
        times: of the frames that have been read, in ticks from the beginning of the file.
    """

    path: Path
    background: tuple[int, int, int] = (255, 255, 255)
    per_part: int = PER_PART
    suffix: str = ".mp4"
    part_suffix: str = ".mp4"
    frames: int | None = None
    rate: Fraction = Fraction(25)
    time_base: Fraction = Fraction(1, 25)
    times: list[int] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        av = library()
        self.encoder = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        with self._opened() as container:
            stream = self._stream(container)
            rate = stream.average_rate or stream.guessed_rate or stream.base_rate
            self.rate = Fraction(rate) if rate else self.rate
            self.time_base = Fraction(stream.time_base)
            seconds = stream.duration * self.time_base if stream.duration else None
            if seconds is None and container.duration:
                seconds = Fraction(container.duration, av.time_base)
            self.frames = stream.frames or (round(seconds * self.rate) if seconds else None)
            if self.encoder == "mpeg4" and max(self.rate.as_integer_ratio()) > LARGEST_TIMESCALE:
                self.encoded_rate = Fraction(max(round(self.rate), 1))
            else:
                self.encoded_rate = self.rate
            context = stream.codec_context
            self.facts = {
                "format": container.format.name,
                "codec": context.name,
                "encoder": self.encoder,
                "rate": str(self.rate),
                "width": context.width,
                "height": context.height,
                "sound": [track.codec_context.name for track in container.streams.audio],
            }
            self.matrix = context.colorspace
            if self.matrix not in (BT709, 5, BT601):
                self.matrix = BT709 if context.height > HD_LINES else BT601
            self.aspect = stream.sample_aspect_ratio
            if hdr := HDR.get(int(context.color_trc)):
                self.notes.append(f"{self.path} is HDR ({hdr}): its colours look pale. Convert it to SDR first.")
        self.turn = 0
        self.is_squeezed = False

    def read(self) -> Iterator[Frame]:
        """Read the frames in order; see ``Clip``."""
        av = library()
        self.times.clear()
        damaged = 0
        with self._opened() as container:
            stream = self._stream(container)
            stream.thread_type = "AUTO"
            begin = Fraction(container.start_time or 0, av.time_base)
            step = max(round(1 / self.rate / self.time_base), 1)
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                except av.error.FFmpegError as error:
                    self.notes.append(f"{self.path} is broken after {len(self.times)} frames ({error.strerror}).")
                    break
                if packet is None:
                    break
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    damaged += 1
                    continue
                for frame in decoded:
                    after = self.times[-1] + 1 if self.times else 0
                    if frame.pts is None:
                        time = self.times[-1] + step if self.times else 0
                    else:
                        time = round((frame.pts * Fraction(frame.time_base) - begin) / self.time_base)
                    number = len(self.times)
                    self.times.append(max(time, after))
                    yield Frame(number, self._upright(frame))
        if not self.times:
            raise UserError(f"{self.path} has not a single frame that can be read. Is the file complete?")
        if damaged:
            self.notes.append(f"{self.path}: {damaged} packets are broken, and their frames left out.")
        elif (self.frames or 0) - len(self.times) > max((self.frames or 0) // 20, 2):  # which is often an estimate
            self.notes.append(f"{self.path} ends after {len(self.times)} of {self.frames} frames; they are kept.")

    def part(self, folder: Path) -> VideoPart:
        """Begin a part; see ``Clip``."""
        return VideoPart(self, folder)

    def join(self, parts: Sequence[Path], path: Path) -> None:
        """Write the parts as one video, with the sound of as much; see ``Clip``."""
        av = library()

        def write(file: BinaryIO) -> None:
            with self._opened() as source:
                sounds = [track for track in source.streams.audio if track.codec_context is not None]
                kept = [track for track in sounds if _can_hold(av, track)]
                if lost := [track.codec_context.name for track in sounds if track not in kept]:
                    self.notes.append(f"The sound ({', '.join(lost)}) cannot be put into an MP4 as it is: left out.")
                try:
                    self._join(av, parts, file, source, kept)
                except (av.error.FFmpegError, ValueError) as error:
                    if not kept:
                        raise
                    log.debug("The sound cannot be copied.", exc_info=error)
                    self.notes.append(f"The sound cannot be copied ({error}): left out.")
                    file.seek(0)
                    file.truncate()
                    self._join(av, parts, file, source, [])

        write_atomic(path, write)

    def _join(self, av: ModuleType, parts: Sequence[Path], file: BinaryIO, source: Any, sounds: list[Any]) -> None:
        """Copy the packets of the parts and of the sound, by their times, into a file."""
        with av.open(file, "w", format="mp4") as output, av.open(str(parts[0])) as first:
            video = output.add_stream_from_template(first.streams.video[0])
            video.time_base = self.time_base
            tracks = {track.index: output.add_stream_from_template(track) for track in sounds}
            step = max(round(1 / self.rate / self.time_base), 1)
            times = self.times
            end = float((times[-1] + step) * self.time_base)

            def painted() -> Iterator[tuple[float, int, Any]]:
                number = 0
                for part in parts:
                    with av.open(str(part)) as container:
                        for packet in container.demux(video=0):
                            if packet.size == 0 or number >= len(times):
                                continue
                            after = times[number + 1] if number + 1 < len(times) else times[number] + step
                            packet.stream, packet.time_base = video, self.time_base
                            packet.pts = packet.dts = times[number]
                            packet.duration = after - times[number]
                            yield float(times[number] * self.time_base), 0, packet
                            number += 1

            def heard() -> Iterator[tuple[float, int, Any]]:
                begin = Fraction(source.start_time or 0, av.time_base)
                packets = source.demux(*sounds)
                while True:
                    try:
                        packet = next(packets, None)
                    except av.error.FFmpegError:
                        return  # which has been told of when the frames were read
                    if packet is None:
                        return
                    if packet.size == 0 or packet.dts is None:
                        continue
                    base = Fraction(packet.time_base)
                    shift = round(begin / base)
                    packet.pts, packet.dts = (None if t is None else t - shift for t in (packet.pts, packet.dts))
                    time = float(packet.dts * base)
                    if time < end:
                        packet.stream = tracks[packet.stream.index]
                        yield time, 1, packet

            both = heapq.merge(painted(), *([heard()] if sounds else []), key=lambda item: item[:2])
            for _, _, packet in both:
                output.mux(packet)

    def _opened(self) -> Any:
        av = library()
        try:
            return av.open(str(self.path))
        except Exception as error:  # a broken file leads the demuxers to whatever they raise
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{self.path} cannot be read as a video: {reason}. Is the file complete?") from error

    def _stream(self, container: Any) -> Any:
        """Return the video stream; the picture on the cover of a piece of music is none.

        Raises:
            UserError: there is none.
        """
        av = library()
        for stream in container.streams.video:
            is_cover = bool(stream.disposition & av.stream.Disposition.attached_pic)
            if not is_cover and stream.codec_context is not None and stream.codec_context.width:
                return stream
        has = "only sound" if container.streams.audio else "no picture that can be read"
        raise UserError(f"{self.path} holds {has}, so there is nothing to paint. Name a video that has pictures.")

    def _upright(self, frame: Any) -> Image.Image:
        """Return a decoded frame as RGB, turned as its file asks for."""
        if any(part.is_alpha for part in frame.format.components) or frame.format.name in WITH_ALPHA:
            layers = frame.to_ndarray(format="rgba", src_colorspace=self.matrix)
            array = np.asarray(decoding.flattened(Image.fromarray(layers), self.background))
        else:
            array = frame.to_ndarray(format="rgb24", src_colorspace=self.matrix)
        if array.shape[:2] != (self.facts["height"], self.facts["width"]) and not self.is_squeezed:
            self.is_squeezed = True
            size = f"{array.shape[1]} x {array.shape[0]}"
            self.notes.append(
                f"{self.path} changes its size on the way, to {size}: it is squeezed into the first size."
            )
        self.turn = round(frame.rotation / 90) % 4  # counterclockwise
        return Image.fromarray(np.ascontiguousarray(np.rot90(array, self.turn)))


class VideoPart:
    """Some frames as a video of their own; see ``nst.applying.media.Part``."""

    def __init__(self, video: Video, folder: Path) -> None:
        self.video = video
        self.temporary = folder / f".part.{os.getpid()}.tmp"
        self.file: BinaryIO | None = None
        self.container: Any = None
        self.stream: Any = None
        self.count = 0

    def add(self, painted: np.ndarray) -> None:
        """Encode a frame; an odd size loses its last row or column, since colours are kept for two by two pixels."""
        av = library()
        height, width = (side - side % 2 for side in painted.shape[:2])
        if self.stream is None:
            self._begin(av, width, height)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(painted[:height, :width]), format="rgb24")
        frame = frame.reformat(
            format="yuv420p", dst_colorspace=self.video.matrix, dst_color_range=STUDIO_RANGE, interpolation="BICUBIC"
        )
        frame.pts, frame.time_base = self.count, 1 / self.video.encoded_rate
        with writing(self.temporary):
            self.container.mux(self.stream.encode(frame))
        self.count += 1

    def keep(self, path: Path) -> None:
        """Write what is still with the encoder, and name the part; see ``Part``."""
        assert self.file is not None
        with writing(path):
            self.container.mux(self.stream.encode())
            self.container.close()
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self.temporary.replace(path)

    def _begin(self, av: ModuleType, width: int, height: int) -> None:
        video = self.video
        with writing(self.temporary):
            self.file = self.temporary.open("wb")
        self.container = av.open(self.file, "w", format="mp4")
        options = {"crf": str(CRF)} if video.encoder == "libx264" else {"flags": "+qscale"}
        stream = self.container.add_stream(video.encoder, rate=video.encoded_rate, options=options)
        context = stream.codec_context
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context.max_b_frames = 0
        context.colorspace, context.color_range = video.matrix, STUDIO_RANGE
        if video.encoder != "libx264":
            context.global_quality = QSCALE * LAMBDA
        if video.aspect:
            aspect = Fraction(video.aspect)
            context.sample_aspect_ratio = 1 / aspect if video.turn % 2 else aspect
        self.stream = stream


def _can_hold(av: ModuleType, track: Any) -> bool:
    """Tell whether an MP4 can hold a track's packets as they are."""
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        return track.codec_context.codec.canonical_name in container.supported_codecs
