"""Stands in for the trainer in a measurement: the same computing without the service.

`burner` starts `python -m benchmarks.burner`, which computes training rounds over rows in memory,
with the niceness of the trainer, until its standard input closes. It writes no file.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_FIRST_ROUND_S = 120.0  # imports included
_NUM_ACTIONS = 50


class BurnerFailed(Exception):
    """A burner did not finish its first round in time."""


@contextmanager
def burner(spec: Mapping[str, object], rows: int, threads: int, niceness: int) -> Iterator[int]:
    """Run a burner, past its first round already; yields its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.burner"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(_FIRST_ROUND_S, process.kill)
    timer.start()
    try:
        order = {"spec": spec, "rows": rows, "threads": threads, "niceness": niceness}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        ready = process.stdout.readline()
        timer.cancel()
        if ready != b"ready\n":
            raise BurnerFailed("the burner does not start")
        yield process.pid
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def burn() -> None:
    """Compute the trainer's rounds over rows in memory until standard input closes.

    The first line of standard input has the bandit's spec, the number of rows, the threads and the
    niceness as JSON. The process computes what the trainer does, without its store and snapshots.
    """
    import torch  # seconds

    from bandexa_core.encoders import EncoderRegistry
    from bandexa_core.encoders.torch.module import PrefixModule
    from bandexa_core.ids import ActionId, BanditUid
    from bandexa_core.log.catalogue import Catalogue, CatalogueChange
    from bandexa_core.model import ServingModel, plan_round
    from bandexa_core.policies import NeuralLinearTS
    from bandexa_core.replay import MemoryReplay, Rows
    from bandexa_core.replay.activations import ActivationCache
    from bandexa_core.spec import BanditSpec

    order = json.loads(sys.stdin.readline())
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    torch.set_num_threads(order["threads"])
    os.nice(order["niceness"])
    spec, rows = BanditSpec.from_json(order["spec"]), order["rows"]
    num = _NUM_ACTIONS if spec.action_dim else 10
    rng = np.random.default_rng(0)
    features = rng.standard_normal((num, spec.action_dim)).astype(np.float32)
    ids = tuple(ActionId(f"a{n}") for n in range(num))
    change = CatalogueChange(ids, features, np.ones(num, np.bool_))
    catalogue, _ = Catalogue.empty(spec.row_layout).changed(change)
    model = ServingModel(spec, BanditUid("burner"), EncoderRegistry(), catalogue)
    assert isinstance(model.policy, NeuralLinearTS)
    slots = rng.integers(0, num, rows)
    contexts = 255.0 * rng.random((rows, *spec.row_layout.context_shape))
    replay = MemoryReplay(spec.row_layout)
    replay.append(
        Rows(
            np.arange(rows), slots, rng.random(rows), features[slots],
            contexts.astype(spec.context.dtype),
        )
    )  # fmt: skip
    state: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = None
        if isinstance(model.policy.module, PrefixModule) and spec.replay.activation_bytes:
            cache = ActivationCache(Path(folder) / "activations", spec.replay.activation_bytes)
        plan = plan_round(model, rows, "cpu")
        for number in itertools.count():
            state, _ = model.policy.train(replay, state, plan, activations=cache)
            if number == 0:
                print("ready", flush=True)


if __name__ == "__main__":
    burn()
