"""Rebuilds models from snapshots and log, and compares them with the published snapshots.

Where features stayed the same, an older snapshot with the rows after it must equal the newer one.
Where an encoder was trained, the posterior must equal a rebuild over the rows it learned from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotCorrupt
from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.model import MODEL_FILE, Progress, ServingModel, load_model, relearn
from bandexa_core.policies import LinearTS, NeuralLinearTS
from bandexa_core.posterior.agreement import relative_difference
from bandexa_core.replay import ExtendedReplay, Replay
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from service.store.findings import Check, Say
from service.store.loading import catalogue_of, generation_of, passes_until
from service.store.logged_rows import LoggedRows, learned_rows
from service.store.reading import BEGINNING, LogReader
from service.store.records import BanditRecord
from service.tools.verify.comparison import (
    EXACT,
    compare_forgetting,
    compare_models,
    compare_with_sums,
)
from service.training.messages import LOG_ROWS, RELEARNED

GROUPS_PER_LINE = 64


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
        self._manifests: dict[SnapshotVersion, Manifest] = {}
        self._carried: ServingModel | None = None
        self._served = LogPosition(0)
        self._since = SnapshotVersion(0)
        self._applied: list[str] = []
        self._rebuilt: list[str] = []

    def audit(self, manifests: list[Manifest]) -> None:
        """Compare the snapshots of `manifests`, oldest first, and apply the tail to the newest."""
        before: Manifest | None = None
        manifests = self._not_replaced(manifests)
        self._manifests = {each.version: each for each in manifests}
        head = self._reader.head(self._record.key)
        self._served = self._reader.configurations(self._record, head).generation(head)
        manifests = [each for each in manifests if generation_of(each) != self._served] + [
            each for each in manifests if generation_of(each) == self._served
        ]
        generations = [generation_of(manifest) for manifest in manifests]
        for generation in sorted(set(generations), key=generations.index):
            self._carried, before = None, None  # each was learned from rows by itself
            for manifest in manifests:
                if generation_of(manifest) != generation:
                    continue
                found = self._load(manifest.version)
                if found is None:
                    continue
                self._say(f"{self._record.name}: snapshot {manifest.version}")
                self._progress(manifest)
                compare_with_sums(self._check, f"snapshot {manifest.version}", found)
                self._one(manifest, found, before)
                before = manifest
            if generation != self._served:
                self._carried = None
        if self._carried is not None:
            self.apply(self._carried, self._reader.head(self._record.key))
        done = []
        if self._applied:
            done.append(f"rows applied to older snapshots: {', '.join(self._applied)}")
        if self._rebuilt:
            done.append(f"rebuilt from the log: {', '.join(self._rebuilt)}")
        self._check.compared = "; ".join(done) or "nothing to compare with"
        self._check.checked = bool(done)

    def _not_replaced(self, manifests: list[Manifest]) -> list[Manifest]:
        """Leave out the snapshots that were learned from rows which were erased since."""
        marks = self._reader.relearning()
        first = next((mark.first for mark in marks if mark.bandit == self._record.key), None)
        if first is None:
            return manifests
        self._check.notes.append(
            f"rows from {first} on were erased, and the server has not rebuilt the model yet"
        )
        return [each for each in manifests if each.position < first]

    def _one(self, manifest: Manifest, found: ServingModel, before: Manifest | None) -> None:
        version = manifest.version
        is_relearned = RELEARNED in manifest.metrics and self._compare_relearned(manifest, found)
        if _was_trained(found, manifest):
            if before is not None:
                self._compare_forgetting(manifest, found, before)
            self._compare_rebuilt(manifest, found)
            self._carry(found, version)
            return
        carried = self._carried
        if carried is not None and self._has_void(carried, manifest):
            self._compare_without_void(manifest, found)
            self._carry(found, version)
            return
        if not is_relearned:  # of few rows, a second scaling would not be the first one
            self._compare_with_rows(manifest, found)
        if carried is None:
            if manifest.position == 0:
                self._compare_initial(manifest, found)
            self._carry(found, version)
            return
        what = f"snapshot {version} against {self._since} with rows up to {manifest.position}"
        if _same_features(carried, found):
            self._apply_without_void(carried, LogPosition(manifest.position))
            compare_models(self._check, what, carried, found)
            self._applied.append(f"{self._since} to {version}")
            return
        parent = self._rescaled(manifest, found, before)
        if parent is None:
            self._check.notes.append(
                f"snapshot {version} cannot be compared with {self._since}: it has another input"
                " scaling or encoder, and its parent snapshot was pruned or rows have left the log"
            )
        else:
            compare_models(self._check, what, parent, found)
            self._applied.append(f"{manifest.parent} to {version}")
        self._carry(found, version)

    def _carry(self, model: ServingModel, version: SnapshotVersion) -> None:
        self._carried, self._since = model, version

    def _load(self, version: SnapshotVersion) -> ServingModel | None:
        """Return the model of a snapshot; None where that was pruned meanwhile."""
        try:
            snapshot = self._snapshots.load(version, (MODEL_FILE,))
        except SnapshotCorrupt:
            if version in self._snapshots.versions():
                raise
            return None
        snapshot = replace(snapshot, manifest=self._manifests.get(version, snapshot.manifest))
        position = LogPosition(snapshot.manifest.position)
        record, reader = self._record, self._reader
        generation = generation_of(snapshot.manifest)
        model = load_model(
            reader.spec_at(record, position, generation), record.uid, self._registry, snapshot,
            catalogue_of(reader, record, snapshot, position),
        )  # fmt: skip
        model.passes_until = passes_until(reader, record, generation, reader.head(record.key))
        return model

    def apply(self, model: ServingModel, up_to: LogPosition) -> None:
        """Apply the rows up to a position to a model, as a server does."""
        self._apply(model, up_to, BEGINNING)

    def _apply_without_void(self, model: ServingModel, position: LogPosition) -> None:
        """Apply the rows up to a snapshot's position, as the round that built it did."""
        model.learns_held = True
        self._apply(model, position, position)
        model.learns_held = False

    def _apply(self, model: ServingModel, up_to: LogPosition, voids: LogPosition) -> None:
        groups = self._reader.follow(self._record, model.position, up_to, voids=voids)
        for number, group in enumerate(groups):
            model.apply(group, self._imported)
            if number % GROUPS_PER_LINE == 0:
                self._say(f"{self._record.name}: row {model.position} applied")

    def _has_void(self, model: ServingModel, manifest: Manifest) -> bool:
        """Whether a model has learned values that were void when a later snapshot was built."""
        position = LogPosition(manifest.position)
        rows = self._reader.void_rows(self._record.key, model.position, position)
        return any(row.origin <= model.position for row in rows)

    def _has_lost(self, manifest: Manifest) -> bool:
        """Whether rows of a snapshot have left the log and its counts, because they are void."""
        begins = self._reader.trim(self._record.key).position
        later = LogPosition(manifest.position), self._reader.head(self._record.key)
        return any(row.origin <= begins for row in self._reader.void_rows(self._record.key, *later))

    def _imported(self, version: SnapshotVersion) -> Snapshot:
        return self._snapshots.load(version, (MODEL_FILE,))

    # -- what a snapshot must be --------------------------------------------------------------

    def _progress(self, manifest: Manifest) -> None:
        """Check the count of learned rows, which decides when rounds are due."""
        record, position = self._record, LogPosition(manifest.position)
        if self._reader.last_import(record.key, position):
            return  # it counts the rows of the imported model as well
        if self._has_lost(manifest):
            self._check.notes.append(
                f"snapshot {manifest.version}: rows of it are void since, and have left the log"
            )
            return
        expected = self._reader.count_learned(record.key, LogPosition(0), position)
        counted = Progress(**manifest.meta["progress"]).num_learned
        if not counted == manifest.num_rows == expected:
            self._check.problem(
                f"snapshot {manifest.version}: counts {counted} learned rows, the log {expected}"
            )

    def _compare_initial(self, manifest: Manifest, found: ServingModel) -> None:
        record = self._record
        initial = ServingModel(
            record.spec, record.uid, self._registry, Catalogue.empty(record.spec.row_layout)
        )
        compare_models(
            self._check, f"snapshot {manifest.version} against the prior", initial, found
        )
        self._rebuilt.append(str(manifest.version))

    def _compare_relearned(self, manifest: Manifest, found: ServingModel) -> bool:
        """Check the first snapshot of a generation: forgetting, and what no training changes.

        Returns whether its model was learned again from its rows.
        """
        record, reader, position = self._record, self._reader, LogPosition(manifest.position)
        if reader.trim(record.key).position:
            return False  # the times of the rows that are gone are not known
        generation = generation_of(manifest)
        forgetting = reader.forgetting_at(record, Forgetting(), BEGINNING, position, generation)
        what = f"snapshot {manifest.version}"
        compare_forgetting(self._check, what, forgetting, found.forgetting)
        num_rows = int(manifest.metrics["rows"])
        learned = reader.count_learned(record.key, BEGINNING, position)
        if not self._are_whole(manifest, found, learned):
            self._check.problem(f"{what}: relearned {num_rows} rows, the log has {learned}")
        if found.learns_features or num_rows != learned:
            return False
        spec = reader.spec_at(record, position, generation)
        catalogue = reader.catalogue_at(record, position)
        expected = ServingModel(spec, record.uid, self._registry, catalogue)
        expected.forgetting, expected.progress = forgetting, Progress(learned)
        learn = spec.rewards.learn
        rows = cast(Replay, LoggedRows(reader, record, position, num_rows, learn))
        relearn(expected, rows, learned, expected.row_weights)
        if isinstance(found.policy, LinearTS):
            self._compare_scaling(manifest, expected, found)
        compare_models(self._check, f"{what} against its rows, relearned", expected, found)
        self._rebuilt.append(str(manifest.version))
        return True

    def _compare_rebuilt(self, manifest: Manifest, found: ServingModel) -> None:
        record, position = self._record, LogPosition(manifest.position)
        if self._has_lost(manifest):
            return
        num_rows = int(manifest.metrics["rows"])
        learned = self._reader.count_learned(record.key, LogPosition(0), position)
        what = f"snapshot {manifest.version} against a rebuild over {num_rows} rows"
        if not self._are_whole(manifest, found, learned):
            self._check.problem(
                f"snapshot {manifest.version}: built over {num_rows} rows, the log has {learned}"
            )
        expected = self._load(manifest.version)
        if expected is None:
            return
        learn = expected.spec.rewards.learn
        logged = LoggedRows(self._reader, record, position, num_rows, learn)
        if not logged.are_logged:
            self._check.notes.append(f"snapshot {manifest.version}: rows of it have left the log")
            return
        # A rebuild only scans its rows, as does a sample before them.
        rows, weights = cast(Replay, logged), expected.row_weights
        sample_size = int(manifest.metrics.get("evicted_sample", 0.0))
        evicted = None
        if sample_size:
            through = logged.evicted_through()
            evicted = self._reader.evicted(record, through, position, sample_size, learn)
        if evicted is None:
            expected.policy.rebuild(rows, found.spec.training.rebuild_chunk, weights)
        else:
            both = ExtendedReplay(rows, evicted)
            chunk = found.spec.training.rebuild_chunk
            expected.policy.rebuild(both, chunk, both.weights(weights))
        compare_models(self._check, what, expected, found)
        self._rebuilt.append(str(manifest.version))

    def _compare_without_void(self, manifest: Manifest, found: ServingModel) -> None:
        """Check a model that was built without void values against its rows."""
        position, num_learned = LogPosition(manifest.position), found.progress.num_learned
        learn = found.spec.rewards.learn
        rows = learned_rows(self._reader, self._record, position, num_learned, learn)
        expected = self._load(manifest.version)
        if expected is None or not rows.are_all or not isinstance(expected.policy, LinearTS):
            self._check.notes.append(
                f"snapshot {manifest.version} was built without values that became void, and is not"
                f" compared with {self._since}, which has learned them"
            )
            return
        expected.policy.rebuild(rows, found.spec.training.rebuild_chunk, expected.row_weights)
        what = f"snapshot {manifest.version} against its rows, without void ones"
        compare_models(self._check, what, expected, found)
        self._rebuilt.append(str(manifest.version))

    def _compare_with_rows(self, manifest: Manifest, found: ServingModel) -> None:
        """Check a linear model on standardised inputs against its rows, where the log has all."""
        policy = found.policy
        if not isinstance(policy, LinearTS) or policy.scaling is None:
            return
        if policy.scaling.is_old or not policy.scaling.num_rows:
            return
        position, num_learned = LogPosition(manifest.position), found.progress.num_learned
        learn = found.spec.rewards.learn
        rows = learned_rows(self._reader, self._record, position, num_learned, learn)
        expected = self._load(manifest.version)
        if expected is None or not rows.are_all:
            return
        if manifest.metrics.get(LOG_ROWS) == len(rows):
            expected.refresh(num_learned, rows, renew=True)
            self._compare_scaling(manifest, expected, found)
        else:
            chunk = found.spec.training.rebuild_chunk
            assert isinstance(expected.policy, LinearTS), "a bandit's policy never changes"
            expected.policy.rebuild(rows, chunk, expected.row_weights)
        compare_models(
            self._check, f"snapshot {manifest.version} against its rows", expected, found
        )

    def _compare_scaling(
        self, manifest: Manifest, expected: ServingModel, found: ServingModel
    ) -> None:
        assert isinstance(expected.policy, LinearTS), "a bandit's policy never changes"
        assert isinstance(found.policy, LinearTS), "a bandit's policy never changes"
        first, second = expected.policy.scaling, found.policy.scaling
        if first is None or second is None:
            return
        for name, tensor in first.tensors().items():
            difference = relative_difference(tensor, second.tensors()[name], 0.0)
            what = f"snapshot {manifest.version}: input scaling, {name}"
            self._check.differs(difference, EXACT, what)

    def _are_whole(self, manifest: Manifest, found: ServingModel, learned: int) -> bool:
        """Whether a snapshot was built over all rows, with those that its sample stands for."""
        num_rows = int(manifest.metrics["rows"])
        num_evicted = int(manifest.metrics.get("evicted_rows", 0.0))
        whole = num_rows + num_evicted == learned
        return whole or (num_rows <= learned and self._may_evict(found, num_rows))

    def _may_evict(self, found: ServingModel, num_rows: int) -> bool:
        """Whether a replay may have held so few rows: its capacity is, or was, limited."""
        knobs = found.spec.replay
        if knobs.capacity is not None or knobs.capacity_bytes is not None:
            return knobs.capacity is None or num_rows <= knobs.capacity
        earlier = self._record.spec.replay
        return earlier != knobs  # it was changed: rows may have been evicted before

    def _compare_forgetting(
        self, manifest: Manifest, found: ServingModel, before: Manifest
    ) -> None:
        older = self._load(before.version)
        if older is None:
            return
        positions = LogPosition(before.position), LogPosition(manifest.position)
        generation = generation_of(before)
        expected = self._reader.forgetting_at(
            self._record, older.forgetting, *positions, generation
        )
        compare_forgetting(self._check, f"snapshot {manifest.version}", expected, found.forgetting)

    def _rescaled(
        self, manifest: Manifest, found: ServingModel, before: Manifest | None
    ) -> ServingModel | None:
        """Return the parent with input scaling refreshed, as a round of a linear policy does it."""
        if before is None or manifest.parent != before.version:
            return None
        parent = self._load(before.version)
        if parent is None or not isinstance(parent.policy, LinearTS):
            return None
        position = LogPosition(manifest.position)
        self._apply_without_void(parent, position)
        assert isinstance(found.policy, LinearTS), "a bandit's policy never changes"
        scaling = found.policy.scaling
        if scaling is not None and scaling.is_old:  # by a rule of an earlier release
            parent.policy.rescale(scaling)
            return parent
        num_learned = parent.progress.num_learned
        learn = parent.spec.rewards.learn
        rows = learned_rows(self._reader, self._record, position, num_learned, learn)
        if parent.reads_log(num_learned) and len(rows) != manifest.metrics.get(LOG_ROWS, 0.0):
            return None  # rows have left the log since
        parent.refresh(num_learned, rows)
        self._compare_scaling(manifest, parent, found)
        return parent


def _was_trained(model: ServingModel, manifest: Manifest) -> bool:
    """Whether the snapshot came from a round that trained an encoder and rebuilt the posterior."""
    return isinstance(model.policy, NeuralLinearTS) and "rows" in manifest.metrics


def _same_features(one: ServingModel, other: ServingModel) -> bool:
    first, second = (
        {n: t for n, t in model.policy.tensors().items() if n.startswith(("encoder/", "scaling/"))}
        for model in (one, other)
    )
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )
