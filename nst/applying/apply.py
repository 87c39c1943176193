"""The story of ``task=apply``: load the network, paint, save, score, record."""

import contextlib
import itertools
import logging
import shutil
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from nst import configuration, runtime
from nst.applying import contact_sheet, media, model, video
from nst.applying.clips import Clip, Segment
from nst.applying.painter import Painter, Painting
from nst.applying.pictures import FILE as PICTURES_FILE
from nst.applying.pictures import PictureRow, PicturesFile
from nst.errors import ConfigError, UserError
from nst.evaluation.evaluator import Evaluator, Scores, recorded_styles
from nst.files import sha256, typed_path, writing
from nst.images import decoding, rgb
from nst.runs import launchers, provenance, resume
from nst.runs.session import Session
from nst.runtime import memory
from nst.setup.check import check
from nst.tracking.progress import ProgressBar, ProgressLines, progress

log = logging.getLogger(__name__)
RESULTS = "results"  # where the paintings of a folder go
PARTS = "parts"  # where those of a clip wait until they are joined
ORIGINAL = "original"  # the frame of a clip that ``result`` shows painted
MOST_TOLD = 5  # broken pictures that are named on the console
MOST_RECORDED = 20  # and in run.json; pictures.csv has them all


@dataclass
class Painted:
    """What a run has painted: ``count`` pictures or frames; ``failed`` could not be read.

    Attributes:
        seconds: that the network took for each, of those painted by this process and of earlier ones still known.
        scores: of the result, or of several averaged.
        facts: what else the record is to hold.
    """

    count: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    scores: Scores | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class PaintingRun:
    """What painting needs, whatever is painted; without an evaluator nothing is scored."""

    session: Session
    painter: Painter
    sizing: media.Sizing
    evaluator: Evaluator | None

    @property
    def config(self) -> DictConfig:
        """The configuration."""
        return self.session.config

    @property
    def result(self) -> Path:
        """Where the picture that is shown goes."""
        return self.session.job.picture("result")

    @property
    def original(self) -> Path:
        """Where the frame of a clip goes that ``result`` shows painted."""
        return self.session.folder / f"{ORIGINAL}.png"

    def progress(self, total: int | None, done: int, unit: str) -> ProgressBar | ProgressLines:
        """Return what tells how far the painting is."""
        return progress(total, done, not launchers.in_worker(), unit)

    def paint(self, picture: torch.Tensor) -> Painting:
        """Paint ``(1, 3, H, W)``; between two tiles a signal is answered."""
        try:
            return self.painter.paint(picture, self.session.stop.poll)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            height, width = picture.shape[2:]
            raise UserError(
                f"Memory ran out while {width} x {height} pixels were painted. Use tile=512 or less, or a smaller size."
            ) from error

    def encoded(self, pixels: np.ndarray, shape: tuple[int, int] | None) -> bytes:
        """Encode a painting in the format asked for, stretched to (width, height) if it was squeezed."""
        return rgb.encode_bytes(rgb.stretched(pixels, shape), self.config.output_format, self.config.jpeg_quality)


def problems(config: DictConfig) -> list[str]:
    """Return what is wrong with a configuration whose task is ``apply``, as far as its own knobs go."""
    found = []
    kind = ""
    with contextlib.suppress(UserError):  # that there is no such file is told elsewhere
        kind = media.kind_of(str(config.content))
    for needed in (lambda: model.load(config), *([video.library] if kind == "video" else [])):
        try:
            needed()
        except UserError as error:
            found += error.problems if isinstance(error, ConfigError) else [str(error)]
    return found


def apply(session: Session) -> None:
    """Paint what ``content`` names with the network that ``model`` names.

    Raises:
        UserError: a mistake the user can mend.
        Interrupted: a signal came; what had been painted has been kept.
    """
    config = session.config
    check(config, problems)
    network = model.load(config)
    if "machine" in (before := resume.read(session.folder / "run.json")):
        _refuse_changes(before, network, config, session.folder)
        session.saved = {"step": 0, "elapsed": 0.0}
    precision = "float32" if config.precision == "auto" else config.precision
    with session.computing(precision) as device:
        if session.saved is None:
            _clear(session.folder)
        session.begin_record()
        session.record.note_computation(precision=precision)
        evaluator, dtype = _evaluator(session, network), runtime.network_dtype(precision, device)
        blend = None if network.blend is None else network.blend.to(device, dtype)
        painter = Painter(network.network.to(device, dtype), blend, device, dtype, config.tile)
        sizing = media.Sizing(config.size, config.fit, config.resample, config.background)
        work = PaintingRun(session, painter, sizing, evaluator)
        kind = media.kind_of(str(config.content))
        what = (Path(str(config.content)).name, network.styles_in_words(), network.path.name, device, precision)
        log.info("%s in the style of %s, with %s on %s in %s", *what)
        runtime.keep_freed_memory()
        with session.holding_signals():
            painted = {"picture": _picture, "folder": _folder}.get(kind, _clip)(work)
        runtime.give_back_freed_memory()
        _finish(work, kind, painted, session.seconds())


def _evaluator(session: Session, network: model.Model) -> Evaluator | None:
    """Note in the record what paints and what scores; return the latter, or None if the style image is gone."""
    evaluator: Evaluator | None = configuration.build(session.config.evaluator)
    styles = network.style_files()
    facts = [{key: value for key, value in style.items() if key != "found"} for style in styles]
    session.record.note(
        model={"name": str(session.config.model), **network.facts()},
        style_blend=network.weights,
        evaluator={"name": evaluator.name, **evaluator.settings} if evaluator else None,
        style=facts[0] if facts else None,
        further_images={f"style[{place}]": fact for place, fact in enumerate(facts) if place},
    )
    gone = [str(style["name"]) for style in styles if not style["found"]]
    if evaluator is None or (styles and not gone):
        return evaluator
    names = ", ".join(gone) if gone else "of the style"
    log.warning("The image %s that the network was trained with is not there any more: nothing is scored", names)
    return None


def _picture(work: PaintingRun) -> Painted:
    """Paint a picture."""
    path = rgb.locate(str(work.config.content))
    picture = rgb.opened(str(path), work.sizing.background)
    painting = work.paint(work.sizing.seen(picture, path))
    rgb.save(work.result, work.encoded(painting.pixels, work.sizing.kept(*picture.size, path)))
    del picture
    return Painted(1, 0, [painting.seconds], _score(work, work.result, path), _in_words(painting))


def _folder(work: PaintingRun) -> Painted:
    """Paint each picture of a folder, but those that an earlier attempt has painted; draw the contact sheet."""
    folder, root = typed_path(str(work.config.content)), work.session.folder
    found = media.pictures_in(folder, leave_out=root)
    names = {path: path.relative_to(folder).as_posix() for path in found}
    for leftover in (root / RESULTS).rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    table = PicturesFile(root)
    if work.session.saved:
        table.rows = {row.picture: row for row in table.rows.values() if _is_painted(row, folder, root)}
    left = [path for path in found if names[path] not in table.rows]
    done, failed = len(found) - len(left), 0
    log.info("%d pictures%s", len(found), f", {done} of them painted already" if work.session.saved else "")
    facts: dict[str, Any] = {}
    with contextlib.closing(work.progress(len(found), done, "picture")) as bar:
        for path in left:
            work.session.stop.poll()
            row, told = _of_folder(work, path, names[path], f"{RESULTS}/{found[path]}")
            table.add(row)
            facts |= told
            if row.problem:
                failed += 1
                if failed <= MOST_TOLD:
                    log.warning("Left out: %s", row.problem)
                elif failed == MOST_TOLD + 1:
                    log.warning("Further pictures that are left out are listed in %s", PICTURES_FILE)
            bar.advance()
    table.in_order([names[path] for path in found])
    painted = [row for row in table.rows.values() if row.painting]
    if not painted:
        first = next(iter(table.rows.values())).problem
        raise UserError(f"None of the {len(found)} pictures in {folder} can be painted. {first}")
    shown = [painted[place] for place in contact_sheet.chosen(len(painted))]
    drawn = contact_sheet.draw([_pair(row, folder, root, work.sizing.background) for row in shown])
    rgb.save(work.result, work.encoded(drawn, None))
    failures = [{"picture": row.picture, "problem": row.problem} for row in table.rows.values() if row.problem]
    scores: list[Scores] = []
    for row in shown if work.evaluator else ():
        work.session.stop.poll()
        if (found_scores := _score(work, root / row.painting, folder / row.picture)) is not None:
            scores.append(found_scores)
    facts |= {"shown": len(shown), "failures": failures[:MOST_RECORDED], "scored": len(scores)}
    return Painted(len(painted), len(failures), [row.seconds for row in painted], _average(scores), facts)


def _of_folder(work: PaintingRun, path: Path, name: str, painting_name: str) -> tuple[PictureRow, dict[str, Any]]:
    """Paint a picture of a folder; return its row, and how it was painted."""
    target = work.session.folder / f"{painting_name}{rgb.SUFFIXES[work.config.output_format]}"
    try:
        picture = rgb.opened(str(path), work.sizing.background)
        seen = work.sizing.seen(picture, path)
        shape = work.sizing.kept(*picture.size, path)
        digest = sha256(path)
    except (UserError, OSError) as error:
        return PictureRow(name, problem=str(error)), {}
    painting = work.paint(seen)
    data = work.encoded(painting.pixels, shape)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    rgb.save(target, data)
    width, height = shape or (painting.pixels.shape[1], painting.pixels.shape[0])
    where = target.relative_to(work.session.folder).as_posix()
    row = PictureRow(name, where, width, height, painting.seconds, sha256=digest)
    return row, _in_words(painting) if painting.tile else {}


def _is_painted(row: PictureRow, folder: Path, root: Path) -> bool:
    """Tell whether a picture has been painted, and has not changed since."""
    picture = folder / row.picture
    is_there = bool(row.painting) and (root / row.painting).is_file() and picture.is_file()
    return is_there and sha256(picture) == row.sha256


def _pair(row: PictureRow, folder: Path, root: Path, background: str) -> tuple[Image.Image, Image.Image, str]:
    """Return a photograph and its painting, small, and its name."""
    pair = [rgb.opened(str(path), background) for path in (folder / row.picture, root / row.painting)]
    for picture in pair:
        picture.thumbnail((2 * contact_sheet.SIDE, 2 * contact_sheet.SIDE), reducing_gap=3)
    return pair[0], pair[1], Path(row.picture).name


def _clip(work: PaintingRun) -> Painted:
    """Paint an animation or a video frame by frame, in parts, and join them."""
    session, parts_folder = work.session, work.session.folder / PARTS
    clip = media.open_clip(str(work.config.content), work.sizing.background)
    with writing(parts_folder):
        parts_folder.mkdir(exist_ok=True)
    numbered = (parts_folder / f"{number:06d}{clip.segment_suffix}" for number in itertools.count())
    parts = list(itertools.takewhile(Path.is_file, numbered))
    begin = len(parts) * clip.per_segment
    if begin:
        log.info("%d frames are painted already", begin)
    middle = (clip.frames or 1) // 2 + 1
    seconds: list[float] = []
    facts: dict[str, Any] = {}
    part, count, last = None, 0, None
    try:
        with contextlib.closing(work.progress(clip.frames, min(begin, clip.frames or begin), "frame")) as bar:
            for count, last in enumerate(clip.read(), 1):
                if count <= begin:
                    continue
                session.stop.poll()
                pixels, painting = _frame(work, clip, last)
                seconds.append(painting.seconds)
                facts |= _in_words(painting)
                if count == middle:
                    _show(work, last, pixels)
                part = part or clip.segment(parts_folder)
                part.add(pixels)
                if count % clip.per_segment == 0:
                    parts, part = [*parts, _keep(part, parts_folder, len(parts), clip)], None
                bar.advance()
            if part is not None:
                parts, part = [*parts, _keep(part, parts_folder, len(parts), clip)], None
    except runtime.Interrupted:
        _join_what_there_is(session.folder, clip, parts, part)
        raise
    assert last is not None  # else reading would have told
    if not (work.result.is_file() and work.original.is_file()):  # the file has told too many frames
        _show(work, last, _frame(work, clip, last)[0])
    target = session.folder / f"result{clip.suffix}"
    clip.join(parts, target)
    notes = list(dict.fromkeys(clip.notes))
    for note in notes:
        log.warning("%s", note)
    session.record.note(
        source=provenance.image_file(str(work.config.content)),
        content={"name": clip.path.name, **provenance.file(work.original)},
    )
    facts |= {**clip.facts, "frames": count, "notes": notes, "clip": target.name}
    return Painted(count, 0, seconds, _score(work, work.result, work.original), facts)


def _frame(work: PaintingRun, clip: Clip, picture: Image.Image) -> tuple[np.ndarray, Painting]:
    """Return the pixels of a painted frame, with the proportions of the clip."""
    painting = work.paint(work.sizing.seen(picture, clip.path))
    return rgb.stretched(painting.pixels, work.sizing.kept(*picture.size, clip.path)), painting


def _show(work: PaintingRun, picture: Image.Image, pixels: np.ndarray) -> None:
    """Save a painted frame as the result to be shown, beside the frame that it was painted from."""
    rgb.save(work.original, rgb.encode_bytes(np.asarray(picture)))
    rgb.save(work.result, work.encoded(pixels, None))


def _keep(part: Segment, folder: Path, number: int, clip: Clip) -> Path:
    """Write a part under its number."""
    path = folder / f"{number:06d}{clip.segment_suffix}"
    part.finish(path)
    return path


def _join_what_there_is(folder: Path, clip: Clip, parts: list[Path], part: Segment | None) -> None:
    """Leave what has been painted of a clip as ``interrupted``; a part that is not full is painted again later."""
    target = folder / f"interrupted{clip.suffix}"
    extra = folder / PARTS / f"interrupted{clip.segment_suffix}"
    with contextlib.suppress(UserError):  # the disk may be full, and the run is to end
        if part is not None:
            part.finish(extra)
            parts = [*parts, extra]
        if parts:
            clip.join(parts, target)
            log.warning("Interrupted; what has been painted is in %s", target)
    extra.unlink(missing_ok=True)


def _in_words(painting: Painting) -> dict[str, Any]:
    """Return how a picture was painted, for the record."""
    if painting.tile is None or painting.measured_at is None:
        return {"tile": "none"}
    height, width = painting.measured_at
    return {"tile": painting.tile, "statistics_at": {"width": width, "height": height}}


def _score(work: PaintingRun, result: Path, content: Path) -> Scores | None:
    """Score a saved painting; what cannot be scored does not fail a run that has painted."""
    if work.evaluator is None:
        return None
    try:
        styles = recorded_styles(work.session.record.facts)
        return work.evaluator.scores_of_blend(result, content, styles, background=work.sizing.background)
    except UserError as error:
        log.warning("%s is not scored: %s", result.name, error)
        return None


def _average(known: list[Scores]) -> Scores | None:
    """Return the mean of each score over the pictures that have it."""
    if not known:
        return None
    mean: Scores = {}
    for name in known[0]:
        values = [value for scores in known if isinstance(value := scores[name], float)]
        mean[name] = float(f"{statistics.fmean(values):.6g}") if values else None
    return mean | {"evaluator": known[0]["evaluator"]}


def _refuse_changes(before: dict[str, Any], network: model.Model, config: DictConfig, folder: Path) -> None:
    """Refuse to carry on with another network, other styles or another clip than a run was begun with."""
    was = before.get("model") or {}
    if was and was.get("sha256") != sha256(network.path):
        raise UserError(
            f"{folder} cannot be resumed: the network {network.path} has changed since the run began. Put the old file "
            "back, or start a new run in another folder."
        )
    styles = [style.get("sha256") for style in network.about.get("styles") or []]
    recorded = [before.get("style"), *(before.get("further_images") or {}).values()] if before.get("style") else []
    if was and [style.get("sha256") for style in recorded] != styles:
        raise UserError(
            f"{folder} cannot be resumed: it was begun with another style. Name that one, or start a new run elsewhere."
        )
    was = before.get("source") or before.get("content") or {}
    if not was or media.kind_of(str(config.content)) == "folder":
        return
    if was.get("sha256") != sha256(path := rgb.locate(str(config.content))):
        raise UserError(
            f"{folder} cannot be resumed: {path} has changed since the run began. Put the old file back, or start "
            "a new run in another folder."
        )


def _clear(folder: Path) -> None:
    """Remove what an earlier attempt left that would be taken for this one's; ``Record.begin`` removes the rest."""
    clips = [f"{name}{suffix}" for name in ("result", "interrupted") for suffix in (".gif", ".mp4")]
    with writing(folder):
        for name in (PICTURES_FILE, f"{ORIGINAL}.png", *clips):
            (folder / name).unlink(missing_ok=True)
        if (folder / PARTS).is_dir():
            shutil.rmtree(folder / PARTS)


def _finish(work: PaintingRun, kind: str, painted: Painted, seconds: dict[str, float]) -> None:
    """Record what has been painted, and remove what it is not needed for any more."""
    session, result = work.session, work.result
    with decoding.opened(result) as picture:
        width, height = picture.size
    left = [result, session.folder / PICTURES_FILE, session.folder / str(painted.facts.get("clip"))]
    median = statistics.median(painted.seconds) if painted.seconds else None
    session.record.note(
        applied={"kind": kind, "count": painted.count, "failed": painted.failed, **painted.facts},
        seconds_per_picture=None if median is None else float(f"{median:.4g}"),
        size={"width": width, "height": height},
        scores=painted.scores,
        outputs={path.name: sha256(path) for path in left if path.is_file()},
        seconds={name: round(value, 3) for name, value in (seconds | {"network": sum(painted.seconds)}).items()},
        peak_memory_bytes=runtime.peak_memory_bytes(work.painter.device),
        result=provenance.output_file(result),
    )
    shutil.rmtree(session.folder / PARTS, ignore_errors=True)
    for suffix in (".gif", ".mp4"):
        (session.folder / f"interrupted{suffix}").unlink(missing_ok=True)
    what = {"picture": "picture", "folder": "pictures"}.get(kind, "frames")
    broken = f", {painted.failed} could not be read" if painted.failed else ""
    each = "?" if median is None else f"{median:.3f}"
    where = session.folder / (RESULTS if kind == "folder" else str(painted.facts.get("clip") or result.name))
    log.info("%s", f"{painted.count} {what} painted{broken}, {each} s each, in {seconds['total']:.1f} s: {where}")
