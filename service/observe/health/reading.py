"""Reads from the engine what findings are made of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from bandexa_core.evaluation import Interval
from bandexa_core.ids import ActionId
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.spec.warnings import warnings_of
from service.observe.health.findings import Finding
from service.observe.health.observed import BanditState, ChallengerSeen, ServerState
from service.observe.health.of_bandit import check_bandit
from service.observe.health.of_inputs import collisions, drifts, misfits
from service.observe.health.of_server import DAY_S, check_server
from service.serving.bandit import Bandit
from service.serving.engine import Engine


def server_findings(engine: Engine) -> list[Finding]:
    """Return what is wrong with the server as a whole."""
    supervisor = engine.rounds.supervisor
    state = ServerState(
        store_failure=engine.store.failure,
        trainer_down_s=supervisor.down_s,
        trainer_silent_s=supervisor.silent_s,
        stale_s=engine.settings.learn_stale_s,
        wal_pinned_s=engine.store.wal_pinned_s(),
        wal_bytes=engine.store.wal_bytes(),
        clock_offset_s=engine.store.clock.offset,
        backups=None if engine.metrics.backups is None else (engine.metrics.backups, time.time()),
        disk_full_in_s=disk_full_in_s(engine),
        disk_free_bytes=engine.metrics.disk_free_bytes,
    )
    return list(check_server(state))


def disk_full_in_s(engine: Engine) -> float | None:
    """Return when the disk is full at the growth of the database; see `Growth.full_in_s`."""
    settings, metrics = engine.settings, engine.metrics
    max_age_s = None if settings.max_age_days is None else settings.max_age_days * DAY_S
    return metrics.growth.full_in_s(metrics.disk_free_bytes, settings.max_store_bytes, max_age_s)


def bandit_findings(engine: Engine, bandit: Bandit) -> list[Finding]:
    """Return what is wrong, or may be, with a bandit: alarms first."""
    supervisor, uid, vitals = engine.rounds.supervisor, bandit.record.uid, bandit.vitals
    spec, now = bandit.model.spec, time.monotonic()
    extremes = bandit.model.extremes
    waits_for_round = spec.training.mode == "background" and supervisor.busy_with != uid
    state = BanditState(
        due_s=bandit.applier.due_s(now) if waits_for_round else 0.0,
        stale_s=engine.settings.learn_stale_s,
        failures=supervisor.failures.get(uid, (0, "")),
        rows_wait_s=bandit.applier.rows_wait_s(now),
        traffic=vitals.traffic,
        same_actions=vitals.actions.length,
        last_action=vitals.actions.last,
        same_values=vitals.values.length,
        last_value=vitals.values.last,
        num_values=vitals.num_values,
        outside=vitals.outside,
        reward_range=spec.expected_rewards,
        learns=spec.policy != "uniform",
        failure=bandit.applier.failure,
        extremes=tuple((at, num, last) for at, (num, last) in extremes.columns.items()),
        num_contexts=extremes.num_rows,
        extreme_action=bandit.model.extreme_action(),
        num_clipped=vitals.num_clipped,
        clipped=vitals.recently_clipped(),
        misfits=tuple(misfits(bandit.inputs)),
        collisions=tuple(collisions(bandit.inputs)),
        change_error=bandit.change_error,
        trip=bandit.configurations.trip,
        worse=tuple(worse_than(bandit)),
        warnings=warnings_of(spec),
        clips=spec.clipped_to is not None,
        evidence=bandit.evidence,
        enabled=partial(_is_enabled, bandit.model.catalogue),
        num_enabled=len(bandit.model.catalogue.enabled_slots),
        held=bandit.model.held.num if bandit.model.holds else None,
        loss=vitals.silence.loss(time.time()),
        drifts=tuple(drifts(bandit.inputs)),
        challengers=tuple(_challengers(bandit)),
    )
    return list(check_bandit(state))


def _challengers(bandit: Bandit) -> Iterator[ChallengerSeen]:
    known, served = bandit.configurations, bandit.model.spec
    for name, challenger in sorted(bandit.challengers.items()):
        yield ChallengerSeen(name, challenger.state(known, served), challenger.score)


def _is_enabled(catalogue: Catalogue, name: str) -> bool:
    slot = catalogue.slots.get(ActionId(name))
    return slot is not None and bool(catalogue.enabled[slot])


def worse_than(bandit: Bandit) -> Iterator[tuple[str, Interval]]:
    """Yield the arms that earn more than the bandit, whatever chance did."""
    trials = {arm.name for arm in bandit.model.spec.arms if arm.challenger is not None}
    for arm in bandit.current_standing():
        if arm.name in trials:
            continue  # that is what a trial hopes for
        if arm.lift is not None and arm.lift.interval is not None and arm.lift.interval.high < 0.0:
            yield arm.name, arm.lift.interval
