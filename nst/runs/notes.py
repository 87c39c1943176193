"""Tags and a note that somebody gives a run or sweep: beside its record, whose bytes stay, and in TensorBoard."""

import io
import time
from dataclasses import dataclass, field
from pathlib import Path

from nst import trust
from nst.files import is_claimed, write_atomic, write_json, writing

FILE = "notes.json"
EVENTS = "events.out.tfevents.*.notes"


@dataclass
class Notes:
    """What somebody says of a run or sweep."""

    tags: list[str] = field(default_factory=list)
    note: str = ""


def notes_in(folder: Path) -> Notes:
    """Return the tags and the note in a folder, characters that nobody sees written out; none if it has no file."""
    content = trust.seen(trust.record(folder / FILE)[0])
    return Notes(content.get("tags", []), content.get("note", ""))


def write(folder: Path, notes: Notes) -> None:
    """Keep tags and note in a folder in the place of those there; if there are none, nothing is left.

    TensorBoard shows them as a text. To a run at work no file of events is added, since TensorBoard would go on to it
    and leave the curves.

    Raises:
        CannotWrite: the folder cannot be written.
    """
    with writing(folder / FILE):
        for path in (folder / FILE, *folder.glob(EVENTS)):
            path.unlink(missing_ok=True)
    if not (notes.tags or notes.note):
        return
    write_json(folder / FILE, vars(notes))
    if not is_claimed(folder):
        # its name has the time, by which TensorBoard orders the files of a run
        path = folder / EVENTS.replace("*", str(int(time.time())))
        write_atomic(path, lambda file: file.write(_events(notes)))


def _events(notes: Notes) -> bytes:
    """Return a file of events that holds one text."""
    from tensorboard.compat.proto.event_pb2 import Event  # here, since reading needs none of it
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.record_writer import RecordWriter

    tags = f"Tags: {', '.join(notes.tags)}" if notes.tags else ""
    text = "\n\n".join(filter(None, [tags, notes.note]))
    about = create_summary_metadata(display_name="notes", description="")
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()])
    summary = Summary(value=[Summary.Value(tag="notes", metadata=about, tensor=tensor)])
    file, now = io.BytesIO(), time.time()
    writer = RecordWriter(file)
    for event in (Event(wall_time=now, file_version="brain.Event:2"), Event(wall_time=now, step=0, summary=summary)):
        writer.write(event.SerializeToString())
    return file.getvalue()
