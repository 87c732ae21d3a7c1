"""Times decisions of one checkout in process, in turns; `decisions` starts one for each checkout.

Like `core_turns` it runs with the root of a checkout first on Python's path, and prints the root of
the package that it imported. Then each line on standard input names a scene and a number of
steps, and each line on standard output is the CPU time of these per decision, in seconds.

A step is a decision, or several that are drawn together, with its propensity, as the service makes
it: over all actions of a catalogue, by a panel of 64, of a bandit that has learned some hundred
rows.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import bandexa_core
from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, LearnRow, row_by_row
from bandexa_core.model import ServingModel
from bandexa_core.randomness import bandit_uid
from bandexa_core.snapshots.store import Snapshot
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec
from bandexa_core.spec.changes import completed_spec

DIM, NUM_ACTIONS, TOGETHER, NUM_CONTEXTS, ROWS = 16, 50, 16, 64, 600
LARGE = 10_000
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "per_action": ("per_action", {}),
    "concat": ("concat", {}),
    "interactions": ("interactions", {}),
    "bilinear": ("bilinear", {}),
    "mlp": ("mlp", {"feature_dim": 32}),
    "mlp_heads": ("mlp", {"feature_dim": 32, "heads": "per_action"}),
}


def _no_import(version: SnapshotVersion) -> Snapshot:
    raise AssertionError(f"snapshot {version} was never imported here")


def trained_model(encoder: str, num_actions: int, edition: int | None = None) -> ServingModel:
    """Return a model that has learned some rows of each action, or one where there are many."""
    name, params = ENCODERS[encoder]
    has_features = encoder not in ("per_action", "mlp_heads")
    created = BanditSpec(
        policy="neural_linear_ts" if name == "mlp" else "linear_ts",
        context=ContextSpec(shape=(DIM,)), action_dim=DIM if has_features else 0,
        encoder=EncoderSpec(name=name, params=params), reward_range=(-1.0, 1.0), edition=edition,
    )  # fmt: skip
    spec = completed_spec(created, seed=0)
    catalogue = Catalogue.empty(spec.row_layout)
    model = ServingModel(spec, bandit_uid("b", 0), EncoderRegistry(), catalogue)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((num_actions, DIM), dtype=np.float32) if has_features else None
    ids = tuple(ActionId(f"a{n}") for n in range(num_actions))
    change = CatalogueChange(ids, features, np.ones(num_actions, np.bool_))
    model.apply(row_by_row(CatalogueRow(LogPosition(1), 0.0, change)), _no_import)
    best = rng.standard_normal((num_actions, DIM)) / DIM
    none = np.zeros(0, np.float32)
    for number in range(max(ROWS, num_actions)):
        position, slot = LogPosition(number + 2), number % num_actions
        x = rng.standard_normal(DIM, dtype=np.float32)
        value = float(np.clip(best[slot] @ x + 0.3 * rng.standard_normal(), -1.0, 1.0))
        action = none if features is None else features[slot]
        row = LearnRow(
            position, 0.0, DecisionId(f"r{number}"), position, None, value, x, action,
            ActionSlot(slot),
        )  # fmt: skip
        model.apply(row_by_row(row), _no_import)
    model.prepare()
    return model


def _step(model: ServingModel, num: int) -> Callable[[], None]:
    """Return one step: `num` decisions together; what is computed after the answer is computed."""
    rng = np.random.default_rng(1)
    contexts = list(rng.standard_normal((NUM_CONTEXTS, DIM), dtype=np.float32))
    numbers = itertools.count()

    def step() -> None:
        first = next(numbers)
        if num == 1:
            name, x = DecisionId(f"d{first}"), contexts[first % NUM_CONTEXTS]
            choices = [model.select(name, x, model.enabled_candidates())]
        else:
            names = [DecisionId(f"d{first}.{n}") for n in range(num)]
            several = [contexts[(first + n) % NUM_CONTEXTS] for n in range(num)]
            choices = model.select_many(names, several, model.enabled_candidates())
        for choice in choices:
            if choice.late_propensity is not None:
                choice.late_propensity()

    return step


def scenes() -> dict[str, tuple[Callable[[], ServingModel], int]]:
    """Return what makes the model of each scene, and how many decisions a step has."""
    found: dict[str, tuple[Callable[[], ServingModel], int]] = {}
    for suffix, num in (("alone", 1), ("together", TOGETHER)):
        for encoder in ENCODERS:
            found[f"{encoder}_{suffix}"] = partial(trained_model, encoder, NUM_ACTIONS), num
        found[f"own_noise_{suffix}"] = partial(trained_model, "per_action", NUM_ACTIONS, 1), num
    found["per_action_10k_alone"] = partial(trained_model, "per_action", LARGE), 1
    return found


def main() -> None:
    """Serve turns until standard input closes."""
    steps: dict[str, tuple[Callable[[], None], int]] = {}
    known = scenes()
    (package,) = bandexa_core.__path__
    print(json.dumps(str(Path(package).parent)), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        name = order["scene"]
        if name not in steps:
            make, num = known[name]
            steps[name] = _step(make(), num), num
        step, num = steps[name]
        started = time.process_time()
        for _ in range(order["steps"]):
            step()
        decisions = num * order["steps"]
        print(json.dumps((time.process_time() - started) / decisions), flush=True)


if __name__ == "__main__":
    main()
