"""The device that trains: what the setting means here, and the GPU against the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from bandexa_core.encoders.torch.resnet import ResNetEncoder
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.training.encoder_trainer import EncoderTrainer
from bandexa_core.training.plan import TrainingRound
from benchmarks.__main__ import main as benchmarks
from service.training.worker.device import DeviceMissing, chosen_device
from tests.fixtures.gpu import need_gpu

NUM, LABELS, IMAGE = 64, 4, (16, 16)


def trained(device: str, half: bool) -> dict[str, float]:
    """Train a small ResNet on rows whose reward follows from the brightness of the image."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, LABELS, NUM)
    images = rng.integers(0, 256, (NUM, *IMAGE), np.uint8)
    actions = np.eye(LABELS, dtype=np.float32)
    replay = MemoryReplay(RowLayout(IMAGE, "uint8", LABELS))
    rewards = images.mean((1, 2)) / 255
    replay.append(Rows(np.arange(NUM), labels, rewards, actions[labels], images))
    torch.manual_seed(0)
    module = ResNetEncoder("resnet18", IMAGE, LABELS, image_size=16)
    module.load_base({})
    plan = TrainingRound(
        num_rows=NUM, actions=actions, steps=12, batch_size=16, lr=1e-3, weight_decay=1e-2,
        rebuild_chunk=64, reward_scale=1.0, seed=0, num_heads=1, device=device,
    )  # fmt: skip
    return EncoderTrainer(copy.deepcopy(module), plan, half=half).run(replay)


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_does_and_half_precision_nearly() -> None:
    need_gpu()
    cpu, plain, half = trained("cpu", True), trained("cuda", False), trained("cuda", True)
    assert plain["loss_after"] == pytest.approx(cpu["loss_after"], rel=0.02)
    assert half["loss_after"] == pytest.approx(cpu["loss_after"], rel=0.2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_where_there_is_no_gpu_that_is_said_in_words(capsys) -> None:
    assert chosen_device("auto") == chosen_device("cpu") == "cpu"
    with pytest.raises(DeviceMissing, match="device = cuda, and"):
        chosen_device("cuda")
    assert benchmarks(["gpu"]) == 2
    assert "it needs a GPU" in capsys.readouterr().err
