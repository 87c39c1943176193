"""Weights from files, and downloads (from this very machine), and every way in which they can be bad."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from nst.errors import UserError
from nst.networks import backbones, weights


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def first_layer(channels: int = 3, fill: float | None = None) -> dict[str, Tensor]:
    """All that a network cut at ``conv1_1`` needs."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, channels, 3, 3, generator=generator)
    if fill is not None:
        weight[3, 1, 1, 1] = fill
    return {"features.0.weight": weight, "features.0.bias": torch.arange(64.0)}


def pth(content: object, legacy: bool = False) -> bytes:
    """Return what ``torch.save`` writes; ``legacy`` is the format of torchvision's VGG files."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def load(path: Path, architecture: str = "vgg16", layer: str = "relu1_1") -> backbones.Backbone:
    return backbones.load(architecture, str(path), [layer], preprocessing="caffe")


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"echo executed > '{self.marker}'",)


def holds_first_layer(net: backbones.Backbone) -> bool:
    state, expected = net.stack.state_dict(), first_layer()
    return all(torch.equal(state[name.removeprefix("features.")], value) for name, value in expected.items())


# ---- good files

GOOD_FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "state dict": ("w.pth", lambda: pth(first_layer())),
    "state dict in the old format": ("w.pth", lambda: pth(first_layer(), legacy=True)),
    "safetensors": ("w.safetensors", lambda: safetensors_bytes(first_layer())),
    "without 'features.'": ("w.pth", lambda: pth({k.removeprefix("features."): v for k, v in first_layer().items()})),
    "under state_dict": ("w.pth", lambda: pth({"epoch": 3, "state_dict": first_layer()})),
    "with a classifier": ("w.pth", lambda: pth(first_layer() | {"classifier.0.weight": torch.zeros(2, 2)})),
    "parameters": ("w.pth", lambda: pth({k: nn.Parameter(v) for k, v in first_layer().items()})),
    "double precision": ("w.pth", lambda: pth({k: v.double() for k, v in first_layer().items()})),
}


@pytest.mark.parametrize("kind", GOOD_FILES)
def test_a_file_fills_the_network(tmp_path: Path, kind: str) -> None:
    name, make = GOOD_FILES[kind]
    (tmp_path / name).write_bytes(make())
    net = load(tmp_path / name)
    assert holds_first_layer(net)
    assert all(value.dtype == torch.float32 for value in net.state_dict().values())


def test_the_source_is_recorded_with_its_sha256(tmp_path: Path) -> None:
    data = pth(first_layer())
    path = tmp_path / "w.pth"
    path.write_bytes(data)
    assert load(path).source == weights.Source(str(path), str(path), hashlib.sha256(data).hexdigest())
    random = backbones.load("vgg16", "random", ["conv1_1"])
    assert random.source == weights.Source("random", None, None)


def test_batch_norm_needs_its_statistics_but_not_its_counter(tmp_path: Path) -> None:
    state = first_layer() | {
        f"features.1.{k}": torch.ones(64) for k in ("weight", "bias", "running_mean", "running_var")
    }
    path = tmp_path / "w.pth"
    path.write_bytes(pth(state))
    assert load(path, "vgg16_bn", "bn1_1").stack.state_dict()["1.running_mean"].eq(1).all()
    del state["features.1.running_var"]
    path.write_bytes(pth(state))
    with pytest.raises(UserError, match=r"features\.1\.running_var \(missing"):
        load(path, "vgg16_bn", "bn1_1")


# ---- bad files


def vgg16_blocks() -> dict[str, Tensor]:
    """VGG-16 as far as its tenth convolution, where its places and shapes have left VGG-19's."""
    state, channels = {}, 3
    for index, out in zip((0, 2, 5, 7, 10, 12, 14, 17), (64, 64, 128, 128, 256, 256, 256, 512), strict=True):
        state[f"features.{index}.weight"] = torch.zeros(out, channels, 3, 3)
        state[f"features.{index}.bias"] = torch.zeros(out)
        channels = out
    return state


def sparse() -> dict[str, Tensor]:
    return {key: value.to_sparse() for key, value in first_layer().items()}


DAMAGED = r"cannot be read as weights: .*fetch or save it again, or use weights that need no download"
NO_STATE = r"does not hold a state dict \(layer name to floating-point tensor\).*need no download"
FOREIGN = r"do not belong to vgg16: .*Choose the backbone they were made for"
NOT_FINITE = r"hold values that are not finite, in features\.0\.weight.*Fetch them again"
ANY = "(state dict|cannot be read as weights|do not belong)"
BAD_FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("w.pth", lambda: b"", DAMAGED),
    "truncated": ("w.pth", lambda: pth(first_layer())[:4000], DAMAGED),
    "truncated old format": ("w.pth", lambda: pth(first_layer(), legacy=True)[:4000], DAMAGED),
    "old format cut in its header": ("w.pth", lambda: pth(first_layer(), legacy=True)[:300], DAMAGED),
    "old format cut after its header": ("w.pth", lambda: pth(first_layer(), legacy=True)[:-7170], DAMAGED),
    "text": ("w.pth", lambda: b"these are no weights\n", DAMAGED),
    "web page": ("w.pth", lambda: b"<!DOCTYPE html><html>404</html>", DAMAGED),
    "empty safetensors": ("w.safetensors", lambda: b"", DAMAGED),
    "truncated safetensors": ("w.safetensors", lambda: safetensors_bytes(first_layer())[:2000], DAMAGED),
    "text as safetensors": ("w.safetensors", lambda: b"these are no weights\n" * 9, DAMAGED),
    "pth named safetensors": ("w.safetensors", lambda: pth(first_layer()), DAMAGED),
    "whole module": ("w.pth", lambda: pth(nn.Conv2d(3, 64, 3)), DAMAGED),
    "list": ("w.pth", lambda: pth([torch.zeros(3)]), NO_STATE),
    "one tensor": ("w.pth", lambda: pth(torch.zeros(3)), NO_STATE),
    "nothing": ("w.pth", lambda: pth(None), NO_STATE),
    "checkpoint of something else": ("w.pth", lambda: pth({"epoch": 3, "model": first_layer()}), NO_STATE),
    "numbers as names": ("w.pth", lambda: pth({0: torch.zeros(3), 1: torch.ones(3)}), ANY),
    "sparse tensors": ("w.pth", lambda: pth(sparse()), ANY),
    "no layer at all": ("w.pth", lambda: pth({}), FOREIGN),
    "other names": ("w.pth", lambda: pth({"conv1.weight": torch.zeros(64, 3, 7, 7)}), FOREIGN),
    "wrong shape": ("w.pth", lambda: pth(first_layer(channels=1)), r"\(64, 1, 3, 3\), needed \(64, 3, 3, 3\)"),
    "bias missing": (
        "w.pth",
        lambda: pth({"features.0.weight": first_layer()["features.0.weight"]}),
        r"features\.0\.bias \(missing, needed \(64,\)\)",
    ),
    "NaN": ("w.pth", lambda: pth(first_layer(fill=float("nan"))), NOT_FINITE),
    "infinity": ("w.safetensors", lambda: safetensors_bytes(first_layer(fill=float("inf"))), NOT_FINITE),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_one_message_that_names_it_and_says_what_to_do(tmp_path: Path, kind: str) -> None:
    name, make, advice = BAD_FILES[kind]
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(UserError, match=advice) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("kind", ["whole module", "web page", "text"])
def test_the_message_carries_neither_terminal_codes_nor_torchs_advice_to_load_unsafely(
    tmp_path: Path, kind: str
) -> None:
    name, make, _ = BAD_FILES[kind]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(UserError) as caught:
        load(tmp_path / name)
    assert "\x1b" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "can still be loaded" not in str(caught.value)


@pytest.mark.parametrize("cut", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pth_cut_anywhere_is_damaged(tmp_path: Path, legacy: bool, cut: float) -> None:
    data = pth(first_layer(), legacy)
    path = tmp_path / "w.pth"
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(UserError, match=DAMAGED):
        load(path)


def test_an_old_pth_with_a_flipped_byte_in_its_index_is_damaged(tmp_path: Path) -> None:
    """The list of storages behind the pickle no longer matches it."""
    data = pth(first_layer(), legacy=True)
    key = list(re.finditer(rb"\d{10,}", data))[-1].start()
    path = tmp_path / "w.pth"
    path.write_bytes(data[:key] + b"?" + data[key + 1 :])
    with pytest.raises(UserError, match=DAMAGED):
        load(path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    path.write_bytes(pth(vgg16_blocks()))
    load(path, "vgg16", "conv4_1")
    with pytest.raises(UserError, match=r"do not belong to vgg19: features\.16\.weight \(missing") as caught:
        load(path, "vgg19", "conv4_1")
    assert "Choose the backbone they were made for" in str(caught.value)
    with pytest.raises(UserError, match=r"do not belong to squeezenet1_1: features\.3\."):
        load(path, "squeezenet1_1", "fire9")


def test_a_long_list_of_mistakes_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pth(first_layer()))
    with pytest.raises(UserError, match=r"and \d+ more") as caught:
        load(path, "vgg19", "conv3_4")
    assert len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    "name",
    ["gone.pth", "gone.safetensors", "~no-such-user-here/w.pth", "w" * 300 + ".pth"],
    ids=["pth", "safetensors", "user", "long"],
)
def test_a_missing_file_is_told_with_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"neither a file nor a source.*torchvision, caffe, random, a file") as caught:
        load(Path(name))
    assert name in str(caught.value)


def test_a_file_that_vanished_since_the_check_is_told(tmp_path: Path) -> None:
    features = nn.Sequential(nn.Conv2d(3, 64, 3))
    with pytest.raises(UserError, match=r"There is no weight file .*backbone=vgg16 backbone\.weights=bundled"):
        weights.load(features, "vgg16", str(tmp_path / "gone.pth"), 0, ["features.0"])


def test_a_folder_is_no_weight_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a file nor a source"):
        load(tmp_path)


# ---- no code from a file is run


@pytest.mark.parametrize("form", ["pickle", "protocol 0", "new", "old", "inside a state dict"])
def test_code_in_a_weight_file_is_not_run(tmp_path: Path, form: str) -> None:
    marker = tmp_path / "executed"
    evil = Evil(marker)
    data = {
        "pickle": lambda: pickle.dumps(evil),
        "protocol 0": lambda: pickle.dumps(evil, protocol=0),
        "new": lambda: pth(evil),
        "old": lambda: pth(evil, legacy=True),
        "inside a state dict": lambda: pth(first_layer() | {"extra": evil}),
    }[form]()
    path = tmp_path / "w.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=DAMAGED):
        load(path)
    assert not marker.exists()


def test_the_attack_of_these_tests_works_where_nothing_stops_it(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()


# ---- downloads


@dataclass
class Server:
    """A stand-in for the machine that weights are downloaded from."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)

    def offer(self, data: bytes, right: bool = True, stem: str = "vgg16-test-") -> str:
        """Serve a file under a name that ends in the start of its SHA-256 (or of another), and return its URL."""
        digest = hashlib.sha256(data if right else data + b"x").hexdigest()
        name = f"{stem}{digest[:8]}.pth"
        self.files[f"/models/{name}"] = data
        return f"{self.address}/models/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.requests[path] += 1
        failure = self.failing.get(path)
        if failure == "garbage":
            handler.wfile.write(b"this is not HTTP\r\n\r\n")
        elif failure == "silence":
            pass
        elif path not in self.files:
            handler.send_error(404)
        elif failure in ("half", "chunks"):
            handler.send_response(200)
            data = self.files[path]
            if failure == "half":
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
                handler.wfile.write(data[: len(data) // 2])
            else:
                handler.send_header("Transfer-Encoding", "chunked")
                handler.end_headers()
                handler.wfile.write(b"%x\r\n" % len(data) + data[: len(data) // 2])
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(self.files[path])))
            handler.end_headers()
            handler.wfile.write(self.files[path])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    offered = Server("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            offered.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    offered.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield offered
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache of weights, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    return tmp_path / "torch_home" / "hub" / "checkpoints"


def download(url: str) -> backbones.Backbone:
    return backbones.load("vgg16", url, ["relu1_1"], preprocessing="caffe")


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []


@pytest.mark.parametrize("legacy", [False, True])
def test_a_download_is_checked_used_and_cached(server: Server, cache: Path, legacy: bool) -> None:
    data = pth(first_layer(), legacy)
    url = server.offer(data)
    name = url.rpartition("/")[2]
    net = download(url)
    assert holds_first_layer(net)
    assert left_in(cache) == [name]
    assert (cache / name).read_bytes() == data
    assert net.source == weights.Source(url, str(cache / name), hashlib.sha256(data).hexdigest())


def test_a_second_load_asks_nobody(server: Server) -> None:
    url = server.offer(pth(first_layer()))
    download(url)
    assert server.requests.total() == 1
    assert holds_first_layer(download(url))
    assert server.requests.total() == 1


def test_a_query_is_no_part_of_the_cached_name(server: Server, cache: Path) -> None:
    data = pth(first_layer())
    url = server.offer(data)
    server.files |= {f"{path}?download=1": content for path, content in server.files.items()}
    assert holds_first_layer(download(url + "?download=1"))
    assert left_in(cache) == [url.rpartition("/")[2]]


def ways_out(message: str, url: str, cache: Path) -> bool:
    """Tell whether a message lists the three ways out, with the address and the place to put the file at."""
    parts = [
        "(1)",
        url,
        str(cache / url.rpartition("/")[2]),
        "(2)",
        "backbone.weights=FILE",
        "(3)",
        "backbone.weights=bundled.",
    ]
    return all(part in message for part in parts)


def test_a_wrong_hash_is_refused_and_nothing_is_cached(server: Server, cache: Path) -> None:
    url = server.offer(pth(first_layer()), right=False)
    with pytest.raises(UserError, match="damaged: invalid hash value") as caught:
        download(url)
    assert ways_out(str(caught.value), url, cache)
    assert left_in(cache) == []
    with pytest.raises(UserError, match="damaged"):
        download(url)
    assert server.requests.total() == 2


def test_code_in_a_download_with_a_wrong_hash_is_not_run(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    with pytest.raises(UserError, match="damaged"):
        download(server.offer(pickle.dumps(Evil(marker)), right=False))
    with pytest.raises(UserError, match="cannot be read as weights"):
        download(server.offer(pickle.dumps(Evil(marker))))
    assert not marker.exists()


def test_not_found_is_told_with_the_ways_out(server: Server, cache: Path) -> None:
    url = f"{server.address}/models/vgg16-0123abcd.pth"
    with pytest.raises(UserError, match=r"could not be downloaded: .*404") as caught:
        download(url)
    assert ways_out(str(caught.value), url, cache)
    assert left_in(cache) == []


def test_a_refused_connection_is_told_with_the_ways_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/vgg16-0123abcd.pth"
        with pytest.raises(UserError, match=r"could not be downloaded: .*refused") as caught:
            download(url)
    assert ways_out(str(caught.value), url, cache)
    assert left_in(cache) == []


@pytest.mark.parametrize("failure", ["half", "chunks", "silence", "garbage"])
def test_a_server_that_breaks_off_is_told_and_nothing_is_cached(server: Server, cache: Path, failure: str) -> None:
    url = server.offer(pth(first_layer()))
    server.failing[url.removeprefix(server.address)] = failure
    with pytest.raises(UserError) as caught:
        download(url)
    assert ways_out(str(caught.value), url, cache)
    assert left_in(cache) == []
    server.failing.clear()
    assert holds_first_layer(download(url))


def test_half_a_file_without_a_hash_in_its_name_is_not_cached_either(server: Server, cache: Path) -> None:
    """Else the next load would take the broken file for a whole one."""
    server.files["/vgg16.pth"] = pth(first_layer())
    server.failing["/vgg16.pth"] = "half"
    with pytest.raises(UserError):
        download(f"{server.address}/vgg16.pth")
    assert left_in(cache) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:port/vgg16-0123abcd.pth",
        "http://[half/vgg16-0123abcd.pth",
        "http://127.0.0.1:1/a b-0123abcd.pth",
    ],
    ids=["port", "bracket", "space"],
)
def test_an_address_that_is_none_is_a_user_error(url: str) -> None:
    with pytest.raises(UserError):
        download(url)


def test_a_damaged_file_in_the_cache_is_named_and_to_be_deleted(server: Server, cache: Path) -> None:
    url = server.offer(pth(first_layer()))
    download(url)
    cached = cache / url.rpartition("/")[2]
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(UserError, match="fetch or save it again") as caught:
        download(url)
    assert str(cached) in str(caught.value)


CACHED_NAMES = [
    ("squeezenet1_1", "torchvision", "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"),
    ("vgg16", "torchvision", "https://download.pytorch.org/models/vgg16-397923af.pth"),
    ("vgg19", "torchvision", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"),
    ("vgg16_bn", "torchvision", "https://download.pytorch.org/models/vgg16_bn-6c64b313.pth"),
    ("vgg19_bn", "torchvision", "https://download.pytorch.org/models/vgg19_bn-c79401a0.pth"),
    ("vgg16", "caffe", "https://web.eecs.umich.edu/~justincj/models/vgg16-00b39a1b.pth"),
    ("vgg19", "caffe", "https://web.eecs.umich.edu/~justincj/models/vgg19-d01eb7cb.pth"),
]


@pytest.mark.parametrize(("architecture", "source", "url"), CACHED_NAMES, ids=[f"{a}-{s}" for a, s, _ in CACHED_NAMES])
def test_a_named_source_is_fetched_from_its_publisher_and_checked(
    cache: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, source: str, url: str
) -> None:
    asked: list[tuple[str, str, str | None]] = []

    def fetch(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append((url, dst, hash_prefix))
        Path(dst).write_bytes(pth(first_layer()))

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    net = backbones.load(architecture, source, ["0"])
    file = url.rpartition("/")[2]
    assert asked == [(url, str(cache / file), file[-12:-4])]
    assert holds_first_layer(net)
    assert net.source.name == source


@pytest.mark.parametrize(
    ("architecture", "file"), [("resnet18", "resnet18-f37072fd.pth"), ("resnet50", "resnet50-0676ba61.pth")]
)
def test_resnets_are_fetched_too_and_go_by_torchvisions_keys(
    cache: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, file: str
) -> None:
    asked: list[tuple[str, str, str | None]] = []
    network = torchvision.models.get_model(architecture, weights=None)
    state = network.state_dict()

    def fetch(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
        asked.append((url, dst, hash_prefix))
        Path(dst).write_bytes(pth(state))

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    net = backbones.load(architecture, "torchvision", ["layer2_1"])
    assert asked == [(f"https://download.pytorch.org/models/{file}", str(cache / file), file[-12:-4])]
    assert torch.equal(net.stack[0].weight, state["conv1.weight"])
    own = net.stack[-1].state_dict()
    assert own
    for key, value in own.items():
        assert torch.equal(value, state[f"layer2.0.{key}"]), key


def test_weights_of_another_network_are_named_by_its_keys(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pth({"conv1.weight": torch.zeros(64, 3, 3, 3), "fc.weight": torch.zeros(2, 2)}))
    with pytest.raises(
        UserError, match=r"do not belong to resnet18: conv1\.weight \(\(64, 3, 3, 3\), needed \(64, 3, 7, 7\)\)"
    ):
        load(tmp_path / "w.pth", "resnet18", "conv1")
    with pytest.raises(UserError, match=r"do not belong to resnet18: .*bn1\.weight \(missing, needed \(64,\)\)"):
        load(tmp_path / "w.pth", "resnet18", "bn1")


@pytest.mark.parametrize(("architecture", "source", "url"), CACHED_NAMES, ids=[f"{a}-{s}" for a, s, _ in CACHED_NAMES])
def test_a_file_that_torch_has_cached_is_used_without_a_download(
    cache: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, source: str, url: str
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    cache.mkdir(parents=True)
    file = cache / url.rpartition("/")[2]
    file.write_bytes(pth(first_layer()))
    net = backbones.load(architecture, source, ["0"])
    assert holds_first_layer(net)
    assert net.source.file == str(file)


@pytest.mark.parametrize("source", ["torchvision", "caffe"])
def test_a_named_source_is_cached_under_the_publishers_name(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    url = server.offer(pth(first_layer()), stem="vgg16-")
    monkeypatch.setattr(weights, "_url", lambda architecture, name: url)
    for _ in range(2):
        assert holds_first_layer(backbones.load("vgg16", source, ["conv1_1"]))
    assert left_in(cache) == [url.rpartition("/")[2]]
    assert server.requests.total() == 1


@pytest.mark.parametrize("blocked", ["torch_home", "torch_home/hub", "torch_home/hub/checkpoints"])
def test_a_cache_folder_that_cannot_be_made_is_told(tmp_path: Path, server: Server, cache: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / blocked).write_text("a file where a folder is needed")
    url = server.offer(pth(first_layer()))
    with pytest.raises(UserError, match=r"could not be stored in .*Set TORCH_HOME to a folder with room") as caught:
        download(url)
    assert ways_out(str(caught.value), url, cache)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_folder_that_is_read_only_is_told(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    with pytest.raises(UserError, match=r"could not be stored in .*Permission denied"):
        download(server.offer(pth(first_layer())))
    cache.chmod(0o700)


def test_a_full_disk_is_told_and_nothing_is_left(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    url = server.offer(pth(first_layer()))
    with monkeypatch.context() as patch:
        patch.setattr("torch.hub.shutil.move", full)
        with pytest.raises(UserError, match=r"could not be stored in .*No space left on device.*TORCH_HOME") as caught:
            download(url)
    assert ways_out(str(caught.value), url, cache)
    assert left_in(cache) == []
    assert holds_first_layer(download(url))
