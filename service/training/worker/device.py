"""The device that trains encoders: the CPU or a GPU. Importing torch takes seconds."""

from __future__ import annotations


def chosen_device(wanted: str) -> str:
    """Return "cpu" or "cuda": what the setting `device` means on this machine."""
    if wanted != "auto":
        return wanted
    return "cpu" if cuda_name() is None else "cuda"


def cuda_name() -> str | None:
    """Return the name of the GPU that torch can use, None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def built_for_cuda() -> bool:
    """Return whether this build of torch can use a GPU at all."""
    import torch

    return bool(torch.version.cuda)
