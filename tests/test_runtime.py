"""What the machine is asked: precision by hardware, and memory that is kept or given back."""

import pytest
import torch

from nst import memory, runtime

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
