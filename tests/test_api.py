"""``nst.run``, ``nst.sweep`` and ``nst.load`` beside the command line, and the process around them."""

import importlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import ROOT, SKETCH, environment, own_loss, refused, run, script, wait_for_steps
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from PIL import Image

import nst
from nst import api, cli
from nst.runtime.guest import as_a_guest
from nst.tracking import progress

TINY = {"experiment": "sketch", "size": 48, "steps": 3, "log_every": 1}
WORDS = [SKETCH, "size=48", "steps=3", "log_every=1"]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the command line."""
    folder = tmp_path_factory.mktemp("typed") / "run"
    result = run(*WORDS, "beta=0.1", f"hydra.run.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> nst.Run:
    """The same run, from Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", environment()["OMP_NUM_THREADS"])  # it is recorded
        return nst.run([*WORDS, "beta=0.1", f"hydra.run.dir={tmp_path_factory.mktemp('called')}/run"])


def files(folder: Path) -> set[str]:
    """Return what lies in a folder; TensorBoard's file has another name each time."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {"events" if name.startswith("events.out") else name for name in names}


def process() -> dict[str, Any]:
    """Return whatever of this process a run could change."""
    root = logging.getLogger()
    return {
        "argv": sys.argv[:],
        "path": sys.path[:],
        "folder": Path.cwd(),
        "variables": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "hook": threading.excepthook,
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "logging": (root.handlers[:], root.level, logging.raiseExceptions),
        "hydra": (GlobalHydra.instance().hydra, HydraConfig.instance().cfg),
        "store": {name: list(node) if isinstance(node, dict) else node for name, node in store().items()},
        "resolvers": [OmegaConf.has_resolver(name) for name in ("hydra", "now")],
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        "torch": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            torch.backends.cudnn.benchmark,
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        ),
    }


def store() -> dict[str, Any]:
    return {**ConfigStore.instance().repo, **ConfigStore.instance().repo.get("hydra", {})}


@pytest.fixture
def unchanged() -> Iterator[None]:
    """The process is after the test what it was before, with settings that no run would choose."""
    Plugins.instance()  # they store their options when they are first imported, for whoever uses Hydra here
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.backends.cudnn.benchmark = True
    before = process()
    yield
    after = process()
    torch.backends.cudnn.benchmark = False
    assert {name: value for name, value in after.items() if value != before[name]} == {}


def test_the_package_is_imported_without_torch_and_without_hydra() -> None:
    code = (
        "import nst, sys; print(nst.__version__, {'torch', 'hydra'} & {*sys.modules}, nst.load, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, cwd=ROOT)
    assert "set()" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = nst.runn


def test_a_run_leaves_what_the_command_line_leaves(typed: Path, called: nst.Run) -> None:
    assert files(called.folder) == files(typed)
    assert (called.folder / "result.png").read_bytes() == (typed / "result.png").read_bytes()
    then, now = (json.loads((folder / "run.json").read_text()) for folder in (typed, called.folder))
    assert then.keys() == now.keys()
    changing = ("command", "arguments", "cwd", "seconds", "peak_memory_bytes", "memory_estimate_bytes", "outputs")
    assert {key for key in then if then[key] != now[key]} <= {*changing}
    assert now["arguments"] == [*WORDS, "beta=0.1", f"hydra.run.dir={called.folder}"]
    assert now["command"].startswith("python run.py experiment=sketch size=48")
    for name in ("config", "overrides"):
        kept = [yaml.safe_load((folder / ".hydra" / f"{name}.yaml").read_text()) for folder in (typed, called.folder)]
        assert kept[0] == kept[1]
    assert "step 3/3" in (called.folder / "run.log").read_text()


def test_a_run_gives_picture_numbers_and_settings(called: nst.Run) -> None:
    with Image.open(called.folder / "result.png") as picture:
        pixels = np.asarray(picture)
    assert called.image is not None and called.tensor is not None
    np.testing.assert_array_equal(np.asarray(called.image), pixels)
    assert called.tensor.shape == (3, 32, 48)
    np.testing.assert_allclose(called.tensor.permute(1, 2, 0).numpy(), pixels.astype(float) / 255, atol=1e-7)
    rows = [line.split(",") for line in (called.folder / "metrics.csv").read_text().splitlines()]
    assert list(called.metrics) == rows[0]
    assert called.metrics["step"] == [0, 1, 2, 3]
    assert called.metrics["loss/total"] == [float(row[rows[0].index("loss/total")]) for row in rows[1:]]
    assert called.losses["loss/total"] == pytest.approx(called.metrics["loss/total"][-1])
    assert called.config["beta"] == 0.1 and called.config["optimizer"]["lr"] > 0
    assert 0 < called.scores["content_distance"] < 2
    assert called.status == "done" and called.files == [called.folder / "result.png"]
    html = called._repr_html_()
    assert 'src="data:image/png;base64,iVBOR' in html and str(called.folder) in html
    assert nst.load(called.folder).scores == called.scores


def test_it_runs_again_from_a_dictionary_and_leaves_the_process_as_it_was(
    typed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchanged: None
) -> None:
    monkeypatch.chdir(tmp_path)
    log = logging.FileHandler(tmp_path / "mine.log", mode="w")
    logging.getLogger().addHandler(log)
    with torch.no_grad():
        again = nst.run({**TINY, "beta": np.float64(0.1), "hydra": {"run": {"dir": Path("a folder, mine")}}})
    assert again.folder == tmp_path / "a folder, mine"
    assert (again.folder / "result.png").read_bytes() == (typed / "result.png").read_bytes()
    assert json.loads((again.folder / "run.json").read_text())["command"].startswith(f"python {ROOT / 'run.py'} ")
    logging.getLogger().error("still written")
    logging.getLogger().removeHandler(log)
    log.close()
    assert (tmp_path / "mine.log").read_text() == "still written\n"
    monkeypatch.undo()


def test_whoever_uses_hydra_or_another_thread_can_run(tmp_path: Path, typed: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine: 1\n")
    ConfigStore.instance().store(group="optimizer", name="adam", node={"lr": 77})  # would be taken for ours
    done: list[nst.Run] = []
    words = {**TINY, "beta": 0.1}
    try:
        with initialize_config_dir(str(tmp_path), version_base="1.2"):
            hydra = GlobalHydra.instance().hydra
            thread = threading.Thread(
                target=lambda: done.append(nst.run({**words, "hydra.run.dir": tmp_path / "thread"}))
            )
            thread.start()
            while not (tmp_path / "thread").exists():
                assert thread.is_alive()
            with pytest.raises(nst.UserError, match="busy with another run"):
                nst.run(words)
            thread.join()
            assert GlobalHydra.instance().hydra is hydra
            assert compose("mine") == {"mine": 1}
    finally:
        del ConfigStore.instance().repo["optimizer"]
    assert done[0].config["optimizer"]["lr"] < 1
    assert (done[0].folder / "result.png").read_bytes() == (typed / "result.png").read_bytes()


@pytest.mark.parametrize("word", ["betta=1", "content=nope.jpg", "photo"])  # Hydra's, ours, the grammar's
def test_a_mistake_is_told_as_the_command_line_tells_it(
    word: str, capsys: Any, tmp_path: Path, unchanged: None
) -> None:
    with pytest.raises(nst.UserError) as mistake:
        nst.run([SKETCH, word])
    assert refused(run(SKETCH, word, cwd=ROOT)).strip() == f"Error: {mistake.value}"
    assert mistake.value.__cause__ is None and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("beta=0.1", "list of texts"),
        ([{"beta": 1}], "list of texts"),
        ({"content": Image.new("RGB", (9, 9))}, "a picture by its path"),
        (["--help"], "for the command line"),
        (["-m", "beta=1"], r"nst\.sweep"),
        ({"study": "methods"}, r"nst\.sweep"),
        ({"beta": [0.1, 0.2]}, r"needs a number, not '\[0\.1, 0\.2\]'.*one a run: nst\.sweep"),
        ({"pooling": ["max", "avg"]}, r"no list.*one a run: nst\.sweep"),
        (["beta=1,2"], "names several values"),
        (["--config-dir"], "no command"),
    ],
)
def test_what_is_no_run_is_refused(words: Any, said: str, unchanged: None) -> None:
    with pytest.raises(nst.UserError, match=said):
        nst.run(words)


def test_every_value_of_a_dictionary_is_read_back_by_hydra() -> None:
    texts = [
        "plain",
        "my photo.jpg",
        "a,b.jpg",
        "it's",
        'say "x"',
        "[1]",
        "{a: b}",
        "${pair[0]}",
        r"C:\new\x",
        "1",
        "null",
    ]
    texts += [
        "a\\",
        "\\${x}",
        "nan",
        "true",
        "",
        " x ",
        "a=b",
        "~/x",
        "glob(*)",
        "10%",
        "ä/ö",
        "\\",
        "$x",
        "conv1:5",
        "#ff0000",
    ]
    values = [*texts, 0.1, 1e-7, -3, True, None, [1, "a b", None], {"conv1": 5, "a b": [1.5]}, Path("a b/c.png")]
    for value in [*values, [texts], np.float32(0.5), np.int64(3), torch.tensor(2.0)]:
        (word,) = api._words({"knob": [value]}, axes=True)
        read = OverridesParser.create().parse_override(f"key=[{word.removeprefix('knob=')}]").value()
        node = OmegaConf.create({"pair": ["oops"], "key": read})  # an escaped ${ stays what it was
        wanted = str(value) if isinstance(value, Path) else value.item() if hasattr(value, "item") else value
        assert OmegaConf.to_container(node, resolve=True)["key"] == [wanted], word  # type: ignore[index,call-overload]


def test_dictionaries_mean_words() -> None:
    assert api._words({"a": {"b": {"c": 1}}, "d": (1, 2), "~e": None, "f": None, "g": {}}, axes=False) == [
        *("a.b.c=1", "d=[1,2]", "~e", "f=null", "g={}")
    ]
    assert api._words(
        {"beta": [0.1, 1], "seed": range(2), "tv": np.array([0, 0.5]), "layers.style": ("a", "b")}, True
    ) == [*("beta=0.1,1", "seed=0,1", "tv=0.0,0.5", "layers.style=[a,b]")]
    with pytest.raises(nst.UserError, match="beta has no values"):
        api._words({"beta": []}, axes=True)


def test_a_sweep_is_the_list_of_its_runs_failed_ones_among_them(tmp_path: Path, typed: Path, unchanged: None) -> None:
    code = "class Own:\n    def target(self, f): return f\n    def __call__(self, f, t): raise ValueError('boom')\n"
    own_loss(tmp_path, code)
    runs = nst.sweep(
        {
            **TINY,
            "--config-dir": tmp_path,
            "beta": 0.1,
            "style_loss": ["gram", "own"],
            "hydra.sweep.dir": tmp_path / "s",
        }
    )
    assert [one.folder.name for one in runs] == ["0_style_loss=gram", "1_style_loss=own"]
    assert [one.status for one in runs] == ["done", "failed"]
    assert "boom" in runs[1].reason and runs[1].image is None and runs[1].tensor is None
    assert "boom" in runs[1]._repr_html_()
    assert [one.status for one in nst.load(tmp_path / "s")] == ["done", "failed"]
    plan = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert plan["arguments"][0] == "-m" and (tmp_path / "s" / "report.html").is_file()
    with pytest.raises(nst.UserError, match=r"nst\.sweep"):
        nst.run({"resume": tmp_path / "s"})
    # the module is read anew, as a new process would
    (tmp_path / "own.py").write_text(
        code.replace("raise ValueError('boom')", "return (f.mean((2, 3)) - t.mean((2, 3))).square().mean(1)")
    )
    assert [one.status for one in nst.sweep({"resume": tmp_path / "s"})] == ["done", "done"]
    with pytest.raises(nst.UserError, match="neither a run"):
        nst.load(tmp_path)


def test_a_failed_run_raises_and_names_its_folder(tmp_path: Path, unchanged: None) -> None:
    own_loss(
        tmp_path, "class Own:\n    def target(self, f): raise ValueError('boom')\n    def __call__(self, f, t): ...\n"
    )
    with pytest.raises(nst.UserError, match="boom") as failure:
        nst.run({**TINY, "--config-dir": tmp_path, "style_loss": "own", "hydra.run.dir": tmp_path / "run"})
    assert str(tmp_path / "run") in str(failure.value)
    assert nst.load(tmp_path / "run").status == "failed"


def test_ctrl_c_saves_the_picture_and_the_command_line_carries_on(tmp_path: Path, unchanged: None) -> None:
    words = {**TINY, "steps": 60}
    folder = tmp_path / "run"

    def press() -> None:
        wait_for_steps(folder)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        nst.run({**words, "hydra.run.dir": folder})
    thread.join()
    stopped = nst.load(folder)
    assert stopped.status == "interrupted" and stopped.image is not None and stopped.image.size == (48, 32)
    assert 3 <= stopped.metrics["step"][-1] < 60
    carried_on = run(f"resume={folder}")
    assert carried_on.returncode == 0, carried_on.stderr
    whole = nst.run({**words, "hydra.run.dir": tmp_path / "whole"})
    assert nst.load(folder).metrics["step"] == list(range(61))
    assert (folder / "result.png").read_bytes() == (whole.folder / "result.png").read_bytes()
    assert nst.run({"resume": folder}).status == "done"  # is finished already


def test_own_modules_are_forgotten_and_those_of_an_environment_that_lies_among_them_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchanged: None
) -> None:
    for name in ("mine_of_test", "environment/theirs_of_test"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text("")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "environment")
        with as_a_guest():
            sys.path.insert(0, str(tmp_path))
            for name in ("mine_of_test", "theirs_of_test"):
                importlib.import_module(name)
    assert {"mine_of_test", "theirs_of_test"} & {*sys.modules} == {"theirs_of_test"}
    del sys.modules["theirs_of_test"]


def test_a_run_is_reproduced_by_the_script(called: nst.Run, tmp_path: Path) -> None:
    result = script(ROOT / "scripts" / "reproduce.py", called.folder, "--out", tmp_path / "again")
    assert result.returncode == 0, result.stderr
    assert "Identical" in result.stdout


def test_a_class_of_the_script_itself_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        def __init__(self, norm: str, reduction: str, scale: float) -> None:
            self.scale = scale

        def target(self, features: torch.Tensor) -> torch.Tensor:
            return features

        def __call__(self, features: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return self.scale * (features - target).square().mean((1, 2, 3)) / 2

    monkeypatch.setattr(sys.modules["__main__"], "Half", Half, raising=False)
    words = {**TINY, "content_loss": "mse_raw", "init": "style", "precision": "float32"}
    ours = nst.run({**words, "hydra.run.dir": tmp_path / "ours"})
    own = nst.run({**words, "content_loss._target_": "__main__.Half", "hydra.run.dir": tmp_path / "own"})
    assert own.metrics["unweighted/content"][0] == pytest.approx(ours.metrics["unweighted/content"][0] / 2, rel=1e-4)
    with pytest.raises(nst.UserError, match="type it again"):
        nst.run({"resume": own.folder})


def test_what_training_and_painting_leave_is_listed(tmp_path: Path) -> None:
    for name in ("result.png", "network.safetensors", "result.gif", "results/b.png", "results/a/2.png", "run.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    record = {
        "result": {"file": "result.png", "sha256": ""},
        "network": {"file": "network.safetensors", "sha256": ""},
        "applied": {"clip": "result.gif"},
    }
    (tmp_path / "run.json").write_text(json.dumps(record))
    names = [path.relative_to(tmp_path).as_posix() for path in nst.load(tmp_path).files]
    assert names == ["result.png", "network.safetensors", "result.gif", "results/a/2.png", "results/b.png"]


def test_a_notebook_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress.progress(3), progress.ProgressLines)
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "tqdm", lambda **options: SimpleNamespace(**options))
        assert isinstance(progress.progress(3), progress.ProgressBar)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))  # IPython in a terminal
    assert isinstance(progress.progress(3), progress.ProgressLines)


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "examples" / "notebook" / "from_python.ipynb").read_text())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells)
    names: dict[str, Any] = {}
    for code in ["size, steps = 32, 2" if code.startswith("size, steps") else code for code in codes]:
        exec(code, names)
    assert [one.config["beta"] for one in names["runs"]] == [0.001, 0.01, 0.1]
    assert names["sweep"].parent.parent == tmp_path / "outputs" / "multirun"


def test_typed_values_are_what_resuming_types() -> None:
    assert cli.as_value([1, None, "a", {"b": True}]) == "[1,null,a,{b:true}]"
