"""Administration: create, change and delete bandits and their catalogues.

Runs on the event loop. Every change is a committed log row before it is served.
"""

from __future__ import annotations

import json
import secrets
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import ActionId, BanditUid, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.model import Progress, ServingModel
from bandexa_core.policies.defaults import resolved
from bandexa_core.snapshots.publishing import publish_model
from bandexa_core.snapshots.store import SnapshotStore
from bandexa_core.spec import BanditSpec
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.errors import UnknownAction
from service.serving.threads import in_own_thread
from service.store.errors import Conflict, InvalidRequest, ServiceError
from service.store.records import BanditRecord


async def put_bandit(engine: Engine, name: str, spec: BanditSpec) -> tuple[Bandit, bool]:
    """Create a bandit (True), or change what can change of an existing one (False).

    Raises:
        InvalidRequest: The configuration names what does not exist.
        Conflict: A key that cannot change differs.
    """
    async with engine.live.changing(name):  # two creations of one name must not race
        known = engine.live.get(name)
        if known is not None:
            return await _change(engine, known, spec), False
        return await _create(engine, name, spec), True


async def _create(engine: Engine, name: str, spec: BanditSpec) -> Bandit:
    _check_new(name, "name")
    try:
        spec = resolved(spec.completed(secrets.randbits(32)), engine.registry.is_learned)
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "encoder") from error
    catalogue = Catalogue.empty(spec.row_layout)
    try:  # before the writer's transaction: a bad configuration changes nothing
        # Off the event loop: an encoder's weights may be read, or even downloaded.
        await in_own_thread(engine.registry.fetch, spec)
        await in_own_thread(ServingModel, spec, BanditUid("check"), engine.registry, catalogue)
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "encoder") from error
    uid = engine.reader.next_uid(name)
    snapshots = SnapshotStore(engine.settings.snapshots / uid)
    model = await in_own_thread(_publish_first, engine, snapshots, spec, uid)
    record: BanditRecord = await engine.commit(engine.store.create_bandit, uid, name, spec)
    return engine.serve(record, snapshots, model)


def _publish_first(
    engine: Engine, snapshots: SnapshotStore, spec: BanditSpec, uid: BanditUid
) -> ServingModel:
    """Publish snapshot 0 of a new bandit, before the bandit itself is stored."""
    shutil.rmtree(engine.settings.snapshots / uid, ignore_errors=True)  # of one never stored
    model = ServingModel(spec, uid, engine.registry, Catalogue.empty(spec.row_layout))
    manifest = publish_model(
        snapshots, model, position=LogPosition(0), log_hash=b"", epoch=engine.store.epoch,
        version=SnapshotVersion(0), parent=None, progress=Progress(), training={}, metrics={},
    )  # fmt: skip
    model.created_at = manifest.created_at
    return model


def _difference(key: str, ours: Any, theirs: Any) -> str:
    """Return a sentence with the first difference between two values that differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            if (one := ours.get(name)) != (other := theirs.get(name)):
                return _difference(f"{key}.{name}", one, other)
    old, new = (json.dumps(value, default=str) for value in (ours, theirs))
    return f"{key}: is {old} and cannot become {new} in the life of a bandit"


async def _change(engine: Engine, bandit: Bandit, spec: BanditSpec) -> Bandit:
    current = bandit.model.spec
    wanted = spec.completed(0, current)
    ours, theirs = current.frozen_part(), wanted.frozen_part()
    if wanted.encoder.name not in engine.registry.names():
        raise InvalidRequest("encoder.name", f"must be one of {', '.join(engine.registry.names())}")
    for key in sorted(ours):
        if ours[key] != theirs[key]:
            raise Conflict(_difference(key, ours[key], theirs[key]))
    if wanted != current:
        store = engine.store
        row = await engine.commit(store.append_config, bandit.record, wanted, then=bandit.logged)
        await engine.settled(bandit, row.position)
    return bandit


async def delete_bandit(engine: Engine, name: str) -> None:
    """Delete a bandit with its decisions, log and snapshots."""
    bandit = engine.live.remove(name)
    try:
        await engine.commit(engine.store.delete_bandit, bandit.record)
    except ServiceError:
        if not engine.live.exists(name):  # the store refused, and changed nothing
            engine.live.put_back(bandit)
        raise
    engine.recovery.forget(bandit)
    await engine.rounds.forget(bandit.record.uid)


async def put_actions(
    engine: Engine, name: str, ids: tuple[ActionId, ...], features: Any, enabled: NDArray[np.bool_]
) -> Bandit:
    """Add or overwrite actions; with `features` None, known actions retain their features.

    Raises:
        UnknownBandit, InvalidRequest: Nothing was changed.
    """
    bandit = engine.bandit(name)
    rows = None if features is None else bandit.features(features, len(ids), "features")
    change = CatalogueChange(ids, rows, enabled)
    known = bandit.model.catalogue.slots
    missing = [action_id for action_id in ids if action_id not in known]
    for action_id in missing:
        _check_new(action_id, "ids")
    if missing and rows is None and bandit.record.spec.has_action_features:
        raise InvalidRequest("features", f"action {missing[0]!r} is new and needs features")
    store = engine.store
    row = await engine.commit(store.append_change, bandit.record, change, then=bandit.logged)
    await engine.settled(bandit, row.position)
    return bandit


def _check_new(name: str, field: str) -> None:
    """Refuse what could not be named in an address.

    Raises:
        InvalidRequest: Clients and proxies take "." and ".." for steps between folders.
    """
    if name in (".", ".."):
        raise InvalidRequest(field, f"{name!r} cannot be part of an address")


async def retire_action(engine: Engine, name: str, action_id: ActionId) -> Bandit:
    """Stop offering an action; what was learned from it stays.

    Raises:
        UnknownBandit, UnknownAction: Nothing was changed.
    """
    if action_id not in engine.bandit(name).model.catalogue.slots:
        raise UnknownAction(action_id)
    return await put_actions(engine, name, (action_id,), None, np.zeros(1, np.bool_))
