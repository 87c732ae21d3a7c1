"""Load a snapshot, apply the tail of the log: the one way to build a serving model.

The start uses it (newest good snapshot, whole tail), a swap (a given snapshot, the tail stored so
far), the trainer, `bandexa verify` and the explanation of a decision. It runs off the event loop,
in one thread at a time, with its own reader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import SnapshotCorrupt, SnapshotError
from bandexa_core.ids import UNPLACED, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.rows import Group, VoidRow
from bandexa_core.model import (
    CATALOGUE,
    GENERATION,
    MODEL_FILE,
    TRAINING_FILE,
    Progress,
    ServingModel,
    load_model,
)
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.publishing import BLANKED, COPIED
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from service.store.reading import BEGINNING, LogReader
from service.store.records import BanditRecord
from service.store.void_values import remove_void

log = logging.getLogger(__name__)


def belonging(
    reader: LogReader, record: BanditRecord, up_to: LogPosition
) -> Callable[[Manifest], bool]:
    """Return a predicate: was a snapshot built from this bandit's log, at or before `up_to`?

    Those built before the last import are among them: decisions refer to them, and a bandit can go
    back to them. An import belongs from its commit on, even if its snapshot has not got its place
    yet.
    """
    imports = reader.imports(record.key)
    hashes: dict[int, str] = {}  # by generation

    def belongs(manifest: Manifest) -> bool:
        if manifest.bandit_uid != record.uid:
            return False
        generation = generation_of(manifest)
        if generation not in hashes:
            hashes[generation] = model_hash(reader, record, generation)
        if manifest.spec_hash != hashes[generation]:
            return False
        manifest = placed(reader, record, manifest, imports)
        position = LogPosition(manifest.position)
        if position > up_to:
            return False
        found = reader.hash_at(record.key, position)
        return found is not None and found.hex() == manifest.log_hash

    return belongs


def generation_of(manifest: Manifest) -> LogPosition:
    """Return the generation of a snapshot; see `Configurations`."""
    found = manifest.meta.get(GENERATION)
    return LogPosition(found if isinstance(found, int) else 0)  # an export may have anything


def model_hash(reader: LogReader, record: BanditRecord, generation: LogPosition) -> str:
    """Return the `spec_hash` of the snapshots of a generation; "" where there is none."""
    try:
        return reader.spec_at(record, generation, generation).model_hash()
    except (KeyError, TypeError, ValueError):  # no row of the log wanted it
        return ""


def acceptable(
    reader: LogReader,
    record: BanditRecord,
    up_to: LogPosition,
    generation: LogPosition | None = None,
) -> Callable[[Manifest], bool]:
    """Return a predicate: can a snapshot be served, of this bandit's log at or before `up_to`?

    It has to be of a generation; None: of the one that is served there.

    A snapshot built before the last import belongs to a model that was replaced. It may have a
    higher version, when its round was under way while the import arrived.
    """
    imported = reader.last_import(record.key, up_to)
    belongs = belonging(reader, record, up_to)
    imports = reader.imports(record.key)  # read after the last one: it is among them
    begins = reader.trim(record.key).position
    if generation is None:
        generation = reader.configurations(record, up_to).generation(up_to)

    def accept(manifest: Manifest) -> bool:
        if generation_of(manifest) != generation:
            return False
        position = placed(reader, record, manifest, imports).position
        # An import before the generation was wanted left no trace in it.
        since = imported if imported > generation else BEGINNING
        return max(since, begins) <= position and belongs(manifest)

    return accept


def newest_snapshot(
    reader: LogReader,
    record: BanditRecord,
    snapshots: SnapshotStore,
    up_to: LogPosition,
    names: tuple[str, ...] = (MODEL_FILE,),
    generation: LogPosition | None = None,
) -> Snapshot:
    """Return the newest undamaged snapshot that belongs to the log; `generation`: as above.

    Raises:
        SnapshotError: There is no such snapshot.
    """
    accept = acceptable(reader, record, up_to, generation)
    snapshot, skipped = snapshots.newest(accept, names)
    for version, reason in skipped:
        log.warning("bandit %s: snapshot %d is not used: %s", record.name, version, reason)
    manifest = placed(reader, record, snapshot.manifest, reader.imports(record.key))
    return Snapshot(manifest, snapshot.tensors)


def taught_by(
    reader: LogReader,
    record: BanditRecord,
    registry: EncoderRegistry,
    snapshots: SnapshotStore,
    manifest: Manifest,
) -> list[tuple[int, int]]:
    """Return the first and last rows of the parts of the bandit's log that taught a model.

    `manifest` is that of one of the bandit's snapshots, or of an export of the bandit.
    """
    position = LogPosition(manifest.position)
    whole = [(1, int(position))]
    generation = generation_of(manifest) if manifest.bandit_uid == record.uid else LogPosition(0)
    try:
        spec = reader.spec_at(record, position, generation)
    except KeyError:  # the generation of an export that somebody changed
        generation, spec = LogPosition(0), reader.spec_at(record, position)
    imported = reader.last_import(record.key, position)
    if spec.policy == "uniform":
        return []
    learned = registry.is_learned(spec.encoder.name)
    if imported <= generation or (learned and imported != position):
        return whole  # a learned encoder is trained on rows of before an import, too
    versions = [v for v, at in reader.imports(record.key).items() if at == imported]
    try:
        copied = snapshots.manifest(versions[0]).meta.get(COPIED, [])
    except (IndexError, SnapshotError):  # nobody can say what it brought
        return whole
    since = [(imported + 1, int(position))] if imported < position else []
    return [*((first, last) for first, last in copied), *since]


def num_blanked(reader: LogReader, record: BanditRecord) -> int:
    """Return how often learn rows of a bandit were blanked."""
    return max((each.number for each in reader.blanked(record.key)), default=0)


def contains_erased(
    reader: LogReader,
    record: BanditRecord,
    registry: EncoderRegistry,
    snapshots: SnapshotStore,
    manifest: Manifest,
) -> bool:
    """Whether a snapshot, or an export, was taught by rows that are erased; see `taught_by`."""
    blanked = reader.blanked(record.key)
    free_of = manifest.meta.get(BLANKED)
    if not isinstance(free_of, int):  # an older release wrote it, or a caller of an import
        free_of = 0
    if not any(each.number > free_of for each in blanked):
        return False
    taught = taught_by(reader, record, registry, snapshots, manifest)
    return any(
        each.number > free_of and each.first <= last and each.last >= first
        for each in blanked
        for first, last in taught
    )


def clean_snapshot(
    reader: LogReader,
    record: BanditRecord,
    registry: EncoderRegistry,
    snapshots: SnapshotStore,
    first: LogPosition,
    position: LogPosition,
    names: tuple[str, ...],
) -> Snapshot | None:
    """Return what the model at `position` is rebuilt from after rows from `first` on went.

    That is the newest snapshot before these rows, or the state before the first row. A later import
    replaced all that was learned before it, so then it is the import. Where retention removed the
    rows after that state, and the policy has only sums of them, it is the newest snapshot: the sums
    cannot be taken apart again. None: a model that was relearned has to be relearned once more.

    Raises:
        SnapshotError: There is no snapshot that can be read.
    """
    up_to = LogPosition(max(first - 1, reader.last_import(record.key, position)))
    generation = reader.configurations(record, position).generation(position)
    try:
        return newest_snapshot(reader, record, snapshots, up_to, names, generation)
    except SnapshotError:
        if generation:
            return None
        model = ServingModel(
            record.spec, record.uid, registry, Catalogue.empty(record.spec.row_layout)
        )
        trimmed = reader.trim(record.key).position > BEGINNING
        if trimmed and not model.learns_features:
            return newest_snapshot(reader, record, snapshots, position, names)
        manifest = Manifest(
            version=SnapshotVersion(0), parent=None, bandit_uid=record.uid, position=BEGINNING,
            log_hash="", spec_hash=record.spec.model_hash(), num_rows=0, epoch=reader.epoch(),
            encoder=record.spec.encoder.name, metrics={}, meta={"progress": Progress()._asdict()},
        )  # fmt: skip
        return Snapshot(manifest, {MODEL_FILE: model.tensors(), TRAINING_FILE: {}})


class Parent(NamedTuple):
    """What a round builds a model from.

    Attributes:
        snapshot: A snapshot.
        void: The rows that void values which its sums contain, and which have to be taken out of
            them. It has learned no other void value.
    """

    snapshot: Snapshot
    void: Sequence[VoidRow]


def parent_without_voids(
    reader: LogReader,
    record: BanditRecord,
    registry: EncoderRegistry,
    snapshots: SnapshotStore,
    parent: Snapshot,
    position: LogPosition,
    names: tuple[str, ...],
) -> Parent | None:
    """Return what the model at `position` is built from, without the values that are void there.

    That is `parent`, or an older snapshot without them. Where retention or an import left none, the
    values are taken out of the sums of the newest one; a learned encoder is trained without them.
    None: a model that was relearned has to be relearned once more.

    Raises:
        SnapshotError: There is no snapshot that can be read.
    """
    while True:
        base = LogPosition(parent.manifest.position)
        rows = reader.void_rows(record.key, base, position)
        void = [row for row in rows if row.origin <= base]
        if not void:
            return Parent(parent, ())
        first = min(row.origin for row in void)
        clean = clean_snapshot(reader, record, registry, snapshots, first, position, names)
        if clean is None:
            return None
        if clean.manifest.position >= first:
            break
        parent = clean
    taught = taught_by(reader, record, registry, snapshots, clean.manifest)
    base = LogPosition(clean.manifest.position)
    void = [
        row
        for row in reader.void_rows(record.key, base, position)
        if any(start <= row.origin <= end for start, end in taught)
    ]
    spec = reader.spec_at(record, base, generation_of(clean.manifest))
    learned = registry.is_learned(spec.encoder.name)
    if void and learned and reader.last_import(record.key, base):
        log.warning(
            "bandit %s: an imported network may have learned %d values that are void",
            record.name, len(void),
        )  # fmt: skip
        void = []  # nobody can say which of them are in its sums
    return Parent(clean, void)


def catalogue_of(
    reader: LogReader, record: BanditRecord, snapshot: Snapshot, position: LogPosition
) -> Catalogue:
    """Return the actions at `position`: those of the snapshot, and the changes since.

    Args:
        reader: Reads the log.
        record: The bandit.
        snapshot: One at or before `position`, with its `MODEL_FILE` tensors loaded.
        position: A position of the log.

    Raises:
        SnapshotCorrupt: The snapshot's catalogue makes no sense.
        StoreDamaged: A row is not what was written.
    """
    at = snapshot.manifest.meta.get("catalogue_position")
    if at is None:  # releases before 0.3.0 wrote none, and removed no catalogue row
        return reader.catalogue_at(record, position)
    tensors = take_prefix(snapshot.tensors[MODEL_FILE], CATALOGUE)
    try:
        start = Catalogue.from_tensors(tensors, record.spec.row_layout)
    except ValueError as error:
        raise SnapshotCorrupt(f"snapshot {snapshot.manifest.version}: {error}") from error
    return reader.catalogue_at(record, position, start, LogPosition(at))


def placed(
    reader: LogReader,
    record: BanditRecord,
    manifest: Manifest,
    imports: Mapping[SnapshotVersion, LogPosition],
) -> Manifest:
    """Return the manifest of an import that is logged as it will be once it has its place.

    Any other manifest is returned as it is. `imports` are those of the log.
    """
    position = imports.get(SnapshotVersion(manifest.version))
    if manifest.position != UNPLACED or position is None:
        return manifest
    log_hash = reader.hash_at(record.key, position)
    return replace(manifest, position=position, log_hash=(log_hash or b"").hex())


def place_import(
    reader: LogReader,
    record: BanditRecord,
    snapshots: SnapshotStore,
    version: SnapshotVersion,
    position: LogPosition,
) -> None:
    """Give an imported snapshot its place: the log row that names it.

    Until its row is committed it has none, and no model starts from it.

    Raises:
        SnapshotError: It cannot be read or written.
    """
    log_hash = reader.hash_at(record.key, position)
    assert log_hash is not None, "an import row ends its group"
    snapshots.place(version, position, log_hash)


def place_imports(reader: LogReader, record: BanditRecord, snapshots: SnapshotStore) -> None:
    """Finish the imports that a crash interrupted: place those that are logged, remove the others.

    Raises:
        SnapshotError: The disk failed.
    """
    imports = reader.imports(record.key)
    for version in snapshots.versions():
        if version == 0:  # written with the bandit: no import, and most bandits have no other
            continue
        try:
            if snapshots.manifest(version).position != UNPLACED:
                continue
        except SnapshotCorrupt:  # never served; `bandexa verify` reports it
            continue
        if version in imports:
            place_import(reader, record, snapshots, version, imports[version])
        else:
            snapshots.remove(version)


def passes_until(
    reader: LogReader, record: BanditRecord, generation: LogPosition, up_to: LogPosition
) -> LogPosition:
    """Return the last row up to `up_to` from which a generation is served, again or at first."""
    switches = reader.configurations(record, up_to).switches
    own = (each.position for each in switches if each.generation == generation)
    return max(own, default=BEGINNING)


def load_at(
    reader: LogReader,
    record: BanditRecord,
    registry: EncoderRegistry,
    snapshots: SnapshotStore,
    snapshot: Snapshot,
    up_to: LogPosition,
    applied: Callable[[Group], None] | None = None,
    voids: LogPosition = BEGINNING,
    void: Sequence[VoidRow] = (),
    *,
    learns_held: bool = False,
    restored: bool = False,
) -> ServingModel:
    """Return the serving model of `snapshot` with the log rows up to `up_to` applied.

    Args:
        reader: Reads the log.
        record: The bandit.
        registry: Encoders by name.
        snapshots: Its snapshots.
        snapshot: The one to start from.
        up_to: The position of the model.
        applied: Called with each group; what it raises ends the loading.
        voids: Values that a row up to here voids are not learned. 0: they are, as the model did
            that served while they became void.
        void: The rows that void values which the snapshot has learned: see `remove_void`.
        learns_held: Learn what was held back while the bandit was frozen: to build a snapshot.
        restored: Whether its generation is not served up to there, and is to be served again.

    Raises:
        LogTrimmed: Retention removed rows after the snapshot's position.
        StoreDamaged: A row is not what was written.
    """

    def load(version: SnapshotVersion) -> Snapshot:
        return snapshots.load(version, (MODEL_FILE,))

    base = LogPosition(snapshot.manifest.position)
    generation = generation_of(snapshot.manifest)
    spec = reader.spec_at(record, base, generation)
    catalogue = catalogue_of(reader, record, snapshot, base)
    model = load_model(spec, record.uid, registry, snapshot, catalogue)
    model.learns_held = learns_held
    passed = up_to if restored else passes_until(reader, record, generation, up_to)
    model.passes_until = passed
    remove_void(reader, record, model, void, up_to)
    for group in reader.follow(record, base, up_to, voids=voids):
        model.apply(group, load)
        if applied is not None:
            applied(group)
    model.try_out(load)
    return model
