"""Config-driven neural style transfer experiments: ``nst.run``, ``nst.sweep`` and ``nst.load``; see docs/python.md."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nst.api import Run as Run
    from nst.api import load as load
    from nst.api import run as run
    from nst.api import sweep as sweep
    from nst.errors import UserError as UserError

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Return what is imported when it is first asked for, since ``import nst`` is to be quick."""
    if name == "UserError":
        from nst.errors import UserError

        return UserError
    if name in ("Run", "load", "run", "sweep"):
        from nst import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
