"""Weights that an encoder starts from: files registered by name, and torchvision's ImageNet ones.

Files are read as data only: safetensors, or a torchvision `.pth` through torch's weights-only
loader. Reading takes a while, so it runs off the event loop, when a bandit is created or loaded.
Only torch hub's cache is written.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from urllib.request import urlopen

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from bandexa_core.encoders.torch.torchvision_compat import import_torchvision

NONE, IMAGENET = "none", "imagenet"
_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
    UnpicklingError, SafetensorError, zipfile.BadZipFile,
)  # fmt: skip
DOWNLOAD_S = 300.0  # of a download in all
SILENT_S = 15.0  # without a byte
_PIECE = 1 << 20
_HASH_DIGITS = 8  # the digits of a file's SHA-256 in torchvision's file names


def check_files(files: Mapping[str, Path]) -> None:
    """Refuse reserved names, and files that cannot be read (ValueError)."""
    for name, path in files.items():
        if name in (NONE, IMAGENET):
            raise ValueError(f"weights.{name}: the name is taken")
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as opened:
                    opened.keys()
            else:
                _read(path, mapped=True)
        except _UNREADABLE as error:
            raise ValueError(f"weights.{name}: {path} cannot be read: {error}") from error


def named_weights(name: str, files: Mapping[str, Path], architecture: str) -> dict[str, Tensor]:
    """Return the tensors of a torchvision architecture by their names there, in float32.

    Args:
        name: "imagenet", or a name in `files`.
        files: The registered files.
        architecture: Such as "resnet18".

    Raises:
        ValueError: The name is unknown, or its file is not available or not readable.
    """
    if name == IMAGENET:
        path = imagenet_file(architecture)
    elif name in files:
        path = files[name]
    else:
        known = ", ".join([NONE, IMAGENET, *files])
        raise ValueError(f"encoder.params.weights: must be one of {known}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _read(path)
    except _UNREADABLE as error:
        raise ValueError(f"encoder.params.weights: {path} cannot be read: {error}") from error
    return {key: value.to(torch.float32) for key, value in found.items()}


def _read(path: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """Read a `.pth` file; `mapped` reads only its index, if it has one."""
    mapped = mapped and zipfile.is_zipfile(path)
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError("it holds no tensors by name")
    return found


def imagenet_place(architecture: str) -> tuple[str, Path]:
    """Return the address of torchvision's ImageNet weights, and their file in torch hub's cache."""
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    # This version by name: the default of a future torchvision would be another base.
    url = str(models.get_model_weights(architecture)["IMAGENET1K_V1"].url)
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def imagenet_file(architecture: str) -> Path:
    """Return torchvision's file in torch hub's cache, downloading it once (ValueError)."""
    url, path = imagenet_place(architecture)
    if path.exists():
        return path
    folder = path.parent
    digest = path.stem.rpartition("-")[2][:_HASH_DIGITS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download(url, path, digest)
    except (OSError, HTTPException) as error:
        raise ValueError(
            f"encoder.params.weights: the ImageNet weights of {architecture} are not here and "
            f"could not be downloaded ({error}): put {url} into {folder}, or register a weights "
            "file by name in the server's settings"
        ) from error
    return path


def download(url: str, path: Path, digest: str, *, within_s: float = DOWNLOAD_S) -> None:
    """Download a file; it appears under its name complete, or not at all.

    Args:
        url: Where it is.
        path: Where it goes.
        digest: What the SHA-256 of the file begins with, in hex.
        within_s: The time that it may take; torch's own download waits for ever.

    Raises:
        OSError, HTTPException: It could not be downloaded in time, or is another file.
    """
    until = time.monotonic() + within_s
    found = sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.") as part:
        with urlopen(url, timeout=min(SILENT_S, within_s)) as answer:
            # What has arrived, not a whole piece: a slow peer must not hide behind a large read.
            while piece := answer.read1(_PIECE):
                if time.monotonic() > until:
                    raise TimeoutError(f"it took longer than {within_s:g} s")
                found.update(piece)
                part.write(piece)
        if not found.hexdigest().startswith(digest):
            raise OSError(f"its SHA-256 does not begin with {digest}")
        part.flush()
        with contextlib.suppress(FileExistsError):  # another download was faster
            os.link(part.name, path)  # the other name goes with the context
