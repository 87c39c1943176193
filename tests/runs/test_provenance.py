"""What is recorded of a run: the source under git, the command as typed, flags, machine and hashes."""

import hashlib
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from nst import cli, configuration, runtime
from nst.runs import provenance
from nst.runs.provenance import NoGit, Source

CPU = torch.device("cpu")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str, given: bytes = b"") -> str:
    names = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, *words], cwd=folder, input=given, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture(autouse=True)
def _git_without_settings_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    provenance._own_source.cache_clear()
    yield
    provenance._own_source.cache_clear()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree, all of it committed."""
    root = tmp_path / "tree"
    for name in ("nst/__init__.py", "nst/loss.py", "conf/config.yaml", "run.py", "docs/page.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}, line 1\nline 2\n")
    (root / ".gitignore").write_text("outputs/\n*.log\n")
    (root / "nst" / "picture.bin").write_bytes(bytes(range(256)) * 4)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def restored(root: Path, source: Source, elsewhere: Path) -> dict[str, bytes]:
    """Return the files that the recorded commit and diff give."""
    git(root.parent, "clone", "-q", str(root), str(elsewhere))
    git(elsewhere, "checkout", "-q", source.commit)
    if source.diff:
        git(elsewhere, "apply", "--binary", "-", given=source.diff)
    return contents(elsewhere)


def repository(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (root / ".git").rglob("*") if path.is_file()}


@needs_git
def test_a_clean_tree_is_its_commit(tree: Path) -> None:
    (tree / "outputs").mkdir()
    (tree / "outputs" / "result.png").write_bytes(b"ignored")
    (tree / "nst" / "debug.log").write_text("ignored")
    (tree / "photo.jpg").write_bytes(b"no source")
    assert provenance.read_source(tree) == Source(git(tree, "rev-parse", "HEAD"), b"", False)


@needs_git
def test_everything_uncommitted_comes_back_from_commit_and_diff(tree: Path, tmp_path: Path) -> None:
    (tree / "nst" / "loss.py").write_text("changed\nno newline at the end")
    (tree / "docs" / "page.md").write_text("staged\n")
    git(tree, "add", "docs/page.md")
    (tree / "docs" / "page.md").write_text("staged, and changed again\n")
    (tree / "nst" / "picture.bin").write_bytes(bytes(range(255, -1, -1)) * 5)
    (tree / "run.py").unlink()
    (tree / "conf" / "style loss").mkdir()
    (tree / "conf" / "style loss" / "mine é.yaml").write_text("new: 1\n")
    (tree / "nst" / "new.bin").write_bytes(b"\0\xff\0" * 100)
    (tree / "nst" / "staged.py").write_text("staged only\n")
    git(tree, "add", "nst/staged.py")
    (tree / "nst" / "ignored.log").write_text("ignored")
    (tree / "photo.jpg").write_bytes(b"no source")
    before = repository(tree)
    source = provenance.read_source(tree)
    assert repository(tree) == before
    assert (source.dirty, source.note) == (True, "")
    assert source.commit == git(tree, "rev-parse", "HEAD")
    expected = {n: c for n, c in contents(tree).items() if n not in ("photo.jpg", "nst/ignored.log")}
    assert restored(tree, source, tmp_path / "restored") == expected


@needs_git
def test_the_users_settings_do_not_spoil_the_diff(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(
        "[diff]\n noprefix = true\n external = /bin/false\n renames = copies\n relative = true\n"
        "[color]\n ui = always\n diff = always\n[core]\n pager = false\n quotePath = false\n"
    )
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as in a hook of another repository
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    (tree / "nst" / "loss.py").rename(tree / "nst" / "renamed.py")
    source = provenance.read_source(tree)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_LITERAL_PATHSPECS"):
        monkeypatch.delenv(name)
    (tmp_path / "home" / ".gitconfig").unlink()
    assert restored(tree, source, tmp_path / "restored") == contents(tree)


@needs_git
def test_a_detached_head_and_a_tree_within_a_larger_repository(tree: Path, tmp_path: Path) -> None:
    first = git(tree, "rev-parse", "HEAD")
    git(tree, "commit", "-q", "--allow-empty", "-m", "second")
    git(tree, "checkout", "-q", "--detach", first)
    assert provenance.read_source(tree) == Source(first, b"", False)

    shutil.rmtree(tree / ".git")
    inner = Path(shutil.copytree(tree, tmp_path / "large" / "inner tree"))
    (tmp_path / "large" / "other.txt").write_text("1")
    git(tmp_path / "large", "init", "-q")
    git(tmp_path / "large", "add", "-A")
    git(tmp_path / "large", "commit", "-q", "-m", "all")
    (tmp_path / "large" / "other.txt").write_text("2, which is no concern of ours")
    assert provenance.read_source(inner).dirty is False
    (inner / "run.py").write_text("changed\n")
    (inner / "nst" / "new.py").write_text("new\n")
    source = provenance.read_source(inner)
    found = restored(tmp_path / "large", source, tmp_path / "restored")
    assert {name.removeprefix("inner tree/"): text for name, text in found.items() if "inner" in name} == contents(
        inner
    )
    assert found["other.txt"] == b"1"


@needs_git
def test_a_worktree_counts_as_well(tree: Path, tmp_path: Path) -> None:
    git(tree, "worktree", "add", "-q", str(tmp_path / "second"), "HEAD")
    (tmp_path / "second" / "nst" / "new.py").write_text("new\n")
    source = provenance.read_source(tmp_path / "second")
    assert source.commit == git(tree, "rev-parse", "HEAD")
    assert b"new.py" in source.diff


@needs_git
def test_where_git_cannot_tell_there_is_a_reason(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoGit, match="not a git repository"):
        provenance.read_source(tmp_path)

    git(tree, "rm", "-q", "--cached", "-r", "nst")
    with pytest.raises(NoGit, match="does not track this package"):
        provenance.read_source(tree)

    shutil.rmtree(tree / ".git")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    with pytest.raises(NoGit, match="has no commit yet"):
        provenance.read_source(tree)

    monkeypatch.setattr(provenance, "PATIENCE", 0.0)
    with pytest.raises(NoGit, match="took longer"):
        provenance.read_source(tree)
    monkeypatch.setattr(provenance, "PATIENCE", 10.0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoGit, match="not installed"):
        provenance.read_source(tree)


@needs_git
def test_a_damaged_repository_does_not_fail_a_run(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "nst" / "loss.py").write_text("changed\n")
    for path in (path for path in (tree / ".git" / "objects").rglob("*") if path.is_file()):
        path.chmod(0o600)
        path.write_bytes(b"damaged")
    monkeypatch.setattr("nst.__file__", str(tree / "nst" / "__init__.py"))
    record = provenance.environment(CPU, tmp_path)
    assert record["git"] is None or record["git"]["diff"] is None
    assert record["git_note"]


@needs_git
def test_a_long_diff_is_cut_between_two_files_and_large_files_are_left_out(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "conf" / "a.yaml").write_text("small\n")
    (tree / "nst" / "large.bin").write_bytes(bytes(5000))
    monkeypatch.setattr(provenance, "LARGEST_DIFF", 4000)
    source = provenance.read_source(tree)
    assert source.dirty
    assert "nst/large.bin" in source.note
    assert "conf/a.yaml" in restored(tree, source, tmp_path / "one")

    (tree / "nst" / "many.py").write_text("".join(f"line {number}\n" for number in range(350)))
    (tree / "nst" / "more.py").write_text("".join(f"line {number}\n" for number in range(350)))
    source = provenance.read_source(tree)
    assert len(source.diff) <= 4000
    assert "cut off" in source.note
    found = restored(tree, source, tmp_path / "two")
    assert "nst/many.py" in found
    assert "nst/more.py" not in found

    for path in ("large.bin", "many.py", "more.py"):
        (tree / "nst" / path).unlink()
    (tree / "conf" / "a.yaml").write_text("x" * 3990)
    source = provenance.read_source(tree)
    assert (source.diff, source.dirty) == (b"", True)


@needs_git
def test_the_record_names_the_diff_and_keeps_that_of_an_earlier_attempt(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nst.__file__", str(tree / "nst" / "__init__.py"))
    folder = tmp_path / "run"
    folder.mkdir()
    record = provenance.environment(CPU, folder)
    assert record["git"] == {"commit": git(tree, "rev-parse", "HEAD"), "dirty": False, "diff": None}
    assert record["git_note"] is None
    assert not list(folder.iterdir())

    names = []
    for text in ("one\n", "two\n", "two\n"):
        (tree / "run.py").write_text(text)
        provenance._own_source.cache_clear()
        about = provenance.environment(CPU, folder)["git"]
        assert about["dirty"]
        assert about["diff_sha256"] == hashlib.sha256((folder / about["diff"]).read_bytes()).hexdigest()
        names.append(about["diff"])
    assert names[0] == "uncommitted.diff"
    assert names[1] == names[2] != names[0]
    assert len(list(folder.iterdir())) == 2
    assert b"+one" in (folder / names[0]).read_bytes()

    (tree / "run.py").write_text("three\n")  # what is in memory is what was there at the start
    assert provenance.environment(CPU, folder)["git"]["diff"] == names[1]


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("run.py", ["-m", "beta=0.1,0.2"], "python run.py -m beta=0.1,0.2"),
        ("{cwd}/run.py", ["size=64"], "python run.py size=64"),
        ("{cwd}/scripts/reproduce.py", ["a b"], "python scripts/reproduce.py 'a b'"),
        ("/elsewhere/run.py", ["content='a b.jpg'"], "python /elsewhere/run.py 'content='\"'\"'a b.jpg'\"'\"''"),
        ("../run.py", ["layers.style=[conv1:5]", "x=$A"], "python ../run.py 'layers.style=[conv1:5]' 'x=$A'"),
    ],
)  # fmt: skip
@pytest.mark.skipif(sys.platform == "win32", reason="quoted as its own shell wants it")
def test_the_command_can_be_typed_again(
    script: str, arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script.replace("{cwd}", str(tmp_path)), *arguments])
    monkeypatch.setattr(provenance.cli, "_typed", [])
    text = cli.command()
    assert text == expected
    assert shlex.split(text)[2:] == arguments


def test_arguments_are_those_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run.py"), "-m", "size=64"])
    monkeypatch.setattr(provenance.cli, "_typed", [])
    record = provenance.environment(CPU, tmp_path)
    assert (record["command"], record["arguments"]) == ("python run.py -m size=64", ["-m", "size=64"])
    assert record["cwd"] == str(tmp_path)


def test_own_components_are_recorded_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    file = tmp_path / "own" / "my_loss.py"
    file.write_text("class Own: ...\n")
    for name, path in (("my_loss", file), ("neighbour", tmp_path / "own_not" / "neighbour.py")):
        module = types.ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, name, module)
    configuration.use_config_folders([tmp_path / "own"])
    try:
        record = provenance.environment(CPU, tmp_path)
    finally:
        configuration.use_config_folders([])
    assert record["config_folders"] == [str(tmp_path / "own")]
    assert record["own_code"] == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    assert provenance.environment(CPU, tmp_path)["own_code"] == {}


def test_flags_and_variables_are_those_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    runtime.prepare("cpu", "float32")
    try:
        flags = provenance.determinism()
        assert flags["deterministic_algorithms"] is True
        assert flags["cudnn_allow_tf32"] is flags["matmul_allow_tf32"] is False
        assert flags["float32_matmul_precision"] == "highest"
        assert flags["variables"]["MKL_CBWR"] == "AVX2"
        assert flags["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert "OMP_NUM_THREADS" not in flags["variables"]
        torch.use_deterministic_algorithms(False)
        torch._C._set_mkldnn_enabled(False)
        flags = provenance.determinism()
        assert (flags["deterministic_algorithms"], flags["mkldnn_enabled"]) == (False, False)
    finally:
        torch._C._set_mkldnn_enabled(True)
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_the_machine_and_the_versions_are_named() -> None:
    about = provenance.machine(CPU)
    assert about["device"] == "cpu"
    assert about["threads"] == torch.get_num_threads()
    assert about["cores"] >= 1
    assert about["cpu"]
    if sys.platform == "linux" and "model name" in Path("/proc/cpuinfo").read_text():
        assert f"model name\t: {about['cpu']}\n" in Path("/proc/cpuinfo").read_text()
    assert provenance.versions()["torch"] == torch.__version__


def test_an_image_is_recorded_with_size_and_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 6), "teal").save("my photo.png")
    data = (tmp_path / "my photo.png").read_bytes()
    assert provenance.image_file("my photo.png") == {
        "name": "my photo.png",
        "file": str((tmp_path / "my photo.png").resolve()),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert provenance.image_file("coffee")["name"] == "coffee"
