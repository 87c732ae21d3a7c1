"""Measures a ResNet encoder: ten candidates over one pass, and training with cached activations.

Everything runs in turns in one process with one thread; the figures are medians of the turns. A
training epoch has as many steps as draw each row once on average.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bandexa_core.encoders.torch.module import SplitModuleEncoder
from bandexa_core.encoders.torch.resnet import ResNetEncoder
from bandexa_core.replay import MemoryReplay, RowLayout, Rows
from bandexa_core.replay.activations import ActivationCache
from bandexa_core.training.encoder_trainer import EncoderTrainer
from bandexa_core.training.plan import TrainingRound
from benchmarks.report import Target, arguments, report

ACTIONS, LABELS = 10, 10
ROWS, BATCH = 512, 64
IMAGE = (28, 28)
TARGETS = {"encode_batch_over_pass": Target(1.15, unit="passes for ten candidates")}


def _encoder() -> ResNetEncoder:
    torch.manual_seed(0)
    module = ResNetEncoder("resnet18", IMAGE, LABELS)
    module.load_base({})
    return module


def _medians(ways: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of each way, run in turns."""
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(repeats + 1):
        for way, times in zip(ways, seconds, strict=True):
            started = time.perf_counter()
            way()
            if turn:  # the first turn warms up
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in seconds]


def candidates(repeats: int) -> dict[str, float]:
    """Encode one image with ten actions, and one image alone by the backbone."""
    encoder = SplitModuleEncoder(_encoder())
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, IMAGE, np.uint8)
    actions = np.eye(LABELS, dtype=np.float32)[:ACTIONS]
    all_actions, one_pass = _medians(
        [lambda: encoder.encode_batch(image, actions), lambda: encoder.context_part(image)], repeats
    )
    return {
        "encode_batch_ms": 1e3 * all_actions, "backbone_pass_ms": 1e3 * one_pass,
        "encode_batch_over_pass": all_actions / one_pass,
    }  # fmt: skip


def epochs(repeats: int) -> dict[str, float]:
    """Train one epoch with and without a cache of the frozen part's activations."""
    rng = np.random.default_rng(1)
    replay = MemoryReplay(RowLayout(IMAGE, "uint8", LABELS))
    labels = rng.integers(0, LABELS, ROWS)
    replay.append(
        Rows(
            np.arange(ROWS), labels, rng.random(ROWS), np.eye(LABELS, dtype=np.float32)[labels],
            rng.integers(0, 256, (ROWS, *IMAGE), np.uint8),
        )
    )  # fmt: skip
    plan = TrainingRound(
        num_rows=ROWS, actions=np.eye(LABELS, dtype=np.float32), steps=ROWS // BATCH,
        batch_size=BATCH, lr=1e-3, weight_decay=1e-2, rebuild_chunk=256, reward_scale=1.0, seed=0,
        num_heads=1,
    )  # fmt: skip
    module = _encoder()
    with tempfile.TemporaryDirectory() as folder:
        cache = ActivationCache(Path(folder) / "activations", 1 << 30)
        plain, cached = _medians(
            [
                lambda: EncoderTrainer(module, plan).run(replay),
                lambda: EncoderTrainer(module, plan).run(replay, activations=cache),
            ],
            repeats,
        )
        found = {
            "epoch_s": plain, "epoch_cached_s": cached, "epoch_over_cached": plain / cached,
            "cached_bytes_per_row": cache.num_bytes / len(cache),
        }  # fmt: skip
        cache.close()
    return found


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit status."""
    parser = arguments("images", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    given = parser.parse_args(argv)
    results = candidates(5 if given.quick else 30) | epochs(1 if given.quick else 5)
    return report("images", results, given.json, targets=TARGETS)
