"""Ranks that are processes, connected by `torch.distributed`.

Whoever starts the processes makes the default process group first: `torchrun` by its environment,
the trainer of a server by a file. Numbers of rounds pass through gloo, on the CPU; gradients of an
encoder on a GPU pass through nccl.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

Array64 = NDArray[np.float64]


def file_store(path: str, size: int) -> Any:
    """Return a file by which `size` processes of one machine find each other."""
    return distributed.FileStore(path, size)  # type: ignore[attr-defined]


class ProcessRanks:
    """The processes of torch's default process group.

    Args:
        local_rank: The number of this process on its machine, which is that of its GPU.
    """

    def __init__(self, local_rank: int) -> None:
        self.local_rank = local_rank
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()

    def sum(self, array: Array64) -> Array64:
        """See `Ranks.sum`."""
        total = torch.from_numpy(np.array(array, np.float64))
        if total.numel():
            distributed.all_reduce(total)
        out: Array64 = total.numpy()
        return out

    def highest(self, number: int) -> int:
        """See `Ranks.highest`."""
        most = torch.tensor(number, dtype=torch.int64)
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
        return int(most)

    def align(self, module: nn.Module) -> None:
        """See `Ranks.align`."""
        for tensor in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(tensor.data, src=0)

    def in_parallel(self, module: nn.Module) -> nn.Module:
        """See `Ranks.in_parallel`."""
        device = next(module.parameters()).device
        # A user's encoder may have weights that no step uses. Where all are used, torch warns once.
        return DistributedDataParallel(
            module, device_ids=None if device.type == "cpu" else [device.index],
            find_unused_parameters=True,
        )  # fmt: skip
