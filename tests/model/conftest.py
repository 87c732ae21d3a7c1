"""A log written by the tests, the models that apply it, and snapshots of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.filesystem import LocalFileSystem
from bandexa_core.ids import (
    ActionId,
    ActionSlot,
    BanditUid,
    DecisionId,
    LogPosition,
    SnapshotVersion,
)
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, ConfigRow, LearnRow, LogRow, row_by_row
from bandexa_core.model import Progress, ServingModel
from bandexa_core.snapshots.publishing import publish_model
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from bandexa_core.spec import (
    BanditSpec,
    ContextSpec,
    EncoderSpec,
    PosteriorSpec,
    SelectionSpec,
    TrainingSpec,
)

UID = BanditUid("uid-1")
MLP = {"feature_dim": 6, "hidden": [10]}
CONV = {"feature_dim": 6, "channels": [3], "hidden": 8}


def _spec(
    policy: Any,
    encoder: str,
    params: dict[str, Any] | None = None,
    shape: tuple[int, ...] = (4,),
    dtype: Any = "float32",
) -> BanditSpec:
    return BanditSpec(
        policy=policy,
        context=ContextSpec(shape=shape, dtype=dtype),
        action_dim=4,
        encoder=EncoderSpec(name=encoder, params=params or {}),
        posterior=PosteriorSpec(prior_mean=0.5),
        training=TrainingSpec(),
        selection=SelectionSpec(),
        reward_range=(0.0, 1.0),
        seed=3,
    )


SPECS = {
    "concat": _spec("linear_ts", "concat"),
    "interactions": _spec("linear_ts", "interactions", dtype="float64"),
    "bilinear": _spec("linear_ts", "bilinear"),
    "per_action": _spec("linear_ts", "per_action", shape=(4, 3), dtype="uint8"),
    "greedy": _spec("greedy", "concat"),
    "uniform": _spec("uniform", "concat"),
    "mlp": _spec("neural_linear_ts", "mlp", MLP),
    "mlp per action": _spec("neural_linear_ts", "mlp", MLP | {"heads": "per_action"}),
    "two_tower": _spec("neural_linear_ts", "two_tower", {"tower_dim": 3, "hidden": [8]}),
    "conv": _spec("neural_linear_ts", "conv", CONV, (6, 4), "uint8"),
    "conv fused": _spec("neural_linear_ts", "conv", CONV | {"heads": "fused"}, (4, 6)),
}


class LogWriter:
    """Writes the rows a store would hold, at positions 1, 2, ...; a seed decides all of them."""

    def __init__(self, spec: BanditSpec, seed: int = 0) -> None:
        self.spec = spec
        self.rng = np.random.default_rng(seed)
        self.rows: list[LogRow] = []
        self.catalogue = Catalogue.empty(spec.row_layout)
        self.learned: list[LearnRow] = []

    @property
    def head(self) -> LogPosition:
        return LogPosition(len(self.rows))

    def _next(self) -> LogPosition:
        return LogPosition(len(self.rows) + 1)

    def context(self) -> NDArray[Any]:
        shape, dtype = self.spec.context.shape, self.spec.context.dtype
        if dtype == "uint8":
            return self.rng.integers(0, 256, shape, np.uint8)
        return self.rng.normal(size=shape).astype(dtype)

    def actions(
        self, ids: Sequence[str], *, enabled: bool = True, features: bool = True
    ) -> CatalogueRow:
        values = self.rng.normal(size=(len(ids), self.spec.action_dim)).astype(np.float32)
        change = CatalogueChange(
            tuple(ActionId(name) for name in ids),
            values if features else None,
            np.full(len(ids), enabled),
        )
        self.catalogue, _ = self.catalogue.changed(change)
        row = CatalogueRow(self._next(), 0.0, change)
        self.rows.append(row)
        return row

    def learn(self, value: float | None = None) -> LearnRow:
        slot = int(self.rng.choice(self.catalogue.enabled_slots))
        number = float(self.rng.normal()) if value is None else value
        position = self._next()
        row = LearnRow(
            position=position,
            time=float(self.rng.random()),
            decision_id=DecisionId(f"d-{position}"),
            origin=position,
            before=None,
            after=number,
            context=self.context(),
            action=self.catalogue.features[slot],
            slot=ActionSlot(slot),
        )
        self.rows.append(row)
        self.learned.append(row)
        return row

    def correct(self) -> LearnRow:
        index = int(self.rng.integers(len(self.learned)))
        was = self.learned[index]
        row = replace(was, position=self._next(), before=was.after, after=float(self.rng.normal()))
        self.rows.append(row)
        self.learned[index] = row
        return row

    def configure(self, **sections: dict[str, Any]) -> ConfigRow:
        changed = {
            name: dataclasses.asdict(getattr(self.spec, name)) | sections.get(name, {})
            for name in ("training", "replay", "selection")
        }
        row = ConfigRow(self._next(), 0.0, changed)
        self.rows.append(row)
        return row

    def add(self, num: int) -> list[LogRow]:
        """Add `num` rows of every kind and return them."""
        start = len(self.rows)
        if not len(self.catalogue):
            self.actions(["a", "b", "c", "d", "e"])
        while len(self.rows) < start + num:
            kind = self.rng.random()
            if kind < 0.75 or not self.learned:
                self.learn()
            elif kind < 0.9:
                self.correct()
            elif kind < 0.94:
                self.actions([f"new-{len(self.rows)}", "b"])
            elif kind < 0.97:
                name = self.catalogue.ids[int(self.rng.integers(len(self.catalogue)))]
                enabled = not self.catalogue.enabled[self.catalogue.slots[name]]
                if enabled or len(self.catalogue.enabled_slots) > 3:
                    self.actions([name], enabled=enabled, features=False)
            else:
                chunk = int(self.rng.integers(1, 9))
                self.configure(selection={"action_chunk": chunk})
        return self.rows[start:]


class QuickFileSystem(LocalFileSystem):
    """The real file system without its slow syncs."""

    def sync_file(self, fd: int) -> None:
        pass

    def sync_dir(self, path: Path) -> None:
        pass


def _no_import(version: SnapshotVersion) -> Snapshot:
    raise AssertionError(f"no row imports snapshot {version}")


def _new_model(spec: BanditSpec, uid: BanditUid = UID) -> ServingModel:
    return ServingModel(spec, uid, EncoderRegistry(), Catalogue.empty(spec.row_layout))


def _apply_all(model: ServingModel, rows: Sequence[LogRow]) -> ServingModel:
    for row in rows:
        model.apply(row_by_row(row), _no_import)
    return model


def _publish(
    store: SnapshotStore, model: ServingModel, version: int = 1, **changes: Any
) -> Snapshot:
    """Publish a model at its position and read it back."""
    values: dict[str, Any] = {
        "position": model.position,
        "log_hash": b"\x07" * 16,
        "epoch": 1,
        "version": SnapshotVersion(version),
        "parent": None,
        "progress": model.progress,
        "training": {},
        "metrics": {},
    }
    publish_model(store, model, **values | changes)
    return store.load(version)


def _assert_same_state(found: ServingModel, expected: ServingModel) -> None:
    """Bit for bit, and the same picks for 50 decisions."""
    assert found.position == expected.position
    assert found.progress == expected.progress
    assert found.spec == expected.spec
    assert found.catalogue.ids == expected.catalogue.ids
    assert np.array_equal(found.catalogue.features, expected.catalogue.features)
    assert np.array_equal(found.catalogue.enabled, expected.catalogue.enabled)
    ours, theirs = found.policy.tensors(), expected.policy.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name], tensor), name
    rng = np.random.default_rng(17)
    for number in range(50):
        context = rng.integers(0, 256, expected.spec.context.shape)
        x = context.astype(expected.spec.context.dtype)
        decision = DecisionId(f"check-{number}")
        first = found.select(decision, x, found.enabled_candidates(), num=2)
        second = expected.select(decision, x, expected.enabled_candidates(), num=2)
        assert np.array_equal(first.chosen, second.chosen)
        np.testing.assert_allclose(first.scores, second.scores, rtol=1e-9, atol=1e-12)


@pytest.fixture(params=SPECS)
def spec(request) -> BanditSpec:
    return SPECS[request.param]


@pytest.fixture(scope="session")
def specs() -> dict[str, BanditSpec]:
    return SPECS


@pytest.fixture
def snapshots(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots", fs=QuickFileSystem(), clock=lambda: 0.0)


@pytest.fixture(scope="session")
def log_writer():
    return LogWriter


@pytest.fixture(scope="session")
def new_model():
    return _new_model


@pytest.fixture(scope="session")
def apply_all():
    return _apply_all


@pytest.fixture(scope="session")
def publish():
    return _publish


@pytest.fixture(scope="session")
def assert_same_state():
    return _assert_same_state


@pytest.fixture(scope="session")
def progress():
    return Progress


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products gain nothing from threads, and lose much on a machine that is shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
