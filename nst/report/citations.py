"""What a report that uses these runs should cite, as BibTeX, and where their images come from."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

import nst
from nst import pretrained
from nst.files import sha256
from nst.pretrained import same_numbers
from nst.report.runs import Run, mapping
from nst.samples import FOLDER as SAMPLES
from nst.samples import samples

ROOT = Path(nst.__file__).parent.parent
PAPERS = {
    "gatys2015neural": """@article{gatys2015neural,
  title   = {A Neural Algorithm of Artistic Style},
  author  = {Gatys, Leon A. and Ecker, Alexander S. and Bethge, Matthias},
  journal = {arXiv preprint arXiv:1508.06576},
  year    = {2015}
}""",
    "gatys2016image": """@inproceedings{gatys2016image,
  title     = {Image Style Transfer Using Convolutional Neural Networks},
  author    = {Gatys, Leon A. and Ecker, Alexander S. and Bethge, Matthias},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {2414--2423},
  year      = {2016}
}""",
    "simonyan2015very": """@inproceedings{simonyan2015very,
  title     = {Very Deep Convolutional Networks for Large-Scale Image Recognition},
  author    = {Simonyan, Karen and Zisserman, Andrew},
  booktitle = {International Conference on Learning Representations (ICLR)},
  note      = {arXiv:1409.1556},
  year      = {2015}
}""",
    "iandola2016squeezenet": """@article{iandola2016squeezenet,
  title   = {{SqueezeNet}: {AlexNet}-level accuracy with 50x fewer parameters and <0.5{MB} model size},
  author  = {Iandola, Forrest N. and Han, Song and Moskewicz, Matthew W. and Ashraf, Khalid and Dally, William J.
             and Keutzer, Kurt},
  journal = {arXiv preprint arXiv:1602.07360},
  year    = {2016}
}""",
    "wang2004image": """@article{wang2004image,
  title   = {Image Quality Assessment: From Error Visibility to Structural Similarity},
  author  = {Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.},
  journal = {IEEE Transactions on Image Processing},
  volume  = {13},
  number  = {4},
  pages   = {600--612},
  year    = {2004}
}""",
    "zhang2018unreasonable": """@inproceedings{zhang2018unreasonable,
  title     = {The Unreasonable Effectiveness of Deep Features as a Perceptual Metric},
  author    = {Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver},
  booktitle = {Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {586--595},
  year      = {2018}
}""",
}
NETWORKS = {"squeezenet": "iandola2016squeezenet", "vgg": "simonyan2015very"}  # start of a name to its paper
MEASURES = {"ssim": "wang2004image", "lpips": "zhang2018unreasonable"}


def bibtex(runs: Sequence[Run]) -> str:
    """Return BibTeX for the software, the papers of the method, the networks and measures used, and the recipes."""
    used = ["gatys2015neural", "gatys2016image"]
    names = {
        str(run.fact(*keys))
        for run in runs
        for keys in (("config", "backbone", "architecture"), ("scores", "evaluator"))
    }
    used += [paper for start, paper in sorted(NETWORKS.items()) if any(name.startswith(start) for name in names)]
    scores = {name for run in runs for name, value in mapping(run.record.get("scores")).items() if value is not None}
    used += [paper for name, paper in MEASURES.items() if name in scores]
    recipes = sorted({run.choices.get("experiment", "none") for run in runs} - {"none"})
    folders = [path for run in runs for path in run.config_folders]
    entries = [_software(), *(PAPERS[name] for name in used), *(_recipe(name, folders) for name in recipes)]
    return "\n\n".join(entry for entry in entries if entry) + "\n"


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

    Args:
        name: as configured.
        file: its path when the run was made.
        digest: its SHA-256; it decides where it is that of a sample.
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
    path = SAMPLES / samples()[name]["file"]
    return path if digest in (None, _digest(path)) else None


@functools.cache
def _sample_digests() -> dict[str | None, str]:
    return {_digest(SAMPLES / about["file"]): name for name, about in samples().items()}


@functools.cache
def _digest(path: Path) -> str:
    return sha256(path) if path.is_file() else hashlib.sha256().hexdigest()


def _software() -> str:
    """Return the entry of this software, from ``CITATION.cff`` where the sources are at hand."""
    about: dict[str, Any] = {}
    if (path := ROOT / "CITATION.cff").is_file():
        about = mapping(yaml.safe_load(path.read_text(encoding="utf-8")))
    authors = [
        _author(mapping(author)) for author in about.get("authors") or [{"name": "The NST experiments developers"}]
    ]
    fields = {
        "title": about.get("title", "NST experiments: config-driven neural style transfer"),
        "author": " and ".join(authors),
        "version": about.get("version", nst.__version__),
        "year": str(about.get("date-released", ""))[:4],
        "url": about.get("url") or about.get("repository-code"),
        "license": about.get("license"),
    }
    lines = [f"  {name:<7} = {{{value}}}" for name, value in fields.items() if value]
    return "@software{nst_experiments,\n" + ",\n".join(lines) + "\n}"


def _author(author: dict[str, Any]) -> str:
    if "family-names" in author:
        return f"{author['family-names']}, {author.get('given-names', '')}".rstrip(", ")
    return f"{{{author.get('name', '')}}}"


def _recipe(name: str, folders: Iterable[str]) -> str:
    """Return an entry for a preset, by the source that its file names; empty if the file is not at hand."""
    for folder in [*map(Path, folders), ROOT / "conf"]:
        path = folder / "experiment" / f"{name}.yaml"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        comment = "\n".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
        found = re.search(r"^Source:\s*(.+?)(?=\n\S+:|\n\n|\Z)", comment, re.DOTALL | re.MULTILINE)
        if found:
            key = re.sub(r"\W", "_", name)
            source = re.sub(r"([#%&_$])", r"\\\1", " ".join(found.group(1).split()))
            return f"@misc{{recipe_{key},\n  title = {{Recipe {name}}},\n  note  = {{{source}}}\n}}"
    return ""
