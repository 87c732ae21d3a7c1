"""Measures the training of ResNets from a disk replay on a GPU: rows per second, and its busy time.

Everything is trained, not only the last stage: images of three channels, batches of 256, for each
architecture in half precision, as a server trains, and in float32. The share of time that the
device is busy is that of its kernels and copies, by torch's profiler, over the time of the steps;
the first steps are not counted. `--device cpu` runs the same, smaller and without that share, to
try the command. Selects of a small bandit beside such training: `benchmarks interference --device
cuda`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bandexa_core.encoders.torch.resnet import ResNetEncoder
from bandexa_core.replay import DiskReplay, RowLayout, Rows
from bandexa_core.training.encoder_trainer import EncoderTrainer
from bandexa_core.training.plan import TrainingRound
from benchmarks.report import Target, arguments, report
from service.training.worker.device import built_for_cuda, cuda_name

LABELS = 10
LEAST_BUSY = Target(0.85, at_most=False, unit="of the time of training at batches of 256")


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    architectures: tuple[str, ...]
    side: int
    rows: int
    batch: int
    steps: int


FULL = Size(("resnet18", "resnet50"), 224, 4096, 256, 60)
QUICK = Size(("resnet18",), 32, 64, 16, 2)


def filled(replay: DiskReplay, size: Size) -> None:
    """Append rows of random images; a part of the rows at a time."""
    rng = np.random.default_rng(0)
    eye = np.eye(LABELS, dtype=np.float32)
    for first in range(0, size.rows, size.batch):
        num = min(size.batch, size.rows - first)
        labels = rng.integers(0, LABELS, num)
        images = rng.integers(0, 256, (num, size.side, size.side, 3), np.uint8)
        replay.append(
            Rows(np.arange(first, first + num), labels, rng.random(num), eye[labels], images)
        )


def trained(
    replay: DiskReplay, architecture: str, size: Size, device: str, *, half: bool
) -> dict[str, float]:
    """Train once to warm up and once to measure; returns the figures of the second time."""
    torch.manual_seed(0)
    module = ResNetEncoder(
        architecture, (size.side, size.side, 3), LABELS, trainable="all", image_size=size.side
    )
    module.load_base({})
    plan = TrainingRound(
        num_rows=size.rows, actions=np.eye(LABELS, dtype=np.float32), steps=2,
        batch_size=size.batch, lr=1e-3, weight_decay=1e-2, rebuild_chunk=256, reward_scale=1.0,
        seed=0, num_heads=1, device=device,
    )  # fmt: skip
    EncoderTrainer(module, plan, half=half).run(replay)
    trainer = EncoderTrainer(module, replace(plan, steps=size.steps), half=half)
    on_gpu = device != "cpu"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        started = time.perf_counter()
        trainer.run(replay)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    figures = {"rows_per_s": size.batch * size.steps / seconds}
    if on_gpu:
        figures["busy"] = sum(one.self_device_time_total for one in seen.key_averages()) / (
            1e6 * seconds
        )
    return figures


def measure(size: Size, device: str) -> dict[str, float]:
    """Return the figures of all architectures, in half precision and in float32."""
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        layout = RowLayout((size.side, size.side, 3), "uint8", LABELS)
        with DiskReplay(Path(folder) / "replay", layout) as replay:
            filled(replay, size)
            for name in size.architectures:
                ways = {"half": True, "float32": False}
                found = {
                    way: trained(replay, name, size, device, half=h) for way, h in ways.items()
                }
                for way, figures in found.items():
                    results |= {f"{name}_{way}_{key}": each for key, each in figures.items()}
                half, plain = (found[way]["rows_per_s"] for way in ways)
                results[f"{name}_half_over_float32"] = half / plain
    return results


def main(argv: Sequence[str]) -> int:
    """Measure; 0 when the device was busy enough, 1 when not, 2 without a GPU."""
    parser = arguments("gpu", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what trains")
    parser.add_argument("--quick", action="store_true", help="small images, and few steps")
    given = parser.parse_args(argv)
    name = cuda_name()
    if given.device == "cuda" and name is None:
        why = "none can be used" if built_for_cuda() else "this torch is built without CUDA"
        print(f"benchmarks gpu: it needs a GPU, and {why}; --device cpu --quick tries the command",
              file=sys.stderr)  # fmt: skip
        return 2
    print(f"device: {name if given.device == 'cuda' else 'cpu'}")
    size = QUICK if given.quick else FULL
    results = measure(size, given.device)
    targets = {key: LEAST_BUSY for key in results if key.endswith("_half_busy")}
    return report("gpu", results, given.json, targets=targets)
