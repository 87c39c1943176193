"""Score pictures with a fixed evaluator; what the scores mean stands in docs/evaluator.md.

    python scripts/evaluate.py RESULT CONTENT STYLE
    python scripts/evaluate.py FOLDER ... --evaluator vgg16 evaluator.weights=FILE evaluator.preprocessing=caffe
    python scripts/evaluate.py FOLDER ... --evaluator vgg16 --add
    python scripts/evaluate.py FOLDER ... --art-fid

The first scores one picture; images are files or names of samples. The second scores the finished runs in and below
the given folders anew and changes nothing in them; with --write it puts the scores into each run.json, in the place of
the old ones. The third adds them there, for the report to show beside the run's own. The fourth prints ArtFID of all
those runs together. Writes CSV to standard output.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from omegaconf import OmegaConf

from nst import configuration
from nst.errors import UserError, ending_a_script, unknown
from nst.evaluation import evaluator, learned
from nst.files import write_json
from nst.runs import folders as run_folders

CONF = Path(__file__).resolve().parent.parent / "conf" / "evaluator"


def make_evaluator(name: str, overrides: list[str]) -> evaluator.Evaluator:
    """Make the evaluator of ``conf/evaluator/NAME.yaml`` or of a YAML file of one's own.

    Raises:
        UserError: there is none of that name, it has no such setting, or it cannot be made.
    """
    own = Path(name).suffix in (".yaml", ".yml")
    path = Path(name) if own else CONF / f"{name}.yaml"
    options = sorted(option.stem for option in CONF.glob("*.yaml") if option.stem != "none")
    if not path.is_file() or name == "none":
        raise UserError(unknown("evaluator", name, options))
    node = OmegaConf.load(path)
    typed = OmegaConf.from_dotlist([override.removeprefix("evaluator.") for override in overrides])
    if strange := [key for key in typed if key not in node]:
        raise UserError(unknown(f"setting of evaluator={name}", strange[0], [key for key in node if key != "_target_"]))
    made: evaluator.Evaluator = configuration.build(OmegaConf.merge(node, typed))
    return made


def score_run(judge: evaluator.Evaluator, folder: Path, write: bool, add: bool) -> evaluator.Scores:
    """Score a finished run; put the scores into its ``run.json`` if asked to, in place of its own or beside them."""
    run = evaluator.run_pictures(folder)
    scores = judge.scores_of_blend(**vars(run))
    record = run_folders.read(folder).record
    if write:
        write_json(folder / "run.json", record | {"scores": scores})
    elif add:
        further = record.get("further_scores", {}) | {judge.name: scores}
        write_json(folder / "run.json", record | {"further_scores": further})
    return scores


def main() -> int:
    """Score what is named; returns 1 if one of several runs could not be scored."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage="%(prog)s WHAT ... [options]"
    )
    parser.add_argument("what", nargs="+", help="three images, or folders of runs or sweeps; evaluator.KEY=VALUE")
    parser.add_argument("--evaluator", default="squeezenet", help="squeezenet, vgg16, vgg19 or a YAML file")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--write", action="store_true", help="put the scores into each run.json, in place of its own")
    how.add_argument("--add", action="store_true", help="put the scores into each run.json, beside its own")
    parser.add_argument("--art-fid", action="store_true", help="print ArtFID of all runs together")
    arguments = parser.parse_intermixed_args()
    overrides = [word for word in arguments.what if word.startswith("evaluator.") and "=" in word]
    what = [word for word in arguments.what if word not in overrides]
    if all(Path(word).is_dir() for word in what) and what:
        folders = [folder for word in what for folder in evaluator.run_folders(Path(word))]
        if arguments.art_fid:
            runs = [evaluator.run_pictures(folder) for folder in folders]
            pictures = ([getattr(run, kind) for run in runs] for kind in ("result", "content", "style"))
            print(f"pictures,art_fid\n{len(runs)},{learned.art_fid(*pictures):.6g}")
            return 0
    elif len(what) == 3 and not (arguments.write or arguments.add or arguments.art_fid):
        folders = []
    else:
        raise UserError("Give either RESULT CONTENT STYLE (three images), or folders of runs that exist.")

    judge, failed = make_evaluator(arguments.evaluator, overrides), 0
    rows = csv.writer(sys.stdout, lineterminator="\n")
    header: list[str] = []
    for name in folders or [Path(what[0])]:
        try:
            if folders:
                scores = score_run(judge, name, arguments.write, arguments.add)
            else:
                scores = judge.scores(what[0], what[1], what[2])
        except UserError as error:
            print(f"Error: {error}", file=sys.stderr)
            failed += 1
            continue
        if not header:
            header = ["picture", *scores]
            rows.writerow(header)
        rows.writerow([name, *("" if value is None else value for value in scores.values())])
        sys.stdout.flush()
    return min(failed, 1)


if __name__ == "__main__":
    with ending_a_script():
        sys.exit(main())
