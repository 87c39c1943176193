"""Mistakes on the command line: one message each, that says what to do, an exit code that is not 0, and no folder left.

Where a message names a way out, the way out is tried as well.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, TINY, environment, refused, run, script
from PIL import Image

OWN = {
    "Exits": "import sys; sys.exit('bye')",
    "Raises": "raise KeyError('what a mess')",
    "Floats": "return 3.0",
    "Nothing": "return None",
    "Detached": "return features.detach().square().mean((1, 2, 3))",
    "Integers": "return features.long().sum((1, 2, 3))",
    "Shapeless": "return features.square().mean()",
    "TurnsBad": "self.count = getattr(self, 'count', 0) + 1\n"
    "        return features.square().mean((1, 2, 3)) * (float('nan') if self.count > 40 else 1)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, broken files and options of one's own."""
    made = tmp_path_factory.mktemp("mistakes")
    Image.new("RGB", (40, 30), "teal").save(made / "photo.png")
    Image.new("RGB", (97, 1)).save(made / "strip.png")
    (made / "empty.jpg").touch()
    (made / "notes.txt").write_text("no picture")
    (made / "eps.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (made / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    options = made / "own" / "style_loss"
    options.mkdir(parents=True)
    (options / "tab.yaml").write_text("a:\tb\n")
    (options / "bytes.yaml").write_bytes(b"x: \xff\xfe\n")
    (options / "gone.yaml").write_text("_target_: nosuch.module.Loss\n")
    classes = "\n".join(
        f"class {name}:\n    def target(self, features): return None\n    def __call__(self, features, target):\n"
        f"        {body}\n"
        for name, body in OWN.items()
    )
    (made / "own" / "mine.py").write_text(classes)
    for name in OWN:
        (options / f"{name}.yaml").write_text(f"_target_: mine.{name}\n")
    return made


# What is typed, what the message says of it, and whether torch is needed to know.
MISTAKES = [
    (["--size=64"], r"Knobs have no dashes: size=64", False),
    (["-size=64"], r"Knobs have no dashes: size=64", False),
    (["--hlep"], r"no flag --hlep\. Did you mean '--help'", False),
    (["--resolve"], r"--cfg job --resolve", False),
    (["siez=64"], r"no knob 'siez'\. Did you mean 'size'", False),
    (["beta=strong"], r"beta needs a number, not 'strong'", False),
    (["steps"], r"steps", False),
    (["content=[coffee,rocket]"], r"takes one value, no list.*-m content=FIRST,SECOND", False),
    (["style_loss=[gram,histogram]"], r"added with a \+, not listed: style_loss=gram\+histogram", False),
    (["-m", "style_loss=mrf,[gram, mrf]"], r"not listed: style_loss=mrf,gram\+mrf", False),
    (["style_loss=gram+histogrm"], r"no style_loss=histogrm\. Did you mean 'histogram'", False),
    (["style_loss=gram+gram"], r"names gram twice", False),
    (
        ["style_loss=gram+moments", "style_loss.weights.mrf=1"],
        r"no knob 'style_loss\.weights\.mrf'.*gram, moments",
        False,
    ),
    (["style_loss=gram+moments", "style_loss.weights.gram=much"], r"weights\.gram=much must be a number", True),
    (["+optimizer=adam"], r"replaced without a \+: optimizer=adam", False),
    (["+experiment=notebook"], r"replaced without a \+: experiment=notebook", False),
    (["optimizer=adm"], r"no optimizer=adm\. Did you mean 'adam'", False),
    (["experiment=gatys"], r"no experiment=gatys\. Did you mean 'gatys2016", False),
    (["beta=0.1,0.2"], r"A sweep over them has -m in front", False),
    (["zip=beta,alpha"], r"Error: zip is for sweeps.*put -m in front\. See", False),
    (["beta=interval(0,1)"], r"put -m in front", False),
    (["-m", "beta=interval(0,1)"], r"needs a sampler: hydra/sweeper=optuna", False),
    (["-m", "seed=range(0,0)"], r"seed=range\(0,0\) gives no values", False),
    (["-m", "content=glob(/no/such/*)"], r"nothing matches /no/such/\*", False),
    (["-m", "checkpoint_steps=1,2"], r"changes no picture", False),
    (["--config-dir", "own", "style_loss=tab"], r"tab\.yaml is no YAML.*line 1, column 3", False),
    (["--config-dir", "own", "style_loss=bytes"], r"bytes\.yaml is not in UTF-8: .* line 1", False),
    (["--config-dir", "own", "style_loss=Exts"], r"no style_loss=Exts\. Did you mean 'Exits'", False),
    (["beta=${oc.env:NO_SUCH}"], r"NO_SUCH", True),
    (["resume="], r"needs the folder", False),
    (["resume=nowhere"], r"no such folder", False),
    (["resume=notes.txt"], r"is a file", False),
    (["optimizer.lr=fast"], r"optimizer\.lr=fast: a number is needed", True),
    (["optimizer=adam", "optimizer.history_size=5"], r"no knob 'optimizer\.history_size'.*Known.*lr, betas\.", True),
    (["size=0"], r"size=0 is out of range", True),
    (["size=99999"], r"size=99999 is out of range", True),
    (["beta=-1"], r"beta=-1\.0 is out of range", True),
    (["beta=nan"], r"beta=nan is out of range", True),
    (["steps=0"], r"steps=0 must be a whole number from 1", True),
    (["device=gpu"], r"device=gpu", True),
    (["layers.style=[relu9_1]"], r"no layer in vgg16 'relu9_1'", True),
    (["layers.content=[relu5_2]"], r"beyond the bundled weights.*Ways out", True),
    (["content=nö.jpg"], r"no image file 'nö\.jpg'", True),
    (["content=https://example.com/a.jpg"], r"is an address.*Download it first", True),
    (["content=own"], r"is a folder", True),
    (["style=cofee"], r"Did you mean 'coffee'", True),
    (["init=file", "init.path=out/0_seed=0.png"], r"no image file 'out/0_seed=0\.png'", True),
    (["task=paint"], r"no task=paint|no task 'paint'", False),
    (["--config-dir", "own", "style_loss=gone"], r"nosuch\.module\.Loss cannot be imported", True),
    (["size=16", "margin=0"], r"too small for the layers.*Raise size", True),
    (["content=strip.png", "size=97"], r"becomes 97 x 1 pixels, too small", True),
    (["-m", "seed=0,1", "init=recolored", "experiment=showpiece"], r"seed changes nothing here", True),
    (["-m", "size=48,64", "schedule.sizes=[32,40]"], r"size changes nothing here: schedule\.sizes", True),
    (["steps=[1,2,3,4,5]"], r"has 5 entries, one for each scale, but there are 3", True),
    (["jpeg_quality=80"], r"jpeg_quality changes nothing here", True),
    (["training.batch=3"], r"training\.batch changes nothing here", True),
    (["tv_kind=absolute"], r"tv_kind changes nothing here: tv is 0", True),
    (["alpha=0", "beta=0"], r"nothing would change", True),
    (["clamp_range=[1,0]"], r"low below high", True),
    (["background=nocolour"], r"is no colour", True),
    (["-m", "beta=0.1,oops"], r"beta needs a number", False),
    (
        ["-m", "beta=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=many"],
        r"n_jobs=many must|extra package",
        True,
    ),
]


def shown(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else ""


@pytest.mark.parametrize(("typed", "message", "needs_torch"), MISTAKES, ids=shown)
def test_a_mistake_is_one_message_before_anything_is_made(
    folder: Path, typed: list[str], message: str, needs_torch: bool
) -> None:
    before = {path.name for path in folder.iterdir()} | {"without"}
    (folder / "without" / "torch").mkdir(parents=True, exist_ok=True)
    (folder / "without" / "torch" / "__init__.py").write_text("raise RuntimeError('torch was imported')")
    if needs_torch:
        done = script(ROOT / "run.py", *typed, cwd=folder)
    else:  # which takes seconds to import; here it cannot be
        words = [sys.executable, str(ROOT / "run.py"), *typed]
        paths = environment() | {"PYTHONPATH": str(folder / "without")}
        done = subprocess.run(words, cwd=folder, env=paths, capture_output=True, text=True, check=False)
    text = refused(done)
    assert re.search(message, text, re.DOTALL), text
    assert "this program is: please report it" not in text
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["empty.jpg", "notes.txt", "eps.jpg", "photo.heic"])
def test_a_file_that_is_no_picture_is_one_message(folder: Path, tmp_path: Path, name: str) -> None:
    text = refused(run(*TINY, f"content={folder / name}", f"hydra.run.dir={tmp_path / 'out'}", cwd=folder))
    assert name in text
    assert json.loads((tmp_path / "out" / "status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Exits", "called sys.exit('bye')"),
        ("Raises", "Raises.__call__ failed for conv1: KeyError: 'what a mess'"),
        ("Floats", "Floats.__call__ for conv1 gave float 3.0"),
        ("Nothing", "Nothing.__call__ for conv1 gave NoneType"),
        ("Detached", "Detached.__call__ for conv1 has no gradient"),
        ("Integers", "Integers.__call__ for conv1 gave whole numbers"),
        ("Shapeless", "one value per image is needed"),
        ("TurnsBad", "The loss became NaN or infinite at step"),
    ],
)
def test_a_loss_of_ones_own_that_is_wrong_is_told_by_name_method_and_layer(
    folder: Path, tmp_path: Path, name: str, message: str
) -> None:
    out = tmp_path / "out"
    typed = ("--config-dir", "own", f"style_loss={name}", "size=32", "steps=20", "evaluator=none")
    done = run(*typed, f"hydra.run.dir={out}", cwd=folder)
    assert (done.returncode, done.stderr.count("\nError: ") + done.stderr.startswith("Error: ")) == (1, 1), done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((out / "status.json").read_text())["status"] == "failed"


def test_sys_exit_in_a_loss_ends_its_job_and_not_the_sweep(folder: Path, tmp_path: Path) -> None:
    typed = ("-m", "--config-dir", "own", "style_loss=Exits,gram", "size=32", "steps=1", "evaluator=none")
    done = run(*typed, f"hydra.sweep.dir={tmp_path / 'out'}", cwd=folder)
    assert done.returncode == 1
    assert "1 failed, 1 done" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


WAYS_OUT = [
    ["size=64"],
    ["-m", "content=coffee,rocket"],
    ["optimizer=adam"],
    ["layers.content=[relu5_1]"],
    ["init=file", "init.path=photo.png"],
    ["style=coffee"],
    ["steps=[2,1,1]", "size=256"],
    ["output_format=jpeg", "jpeg_quality=80"],
    ["tv=1", "tv_kind=absolute"],
    ["-m", "seed=0,1", "init=noise"],
    ["schedule.sizes=[32,40]"],
]


@pytest.mark.parametrize("typed", WAYS_OUT, ids=" ".join)
def test_what_a_message_offers_works(folder: Path, tmp_path: Path, typed: list[str]) -> None:
    small = [*([] if any("size" in word for word in typed) else ["size=48"])]
    small += [] if any("steps" in word for word in typed) else ["steps=1"]
    where = [f"hydra.run.dir={tmp_path / 'out'}", f"hydra.sweep.dir={tmp_path / 'out'}", "evaluator=none"]
    done = script(ROOT / "run.py", *typed, *small, *where, cwd=folder)
    assert done.returncode == 0, done.stderr


NAMES = [
    *("été.jpg", "Bob's.jpg", "photo (1).jpg", "a&b.jpg", "a=b.jpg", "#1.jpg", "a,b.jpg", "[x].jpg", 'say "hi".jpg'),
    *(
        "a${b}.jpg",
        "{k}.png",
        "100%.png",
        " lead.jpg",
        "x;y.jpg",
        "glob(*).jpg",
        "日本.jpg",
        "1e3",
        "0_seed=0,b=1",
    ),
]


def test_a_picture_of_any_name_is_found_as_typed(tmp_path: Path) -> None:
    for name in NAMES:
        Image.new("RGB", (40, 30), "teal").save(tmp_path / name, "PNG")
        typed = [
            f"content={name}",
            f"style={name}",
            "init=file",
            f"init.path={name}",
            "hydra.run.dir=out/x",
            "--cfg",
            "job",
        ]
        done = script(ROOT / "run.py", *typed, cwd=tmp_path)
        assert done.returncode == 0, (name, done.stderr)
    for number, name in enumerate(("0_seed=0,b=1", "Bob's.jpg", "a${b}.jpg")):
        done = run(f"content={name}", f"style=[{name},coffee]", *TINY, f"hydra.run.dir=o{number}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        record = json.loads((tmp_path / f"o{number}" / "run.json").read_text())
        assert record["content"]["file"] == str(tmp_path / name)
        again = run(f"resume=o{number}", cwd=tmp_path)
        assert "is finished already" in again.stderr
    swept = run("-m", "content=été.jpg,a,b.jpg,photo (1).jpg", *TINY, "hydra.sweep.dir=sw", cwd=tmp_path)
    assert "3 done" in swept.stdout, swept.stderr


def test_paths_mean_the_folder_that_the_command_was_typed_in(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "mine.png")
    done = run("content=mine.png", *TINY, "hydra.run.dir=out", "hydra.job.chdir=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_picture_that_is_replaced_while_a_sweep_runs_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "mine.png")
    (tmp_path / "own" / "style_loss").mkdir(parents=True)
    (tmp_path / "own" / "style_loss" / "paints.yaml").write_text("_target_: paints.Over\n")
    (tmp_path / "own" / "paints.py").write_text(
        "from PIL import Image\n"
        "class Over:\n"
        "    def target(self, features): return features.mean((2, 3))\n"
        "    def __call__(self, features, target):\n"
        f"        Image.new('RGB', (40, 30), 'red').save({str(tmp_path / 'mine.png')!r})\n"
        "        return (features.mean((2, 3)) - target).square().mean(1)\n"
    )
    typed = ("--config-dir", "own", "style_loss=paints", "content=mine.png", "evaluator=none")
    done = run("-m", "seed=0,1", *typed, *TINY, "hydra.sweep.dir=out", cwd=tmp_path)
    assert "mine.png was replaced on the way" in done.stdout, done.stdout + done.stderr
    assert "was replaced on the way" in (tmp_path / "out" / "report.html").read_text()


def test_a_descent_that_leaves_the_picture_as_it_was_says_so(tmp_path: Path) -> None:
    typed = ("optimizer=lbfgs", "init=noise", "alpha=1e-3", "beta=0", "steps=20", "size=64", "evaluator=none")
    done = run(*typed, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0
    assert "The loss has hardly changed" in done.stderr
    done = run(*TINY, "steps=20", "hydra.run.dir=other", cwd=tmp_path)
    assert "hardly changed" not in done.stderr
