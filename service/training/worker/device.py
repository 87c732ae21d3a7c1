"""The device that trains encoders: the CPU or a GPU. Importing torch takes seconds."""

from __future__ import annotations


class DeviceMissing(Exception):
    """The settings ask for a GPU, and none can be used."""


def chosen_device(wanted: str) -> str:
    """Return "cpu" or "cuda": what the setting `device` means on this machine.

    Raises:
        DeviceMissing: It means a GPU that is not there.
    """
    if wanted == "cpu":
        return wanted
    if cuda_name() is not None:
        return "cuda"
    if wanted == "auto":
        return "cpu"
    why = "none can be used" if built_for_cuda() else "this torch is built without CUDA"
    raise DeviceMissing(f"device = cuda, and {why}: install what is missing, or set device = auto")


def cuda_name() -> str | None:
    """Return the name of the GPU that torch can use, None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def built_for_cuda() -> bool:
    """Return whether this build of torch can use a GPU at all."""
    import torch

    return bool(torch.version.cuda)
