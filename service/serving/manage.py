"""Administration: create, change and delete bandits and their catalogues.

Runs on the event loop. Every change is a committed log row before it is served.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Collection
from functools import partial
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
from bandexa_core.spec.arms import Mode
from bandexa_core.spec.changes import completed_spec
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.errors import ConfigurationChanged, UnknownAction
from service.serving.files import snapshots_at
from service.serving.planning import Plan, check_buildable, planned
from service.serving.threads import in_own_thread
from service.serving.versions import check_version
from service.store.errors import InvalidRequest, ServiceError
from service.store.records import BanditRecord

ROUNDS_READ = 32  # for how long they take


async def put_bandit(
    engine: Engine,
    name: str,
    spec: BanditSpec,
    given: Collection[str] = (),
    wanted: Collection[str] | None = None,
) -> tuple[Bandit, bool]:
    """Create a bandit (True), or change an existing one (False).

    What has to be relearned from the log for a change is learned after the return, and served
    then; see `reconfiguring`. `given`: the keys that the request names. `wanted`: the versions of
    the configuration that the change is for; see `check_version`. A change that is there already
    may be repeated: whoever lost its answer is not refused for their own change.

    Raises:
        ConfigurationChanged: It is for another version.
        BanditExists: It is for a new bandit only.
        InvalidRequest: The configuration names what does not exist.
        Conflict: The log cannot answer for a key that differs.
    """
    async with engine.live.changing(name):  # two creations of one name must not race
        known = engine.live.get(name)
        await _check_version(engine, name, known, spec, given, wanted)
        if known is not None:
            return await _change(engine, known, spec, given), False
        return await _create(engine, name, spec), True


async def create_missing(engine: Engine, name: str, spec: BanditSpec) -> bool:
    """Create a bandit; one of its name that is there already stays as it is (False).

    Raises:
        InvalidRequest: The configuration names what does not exist.
    """
    async with engine.live.changing(name):
        if engine.live.exists(name):
            return False
        await _create(engine, name, spec)
        return True


async def plan(
    engine: Engine,
    name: str,
    spec: BanditSpec,
    given: Collection[str] = (),
    wanted: Collection[str] | None = None,
) -> Plan:
    """Return what `put_bandit` would do; nothing is changed.

    Raises:
        InvalidRequest, Conflict, ConfigurationChanged, BanditExists: As `put_bandit` would.
    """
    async with engine.live.changing(name):
        known = engine.live.get(name)
        await _check_version(engine, name, known, spec, given, wanted)
        if known is None:
            return Plan("created", await _checked_new(engine, name, spec))
        found = await _checked_change(engine, known, spec, given)
        if not found.relearned:
            return found
        encoder, num_rows = found.spec.encoder.name, known.model.progress.num_learned
        seconds = engine.rounds.paces.seconds(encoder, num_rows)
        if seconds is None:
            seconds = await in_own_thread(_newest_round_s, engine, known)
        return dataclasses.replace(found, estimated_s=seconds)


async def _check_version(
    engine: Engine,
    name: str,
    known: Bandit | None,
    spec: BanditSpec,
    given: Collection[str],
    wanted: Collection[str] | None,
) -> None:
    """Refuse a change for another version, unless what it asks for is there (RFC 9110, 13.1.1)."""
    try:
        check_version(name, known, wanted)
    except ConfigurationChanged:
        if known is None or (await _checked_change(engine, known, spec, given)).row:
            raise


def _newest_round_s(engine: Engine, bandit: Bandit) -> float | None:
    """Return how long the newest round of a bandit took; None where it had none."""
    with engine.store.history() as history:
        rounds = history.rounds(bandit.record, 0.0, ROUNDS_READ)
    return next((each.seconds for each in reversed(rounds) if each.error is None), None)


async def _checked_new(engine: Engine, name: str, spec: BanditSpec) -> BanditSpec:
    """Return the whole configuration of a new bandit.

    Raises:
        InvalidRequest: It cannot be created.
    """
    _check_new(name, "name")
    try:
        spec = resolved(completed_spec(spec, secrets.randbits(32)), engine.registry.is_learned)
        spec.check_together()
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "encoder") from error
    await _check_buildable(engine, spec)
    return spec


async def _check_buildable(engine: Engine, spec: BanditSpec) -> None:
    """Check a configuration before the writer's transaction: a bad one changes nothing.

    Raises:
        InvalidRequest: It cannot be built.
    """
    try:
        # Off the event loop: an encoder's weights may be read, or even downloaded.
        await in_own_thread(check_buildable, spec, engine.registry)
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "encoder") from error


async def _create(engine: Engine, name: str, spec: BanditSpec) -> Bandit:
    spec = await _checked_new(engine, name, spec)
    uid = engine.reader.next_uid(name)
    snapshots = await in_own_thread(snapshots_at, engine.settings, uid)
    model = await in_own_thread(_publish_first, engine, snapshots, spec, uid)
    record: BanditRecord = await engine.commit(engine.store.create_bandit, uid, name, spec)
    return engine.serve(record, snapshots, model)


def _publish_first(
    engine: Engine, snapshots: SnapshotStore, spec: BanditSpec, uid: BanditUid
) -> ServingModel:
    """Publish snapshot 0 of a new bandit, before the bandit itself is stored."""
    snapshots.remove_all()  # of one never stored
    model = ServingModel(spec, uid, engine.registry, Catalogue.empty(spec.row_layout))
    manifest = publish_model(
        snapshots, model, position=LogPosition(0), log_hash=b"", epoch=engine.store.epoch,
        version=SnapshotVersion(0), parent=None, progress=Progress(), training={}, metrics={},
    )  # fmt: skip
    model.created_at = manifest.created_at
    return model


async def _checked_change(
    engine: Engine, bandit: Bandit, spec: BanditSpec, given: Collection[str]
) -> Plan:
    found = planned(spec, given, bandit.model.spec, bandit.configurations, engine.registry)
    if isinstance(found.wanted, BanditSpec):
        await _check_buildable(engine, found.wanted)
    return found


async def _change(
    engine: Engine, bandit: Bandit, spec: BanditSpec, given: Collection[str]
) -> Bandit:
    found = await _checked_change(engine, bandit, spec, given)
    if found.row:
        append = partial(engine.store.append_config, wanted=found.wanted)
        row = await engine.commit(append, bandit.record, found.spec, then=bandit.logged)
        await engine.settled(bandit, row.position)
    bandit.change_error = None  # another attempt is made now, or none is needed
    engine.reconfiguring.start(bandit)
    _train(engine, bandit)
    return bandit


def _train(engine: Engine, bandit: Bandit) -> None:
    """Order what a change makes due: no reward, which would order it, may come for long.

    A bandit that is not frozen any more learns what was held back; another `train_every`, or
    another `mode` of training, makes a round due.
    """
    if engine.rounds.must_relearn(bandit):
        engine.rounds.order(bandit)
    engine.rewards.train_if_due(bandit)


async def set_mode(engine: Engine, name: str, mode: Mode, serve: ActionId | None) -> Bandit:
    """Change who decides, and nothing else; holds from the next decision on.

    Args:
        engine: The live bandits.
        name: The bandit.
        mode: See `BanditSpec`.
        serve: One action that is served wherever it is offered; None: none is.

    Raises:
        UnknownBandit, UnknownAction, InvalidRequest: Nothing was changed.
    """
    async with engine.live.changing(name):
        bandit = engine.bandit(name)
        catalogue = bandit.model.catalogue
        if serve is not None and len(catalogue):
            if serve not in catalogue.slots:
                raise UnknownAction(serve, "serve")
            if not catalogue.enabled[catalogue.slots[serve]]:
                raise InvalidRequest("serve", f"action {serve!r} is retired")
        try:
            spec = dataclasses.replace(bandit.model.spec, mode=mode, serve=serve)
        except ValueError as error:
            raise InvalidRequest.from_value_error(error, "mode") from error
        if spec != bandit.model.spec:
            append = engine.store.append_config
            row = await engine.commit(append, bandit.record, spec, then=bandit.logged)
            await engine.settled(bandit, row.position)
            _train(engine, bandit)
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
    engine.keeping.deleted(bandit.record)
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
        named = bandit.record.spec.actions.features is not None
        needed = "an object, which may be empty: {}" if named else "a list of numbers"
        raise InvalidRequest(
            "features", f"action {missing[0]!r} is new and needs features, {needed}"
        )
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
