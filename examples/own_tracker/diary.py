"""A tracker from outside the package: what happened to a run, as a page of Markdown with pictures, ``diary.md``."""

import os

from nst.tracking import RunInfo, Tracker


class Diary(Tracker):
    """Writes a line for each logged step, pictures now and then, the scores, and how the run ended.

    Args:
        run: that is watched: its folder, configuration, content and styles.
        position: what ``position`` returned, of a run that is carried on from a checkpoint; else None.
        every: logged steps between two pictures.
    """

    def __init__(self, run: RunInfo, position: int | None = None, every: int = 2) -> None:
        self.run, self.every = run, every
        path = run.folder / "diary.md"
        if position is not None:
            os.truncate(path, position)  # what was written after the checkpoint will be written again
        self.file = path.open("w" if position is None else "a", encoding="utf-8")
        if position is None:
            self.tell(f"# {run.config['content']} in the style of {run.config['style']}, {run.steps} steps")

    def step(self, snapshot) -> None:
        """See a step; the first is the start, the last has ``snapshot.step.last``."""
        if not snapshot.logged:
            return  # nothing has been fetched from the GPU, and nothing should be
        self.tell(f"{snapshot.step.index}: loss {snapshot.values['loss/total']:.4g}")
        if snapshot.step.last or snapshot.step.index % (self.every * self.run.config["log_every"]) == 0:
            name = f"diary_{snapshot.step.index:06d}.png"
            self.run.beside_inputs(snapshot.image).save(self.run.folder / name)  # content | style | picture
            self.tell(f"![]({name})")

    def scores(self, scores, step) -> None:
        """See the evaluator's scores of the result."""
        self.tell(f"Scores: {dict(scores)}")

    def position(self) -> int:
        """Return what a run that is carried on from the checkpoint saved now needs to know."""
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self, status, reason) -> None:
        """See how the run ended: done, failed or interrupted, and why."""
        self.tell(f"{status} {reason}".strip())
        self.file.close()

    def tell(self, line: str) -> None:
        """Write a paragraph."""
        print(line, end="\n\n", file=self.file, flush=True)
