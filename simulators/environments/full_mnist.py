"""The full MNIST set of 70,000 digits, downloaded once through torchvision into a cache folder.

This module imports torchvision, which nothing else in the simulators needs. torchvision compares
checksums, so the next call repeats a download that was cut off.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bandexa_core.encoders.torch.torchvision_compat import import_torchvision
from simulators.environments.mnist import ImagesUnavailableError, LabelledImages

_STALLED_S = 20.0


def full_digits(
    root: Path | None = None,
    *,
    mirrors: Sequence[str] | None = None,
    checksums: Sequence[tuple[str, str]] | None = None,
) -> LabelledImages:
    """Return all training and test digits, downloading them on first use.

    Args:
        root: folder of the files; None: `bandexa` in the user's cache folder.
        mirrors: base addresses, each ending in "/", that are tried in turn; None: torchvision's.
        checksums: (file name, md5) of the four files; None: torchvision's.

    Raises:
        ImagesUnavailableError: torchvision is missing, or no mirror delivered the files.
    """
    root = _cache_folder() if root is None else root
    try:
        datasets = import_torchvision().datasets
    except ImportError as error:
        raise ImagesUnavailableError(_advice(str(error), root)) from error
    overridden = {"mirrors": mirrors, "resources": checksums}
    given = {key: list(value) for key, value in overridden.items() if value is not None}
    # torchvision names the folder below root after the class.
    source = type("MNIST", (datasets.MNIST,), given)
    try:
        with _stalled_downloads_fail():
            parts = [source(root, train=train, download=True) for train in (True, False)]
    except (RuntimeError, OSError, EOFError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImagesUnavailableError(_advice(reason, root)) from error
    return LabelledImages(
        np.concatenate([part.data.numpy() for part in parts]),
        np.concatenate([part.targets.numpy() for part in parts]).astype(np.uint8),
    )


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bandexa"


def _advice(reason: str, root: Path) -> str:
    return (
        f"the full MNIST set is not available ({reason}): leave out --full to use the 10,000 "
        f"digits of the package, or put the four idx files of MNIST into {root / 'MNIST' / 'raw'}"
    )


@contextmanager
def _stalled_downloads_fail() -> Iterator[None]:
    """Set a time limit for sockets inside the block: torchvision downloads without one."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
