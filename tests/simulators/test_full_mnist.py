"""The full set is downloaded from a stand-in mirror on loopback, or refused with a reason."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from bandexa_core.encoders.torch.torchvision_compat import import_torchvision
from simulators.environments import ImagesUnavailableError
from simulators.environments.full_mnist import full_digits


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": generator.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": generator.integers(0, 10, 6, dtype=np.uint8),
        "t10k-images-idx3-ubyte": generator.integers(0, 256, (2, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": generator.integers(0, 10, 2, dtype=np.uint8),
    }


@pytest.fixture
def checksums(
    arrays: dict[str, np.ndarray], idx: Callable[[np.ndarray], bytes], tmp_path: Path
) -> list[tuple[str, str]]:
    """Write the four files where the mirror serves them."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    sums = []
    for name, values in arrays.items():
        content = gzip.compress(idx(values))
        (folder / f"{name}.gz").write_bytes(content)
        sums.append((f"{name}.gz", hashlib.md5(content, usedforsecurity=False).hexdigest()))
    return sums


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(QuietHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def test_training_and_test_digits_are_downloaded_and_joined(
    arrays: dict[str, np.ndarray],
    checksums: list[tuple[str, str]],
    mirror: str,
    unreachable: str,
    tmp_path: Path,
) -> None:
    """The first mirror is down, so the second one is used."""
    images, labels = full_digits(tmp_path, mirrors=[unreachable, mirror], checksums=checksums)
    parts = [arrays["train-images-idx3-ubyte"], arrays["t10k-images-idx3-ubyte"]]
    np.testing.assert_array_equal(images, np.concatenate(parts))
    parts = [arrays["train-labels-idx1-ubyte"], arrays["t10k-labels-idx1-ubyte"]]
    np.testing.assert_array_equal(labels, np.concatenate(parts))
    assert images.dtype == np.uint8
    assert labels.dtype == np.uint8


def test_a_second_call_needs_no_network(
    checksums: list[tuple[str, str]], mirror: str, unreachable: str, tmp_path: Path
) -> None:
    first = full_digits(tmp_path, mirrors=[mirror], checksums=checksums)
    second = full_digits(tmp_path, mirrors=[unreachable], checksums=checksums)
    np.testing.assert_array_equal(first.images, second.images)


def test_an_unreachable_mirror_is_reported_in_one_line(
    checksums: list[tuple[str, str]], unreachable: str, tmp_path: Path
) -> None:
    with pytest.raises(ImagesUnavailableError) as caught:
        full_digits(tmp_path, mirrors=[unreachable], checksums=checksums)
    message = str(caught.value)
    assert "\n" not in message
    assert "leave out --full" in message
    assert str(tmp_path / "MNIST" / "raw") in message


def test_the_time_limit_of_downloads_is_restored(
    checksums: list[tuple[str, str]], unreachable: str, tmp_path: Path
) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(7.0)
    try:
        with pytest.raises(ImagesUnavailableError):
            full_digits(tmp_path, mirrors=[unreachable], checksums=checksums)
        assert socket.getdefaulttimeout() == 7.0
    finally:
        socket.setdefaulttimeout(before)


def test_a_corrupted_download_is_refused(
    checksums: list[tuple[str, str]], mirror: str, tmp_path: Path
) -> None:
    (tmp_path / "mirror" / "t10k-images-idx3-ubyte.gz").write_bytes(b"cut off")
    with pytest.raises(ImagesUnavailableError, match="leave out --full"):
        full_digits(tmp_path, mirrors=[mirror], checksums=checksums)


def test_torchvision_imports_once_and_brings_models_and_data_sets() -> None:
    torchvision = import_torchvision()
    assert torchvision is import_torchvision()
    assert torchvision.datasets.MNIST.mirrors
    assert callable(torchvision.models.resnet18)
