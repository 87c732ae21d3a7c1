"""The optimizer of a round: torch's AdamW to the bit, without torch's compiler in the process."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from bandexa_core.training.optimizer import AdamW

ROUND = """
import sys
import numpy as np
from bandexa_core.encoders.torch.mlp import MLPEncoder
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.training.encoder_trainer import EncoderTrainer
from bandexa_core.training.plan import TrainingRound

rng = np.random.default_rng(0)
rows = Rows(
    positions=np.arange(1, 41), slots=np.zeros(40, np.int64), rewards=rng.random(40),
    actions=rng.random((40, 2)).astype(np.float32), contexts=rng.random((40, 3)).astype(np.float32),
)
replay = MemoryReplay(RowLayout((3,), "float32", 2), 100)
replay.append(rows)
plan = TrainingRound(
    num_rows=40, actions=np.zeros((0, 2), np.float32), steps=3, batch_size=8, lr=0.01,
    weight_decay=0.01, rebuild_chunk=16, reward_scale=1.0, seed=0, num_heads=1, device="cpu",
)
EncoderTrainer(MLPEncoder((3,), 2, feature_dim=4, hidden=(8,)), plan).run(replay)
assert "torch" in sys.modules
assert "torch._dynamo" not in sys.modules
"""
EVERY_ENCODER = """
from bandexa_core.encoders import EncoderRegistry
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec

for name in ("mlp", "two_tower", "kernel", "conv"):  # torchvision's import it with ops
    shape = (3, 32, 32) if name == "conv" else (3,)
    encoder = EncoderSpec(name=name)
    spec = BanditSpec(context=ContextSpec(shape=shape), action_dim=2, encoder=encoder, seed=1)
    EncoderRegistry().module(spec, 1)
    assert "torch._dynamo" not in sys.modules, name
    assert "sympy" not in sys.modules, name
"""


def trained(optimizer: type[torch.optim.AdamW]) -> list[torch.Tensor]:
    """Return weights after steps with a frozen parameter and one without a gradient."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    unused = nn.Parameter(torch.ones(2))
    weights = [*module.parameters(), unused]
    steps = optimizer(weights, lr=0.01, weight_decay=0.1)
    for step in range(7):
        steps.param_groups[0]["lr"] = 0.01 / (1 + step)
        steps.zero_grad(set_to_none=True)
        module(torch.randn(4, 3)).square().sum().backward()
        steps.step()
    return [*weights, *(value for state in steps.state.values() for value in state.values())]


def test_it_steps_as_torch_does() -> None:
    ours, theirs = trained(AdamW), trained(torch.optim.AdamW)
    assert len(ours) == len(theirs) > 5
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_neither_a_round_nor_an_encoder_imports_the_compiler() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROUND + EVERY_ENCODER],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
