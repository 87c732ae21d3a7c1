"""Labelled 28x28 images from a folder of idx files, the format of MNIST and Fashion-MNIST.

The training set is read from `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, plain or with
the suffix `.gz`. Fashion-MNIST: Xiao, Rasul and Vollgraf, arXiv:1708.07747. Runs in the simulator's
main thread before a run; nothing is written.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulators.environments.mnist import ImagesUnavailableError, LabelledImages

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package `dataset-fashion-mnist`."""

_IMAGES = "train-images-idx3-ubyte"
_LABELS = "train-labels-idx1-ubyte"
_UNSIGNED_BYTES = 8
_IMAGE_SHAPE = (28, 28)
_NUM_LABELS = 10


def fashion_images(folder: Path = FASHION_FOLDER) -> LabelledImages:
    """Return the training set of Fashion-MNIST.

    Args:
        folder: the folder with the idx files.

    Raises:
        ImagesUnavailableError: a file is missing or damaged, or holds other data.
    """
    paths = {name: _path(folder, name) for name in (_IMAGES, _LABELS)}
    found = {name: path for name, path in paths.items() if path is not None}
    if len(found) < len(paths):
        missing = " and no ".join(name for name in paths if name not in found)
        raise ImagesUnavailableError(
            f"no {missing} (or .gz) in {folder}: install Debian's package dataset-fashion-mnist, "
            f"which fills {FASHION_FOLDER}, or download the files from "
            "https://github.com/zalandoresearch/fashion-mnist and name their folder with --data-dir"
        )
    images, labels = _read(found[_IMAGES]), _read(found[_LABELS])
    if images.shape[1:] != _IMAGE_SHAPE or labels.shape != images.shape[:1] or not len(labels):
        raise ImagesUnavailableError(
            f"{folder} holds images of shape {images.shape} and labels of shape {labels.shape}: "
            "expected (n, 28, 28) and (n,)"
        )
    if labels.max() >= _NUM_LABELS:
        raise ImagesUnavailableError(f"{folder} holds the label {labels.max()}, which is beyond 9")
    return LabelledImages(images, labels)


def _path(folder: Path, name: str) -> Path | None:
    """Return the path of the file with this name, plain or compressed."""
    paths = [folder / name, folder / f"{name}.gz"]
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path) -> NDArray[np.uint8]:
    """Decode a file: two zero bytes, type, number of sizes, big-endian sizes, then the values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        zeros, kind, num_sizes = struct.unpack_from(">HBB", content)
        sizes = struct.unpack_from(f">{num_sizes}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ImagesUnavailableError(f"cannot read {path}: {error}") from error
    start = 4 + 4 * num_sizes
    if zeros or kind != _UNSIGNED_BYTES or len(content) - start != math.prod(sizes):
        raise ImagesUnavailableError(f"{path} is not a complete idx file of unsigned bytes")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
