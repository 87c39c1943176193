"""Which runs are meant: expressions such as ``beta>0.01 and style==wave``, read as Python but never run as it."""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from nst.errors import UserError, nearest
from nst.report.columns import scores_of
from nst.report.runs import Run

ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, "null": None}
LOOKS_LIKE_ONE = re.compile(r"[<>!=]=|[<>]|\b(in|not)\b|^[\w.]+\s*=")
SINGLE = re.compile(r"(?<![<>!=])=(?!=)")  # beta=0.1, as on the command line of a run
NAMES = "Any knob, group and score is known, and kind, status, when, folder, tag, note, seconds and mb"
Facts = Mapping[str, Any]


def matching(facts: Sequence[Facts], expression: str) -> list[bool]:
    """Tell of each mapping of names to values whether an expression is true of it.

    A name is compared with numbers or words by ``== != < <= > >= in``, and comparisons are joined by ``and or not`` and
    brackets. What has several values, such as tags, is equal to each of them; a path is equal to its last part, with
    or without its suffix. What is missing matches nothing but ``== none``.

    Raises:
        UserError: the expression cannot be read, names what nothing has, or compares what does not compare.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        if (as_meant := SINGLE.sub("==", expression)) == expression:
            raise _unreadable(expression) from None
        return matching(facts, as_meant)
    known = {name for one in facts for name in one}
    for name in [_name(node) for node in _asked(tree, expression)]:
        if facts and name not in known:
            raise UserError(f"No run has a '{name}' to filter by.{nearest(name, known)} {NAMES}.")
    misfits: dict[str, list[bool]] = {}
    found = [_is_true(tree, one, misfits) for one in facts]
    for text, ever in misfits.items():
        if all(ever):
            raise UserError(f"{text} compares a number with a text. Compare numbers, or use == and 'in' with texts.")
    return found


def facts_of(run: Run) -> dict[str, Any]:
    """Return what a filter may ask for of a run: its knobs, groups, scores, seconds and status."""
    scores = {name: value for of in scores_of(run).values() for name, value in of.items()}
    about = {"seconds": run.fact("seconds", "total"), "status": run.status}
    return {**run.config, **run.choices, **scores, **about}


def _unreadable(expression: str, why: str = "") -> UserError:
    return UserError(
        f"The filter {expression!r} cannot be read{why}. An example: 'beta>0.01 and style==wave'; what is no single "
        "word or number has quotes, \"when>'2026-11-29'\"."
    )


def _asked(tree: ast.expr, expression: str) -> Iterable[ast.expr]:
    """Yield the nodes that name something to look up, one of each comparison; all else must be of a form known here."""
    if isinstance(tree, ast.BoolOp):
        for value in tree.values:
            yield from _asked(value, expression)
    elif isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        yield from _asked(tree.operand, expression)
    elif isinstance(tree, ast.Compare):
        operands = [tree.left, *tree.comparators]
        place = _place(operands)
        if place is None or place > 1 or len(operands) > 2 + (place == 1):
            raise _unreadable(expression, ": each comparison needs one name and what it is compared with")
        for number, operand in enumerate(operands):
            if number != place:
                _value(operand, expression)
        yield operands[place]
    elif _is_name(tree):
        yield tree
    else:
        raise _unreadable(expression)


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and _is_name(node.value))


def _place(operands: Sequence[ast.expr]) -> int | None:
    """Return which operand of a comparison is looked up: the first that is a name."""
    return next((place for place, node in enumerate(operands) if _is_name(node)), None)


def _name(node: ast.expr) -> str:
    return ast.unparse(node)


def _value(node: ast.expr, expression: str = "") -> Any:
    """Return what a node stands for beside a name: a number, a text (quoted or a single word), or several."""
    if _is_name(node):
        return WORDS.get(_name(node).lower(), _name(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        if isinstance(node.operand.value, int | float):
            return -node.operand.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    elif isinstance(node, ast.List | ast.Tuple):
        return [_value(one, expression) for one in node.elts]
    raise _unreadable(expression)


def _is_true(tree: ast.expr, facts: Facts, misfits: dict[str, list[bool]]) -> bool:
    if isinstance(tree, ast.BoolOp):
        each = [_is_true(value, facts, misfits) for value in tree.values]
        return all(each) if isinstance(tree.op, ast.And) else any(each)
    if isinstance(tree, ast.UnaryOp):
        return not _is_true(tree.operand, facts, misfits)
    if not isinstance(tree, ast.Compare):
        return bool(facts.get(_name(tree)))
    operands = [tree.left, *tree.comparators]
    place = _place(operands) or 0
    value = facts.get(_name(operands[place]))
    results = []
    for number, op in enumerate(tree.ops):
        is_left = number == place  # of this sign
        other = _value(operands[number + 1] if is_left else operands[number])
        results.append(_compare(value, op, other, is_left, (ast.unparse(tree), misfits)))
    return all(results)


def _compare(value: Any, op: ast.cmpop, other: Any, is_left: bool, told: tuple[str, dict[str, list[bool]]]) -> bool:
    """Compare a value with what stands on the other side; note whether they are of one kind, where that matters."""
    if isinstance(op, ast.Eq | ast.NotEq | ast.Is | ast.IsNot):
        equal = value in (None, "none") if other is None else _is_equal(value, other)  # an option may be called so
        return equal if isinstance(op, ast.Eq | ast.Is) else not equal and (value is not None or other is None)
    if value is None:
        return False
    if isinstance(op, ast.In | ast.NotIn):
        others = other if isinstance(other, list) else [other]
        inside = any(_is_equal(value, one) if is_left else _holds(value, one) for one in others)
        return inside is isinstance(op, ast.In)
    fits = (_is_number(value) and _is_number(other)) or (isinstance(value, str) and isinstance(other, str))
    told[1].setdefault(told[0], []).append(not fits)
    return fits and ORDER[type(op) if is_left else TURNED[type(op)]](value, other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_equal(value: Any, other: Any) -> bool:
    if isinstance(value, list):
        return value == other or any(_is_equal(one, other) for one in value)
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if _is_number(value) and _is_number(other):
        return bool(value == other)
    path = PurePath(str(value))
    return str(other) in (str(value), path.name, path.stem)


def _holds(value: Any, part: Any) -> bool:
    return any(_holds(one, part) for one in value) if isinstance(value, list) else str(part) in str(value)
