"""Linear bandits are served, learned, refreshed and published without importing torch."""

from __future__ import annotations

import subprocess
import sys

STORY = """
import sys, tempfile
from pathlib import Path

import numpy as np

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, LogPosition
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, LearnRow, row_by_row
from bandexa_core.model import Progress, ServingModel, load_model
from bandexa_core.snapshots.publishing import publish_model
from bandexa_core.snapshots.store import SnapshotStore
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec, ForgettingSpec

KINDS = [("linear_ts", "concat"), ("linear_ts", "per_action"), ("greedy", "concat"),
         ("uniform", "concat")]


def story(policy, encoder, size):
    dim = 0 if encoder == "per_action" else 2
    spec = BanditSpec(
        policy=policy, context=ContextSpec(shape=(size,)), action_dim=dim, seed=1,
        encoder=EncoderSpec(name=encoder), forgetting=ForgettingSpec(half_life=32.0),
    )
    uid, registry = BanditUid("u"), EncoderRegistry()
    model = ServingModel(spec, uid, registry, Catalogue.empty(spec.row_layout))
    features = np.eye(2, dtype=np.float32)[:, :dim]
    change = CatalogueChange((ActionId("a"), ActionId("b")), features, np.ones(2, np.bool_))
    model.apply(row_by_row(CatalogueRow(LogPosition(1), 0.0, change)), lambda version: None)
    rng = np.random.default_rng(0)
    for number in range(2, 40):
        context = rng.standard_normal(size).astype(np.float32)
        model.select(DecisionId(f"d{number}"), context, model.enabled_candidates())
        at = LogPosition(number)
        row = LearnRow(
            at, 0.0, DecisionId(f"d{number}"), at, None, 0.5, context, features[0], ActionSlot(0)
        )
        model.apply(row_by_row(row), lambda version: None)
    model.refresh(38)
    model.policy.score(np.ones(size, np.float32), model.enabled_candidates())
    with tempfile.TemporaryDirectory() as folder:
        snapshots = SnapshotStore(Path(folder) / "s")
        published = publish_model(
            snapshots, model, position=LogPosition(39), log_hash=b"", epoch=1, parent=None,
            progress=Progress(38), training={}, metrics={},
        )
        snapshot = snapshots.load(published.version)
        load_model(spec, uid, registry, snapshot, model.catalogue)


for policy, encoder in KINDS:
    for size in (4, 90):
        story(policy, encoder, size)
loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "torch")
assert not loaded, loaded[:5]
"""


def test_the_model_does_not_import_torch() -> None:
    code = "import bandexa_core.model, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_linear_bandit_needs_no_torch() -> None:
    """Of every kind, with few and with many columns: they are served, rebuilt and stored."""
    done = subprocess.run(
        [sys.executable, "-c", STORY], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
