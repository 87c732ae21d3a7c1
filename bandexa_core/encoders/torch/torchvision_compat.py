"""The only place that imports torchvision, at its first use.

A torchvision wheel built for CUDA cannot load its compiled operators beside a CPU-only torch. Its
import then fails with "operator torchvision::nms does not exist", although models, transforms and
data sets need none of them. In that case the two operators it describes at import are declared
first, without an implementation. A matching pair of torch and torchvision is left untouched. Runs
in the thread of the first caller; nothing is written to disk.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
from collections.abc import Callable
from types import ModuleType

import torch

_DESCRIBED_AT_IMPORT = ("torchvision::nms", "torchvision::qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@functools.cache
def import_torchvision() -> ModuleType:
    """Import torchvision, with or without its compiled operators.

    Raises:
        ImportError: torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("torchvision is not installed: pip install torchvision")
    if not _load_operators(list(spec.submodule_search_locations)):
        for operator in _DESCRIBED_AT_IMPORT:
            torch.library.define(operator, _SCHEMA)
    return importlib.import_module("torchvision")


def _load_operators(folders: list[str]) -> bool:
    """Load the compiled operators as torchvision itself would; loading them twice is harmless."""
    extension = importlib.machinery.PathFinder.find_spec("_C", folders)
    if extension is None or extension.origin is None:
        return False
    load: Callable[[str], None] = torch.ops.load_library
    try:
        load(extension.origin)
    except OSError:
        return False
    return True
