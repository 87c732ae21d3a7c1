"""The device that trains encoders: the CPU or a GPU. Importing torch takes seconds."""

from __future__ import annotations

from bandexa_core.training.ranks import Ranks


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


def device_of(ranks: Ranks, wanted: str) -> str:
    """Return the device of a rank: with several, each has a GPU of its own.

    Raises:
        DeviceMissing: There is none for this rank.
    """
    device = chosen_device(wanted)
    if device == "cpu" or ranks.size == 1:
        return device
    import torch

    from bandexa_core.training.process_ranks import ProcessRanks

    assert isinstance(ranks, ProcessRanks), "several ranks are processes"
    number, found = ranks.local_rank, torch.cuda.device_count()
    if number >= found:
        raise DeviceMissing(
            f"rank {ranks.rank} needs a GPU of its own, and this machine has {found}: set"
            f" trainer_processes = {found}, or device = cpu"
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def cuda_name() -> str | None:
    """Return the name of the GPU that torch can use, None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def built_for_cuda() -> bool:
    """Return whether this build of torch can use a GPU at all."""
    import torch

    return bool(torch.version.cuda)
