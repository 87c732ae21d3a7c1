"""Export the served model, import one into a bandit, go back to an older snapshot."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from bandexa_core.errors import SnapshotError
from bandexa_core.ids import UNPLACED, LogPosition, SnapshotVersion
from bandexa_core.model import (
    CATALOGUE,
    FORGETTING,
    MODEL_FILE,
    TRAINING_FILE,
    Progress,
    ServingModel,
)
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.snapshots.manifest import Manifest
from bandexa_core.snapshots.packing import pack, unpack
from bandexa_core.snapshots.publishing import publish_model
from service.serving.adopting import Adopted, fit
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.errors import UnknownSnapshot
from service.store.errors import Conflict, InvalidRequest
from service.store.loading import (
    catalogue_of,
    contains_erased,
    num_blanked,
    place_import,
    taught_by,
)
from service.store.reading import LogReader

log = logging.getLogger(__name__)


async def export_model(bandit: Bandit) -> bytes:
    """Return the served model, its tail applied, as one safetensors byte string.

    Raises:
        Conflict: It has learned values that are void since, and is not rebuilt yet.
    """
    loop = asyncio.get_running_loop()
    position, model = LogPosition(-1), bandit.model
    while model.position != position:  # else a swap let rows go on while they were copied
        model = bandit.model
        if model.void_from is not None:
            raise Conflict("the model has learned values that are void, until it is rebuilt")
        position, progress = model.position, model.progress
        known = {"bandit": bandit.record.name, "actions": list(model.catalogue.ids)}
        bandit.applier.hold()
        try:
            tensors = await loop.run_in_executor(None, _copied, model)
        finally:
            bandit.applier.swap(None)

    def finish() -> bytes:
        base = bandit.snapshots.load(model.version, (TRAINING_FILE,))
        training = base.tensors[TRAINING_FILE]
        manifest = dataclasses.replace(
            base.manifest, position=position, log_hash="", num_rows=progress.num_learned,
            created_at=time.time(),
            meta=base.manifest.meta | known | {"progress": progress._asdict()},
        )  # fmt: skip
        return pack(manifest, tensors | {f"{TRAINING_FILE}/{n}": t for n, t in training.items()})

    return await loop.run_in_executor(None, finish)


def _copied(model: ServingModel) -> dict[str, NDArray[Any]]:
    """Return copies of the tensors of a model that does not move; large ones take a while."""
    return {f"{MODEL_FILE}/{name}": t.copy() for name, t in model.policy.tensors().items()}


def _refuse_void(
    reader: LogReader, bandit: Bandit, manifest: Manifest, taught: Sequence[tuple[int, int]]
) -> None:
    """Check that no value that taught a model of the bandit is void since.

    Raises:
        Conflict: There are such values.
    """
    key = bandit.record.key
    rows = reader.void_rows(key, LogPosition(manifest.position), reader.head(key))
    num = sum(any(first <= row.origin <= last for first, last in taught) for row in rows)
    if num:
        raise Conflict(
            f"version: snapshot {manifest.version} has learned {num} values that are void since"
        )


async def import_model(engine: Engine, name: str, data: bytes) -> Bandit:
    """Serve an exported model as this bandit's from here on.

    Its encoder is trained again once this bandit has learned as many values itself as the
    import brought: until then a rebuild over its own rows would lose what was imported.

    Raises:
        InvalidRequest: The bytes are no export, their tensors do not fit, or the posterior is not
            what its own sums give.
        Conflict: It was exported from a bandit of another shape, knows actions that this bandit
            does not have, or has learned values of this bandit that are void since.
    """

    def load() -> Adopted:
        try:
            manifest, tensors = unpack(data)
        except SnapshotError as error:
            raise InvalidRequest("body", str(error)) from error
        model, training = (take_prefix(tensors, f"{part}/") for part in (MODEL_FILE, TRAINING_FILE))
        return Adopted(manifest, model, training)

    return await _adopt(engine, engine.bandit(name), load, is_own=False)


async def roll_back(engine: Engine, name: str, version: SnapshotVersion) -> Bandit:
    """Serve the state of an older snapshot of this bandit from here on, as if imported.

    Raises:
        UnknownSnapshot: It does not exist, or was pruned.
        SnapshotError: It is damaged.
        Conflict: It was built for another configuration, or has learned values that are void since.
    """
    bandit = engine.bandit(name)

    def load() -> Adopted:
        if version not in bandit.snapshots.versions():
            raise UnknownSnapshot(version)
        snapshot = bandit.snapshots.load(version)
        with engine.store.reader() as reader:
            position = LogPosition(snapshot.manifest.position)
            actions = catalogue_of(reader, bandit.record, snapshot, position).ids
        tensors = snapshot.tensors
        # Forgetting starts again, as with every import: its steps so far lie in another history.
        beside = (FORGETTING, CATALOGUE)  # the bandit retains its own actions
        model = {n: t for n, t in tensors[MODEL_FILE].items() if not n.startswith(beside)}
        meta = snapshot.manifest.meta | {"actions": list(actions)}
        manifest = dataclasses.replace(snapshot.manifest, meta=meta)
        return Adopted(manifest, model, tensors[TRAINING_FILE])

    return await _adopt(engine, bandit, load, is_own=True)


async def _adopt(
    engine: Engine, bandit: Bandit, load: Callable[[], Adopted], *, is_own: bool
) -> Bandit:
    """Publish a model as the bandit's newest snapshot and log that it is served from here on.

    Nothing of it but the row in the log happens on the event loop: a snapshot may be large.
    """
    served = bandit.model
    catalogue_position, catalogue = served.position, served.catalogue
    snapshots = bandit.snapshots

    def publish() -> SnapshotVersion:
        model = ServingModel(served.spec, served.uid, engine.registry, catalogue)
        model.generation = served.generation
        adopted = fit(load(), model, is_own=is_own)
        # Its own rows, also in an export that comes back: an erasure must know what it has learned.
        manifest = adopted.manifest
        copied, rows = None, manifest.num_rows
        with engine.store.reader() as reader:
            blanked = num_blanked(reader, bandit.record)
            if is_own or manifest.bandit_uid == bandit.record.uid:
                known = (reader, bandit.record, engine.registry, snapshots, manifest)
                copied = taught_by(*known)
                _refuse_void(reader, bandit, manifest, copied)
                if contains_erased(*known):
                    blanked = 0
                    log.warning(
                        "bandit %s: the snapshot was taught by rows that are erased",
                        bandit.record.name,
                    )
        published = publish_model(
            snapshots, model, position=UNPLACED, log_hash=b"", epoch=engine.store.epoch,
            parent=None, progress=Progress(rows, rows, rows), training=adopted.training,
            metrics={}, catalogue_position=catalogue_position, copied=copied,
            blanked=blanked,
        )  # fmt: skip
        version = SnapshotVersion(published.version)
        bandit.imported[version] = snapshots.load(version, (MODEL_FILE,))
        return version

    def place(version: SnapshotVersion, position: LogPosition) -> None:
        with engine.store.reader() as reader:
            place_import(reader, bandit.record, snapshots, version, position)

    async with engine.live.changing(bandit.record.name):
        if bandit.configurations.pending is not None:
            raise Conflict(
                "another configuration is being learned: wait for it, or take it back by a PUT"
            )
        return await _logged(engine, bandit, publish, place)


async def _logged(
    engine: Engine,
    bandit: Bandit,
    publish: Callable[[], SnapshotVersion],
    place: Callable[[SnapshotVersion, LogPosition], None],
) -> Bandit:
    """Publish a snapshot and log its import."""
    loop = asyncio.get_running_loop()
    # One whose row is not committed stays: only the next start knows for certain (`place_imports`).
    version = await loop.run_in_executor(None, publish)
    append = engine.store.append_import
    row = await engine.commit(append, bandit.record, version, then=bandit.logged)
    await loop.run_in_executor(None, place, version, row.position)
    await engine.settled(bandit, row.position)
    bandit.imported.clear()
    return bandit
