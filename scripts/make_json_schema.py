"""Write conf/schema.json, by which editors check and complete the YAML files under conf/, from the typed configuration.

How an editor is told of it: CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import math
import sys
import types
import typing
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nst.configuration import GROUPS, Config  # noqa: E402

FILE = ROOT / "conf" / "schema.json"
KINDS = {int: "integer", float: "number", str: "string", bool: "boolean", list: "array", type(None): "null"}
INTERPOLATION = {"type": "string", "pattern": r"\$\{.*\}"}  # a value that is another's: ${size}


def page() -> str:
    """Return the whole file: the schema of a file with ``@package _global_``, such as an experiment or a study."""
    hints = typing.get_type_hints(Config)
    knobs = {knob.name: _of_knob(knob, hints[knob.name]) for knob in fields(Config)}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A configuration of NST experiments",
        "description": "Written by scripts/make_json_schema.py from nst/configuration/schema.py.",
        "type": "object",
        "properties": {"defaults": {"type": "array"}, "hydra": {"type": "object"}, **knobs},
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=2) + "\n"


def _of_knob(knob: Field[Any], hint: Any) -> dict[str, Any]:
    """Return the schema of a knob or of a group's node."""
    about = knob.metadata
    if knob.name in GROUPS:
        return {"description": about["help"], "type": "object"}
    if hint is Any:
        return {"description": about["help"]}
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    value: dict[str, Any] = {"type": [KINDS[typing.get_origin(part) or part] for part in parts]}
    if about["choices"]:
        value["enum"] = [*about["choices"], *([None] if type(None) in parts else [])]
    if (low := about["low"]) is not None:
        value["minimum"] = 0 if knob.name == "size" else low  # task=apply: as large as the file
        value |= {"maximum": about["high"]} if math.isfinite(about["high"]) else {}
    return {"description": about["help"], "anyOf": [value, INTERPOLATION]}


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
