"""Fashion-MNIST is read from small idx files, and bad files are refused with a reason."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from simulators.environments import ImagesUnavailableError, fashion_images

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
Write = Callable[[Mapping[str, np.ndarray]], None]


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        IMAGES: generator.integers(0, 256, (6, 28, 28), dtype=np.uint8),
        LABELS: np.array([0, 9, 3, 3, 7, 1], dtype=np.uint8),
    }


@pytest.fixture
def write(idx: Callable[[np.ndarray], bytes], tmp_path: Path) -> Write:
    """Return a function that writes compressed files of arrays into the folder of the test."""

    def write_files(arrays: Mapping[str, np.ndarray]) -> None:
        for name, values in arrays.items():
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(values)))

    return write_files


@pytest.mark.parametrize("compressed", [True, False])
def test_the_training_set_is_read(
    compressed: bool, arrays: dict[str, np.ndarray], write: Write, tmp_path: Path
) -> None:
    write(arrays)
    if not compressed:
        for name in arrays:
            path = tmp_path / f"{name}.gz"
            (tmp_path / name).write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    images, labels = fashion_images(tmp_path)
    np.testing.assert_array_equal(images, arrays[IMAGES])
    np.testing.assert_array_equal(labels, arrays[LABELS])
    assert images.dtype == np.uint8
    assert labels.dtype == np.uint8


@pytest.mark.parametrize("missing", [[IMAGES], [LABELS], [IMAGES, LABELS]])
def test_missing_files_are_reported_with_a_way_to_get_them(
    missing: list[str], arrays: dict[str, np.ndarray], write: Write, tmp_path: Path
) -> None:
    write({name: values for name, values in arrays.items() if name not in missing})
    with pytest.raises(ImagesUnavailableError) as caught:
        fashion_images(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"no {' and no '.join(missing)} (or .gz) in {tmp_path}: install")
    for advice in ("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist", "--data-dir"):
        assert advice in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: b"",
        lambda file: b"no gzip at all",
        lambda file: file[:-20],
        lambda file: gzip.compress(b"\0\0"),
        lambda file: gzip.compress(gzip.decompress(file)[:8]),
        lambda file: gzip.compress(gzip.decompress(file)[:-1]),
        lambda file: gzip.compress(gzip.decompress(file) + b"\0"),
        lambda file: gzip.compress(b"\0\0\x0d" + gzip.decompress(file)[3:]),
    ],
    ids=["empty", "no-gzip", "cut-gzip", "no-header", "no-sizes", "short", "long", "floats"],
)
def test_a_damaged_file_is_named(
    damage: Callable[[bytes], bytes],
    arrays: dict[str, np.ndarray],
    write: Write,
    tmp_path: Path,
) -> None:
    write(arrays)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImagesUnavailableError, match=str(path)):
        fashion_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        (IMAGES, np.zeros((6, 28, 27), np.uint8), "expected"),
        (IMAGES, np.zeros((5, 28, 28), np.uint8), "expected"),
        (LABELS, np.zeros((6, 1), np.uint8), "expected"),
        (LABELS, np.full(6, 10, np.uint8), "the label 10"),
    ],
)
def test_files_that_hold_something_else_are_refused(
    name: str,
    values: np.ndarray,
    reason: str,
    arrays: dict[str, np.ndarray],
    write: Write,
    tmp_path: Path,
) -> None:
    write(arrays | {name: values})
    with pytest.raises(ImagesUnavailableError, match=reason):
        fashion_images(tmp_path)


def test_an_empty_set_is_refused(write: Write, tmp_path: Path) -> None:
    empty = {IMAGES: np.zeros((0, 28, 28), np.uint8), LABELS: np.zeros(0, np.uint8)}
    write(empty)
    with pytest.raises(ImagesUnavailableError, match="expected"):
        fashion_images(tmp_path)
