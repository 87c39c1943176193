"""What the machine is asked: precision by hardware, and memory that is kept or given back."""

import signal
import sys
from pathlib import Path

import pytest
import torch

from nst import callbacks, files, runtime
from nst.errors import UserError
from nst.runs import resume
from nst.runtime import memory
from nst.training.distributed import process_group

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("able", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bfloat16"),
        ({"avx512_f": True, "avx2": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_a_cpu_multiplies_it(able, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert runtime.choose_precision("auto", CPU) == precision
    assert runtime.network_dtype("auto", CPU) == getattr(torch, precision)
    assert runtime.choose_precision("float32", CPU) == "float32"
    assert runtime.network_dtype("float64", CPU) == torch.float64


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")])
def test_auto_goes_by_the_compute_capability_of_a_gpu(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert runtime.choose_precision("auto", torch.device("cuda")) == precision


def test_an_older_torch_that_cannot_tell_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert runtime.choose_precision("auto", CPU) == "float32"
    assert runtime.choose_precision("auto", torch.device("mps")) == "float32"


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_pixels_and_losses_stay_float32(precision):
    assert runtime.pixel_dtype(precision) == torch.float32


def test_freed_memory_is_kept_until_it_is_given_back():
    if memory.held_bytes(CPU) is None or not torch.backends.mkldnn.is_available():
        pytest.skip("nothing is known of this system's memory")
    runtime.keep_freed_memory()
    runtime.give_back_freed_memory()
    before = memory.held_bytes(CPU)
    large = [torch.ones(2**20) for _ in range(64)]  # 256 MiB
    full = memory.held_bytes(CPU)
    assert full - before > 200 * 2**20
    del large
    runtime.give_back_freed_memory()
    assert memory.held_bytes(CPU) - before < 100 * 2**20


def test_all_processes_on_one_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="all processes would share one GPU"), process_group("cuda:0"):
        pass


def test_the_device_that_is_chosen_is_the_current_one(monkeypatch):
    made_current = []
    monkeypatch.setattr(runtime, "choose_device", lambda name: torch.device("cuda", 1))
    monkeypatch.setattr(runtime, "precision_problem", lambda precision, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    assert runtime.prepare("cuda:1", "float32") == torch.device("cuda", 1)
    assert made_current == [torch.device("cuda", 1)]


@pytest.mark.parametrize(("held", "attempts", "is_written"), [(3, 20, True), (30, 5, False)])
def test_a_file_that_somebody_reads_is_replaced_when_he_lets_go(tmp_path, monkeypatch, held, attempts, is_written):
    monkeypatch.setattr(files, "ATTEMPTS", attempts)
    monkeypatch.setattr(files, "PAUSE", 0.0)
    replace, tried = Path.replace, []

    def refused_at_first(self, target):
        tried.append(target)
        if len(tried) <= held:
            raise PermissionError(13, "in use")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refused_at_first)
    (tmp_path / "a.txt").write_text("old")
    if is_written:
        files.write_atomic(tmp_path / "a.txt", lambda file: file.write(b"new"))
    else:
        with pytest.raises(files.CannotWrite):
            files.write_atomic(tmp_path / "a.txt", lambda file: file.write(b"new"))
    assert (tmp_path / "a.txt").read_text() == ("new" if is_written else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_job_that_died_without_a_word_does_not_stay_running(tmp_path):
    files.write_json(tmp_path / "status.json", {"status": "running", "started": "2026-01-01T00:00:00+00:00"})
    word, _, reason = callbacks.outcome(tmp_path, None)
    assert word == "interrupted"
    assert "without a word" in reason
    assert resume.read(tmp_path / "status.json")["status"] == "interrupted"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_first_signal_waits_while_any_run_holds_and_a_second_one_does_not():
    with runtime.PoliteStop() as stop:
        for _ in range(2):  # runs of a batch
            stop.hold()
        stop.release()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(runtime.Interrupted, match="SIGTERM"):
            stop.poll()
        with pytest.raises(runtime.Interrupted, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
    with runtime.PoliteStop() as stop:
        stop.hold()
        stop.release()
        with pytest.raises(runtime.Interrupted, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("text", ["could not create a primitive", "could not create a memory object"])
def test_onednn_says_in_its_own_words_that_memory_ran_out(text):
    assert memory.is_out_of_memory(RuntimeError(text))
