"""Models rebuilt from snapshots and log, compared with the snapshots that were published.

Where features stayed the same, an older snapshot with the rows after it must be the newer one.
Where an encoder was trained, its posterior must be that of a rebuild over the rows it learned from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.rows import ImportRow, LearnRow
from bandexa_core.model import MODEL_FILE, Progress, ServingModel, load_model
from bandexa_core.policies import LinearTS, NeuralLinearTS, Uniform
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from bandexa_core.replay import ExtendedReplay, Replay, Rows
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from service.store.protocol import LogReader
from service.store.records import BanditRecord
from service.tools.verify.findings import Check, Say

EXACT, SINGLE = 1e-8, 1e-5
CHUNK = 64
_TINY = float(np.finfo(np.float64).tiny)


def tolerance_of(model: ServingModel) -> float:
    """Return how far features, and what is made of them, may differ between two machines."""
    policy = model.policy
    if isinstance(policy, NeuralLinearTS) and policy.module.serving_dtype.itemsize < 8:
        return SINGLE
    return EXACT


class LoggedRows:
    """The newest learned rows up to a position, as a replay that followed the log would hold them.

    Args:
        num_rows: How many; older ones were evicted.
    """

    def __init__(
        self, reader: LogReader, record: BanditRecord, up_to: LogPosition, num_rows: int
    ) -> None:
        self._reader = reader
        self._record = record
        self._up_to = up_to
        trim = reader.trim(record.key)
        learned = reader.count_learned(record.key, LogPosition(0), up_to)
        self._begins = trim.position
        self._passed_over = learned - trim.learned - num_rows

    @property
    def are_there(self) -> bool:
        """Whether none of the rows has left the log."""
        return self._passed_over >= 0

    def evicted_through(self) -> LogPosition:
        """Return a position up to which all earlier rows were learned, and none of these."""
        if not self._passed_over:
            return self._begins
        return self._reader.first_learned(self._record.key, self._passed_over)

    def scan(self, chunk: int) -> Iterator[Rows]:
        """See `Replay.scan`; values are those of the position."""
        values = self._corrections()
        waiting: list[LearnRow] = []
        passed_over = 0
        for rows in self._reader.follow(self._record, self._begins, self._up_to):
            for row in rows:
                if not isinstance(row, LearnRow) or row.before is not None:
                    continue
                if passed_over < self._passed_over:
                    passed_over += 1
                    continue
                waiting.append(row)
                if len(waiting) == chunk:
                    yield _rows(waiting, values)
                    waiting = []
        if waiting:
            yield _rows(waiting, values)

    def _corrections(self) -> dict[int, float]:
        values: dict[int, float] = {}
        for rows in self._reader.follow(self._record, self._begins, self._up_to):
            for row in rows:
                if isinstance(row, LearnRow) and row.before is not None:
                    values[row.origin] = row.after
        return values


def _rows(batch: list[LearnRow], values: dict[int, float]) -> Rows:
    return Rows(
        positions=np.array([row.position for row in batch], np.int64),
        slots=np.array([row.slot for row in batch], np.int64),
        rewards=np.array([values.get(row.position, row.after) for row in batch]),
        actions=np.stack([row.action for row in batch]),
        contexts=np.stack([row.context for row in batch]),
    )


class ModelAudit:
    """Compares the snapshots of one bandit with each other and with the log."""

    def __init__(
        self,
        reader: LogReader,
        record: BanditRecord,
        registry: EncoderRegistry,
        snapshots: SnapshotStore,
        check: Check,
        say: Say,
    ) -> None:
        self._reader = reader
        self._record = record
        self._registry = registry
        self._snapshots = snapshots
        self._check = check
        self._say = say
        self._carried: ServingModel | None = None
        self._since = SnapshotVersion(0)
        self._applied: list[str] = []
        self._rebuilt: list[str] = []

    def audit(self, manifests: list[Manifest]) -> None:
        """Compare the snapshots of `manifests`, oldest first, and apply the tail of the newest."""
        before: Manifest | None = None
        for manifest in manifests:
            found = self._load(manifest.version)
            if found is None:
                continue
            self._say(f"{self._record.name}: snapshot {manifest.version}")
            self._progress(manifest)
            self._compare_sums(manifest, found)
            self._one(manifest, found, before)
            before = manifest
        if self._carried is not None:
            self.apply(self._carried, self._reader.head(self._record.key))
        done = []
        if self._applied:
            done.append(f"rows applied to older snapshots: {', '.join(self._applied)}")
        if self._rebuilt:
            done.append(f"rebuilt from the log: {', '.join(self._rebuilt)}")
        self._check.compared = "; ".join(done) or "nothing to compare with"

    def _one(self, manifest: Manifest, found: ServingModel, before: Manifest | None) -> None:
        version = manifest.version
        if _was_trained(found, manifest):
            if before is not None:
                self._compare_forgetting(manifest, found, before)
            self._compare_rebuilt(manifest, found)
            self._carry(found, version)
            return
        carried = self._carried
        if carried is None:
            if manifest.position == 0:
                self._compare_initial(manifest, found)
            self._carry(found, version)
            return
        what = f"snapshot {version} against {self._since} with rows up to {manifest.position}"
        if _same_features(carried, found):
            self.apply(carried, LogPosition(manifest.position))
            self._same(what, carried, found)
            self._applied.append(f"{self._since} to {version}")
            return
        parent = self._rescaled(manifest, found, before)
        if parent is None:
            self._check.notes.append(
                f"snapshot {version} cannot be compared with {self._since}: other input scaling or"
                " encoder, and the snapshot it was made from is gone"
            )
        else:
            self._same(what, parent, found)
            self._applied.append(f"{manifest.parent} to {version}")
        self._carry(found, version)

    def _carry(self, model: ServingModel, version: SnapshotVersion) -> None:
        self._carried, self._since = model, version

    def _load(self, version: SnapshotVersion) -> ServingModel | None:
        """Return the model of a snapshot; None where it was pruned meanwhile."""
        try:
            snapshot = self._snapshots.load(version, (MODEL_FILE,))
        except SnapshotCorrupt:
            if version in self._snapshots.versions():
                raise
            return None
        position = LogPosition(snapshot.manifest.position)
        record, reader = self._record, self._reader
        return load_model(
            reader.spec_at(record, position), record.uid, self._registry, snapshot,
            reader.catalogue_at(record, position),
        )  # fmt: skip

    def apply(self, model: ServingModel, up_to: LogPosition) -> None:
        """Apply the rows up to a position to a model."""
        for rows in self._reader.follow(self._record, model.position, up_to, CHUNK):
            learned = [row for row in rows if isinstance(row, LearnRow)]
            features: dict[int, NDArray[np.float64]] = {}
            replaced = any(isinstance(row, ImportRow) for row in rows)  # and its encoder, midway
            if learned and model.learns_features and not replaced:
                z_ND = model.features(learned)
                features = {row.position: z_ND[i : i + 1] for i, row in enumerate(learned)}
            for row in rows:
                model.apply(row, self._imported, features.get(row.position))
            self._say(f"{self._record.name}: row {model.position} applied")

    def _imported(self, version: SnapshotVersion) -> Snapshot:
        return self._snapshots.load(version, (MODEL_FILE,))

    # -- what a snapshot must be --------------------------------------------------------------

    def _progress(self, manifest: Manifest) -> None:
        """Check the count of learned rows, which says when rounds are due."""
        record, position = self._record, LogPosition(manifest.position)
        if self._reader.last_import(record.key, position):
            return  # counts what the import brought, too
        expected = self._reader.count_learned(record.key, LogPosition(0), position)
        counted = Progress(**manifest.meta["progress"]).num_learned
        if not counted == manifest.num_rows == expected:
            self._check.problem(
                f"snapshot {manifest.version}: counts {counted} learned rows, the log {expected}"
            )

    def _compare_sums(self, manifest: Manifest, found: ServingModel) -> None:
        """Check that mean, root and noise follow from the sums beside them."""
        if isinstance(found.policy, Uniform):
            return
        posterior, tolerance = found.policy.posterior, tolerance_of(found)
        by_slot: dict[int, GaussianPosterior | None] = {}
        if isinstance(posterior, DisjointPosterior):
            by_slot = {slot: posterior.slot(slot) for slot in posterior.slots}
        else:
            by_slot = {0: posterior}
        for slot, each in by_slot.items():
            assert each is not None, "only slots that learned are named"
            fresh = each.copy()
            fresh.refresh()
            what = f"snapshot {manifest.version} against its own sums, slot {slot}"
            self._same_posterior(what, fresh, each, tolerance)

    def _compare_initial(self, manifest: Manifest, found: ServingModel) -> None:
        record = self._record
        initial = ServingModel(
            record.spec, record.uid, self._registry, Catalogue.empty(record.spec.action_dim)
        )
        self._same(f"snapshot {manifest.version} against the prior", initial, found)
        self._rebuilt.append(str(manifest.version))

    def _compare_rebuilt(self, manifest: Manifest, found: ServingModel) -> None:
        record, position = self._record, LogPosition(manifest.position)
        num_rows = int(manifest.metrics["rows"])
        learned = self._reader.count_learned(record.key, LogPosition(0), position)
        what = f"snapshot {manifest.version} against a rebuild over {num_rows} rows"
        num_evicted = int(manifest.metrics.get("evicted_rows", 0.0))
        whole = num_rows + num_evicted == learned
        if num_rows > learned or not (whole or self._may_evict(found, num_rows)):
            self._check.problem(
                f"snapshot {manifest.version}: built over {num_rows} rows, the log has {learned}"
            )
        expected = self._load(manifest.version)
        if expected is None:
            return
        logged = LoggedRows(self._reader, record, position, num_rows)
        if not logged.are_there:
            self._check.notes.append(f"snapshot {manifest.version}: rows it is of left the log")
            return
        # A rebuild asks nothing of rows but to be scanned, nor does a sample before them.
        rows, weights = cast(Replay, logged), expected.row_weights
        sample_size = int(manifest.metrics.get("evicted_sample", 0.0))
        evicted = None
        if sample_size:
            evicted = self._reader.evicted(record, logged.evicted_through(), position, sample_size)
        if evicted is None:
            expected.policy.rebuild(rows, found.spec.training.rebuild_chunk, weights)
        else:
            both = ExtendedReplay(rows, evicted)
            chunk = found.spec.training.rebuild_chunk
            expected.policy.rebuild(both, chunk, both.weights(weights))
        self._same(what, expected, found)
        self._rebuilt.append(str(manifest.version))

    def _may_evict(self, found: ServingModel, num_rows: int) -> bool:
        """Whether a replay may have held so few rows: its capacity is, or once was, limited."""
        knobs = found.spec.replay
        if knobs.capacity is not None or knobs.capacity_bytes is not None:
            return knobs.capacity is None or num_rows <= knobs.capacity
        earlier = self._record.spec.replay
        return earlier != knobs  # it was changed; what was evicted then is gone

    def _compare_forgetting(
        self, manifest: Manifest, found: ServingModel, before: Manifest
    ) -> None:
        older = self._load(before.version)
        if older is None:
            return
        positions = LogPosition(before.position), LogPosition(manifest.position)
        expected = self._reader.forgetting_at(self._record, older.forgetting, *positions)
        self._same_forgetting(f"snapshot {manifest.version}", expected, found.forgetting)

    def _rescaled(
        self, manifest: Manifest, found: ServingModel, before: Manifest | None
    ) -> ServingModel | None:
        """Return what the snapshot's parent becomes where inputs are scaled anew, as trained."""
        if before is None or manifest.parent != before.version:
            return None
        parent = self._load(before.version)
        if parent is None or not isinstance(parent.policy, LinearTS):
            return None
        self.apply(parent, LogPosition(manifest.position))
        parent.refresh(parent.progress.num_learned)
        assert isinstance(found.policy, LinearTS), "a bandit's policy never changes"
        ours, theirs = parent.policy.scaling, found.policy.scaling
        if ours is not None and theirs is not None:
            for name, tensor in ours.tensors().items():
                difference = _relative(tensor, theirs.tensors()[name], 0.0)
                what = f"snapshot {manifest.version}: input scaling, {name}"
                self._check.differs(difference, EXACT, what)
        return parent

    # -- comparing ----------------------------------------------------------------------------

    def _same(self, what: str, expected: ServingModel, found: ServingModel) -> None:
        if expected.progress.num_learned != found.progress.num_learned:
            self._check.problem(
                f"{what}: {found.progress.num_learned} rows learned instead of"
                f" {expected.progress.num_learned}"
            )
        self._same_forgetting(what, expected.forgetting, found.forgetting)
        if isinstance(expected.policy, Uniform) or isinstance(found.policy, Uniform):
            return
        ours, theirs = expected.policy.posterior, found.policy.posterior
        tolerance = tolerance_of(found)
        if isinstance(ours, GaussianPosterior) and isinstance(theirs, GaussianPosterior):
            self._same_posterior(what, ours, theirs, tolerance)
        elif isinstance(ours, DisjointPosterior) and isinstance(theirs, DisjointPosterior):
            if ours.slots != theirs.slots:
                self._check.problem(
                    f"{what}: knows actions in slots {theirs.slots}, not {ours.slots}"
                )
            for slot in ours.slots:
                one, other = ours.slot(slot), theirs.slot(slot)
                if one is not None and other is not None:
                    self._same_posterior(f"{what}, slot {slot}", one, other, tolerance)

    def _same_forgetting(self, what: str, expected: Forgetting, found: Forgetting) -> None:
        same = expected.cell == found.cell and (
            np.array_equal(expected.positions, found.positions)
            and np.array_equal(expected.half_lives, found.half_lives)
        )
        if not same:
            self._check.problem(f"{what}: what was forgotten differs")

    def _same_posterior(
        self, what: str, ours: GaussianPosterior, theirs: GaussianPosterior, tolerance: float
    ) -> None:
        for name, difference in posterior_differences(ours, theirs).items():
            self._check.differs(difference, tolerance, f"{what}: {name}")


def posterior_differences(ours: GaussianPosterior, theirs: GaussianPosterior) -> dict[str, float]:
    """Return relative differences of two posteriors, by the name of what was compared.

    Covariances and sums of products are measured against the deviations of their two features, the
    mean against its largest entry (or the least deviation, where that is more).
    """
    sigma_DD, other_DD = ours.root @ ours.root.T, theirs.root @ theirs.root.T
    deviation_D = np.sqrt(np.maximum(np.diagonal(sigma_DD), _TINY))
    least = math.sqrt(ours.noise_mean) * float(deviation_D.min())
    sums, others = ours.statistics(), theirs.statistics()
    size_D = np.sqrt(np.maximum(np.diagonal(sums.zz), 0.0))
    size_D = np.where(size_D > 0.0, size_D, 1.0)
    products = float(size_D.max()) * math.sqrt(sums.rr)
    return {
        "mean": _relative(ours.mean, theirs.mean, least),
        "covariance": _scaled(sigma_DD, other_DD, deviation_D),
        "noise a": _relative(ours.a, theirs.a, 0.0),
        "noise b": _relative(ours.b, theirs.b, 0.0),
        "sum z z^T": _scaled(sums.zz, others.zz, size_D),
        "sum r z": _relative(sums.zr, others.zr, products),
        "sum r^2": _relative(sums.rr, others.rr, 0.0),
        "weight of rows": _relative(sums.n, others.n, 0.0),
    }  # fmt: skip


def _scaled(
    ours_DD: NDArray[np.float64], theirs_DD: NDArray[np.float64], size_D: NDArray[np.float64]
) -> float:
    return float((np.abs(theirs_DD - ours_DD) / np.outer(size_D, size_D)).max())


def _relative(ours: Any, theirs: Any, least: float) -> float:
    """Return the largest difference over the largest value, `least` where that is more."""
    one, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if one.shape != other.shape:
        return math.inf
    if not one.size:
        return 0.0
    return float(np.abs(other - one).max()) / max(float(np.abs(one).max()), least, _TINY)


def _was_trained(model: ServingModel, manifest: Manifest) -> bool:
    """Whether the snapshot came from a round that trained an encoder and rebuilt the posterior."""
    return isinstance(model.policy, NeuralLinearTS) and "rows" in manifest.metrics


def _same_features(one: ServingModel, other: ServingModel) -> bool:
    ours, theirs = (
        {n: t for n, t in model.policy.tensors().items() if n.startswith(("encoder/", "scaling/"))}
        for model in (one, other)
    )
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name]) for name in ours
    )
