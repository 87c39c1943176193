"""What a report that uses these runs should cite, as BibTeX, and where their images come from."""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

import nst
from nst import pretrained
from nst.files import sha256
from nst.pretrained import same_numbers
from nst.report.runs import Run
from nst.report.tables import latex
from nst.samples import FOLDER as SAMPLES
from nst.samples import samples

ROOT = Path(nst.__file__).parent.parent
NETWORKS = {"squeezenet": "iandola2016squeezenet", "vgg": "simonyan2015very"}  # start of a name to its paper
PARTS = {  # last part of a component's _target_ to its paper
    **dict.fromkeys(("MomentsLoss", "LinearMMDLoss", "PolynomialMMDLoss", "GaussianMMDLoss"), "li2017demystifying"),
    **{"SlicedWassersteinLoss": "heitz2021sliced", "HistogramLoss": "risser2017stable", "MRFLoss": "li2016combining"},
    **dict.fromkeys(("RelaxedEMDLoss", "SelfSimilarityLoss", "from_detail"), "kolkin2019style"),
    **{"NearestNeighborLoss": "kolkin2022neural", "Fourier": "olah2017feature"},
}
SCORES = {"ssim": "wang2004image", "lpips": "zhang2018unreasonable"}


def bibtex(runs: Sequence[Run]) -> str:
    """Return BibTeX for the software, the papers of the method, the networks and measures used, and the recipes."""
    used = ["gatys2015neural", "gatys2016image"]
    asked = (("config", "backbone", "architecture"), ("scores", "evaluator"))
    names = {str(run.fact(*keys)) for run in runs for keys in asked}
    used += [paper for start, paper in sorted(NETWORKS.items()) if any(name.startswith(start) for name in names)]
    parts = {t.rpartition(".")[2] for run in runs for t in _targets(run.fact("config"))}
    used += list(dict.fromkeys(PARTS[part] for part in sorted(parts) if part in PARTS))
    used += ["kolkin2022neural"] * any(run.fact("config", "color") == "recolored" for run in runs)
    scores = {name for run in runs for name, value in (run.fact("scores") or {}).items() if value is not None}
    used += [paper for name, paper in SCORES.items() if name in scores]
    recipes = sorted({run.choices.get("experiment", "none") for run in runs} - {"none"})
    folders = [*(path for run in runs for path in run.config_folders), str(ROOT / "conf")]
    papers = [_papers()[name] for name in dict.fromkeys(used)]
    entries = [_software(), *papers, *(_recipe(name, folders) for name in recipes)]
    return "\n\n".join(entry for entry in entries if entry) + "\n"


def _targets(node: Any) -> list[str]:
    """Return the ``_target_`` of every component in a recorded configuration."""
    if isinstance(node, list):
        return [target for one in node for target in _targets(one)]
    if not isinstance(node, dict):
        return []
    own = [str(node["_target_"])] if "_target_" in node else []
    return own + [target for one in node.values() for target in _targets(one)]


def networks(runs: Sequence[Run]) -> list[str]:
    """Return, for each network whose bundled weights were used, who made it, its licence, and what was changed."""
    used = {same_numbers(str(run.fact("weights", "sha256"))) for run in runs}
    used |= {same_numbers(str(run.fact("evaluator", "weights"))) for run in runs}
    facts = [pretrained.about(name) for name, digest in pretrained.SHA256.items() if same_numbers(digest) in used]
    return [
        f"{of['network']}. {of['authors']}. {of['paper']}. {of['source']}. Licence: {of['licence']}. Changes: "
        f"{of['changes'].rstrip('.')}."
        for of in facts
    ]


def sample_of(name: str, file: str | None, digest: str | None) -> str | None:
    """Return the name of the bundled sample that an input image is, or None for a user's own file.

    It is known by its name as configured, its path when the run was made, and its SHA-256, which decides.
    """
    if digest in (known := _sample_digests()):
        return known[digest]
    # A sample of another version of this package has other bytes; a user's file of the same name another folder.
    about = samples().get(name)
    if about and (file is None or re.split(r"[/\\]", file)[-2:] == [SAMPLES.name, about["file"]]):
        return name
    return None


def sample_file(name: str, digest: str | None) -> Path | None:
    """Return a sample's file if its bytes are those that were used."""
    return SAMPLES / samples()[name]["file"] if digest is None or _sample_digests().get(digest) == name else None


@functools.cache
def _sample_digests() -> dict[str | None, str]:
    files = {name: SAMPLES / about["file"] for name, about in samples().items()}
    return {sha256(path): name for name, path in files.items() if path.is_file()}


@functools.cache
def _papers() -> dict[str, str]:
    """Return the entries of ``papers.bib`` by their keys."""
    entries = Path(__file__).with_name("papers.bib").read_text(encoding="utf-8").strip().split("\n\n")
    return {entry[entry.index("{") + 1 : entry.index(",")]: entry for entry in entries}


def _software() -> str:
    """Return the entry of this software, from ``CITATION.cff`` where the sources are at hand."""
    path = ROOT / "CITATION.cff"
    about: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    authors = map(_author, about.get("authors") or [{"name": "The NST experiments developers"}])
    fields = {
        "title": about.get("title", "NST experiments: config-driven neural style transfer"),
        "author": " and ".join(authors),
        "version": about.get("version", nst.__version__),
        "year": str(about.get("date-released", ""))[:4],
        "url": about.get("url") or about.get("repository-code"),
        "license": about.get("license"),
    }
    lines = [f"  {name:<7} = {{{value}}}" for name, value in fields.items() if value]
    return "@misc{nst_experiments,\n" + ",\n".join(lines) + "\n}"


def _author(author: dict[str, Any]) -> str:
    if "family-names" in author:
        return f"{author['family-names']}, {author.get('given-names', '')}".rstrip(", ")
    return f"{{{author.get('name', '')}}}"


def _recipe(name: str, folders: Iterable[str]) -> str:
    """Return an entry for a preset, by the source that its file names; empty if the file is not at hand."""
    for folder in folders:
        try:
            text = (Path(folder) / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        comment = "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        found = re.search(r"^Source:\s*(.+?)(?=\n\S+:|\n\n|\Z)", comment, re.DOTALL | re.MULTILINE)
        if found:
            key = re.sub(r"\W", "_", name)
            return (
                f"@misc{{recipe_{key},\n  key   = {{{name}}},\n  title = {{Recipe {latex(name)}}},\n"
                f"  note  = {{{latex(found.group(1))}}}\n}}"
            )
    return ""
