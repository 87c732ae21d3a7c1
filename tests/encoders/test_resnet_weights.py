"""What a ResNet starts from: registered files, torchvision's cached ones, and how each can fail."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.torch.module import load_module_tensors, module_tensors
from bandexa_core.encoders.torch.weights import download
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec

CACHED = "resnet18-f37072fd.pth"


@pytest.fixture(scope="module")
def state(make_resnet) -> dict[str, torch.Tensor]:
    """Weights of a resnet18 as torchvision writes them, with the classifier."""
    backbone = make_resnet().backbone
    noise = torch.Generator().manual_seed(7)
    found = {
        name: tensor + 0.01 * torch.rand(tensor.shape, generator=noise)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in backbone.state_dict().items()
    }
    return found | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def files(state, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    torch.save(state, root / "zipped.pth")
    torch.save(state, root / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, root / "plain.safetensors")
    return {path.stem: path for path in root.iterdir()}


@pytest.mark.parametrize("name", ["zipped", "old", "plain"])
def test_a_registered_file_is_what_the_backbone_starts_from(make_resnet, files, state, name):
    backbone = make_resnet(files=files, weights=name).backbone
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    trainable = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert trainable
    assert all(name.startswith("layer4.") for name in trainable)


def test_half_precision_and_missing_counters_are_taken(make_resnet, state, tmp_path):
    halves = {
        name: t.half() if t.is_floating_point() else t
        for name, t in state.items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(halves, tmp_path / "half.safetensors")
    files = {"half": tmp_path / "half.safetensors"}
    backbone = make_resnet(files=files, weights="half").backbone
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"].half().float())


def test_tensors_of_one_base_do_not_fit_another(make_resnet, files):
    trained = module_tensors(make_resnet(files=files, weights="zipped"))
    load_module_tensors(make_resnet(files=files, weights="plain", seed=9), trained)
    with pytest.raises(ValueError, match="base weights changed"):
        load_module_tensors(make_resnet(), trained)


@pytest.mark.few(1)
@pytest.mark.parametrize("weights", ["zipped", "old", "plain"])
def test_a_file_of_another_architecture_is_refused(make_resnet, files, weights):
    for name in ("resnet34", "resnet50"):
        with pytest.raises(ValueError, match=rf"^encoder\.params\.weights: '{weights}' is not of"):
            make_resnet(name, files=files, weights=weights)


def test_a_name_that_is_not_registered_is_refused_with_those_that_are(make_resnet, files):
    with pytest.raises(ValueError, match=r"^encoder\.params\.weights: .*none, imagenet.*plain"):
        make_resnet(files=files, weights="unknown")


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["zipped", "old", "plain"])
def test_a_truncated_file_is_refused_at_once(files, tmp_path, name):
    data = files[name].read_bytes()
    for size in (0, 100, len(data) // 2, len(data) - 20):
        path = tmp_path / files[name].name
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"^weights\.mine: .*cannot be read"):
            EncoderRegistry(weights={"mine": path})


@pytest.mark.parametrize(
    "path", ["missing.pth", "missing.safetensors", ".", "text.pth", "list.pth", "nested.pth"]
)
def test_what_holds_no_weights_is_refused_at_once(tmp_path, path):
    (tmp_path / "text.pth").write_text("weights")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match=r"^weights\.mine: .*cannot be read"):
        EncoderRegistry(weights={"mine": str(tmp_path / path)})


class Ran:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Ran()}, "evil.pth")
    with pytest.raises(ValueError, match=r"^weights\.mine: .*cannot be read"):
        EncoderRegistry(weights={"mine": "evil.pth"})
    assert not Path("ran").exists()


def test_a_file_damaged_since_the_start_is_refused_by_name(make_resnet, files, tmp_path):
    module = make_resnet(files=files, weights="plain")
    with pytest.raises(ValueError, match=r"^encoder\.params\.weights: .*cannot be read"):
        module.load_base({"plain": tmp_path / "gone.safetensors"})


@pytest.mark.parametrize("name", ["none", "imagenet"])
def test_a_name_with_a_meaning_cannot_be_registered(files, name):
    with pytest.raises(ValueError, match=rf"^weights\.{name}: the name is taken"):
        EncoderRegistry(weights={name: files["plain"]})


# -- torchvision's own weights ----------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's cache, empty, on a machine whose way out refuses connections."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_imagenet_weights_come_from_the_cache(make_resnet, files, state, cache):
    (cache / CACHED).write_bytes(files["zipped"].read_bytes())
    backbone = make_resnet(weights="imagenet").backbone
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"])


def test_without_cache_and_network_it_says_what_to_do(make_resnet, cache):
    with pytest.raises(ValueError, match=r"^encoder\.params\.weights: ") as refused:
        make_resnet(weights="imagenet")
    message = str(refused.value)
    for part in (f"download.pytorch.org/models/{CACHED}", str(cache), "register", "resnet18"):
        assert part in message
    assert list(cache.iterdir()) == []


def test_a_truncated_cache_is_named(make_resnet, files, cache):
    (cache / CACHED).write_bytes(files["zipped"].read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"^encoder\.params\.weights: .*{CACHED} cannot be read"):
        make_resnet(weights="imagenet")


def test_random_weights_are_the_same_for_every_bandit(make_resnet):
    first, other = make_resnet(seed=1), make_resnet(seed=2)
    assert torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)
    assert not np.array_equal(first.fuse[0].weight.detach(), other.fuse[0].weight.detach())


# -- downloads ---------------------------------------------------------------------------------


@pytest.fixture
def slow_peer() -> Iterator[str]:
    """The address of a server that sends a byte of a large file at a time, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []
    ending = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        connections.append(connection)
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while not ending.wait(0.01):
                connection.sendall(b"x")

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/weights.pth"
    ending.set()
    thread.join()
    for each in (listener, *connections):
        each.close()


def test_a_download_that_trickles_is_given_up(slow_peer, tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 s"):
        download(slow_peer, path, "", within_s=0.2)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_downloaded_whole_or_not_at_all(tmp_path):
    (tmp_path / "source").write_bytes(b"weights")
    url, path = (tmp_path / "source").as_uri(), tmp_path / "found" / "weights.pth"
    path.parent.mkdir()
    with pytest.raises(OSError, match="SHA-256"):
        download(url, path, "00000000")
    assert list(path.parent.iterdir()) == []
    download(url, path, hashlib.sha256(b"weights").hexdigest()[:8])
    assert [each.name for each in path.parent.iterdir()] == ["weights.pth"]
    assert path.read_bytes() == b"weights"


def test_a_server_builds_no_encoder_whose_weights_are_not_here(cache):
    spec = BanditSpec(
        policy="neural_linear_ts", context=ContextSpec(shape=(28, 28), dtype="uint8"),
        encoder=EncoderSpec(name="resnet18", params={"weights": "imagenet"}),
    )  # fmt: skip
    registry = EncoderRegistry(downloads=False)
    with pytest.raises(ValueError, match=r"weights: .* is not here yet"):
        registry.module(spec, 0)
    with pytest.raises(ValueError, match="could not be downloaded"):
        registry.fetch(spec)
