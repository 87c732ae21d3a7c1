"""A training round that processes share: `python -m tests.training.shared_round RANK SIZE FOLDER`.

Each rank writes what its policy is after the rounds of all `CASES`; a test runs the same alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from bandexa_core.encoders import EncoderModule, EncoderRegistry
from bandexa_core.ids import BanditUid, LogPosition
from bandexa_core.policies import NeuralLinearTS, make_policy
from bandexa_core.posterior import PosteriorConfig
from bandexa_core.replay import (
    DiskReplay,
    Evicted,
    ExtendedReplay,
    MemoryReplay,
    RowLayout,
    Rows,
    TrainingRows,
)
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec
from bandexa_core.training.plan import TrainingRound
from bandexa_core.training.process_ranks import ProcessRanks, file_store
from bandexa_core.training.ranks import ALONE, Ranks

NUM_ROWS, NUM_ACTIONS = 301, 3
CASES = ("joint", "per action", "weighted", "one row a step", "batch statistics")
Found = dict[str, NDArray[Any]]


class Normalised(EncoderModule):
    """A user's encoder with statistics of batches, and with a weight that no step uses."""

    def __init__(self) -> None:
        super().__init__()
        self.output_dim = 8
        self.linear = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.unused = nn.Parameter(torch.ones(8))

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        hidden: Tensor = torch.tanh(self.norm(self.linear(torch.cat([contexts, actions], dim=1))))
        return hidden


def policy_of(case: str) -> NeuralLinearTS:
    """Return the policy of a case, as it is before the round."""
    torch.manual_seed(0)
    if case == "batch statistics":
        return NeuralLinearTS(Normalised(), PosteriorConfig())
    params: dict[str, Any] = {"feature_dim": 6, "hidden": [12]}
    if case == "per action":
        params["heads"] = "per_action"
    spec = BanditSpec(
        policy="neural_linear_ts", context=ContextSpec(shape=(4,), dtype="float32"),
        action_dim=4, encoder=EncoderSpec(name="mlp", params=params), reward_range=(-2.0, 2.0),
    )  # fmt: skip
    policy = make_policy(spec, BanditUid("b"), EncoderRegistry())
    assert isinstance(policy, NeuralLinearTS)
    return policy


def rows_of(case: str, folder: Path) -> TrainingRows:
    """Return the rows of a case: in memory; on disk; or behind a sample of evicted ones."""
    rng = np.random.default_rng(3)
    table = rng.normal(size=(NUM_ACTIONS, 4)).astype(np.float32)
    slots = rng.integers(0, NUM_ACTIONS, NUM_ROWS)
    if case == "per action":  # the last chunk alone has the last action: one rank never meets it
        slots = np.where(np.arange(NUM_ROWS) < 290, slots % 2, 2)
    contexts = rng.normal(size=(NUM_ROWS, 4)).astype(np.float32)
    rewards = np.tanh((contexts * table[slots]).sum(1)) + 0.05 * rng.normal(size=NUM_ROWS)
    rows = Rows(np.arange(1, NUM_ROWS + 1), slots, rewards, table[slots], contexts)
    layout = RowLayout((4,), "float32", 4)
    if case == "weighted":
        replay = DiskReplay(folder / "replay", layout, shard_size=32)
        replay.append(rows.part(slice(70, None)))
        return ExtendedReplay(replay, Evicted(rows.part(slice(0, 70, 2)), 70))
    memory = MemoryReplay(layout)
    memory.append(rows)
    return memory


def weights_of(case: str, rows: TrainingRows) -> Any:
    """Return the weights of the rows of a case."""
    assert isinstance(rows, ExtendedReplay) == (case == "weighted")
    if not isinstance(rows, ExtendedReplay):
        return None
    return rows.weights(lambda positions: 0.5 ** ((NUM_ROWS - positions) / 100.0))


def plan_of(case: str) -> TrainingRound:
    """Return the plan of a case: 33 rows are not divided evenly by 2."""
    return TrainingRound(
        num_rows=NUM_ROWS, actions=np.zeros((0, 4), np.float32), steps=40,
        batch_size=1 if case == "one row a step" else 33, lr=1e-2, weight_decay=1e-2,
        rebuild_chunk=64, reward_scale=1.0, seed=2**63 - 2,
        num_heads=NUM_ACTIONS if case == "per action" else 1, since=int(LogPosition(0)),
    )  # fmt: skip


def trained(case: str, folder: Path, ranks: Ranks = ALONE) -> Found:
    """Carry out a case's round; return the policy's tensors, the training's and the metrics."""
    policy, rows = policy_of(case), rows_of(case, folder)
    state, metrics = policy.train(rows, {}, plan_of(case), weights_of(case, rows), ranks=ranks)
    own = {f"policy/{name}": tensor for name, tensor in policy.tensors().items()}
    return own | state | {f"metric/{name}": np.array(value) for name, value in metrics.items()}


def main() -> None:
    """Be a rank."""
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    store = file_store(str(folder / "meeting"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    ranks = ProcessRanks(rank)
    for case in CASES:
        found: dict[str, Any] = dict(trained(case, folder / f"own-{rank}", ranks))
        np.savez(folder / f"{case}-{rank}.npz", allow_pickle=False, **found)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
