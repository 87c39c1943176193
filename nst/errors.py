"""Mistakes a user can mend, told in one message that says what to do."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Something the user can mend; its text is the whole message, without a traceback."""


class ConfigError(UserError):
    """One or several mistakes in the configuration, reported together.

    Args:
        problems: one complete sentence or two for each mistake.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0])
        else:
            lines = [f"{len(self.problems)} mistakes in the configuration:"]
            super().__init__("\n".join([*lines, *(f"  {i}. {p}" for i, p in enumerate(self.problems, 1))]))


@contextlib.contextmanager
def ending_a_script() -> Iterator[None]:
    """End with the message of a UserError, and in silence if who reads what is printed has seen enough (``| head``)."""
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"Error: {error}")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def nearest(word: str, valid: Iterable[object]) -> str:
    """Return ``" Did you mean 'x'?"`` for the valid name closest to ``word``, or an empty string."""
    close = difflib.get_close_matches(word.lower(), {str(v).lower(): str(v) for v in valid}, n=1, cutoff=0.5)
    names = {str(v).lower(): str(v) for v in valid} if close else {}
    return f" Did you mean '{names[close[0]]}'?" if close else ""


def unknown(kind: str, word: object, valid: Iterable[object]) -> str:
    """Return the sentence for a name that is none of ``valid``: the nearest one, and all there are."""
    options = [str(v) for v in valid]
    return f"There is no {kind} '{word}'.{nearest(str(word), options)} Known: {', '.join(options)}."
