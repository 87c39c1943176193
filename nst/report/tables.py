"""The report as text: ``summary.csv`` for a spreadsheet or pandas, ``report.md`` with a table for LaTeX."""

import csv
import io
import itertools
import math
import re
import statistics
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from nst import trust

LONGEST_REASON = 160  # characters, where there is little room
LONG_TABLE = 35  # rows; more do not fit on a page
# Scores that a paper shows; summary.csv has all. A table that is still too wide is scaled to the line.
FOR_A_PAPER = ("content distance", "style distance", "SSIM", "LPIPS")
REPEATED = {"pair": "pairs", "seed": "seeds"}  # what a mean is taken over
NARROWED = "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "{}_%&#$"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"}
)
MARKDOWN = re.compile(r"([\\`*_\[\]|~<>#])")


def summary_csv(view: dict[str, Any]) -> str:
    """Return one line for each run: name, every column of the view in full precision, and why it is not done."""
    keys = [column["key"] for column in view["columns"]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *keys, "reason", "picture"])
    for run in view["runs"]:
        values = [run["values"].get(key) for key in keys]
        row = [run["name"], *("" if v is None else v for v in values), _line(run["reason"]), run["full"]]
        writer.writerow([trust.cell(value) if isinstance(value, str) else value for value in row])
    return text.getvalue()


def report_markdown(view: dict[str, Any], figures: Sequence[str] = ()) -> str:
    """Return the report as Markdown: what was run, table, the same for LaTeX, figures if any, sources, citations."""
    parts = [f"# {markdown(view['title'])}", *([markdown(view["question"])] if view["question"] else [])]
    counts = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in view["counts"].items())
    parts.append(f"{view['total']} {'run' if view['total'] == 1 else 'runs'}: {counts}.")
    for axis in view["axes"]:
        between = "; " if any(", " in text for text in axis["texts"]) else ", "
        parts.append(f"* {markdown(axis['key'])}: {between.join(map(markdown, axis['texts']))}")
    if view["command"]:
        parts += ["## Command", _fenced(view["command"], "bash")]
    if view["again"] and view["again"] != [view["command"]]:
        parts += ["The whole sweep is run again with:", _fenced("\n".join(view["again"]), "bash")]
    if view["resume"]:
        parts += ["What is not done is carried on with:", _fenced(view["resume"], "bash")]
    parts += _listed("Notes", view["notes"])
    parts.append("## Runs")
    if evaluators := list(dict.fromkeys(c["evaluator"] for c in view["columns"] if c["evaluator"])):
        within = " They compare within a pair of images only." if len(view["pairs"]) > 1 else ""
        parts.append(f"Scores by {', '.join(markdown(name) for name in evaluators)}.{within}")
    parts.append(_markdown_table(view))
    parts += _markdown_means(view)
    if reasons := [run for run in view["runs"] if run["reason"]]:
        lines = [(run["name"], run["status"].replace("_", " "), short_reason(run["reason"])) for run in reasons]
        parts += ["## Not done", "\n".join("* {} ({}): {}".format(*map(markdown, line)) for line in lines)]
        if any(short_reason(run["reason"]) != _line(run["reason"]) for run in reasons):
            parts.append("A reason that is cut short stands in full in `report.html`, in the details of the run.")
    parts += ["## For LaTeX", "It needs `\\usepackage{booktabs}`, and a long one `\\usepackage{longtable}`."]
    parts += [_fenced(latex_table(view), "latex"), *figures]
    parts += _listed("Images", view["licences"]) + _listed("Networks", view["networks"])
    parts += ["## BibTeX", _fenced(view["bibtex"].rstrip("\n"), "bibtex")]
    return re.sub(r"(?m)^(\* .*)\n\n(?=\* )", r"\1\n", "\n\n".join(parts)) + "\n"


def latex_table(view: dict[str, Any]) -> str:
    r"""Return a ``booktabs`` table of parameters, scores and time: one row a run, or means over pairs and seeds.

    Runs that differ in these only share a row: mean :math:`\pm` standard deviation of a sample. Runs that are not done
    have no results, and are left out.
    """
    parameters, results, over, rows = _for_a_paper(view)
    results = [column for column in results if column["key"] != "peak_memory_mb"]
    lines = []
    for runs in rows:
        cells = [_latex_value(runs[0]["values"].get(c["key"])) for c in parameters] or [latex(runs[0]["label"])]
        cells += [str(len(runs))] if over else []
        cells += [_latex_mean([run["values"].get(c["key"]) for run in runs], is_time(c)) for c in results]
        lines.append(f"{' & '.join(cells)} \\\\")
    names = [latex(column["label"]) for column in parameters] or ["run"]
    left = [*names, *(["runs"] if over else [])]
    heads = f"{' & '.join([*left, *map(_latex_head, results)])} \\\\"
    header = [*_evaluator_heads(results, len(left)), heads, "\\midrule"]
    shape = "l" * len(names) + "r" * (len(left) - len(names) + len(results))
    means = f", mean $\\pm$ standard deviation over the {over}" if over else ""
    caption = f"\\caption{{{latex(view['title'])}{means}}}\\label{{tab:runs}}"
    if len(lines) > LONG_TABLE:
        top = [f"\\begin{{longtable}}{{{shape}}}", f"{caption} \\\\", "\\toprule", *header, "\\endhead"]
        return "\n".join([*top, *lines, "\\bottomrule", "\\end{longtable}"])
    top = ["\\begin{table}", "\\centering", "\\small", caption, NARROWED, f"\\begin{{tabular}}{{{shape}}}", "\\toprule"]
    return "\n".join([*top, *header, *lines, "\\bottomrule", "\\end{tabular}}", "\\end{table}"])


def _for_a_paper(
    view: dict[str, Any],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str, list[list[dict[str, Any]]]]:
    """Return the columns of parameters and of results, what rows are means over, and the runs of each row."""
    columns = view["columns"]
    parameters = [column for column in columns if column["kind"] == "parameter"]
    results = [column for column in columns if column["kind"] == "score" and column["label"] in FOR_A_PAPER]
    done = [run["values"] for run in view["runs"] if run["status"] == "done"]
    results = [c for place, c in enumerate(results) if not any(_says_it(one, c, done) for one in results[:place])]
    results = results or [column for column in columns if column["kind"] == "loss"]
    results += [column for column in columns if column["key"] in ("seconds", "peak_memory_mb")]
    kept = [column for column in parameters if column["key"] not in REPEATED]
    over = [REPEATED[column["key"]] for column in parameters if column not in kept] if kept else []
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in view["runs"]:
        if run["status"] == "done":
            key = tuple(run["values"].get(column["key"]) for column in kept) if over else (run["id"],)
            rows.setdefault(key, []).append(run)
    return (kept if over else parameters), results, " and ".join(over), list(rows.values())


def _says_it(column: dict[str, Any], other: dict[str, Any], runs: Sequence[dict[str, Any]]) -> bool:
    """Tell whether a score stands in a column already: SSIM needs no network, so that all evaluators say the same."""
    same = all(values.get(other["key"]) in (None, values.get(column["key"])) for values in runs)
    return same and column["label"] == other["label"]


def brief(value: Any, time: bool = False) -> str:
    """Return a value as text, a number with four significant digits, or fewer if it has no more; nothing for None.

    A ``time``, of a whole run in seconds, has one decimal below 100 s and none above.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    size = abs(value)
    if time:
        return f"{value:.1g}" if size < 0.05 else f"{value:.1f}" if size < 99.95 else f"{value:.0f}"
    if 9999.5 <= size < 1e6:
        return f"{value:.0f}"
    # 0.79801 is 0.7980, but 0.5 is not 0.5000
    known = len(Decimal(str(value)).normalize().as_tuple().digits) >= 4
    mantissa, _, exponent = (f"{value:#.4g}" if known else f"{value:.4g}").partition("e")
    return f"{mantissa.rstrip('.')}e{int(exponent)}" if exponent else mantissa.rstrip(".")


def is_time(column: dict[str, Any]) -> bool:
    """Tell whether a column holds times of whole runs; those of single steps are often far below a second."""
    return bool(column["key"] == "seconds")


def short_reason(reason: str) -> str:
    """Return a reason on one line where there is little room: if it is long its first sentence, or its beginning."""
    text = _line(reason)
    if len(text) <= LONGEST_REASON:
        return text
    # a full stop after two letters, which that of "e.g." is not
    sentence = re.match(r".*?[\w)\]'\"`]{2}[.!?](?=\s)", text)
    if sentence and len(sentence[0]) <= LONGEST_REASON:
        return sentence[0]
    cut = text[:LONGEST_REASON]
    return f"{cut[: cut.rfind(' ')] if ' ' in cut[LONGEST_REASON // 2 :] else cut[:-1]}…"


def latex(text: Any) -> str:
    """Return a text as LaTeX shows it literally."""
    return _line(text).translate(LATEX)


def markdown(text: Any) -> str:
    """Return a text as Markdown shows it literally, in a table as well."""
    return MARKDOWN.sub(r"\\\1", _line(text))


def _listed(heading: str, lines: Sequence[str]) -> list[str]:
    return [f"## {heading}", "\n".join(f"* {markdown(line)}" for line in lines)] if lines else []


def _markdown_table(view: dict[str, Any]) -> str:
    columns = view["columns"]
    several = len({column["evaluator"] for column in columns} - {None}) > 1
    heads = [f"{c['label']} ({c['evaluator']})" if c["evaluator"] and several else c["label"] for c in columns]
    units = [f", {column['unit']}" if column["unit"] else "" for column in columns]
    header = ["run", *(markdown(head + unit) for head, unit in zip(heads, units, strict=True))]
    lines = [header, ["---", *("---" if c["kind"] in ("parameter", "status", "remark") else "---:" for c in columns)]]
    for run in view["runs"]:
        cells = [brief(run["values"].get(column["key"]), is_time(column)) for column in columns]
        name = f"[{markdown(run['name'])}](<{run['full']}>)" if run["full"] else markdown(run["name"])
        lines.append([name, *map(markdown, cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_means(view: dict[str, Any]) -> list[str]:
    """Return a table of the means over pairs or seeds, each with its spread, under a heading; nothing without any."""
    parameters, results, over, rows = _for_a_paper(view)
    if not over:
        return []
    several = len({column["evaluator"] for column in results} - {None}) > 1
    heads = [f"{c['label']} ({c['evaluator']})" if c["evaluator"] and several else c["label"] for c in results]
    heads = [f"{h}, {c['unit']}" if c["unit"] else h for h, c in zip(heads, results, strict=True)]
    lines = [[column["label"] for column in parameters] + ["runs", *heads]]
    lines.append(["---"] * len(parameters) + ["---:"] * (1 + len(results)))
    for runs in rows:
        cells = [brief(runs[0]["values"].get(column["key"])) for column in parameters]
        means = [mean([run["values"].get(c["key"]) for run in runs], is_time(c)) for c in results]
        lines.append([*cells, str(len(runs)), *means])
    heading = f"## Means over the {over}, ± their standard deviation"
    return [heading, "\n".join(f"| {' | '.join(map(markdown, line))} |" for line in lines)]


def mean(values: Sequence[Any], time: bool = False) -> str:
    """Return a value, or the mean of several with their standard deviation (of a sample): ``0.79 ± 0.01``."""
    return _latex_mean(values, time).replace("$", "").replace("\\pm", "±").replace("\\times 10", "x 10")


def _latex_value(value: Any, time: bool = False) -> str:
    """Return a number in maths, 1e-05 as a power of ten, or a text."""
    if value is None:
        return "--"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return latex(value)
    mantissa, _, exponent = brief(value, time).partition("e")
    return f"${mantissa} \\times 10^{{{int(exponent)}}}$" if exponent else f"${mantissa}$"


def _latex_mean(values: Sequence[Any], time: bool = False) -> str:
    """Return a value, or mean and sample standard deviation of several."""
    known = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not known:
        return "--"
    if len(known) < 2:
        return _latex_value(known[0], time)
    middle, spread = statistics.fmean(known), statistics.stdev(known)
    if (time and middle >= 0.1) or 1e-3 <= abs(middle) < 1e5:
        is_time = time and middle >= 0.1
        decimals = int(middle < 99.95) if is_time else max(0, 3 - math.floor(math.log10(abs(middle))))
        return f"${middle:.{decimals}f} \\pm {spread:.{decimals}f}$"
    return f"{_latex_value(middle)[:-1]} \\pm {_latex_value(float(f'{spread:.2g}'))[1:]}"


def _latex_head(column: dict[str, Any]) -> str:
    arrow = {"lower": " $\\downarrow$", "higher": " $\\uparrow$"}.get(column["better"] or "", "")
    unit = f" ({latex(column['unit'])})" if column["unit"] else ""
    return f"{latex(column['label'])}{unit}{arrow if column['kind'] == 'score' else ''}"


def _evaluator_heads(results: Sequence[dict[str, Any]], before: int) -> list[str]:
    """Return the line above the scores that names their evaluator."""
    if not any(column["evaluator"] for column in results):
        return []
    cells, rules, place = [""] * before, [], before
    for name, columns in itertools.groupby(column["evaluator"] for column in results):
        width = len(list(columns))
        cells.append(f"\\multicolumn{{{width}}}{{c}}{{{latex(name or '')}}}")
        if name:
            rules.append(f"\\cmidrule(lr){{{place + 1}-{place + width}}}")
        place += width
    return [f"{' & '.join(cells)} \\\\", " ".join(rules)]


def _fenced(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(found) for found in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _line(text: Any) -> str:
    """Return a text on one line."""
    return " ".join(str(text).split())
