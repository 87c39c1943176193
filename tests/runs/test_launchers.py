"""Sweeps beyond one process and beyond the grid: the same folders, bytes, table and report under every launcher."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT, TINY, refused, run, sketch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from nst import configuration
from nst.errors import UserError
from nst.runs import launchers

LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
SWEEPERS = {"optuna": "optuna"}
PLUGINS = {extra: plugin for plugin, extra in launchers.EXTRAS.items()}

# A style loss that tells where it runs, and that fails where it is told to.
OWN = """
import json, os, time
from pathlib import Path

HERE = Path(__file__).parent

class Own:
    def __init__(self, number=0):
        self.number = number

    def target(self, features):
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        seen = {"pid": os.getpid(), "cwd": os.getcwd()} | {name: os.environ.get(name) for name in names}
        (HERE / f"seen{self.number}.json").write_text(json.dumps(seen))
        if self.number == 1 and (HERE / "broken").exists():
            raise RuntimeError("planted")

    def __call__(self, features, target):
        if (HERE / "slow").exists():
            time.sleep(0.05)
        return (1 + self.number) * features.square().mean((1, 2, 3))
"""
CHOSEN = ("--config-dir", "own", "style_loss=own", "layers.style=[conv1]", "threads=1", *TINY)
JOBS = ("0_style_loss.number=0", "1_style_loss.number=1")


def installed(extra: str) -> None:
    """Skip where an extra is missing."""
    pytest.importorskip(PLUGINS[extra])


def workplace(folder: Path) -> Path:
    """Make a folder to work in, with the style loss beside a file that names it."""
    (folder / "own" / "style_loss").mkdir(parents=True)
    (folder / "own" / "style_loss" / "own.yaml").write_text("_target_: own.Own\nnumber: 0\n", encoding="utf-8")
    (folder / "own" / "own.py").write_text(OWN, encoding="utf-8")
    return folder


def sweep(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Type a command in a folder, with as many threads as the machine would give."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(folder), **more}
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, str(ROOT / "run.py"), *sketch(*arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def status(folder: Path) -> Any:
    return read(folder / "status.json")["status"]


def told(result: subprocess.CompletedProcess[str]) -> str:
    return f"{result.stdout}\n{result.stderr}"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the two jobs paint when they run one after the other in one process."""
    folder = workplace(tmp_path_factory.mktemp("basic"))
    result = sweep(folder, "-m", *CHOSEN, "style_loss.number=0,1", "beta=0.02", "hydra.sweep.dir=out")
    assert result.returncode == 0, told(result)
    return {path.parent.name: path.read_bytes() for path in folder.glob("out/*/result.png")}


# What is typed beside the launcher, and what the jobs are to find in their environment then.
TWO_JOBS = {
    "joblib": (["hydra.launcher.n_jobs=2"], {"OMP_NUM_THREADS": {str(max(launchers.cores() // 2, 1))}}),
    "submitit_local": ([], {"CUDA_VISIBLE_DEVICES": {"6,7"}}),
    "ray": (
        ["hydra.launcher.ray.init.num_gpus=2", "hydra.launcher.ray.remote.num_gpus=1"],
        {"OMP_NUM_THREADS": {"1"}, "CUDA_VISIBLE_DEVICES": {"0", "1"}},
    ),
}


@pytest.mark.parametrize("launcher", TWO_JOBS)
def test_a_failing_job_is_told_and_the_sweep_is_finished_later(
    tmp_path: Path, launcher: str, pictures: dict[str, bytes]
) -> None:
    installed(LAUNCHERS[launcher])
    typed, expected = TWO_JOBS[launcher]
    folder = workplace(tmp_path)
    (folder / "own" / "broken").touch()
    visible = {"CUDA_VISIBLE_DEVICES": "6,7"} if launcher == "submitit_local" else {}
    swept = (f"hydra/launcher={launcher}", *typed, *CHOSEN, "style_loss.number=0,1", "beta=0.02")
    result = sweep(folder, "-m", *swept, "hydra.sweep.dir=out", **visible)

    assert result.returncode == 1, told(result)
    assert "Traceback" not in told(result)
    (row,) = [line for line in result.stdout.splitlines() if line.startswith(f"  {JOBS[1]} ")]
    assert "failed" in row
    assert "planted" in row
    good, bad = (folder / "out" / job for job in JOBS)
    assert (status(good), status(bad)) == ("done", "failed")
    assert (folder / "out" / "report.html").exists()
    for number, job in enumerate((good, bad)):
        seen = read(folder / "own" / f"seen{number}.json")
        assert Path(seen["cwd"]).samefile(folder)  # so that relative paths mean the same
        assert seen["pid"] == read(job / "status.json")["pid"]
        for name, values in expected.items():
            assert seen[name] in values

    (folder / "own" / "broken").unlink()
    before = (good / "result.png").stat().st_mtime_ns
    result = sweep(folder, "resume=out", **visible)
    assert result.returncode == 0, told(result)
    assert (good / "result.png").stat().st_mtime_ns == before
    found = {path.parent.name: path.read_bytes() for path in folder.glob("out/*/result.png")}
    assert found == pictures


def test_optuna_finds_the_pareto_front_past_failed_trials(tmp_path: Path) -> None:
    installed("optuna")
    folder = workplace(tmp_path)
    (folder / "own" / "broken").touch()
    parallel = ["hydra/launcher=joblib"] if importlib.util.find_spec("joblib") else []
    # the seed is one that draws both numbers
    chosen = ("style_loss.number=0,1", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1")
    result = sweep(folder, "-m", "hydra/sweeper=optuna", *parallel, *CHOSEN, *chosen, "hydra.sweep.dir=out")
    assert result.returncode == 1, told(result)
    assert "Traceback" not in told(result)
    jobs = sorted(path.parent for path in folder.glob("out/*/status.json"))
    assert [job.name[:7] for job in jobs] == ["0_beta=", "1_beta=", "2_beta=", "3_beta="]
    outcomes = {status(job) for job in jobs}
    assert outcomes == {"done", "failed"}

    (folder / "own" / "broken").unlink()
    result = sweep(folder, "resume=out")
    assert result.returncode == 0, told(result)
    assert sorted(path.parent for path in folder.glob("out/*/status.json")) == jobs  # the same trials
    assert "finished before, not run again" in result.stdout

    points = {}
    for job in jobs:
        record = read(job / "run.json")
        points[record["config"]["beta"]] = [record["scores"][f"{kind}_distance"] for kind in ("content", "style")]

    def is_beaten(point: list[float]) -> bool:
        return any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points.values())

    front = {beta: point for beta, point in points.items() if not is_beaten(point)}
    solutions = OmegaConf.load(folder / "out" / "optimization_results.yaml").solutions
    assert {solution["params"]["beta"]: list(solution["values"]) for solution in solutions} == front
    assert (folder / "out" / "report.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_worker_that_is_told_its_time_is_up_saves_its_state(tmp_path: Path) -> None:
    installed("submitit")
    folder = workplace(tmp_path)
    (folder / "own" / "slow").touch()
    command = ["-m", "hydra/launcher=submitit_local", *CHOSEN, "style_loss.number=0,1", "beta=0.02", "steps=200"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, str(ROOT / "run.py"), *sketch(*command), "hydra.sweep.dir=out"]
    process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    jobs = [folder / "out" / job for job in JOBS]
    for job in jobs:
        for _ in range(1800):
            if (job / "metrics.csv").exists() and (job / "metrics.csv").read_text().count("\n") > 3:
                break
            time.sleep(0.1)
        os.kill(read(job / "status.json")["pid"], signal.SIGUSR2)  # as submitit has Slurm do
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 1, out
    assert out.count("interrupted by SIGUSR2") == 2
    assert all((job / "interrupted.png").exists() and (job / "checkpoint.pt").exists() for job in jobs)

    (folder / "own" / "slow").unlink()
    result = sweep(folder, "resume=out")
    assert result.returncode == 0, told(result)
    assert [read(job / "run.json")["resumed"][0]["step"] > 0 for job in jobs] == [True, True]


# Stand-ins for the commands of a cluster: sbatch runs the tasks of the array at once, on this machine.
SBATCH = f"""#!{sys.executable}
import os, re, subprocess, sys
from pathlib import Path
script = Path(sys.argv[1])
(Path(__file__).parent / "script.sh").write_text(script.read_text())
first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", script.read_text()).groups())
for task in range(first, last + 1):
    slurm = dict(SLURM_JOB_ID=str(70 + task), SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(task), SLURM_NTASKS="1")
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    subprocess.Popen(["bash", script], env=os.environ | slurm, **silent)
print("Submitted batch job 7")
"""
SRUN = f"""#!{sys.executable}
import os, sys
command = sys.argv[sys.argv.index(sys.executable):]
os.execv(command[0], command)
"""
SACCT = "#!/bin/sh\nprintf 'JobID|State|NodeList\\n7_0|RUNNING|here\\n7_1|RUNNING|here\\n'\n"


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_slurm_is_asked_for_a_gpu_and_time_to_save(tmp_path: Path, pictures: dict[str, bytes]) -> None:
    installed("submitit")
    folder, cluster = workplace(tmp_path), tmp_path / "cluster"
    cluster.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (cluster / name).write_text(text, encoding="utf-8")
        (cluster / name).chmod(0o755)
    swept = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=fast", *CHOSEN, "style_loss.number=0,1")
    path = f"{cluster}{os.pathsep}{os.environ['PATH']}"
    result = sweep(folder, "-m", *swept, "beta=0.02", "hydra.sweep.dir=out", PATH=path)
    assert result.returncode == 0, told(result)
    script = (cluster / "script.sh").read_text(encoding="utf-8")
    asked = ("partition=fast", "gpus-per-node=1", "cpus-per-task=4", "mem=16GB", "time=120", "signal=USR2@120")
    assert [option for option in asked if f"#SBATCH --{option}\n" not in script] == []
    assert read(folder / "own" / "seen0.json")["OMP_NUM_THREADS"] == "4"
    assert {path.parent.name: path.read_bytes() for path in folder.glob("out/*/result.png")} == pictures


@pytest.mark.parametrize(("group", "option"), [("launcher", name) for name in LAUNCHERS] + [("sweeper", "optuna")])
def test_a_missing_extra_is_named(tmp_path: Path, group: str, option: str) -> None:
    extra = (LAUNCHERS | SWEEPERS)[option]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launchers, "EXTRAS", {PLUGINS[extra]: extra})
        patch.setattr(launchers, "_is_installed", lambda plugin: False)
        config = whole(f"hydra/{group}={option}")
        with pytest.raises(UserError, match=rf"^hydra/{group}={option} needs .*: pip install -e '\.\[{extra}\]'\. "):
            launchers.prepare(config)
    try:
        there = importlib.util.find_spec(PLUGINS[extra]) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        result = run("-m", f"hydra/{group}={option}", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'out'}")
        assert f"pip install -e '.[{extra}]'" in refused(result)
        assert not (tmp_path / "out").exists()


def whole(*overrides: str) -> DictConfig:
    """Compose the configuration with Hydra's part."""
    configuration.register()
    launchers.close_groups()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", sketch(*overrides), return_hydra_config=True)


@pytest.mark.parametrize(("cores", "free", "gpus"), [(2, 16, 0), (64, 16, 0), (12, 3, 0), (1, 1, 0), (16, 64, 4)])
def test_jobs_times_threads_are_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, free: int, gpus: int) -> None:
    monkeypatch.setattr(launchers, "cores", lambda: cores)
    monkeypatch.setattr(launchers, "gpus", lambda: gpus)
    monkeypatch.setattr("nst.runtime.memory.free_bytes", lambda device: free * 2**30)
    jobs, threads = launchers.jobs_at_once(), launchers.threads()
    assert cores - jobs < jobs * threads <= cores
    assert jobs == gpus if gpus else jobs * 2 <= max(free, 2)
    launcher = whole("hydra/launcher=joblib").hydra.launcher
    assert launcher.n_jobs == jobs
    remote = whole("hydra/launcher=ray").hydra.launcher.ray.remote
    assert (remote.num_cpus, remote.num_gpus) == (1, 1 if gpus else 0)  # a job must not wait for a GPU there is not


def test_a_rehearsal_of_slurm_does_not_begin_every_job_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "_is_installed", lambda plugin: True)
    monkeypatch.setattr(launchers, "jobs_at_once", lambda: 3)
    config = whole("hydra/launcher=submitit_local")
    launchers.prepare(config)
    assert config.hydra.sweeper.max_batch_size == 3
    config = whole("hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=5")
    launchers.prepare(config)
    assert config.hydra.sweeper.max_batch_size == 5
    config = whole("hydra/launcher=submitit_slurm")
    launchers.prepare(config)
    assert config.hydra.sweeper.max_batch_size is None


def test_a_worker_elsewhere_goes_to_the_folder_of_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = whole("hydra/launcher=ray_cluster").hydra.launcher.ray.init.runtime_env
    module, _, name = there.worker_process_setup_hook.rpartition(".")
    monkeypatch.chdir(Path(__file__).parent)
    (variable,) = there.env_vars
    monkeypatch.setenv(variable, str(tmp_path))
    getattr(importlib.import_module(module), name)()
    assert Path.cwd().samefile(tmp_path)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(["hydra/launcher=joblib"], True), (["hydra/launcher=basic"], False), (["hydra/launcher=batch"], False)],
)
def test_a_launcher_is_known_by_what_it_is(monkeypatch: pytest.MonkeyPatch, chosen: list[str], expected: bool) -> None:
    config = whole(*chosen)
    config.hydra.mode = RunMode.MULTIRUN
    config.hydra.runtime.choices["hydra/launcher"] = "ours"  # a file of one's own with defaults: [batch]
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    assert launchers.in_worker() is expected
