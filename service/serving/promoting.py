"""Declare the challengers of a bandit, try them out, promote them, and take that back.

Runs on the event loop. A trial gives a challenger a share of the decisions, as an arm: the trainer
learns a model of its configuration from the log, and the arm serves by that snapshot. To promote a
challenger is to want its configuration served, as a `PUT` of it would (see `reconfiguring`), and to
demote it is to serve the generation of before again, with all rows since.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from functools import partial
from typing import Any

import msgspec

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.promotions import Candidacy, Promotion, TrialEnd, Why
from bandexa_core.model import ServingModel
from bandexa_core.policies.defaults import resolved
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.arms import BANDIT, MAX_SHARE, SERVED, ArmSpec
from bandexa_core.spec.changes import fixed_part, relearned_part
from service.serving.bandit import Bandit
from service.serving.challengers import (
    Challenger,
    Rule,
    Score,
    packed,
    promoted_spec,
    spec_json,
)
from service.serving.engine import Engine
from service.serving.errors import UnknownChallenger
from service.serving.planning import check_buildable, differences
from service.serving.threads import in_own_thread
from service.store.errors import Conflict, InvalidRequest

log = logging.getLogger(__name__)
UNDER_WAY = ("trial", "promoting", "served")


def challenger_of(bandit: Bandit, name: str) -> Challenger:
    """Return a challenger; UnknownChallenger where there is none."""
    found = bandit.challengers.get(name)
    if found is None:
        raise UnknownChallenger(name)
    return found


async def declare(
    engine: Engine, name: str, challenger: str, given: dict[str, Any], rule: Rule
) -> tuple[Challenger, bool]:
    """Declare a challenger (True), or change one (False); another configuration begins anew.

    Raises:
        InvalidRequest, Conflict: Nothing was changed.
    """
    async with engine.live.changing(name):
        bandit = engine.bandit(name)
        known, served = bandit.challengers.get(challenger), bandit.model.spec
        most = engine.settings.max_challengers
        if known is None and len(bandit.challengers) >= most:
            raise Conflict(f"the bandit has {most} challengers, the most (max_challengers)")
        if challenger in (BANDIT, SERVED):
            raise InvalidRequest("challenger", f"must be neither {BANDIT!r} nor {SERVED!r}")
        if known is None and any(arm.name == challenger for arm in served.arms):
            raise InvalidRequest("challenger", "is the name of an arm of the bandit")
        new = Challenger(
            name=challenger, created=time.time(), position=bandit.model.position, given=given,
            rule=rule,
        )  # fmt: skip
        if known is not None and known.given == given:
            new = msgspec.structs.replace(new, created=known.created, score=known.score)
            if known.rule == rule:
                return known, False
        elif known is not None and known.state(bandit.configurations, served) in UNDER_WAY:
            raise Conflict(f"challenger {challenger!r} is being tried out, or is served: demote it")
        spec = checked_spec(engine, new, served)
        if relearned_part(spec) == relearned_part(served):
            raise InvalidRequest("challenger", "has the configuration that is served already")
        try:
            await in_own_thread(check_buildable, spec, engine.registry)
        except ValueError as error:
            raise InvalidRequest.from_value_error(error, "encoder") from error
        steps = rule.rule == "auto" and rule.steps != (1.0,)
        if steps and await in_own_thread(_is_slow, spec, engine.registry):
            raise InvalidRequest(
                "promotion.steps", "must be [1]: its encoder takes too long to decide a share"
            )
        await _store(engine, bandit, new)
        return new, known is None


def checked_spec(engine: Engine, challenger: Challenger, served: BanditSpec) -> BanditSpec:
    """Return the whole configuration of a challenger.

    Raises:
        InvalidRequest: The log cannot teach it, or it is the one that is served.
    """
    try:
        spec = resolved(challenger.spec(served), engine.registry.is_learned)
        spec.check_together()
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "encoder") from error
    for change in differences(fixed_part(served), fixed_part(spec)):
        raise InvalidRequest(change.key, "is the form of the log, and cannot be another one")
    if spec.encoder.name not in engine.registry.names():
        names = ", ".join(engine.registry.names())
        raise InvalidRequest("encoder.name", f"must be one of {names}")
    return spec


async def remove(engine: Engine, name: str, challenger: str) -> None:
    """Remove a challenger; its trial ends.

    Raises:
        UnknownChallenger, Conflict: Nothing was changed.
    """
    async with engine.live.changing(name):
        bandit = engine.bandit(name)
        challenger_of(bandit, challenger)
        await _end_trial(engine, bandit, TrialEnd(challenger, "stopped"))
        await engine.commit(engine.store.put_challenger, bandit.record, challenger, None)
        bandit.challengers.pop(challenger, None)


async def scored(engine: Engine, bandit: Bandit, challenger: Challenger, score: Score) -> None:
    """Note how a challenger compares, unless it was declared anew meanwhile."""
    async with engine.live.changing(bandit.record.name):
        known = bandit.challengers.get(challenger.name)
        if known is None or known.given != challenger.given:
            return
        if engine.live.find(bandit.record.uid) is bandit:
            await _store(engine, bandit, msgspec.structs.replace(known, score=score))


async def _store(engine: Engine, bandit: Bandit, challenger: Challenger) -> None:
    put = engine.store.put_challenger
    await engine.commit(put, bandit.record, challenger.name, packed(challenger))
    bandit.challengers[challenger.name] = challenger


# -- trials -------------------------------------------------------------------------------------


async def try_out(engine: Engine, name: str, challenger: str, share: float) -> Bandit:
    """Give a challenger a share of the decisions; its model is learned from the log before.

    Raises:
        UnknownChallenger, InvalidRequest, Conflict: Nothing was changed.
        RoundFailed: Its model could not be learned.
    """
    if not 0.0 < share <= MAX_SHARE:
        raise InvalidRequest("share", f"must be above 0 and at most {MAX_SHARE}, or 1")
    async with engine.live.changing(name):
        bandit = engine.bandit(name)
        spec = _candidate_spec(engine, bandit, challenger)
        if engine.rounds.learns_candidate(bandit.record.uid):
            raise Conflict("a challenger of the bandit is being learned for its trial already")
        if await in_own_thread(_is_slow, spec, engine.registry):
            raise InvalidRequest(
                "share", "must be 1: its encoder takes too long for a context to decide a share"
            )
        _with_arm(bandit, challenger, share, SnapshotVersion(1), spec)  # whether it may have it
        served = bandit.model.spec
        row = await _log(engine, bandit, served, Candidacy(challenger), spec)
    # Nothing is awaited from here until the round is asked for: no second one comes in between.
    version = await engine.rounds.learn_candidate(bandit, row)
    async with engine.live.changing(name):
        if engine.live.find(bandit.record.uid) is not bandit:
            raise Conflict("the bandit was deleted meanwhile")
        if spec != _candidate_spec(engine, bandit, challenger):
            raise Conflict("the bandit or its challenger was changed meanwhile")
        await _log(engine, bandit, _with_arm(bandit, challenger, share, version, spec))
        if not bandit.model.has_trials:
            await _end_trial(engine, bandit, TrialEnd(challenger, "lost"))
            raise Conflict("the snapshot of the challenger cannot be read")
    log.info("bandit %s: challenger %s decides %.3g of it", name, challenger, share)
    return bandit


def _is_slow(spec: BanditSpec, registry: EncoderRegistry) -> bool:
    empty = Catalogue.empty(spec.row_layout)
    return ServingModel(spec, BanditUid("check"), registry, empty).slow_encoder is not None


def _candidate_spec(engine: Engine, bandit: Bandit, name: str) -> BanditSpec:
    challenger = challenger_of(bandit, name)
    _free(bandit, name)
    return checked_spec(engine, challenger, bandit.model.spec)


def _free(bandit: Bandit, name: str) -> None:
    """Check that nothing else is under way.

    Raises:
        Conflict: Something is.
    """
    known, served = bandit.configurations, bandit.model.spec
    if served.mode == "frozen":
        raise Conflict("the bandit is frozen: no other configuration is learned until it is not")
    if known.promotion is not None and known.promotion.challenger == name:
        raise Conflict(f"challenger {name!r} was promoted already")
    if known.pending is not None:
        raise Conflict("another configuration is being learned: wait until it is served")
    other = next((arm.name for arm in served.arms if arm.challenger not in (None, name)), None)
    if other is not None:
        raise Conflict(f"challenger {other!r} is being tried out: demote it")


def _with_arm(
    bandit: Bandit, name: str, share: float, version: SnapshotVersion, spec: BanditSpec
) -> BanditSpec:
    served = bandit.model.spec
    if any(each.name == name and each.challenger is None for each in served.arms):
        raise Conflict(f"the bandit has an arm {name!r}, which is no challenger's")
    arm = ArmSpec(
        name=name, share=share, challenger=name, snapshot=version, learned=spec_json(spec)
    )  # fmt: skip
    others = tuple(each for each in served.arms if each.name != name)
    try:
        return dataclasses.replace(served, arms=(*others, arm))
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "share") from error


async def end_trial(engine: Engine, bandit: Bandit, end: TrialEnd) -> bool:
    """Take away the share of a challenger; False: it has none."""
    async with engine.live.changing(bandit.record.name):
        return await _end_trial(engine, bandit, end)


async def _end_trial(engine: Engine, bandit: Bandit, end: TrialEnd) -> bool:
    served = bandit.model.spec
    others = tuple(arm for arm in served.arms if arm.challenger != end.challenger)
    if others == served.arms:
        return False
    await _log(engine, bandit, dataclasses.replace(served, arms=others), end)
    return True


# -- promotions ---------------------------------------------------------------------------------


async def promote(engine: Engine, name: str, challenger: str) -> Bandit:
    """Have the configuration of a challenger served; it is learned from the log first.

    Raises:
        UnknownChallenger, InvalidRequest, Conflict: Nothing was changed.
    """
    async with engine.live.changing(name):
        bandit = engine.bandit(name)
        spec, served = _candidate_spec(engine, bandit, challenger), bandit.model.spec
        known, model = bandit.configurations, bandit.model
        why = Promotion(challenger, known.generation(model.position), model.version)
        await _log(engine, bandit, served, why, promoted_spec(spec, served))
        bandit.change_error = None
        engine.reconfiguring.start(bandit)
        return bandit


async def demote(engine: Engine, name: str, challenger: str) -> Bandit:
    """End the trial of a challenger, or serve again what it replaced.

    Raises:
        UnknownChallenger, Conflict: Nothing was changed.
        RoundFailed: What it replaced could not be loaded.
    """
    async with engine.live.changing(name):
        bandit = engine.bandit(name)
        challenger_of(bandit, challenger)
        ended = await _end_trial(engine, bandit, TrialEnd(challenger, "stopped"))
        promotion = bandit.configurations.promotion
        if promotion is None or promotion.challenger != challenger:
            if not ended:
                raise Conflict(f"challenger {challenger!r} is neither tried out nor served")
            return bandit
        former = bandit.configurations.spec(bandit.model.position, promotion.generation)
        if bandit.configurations.pending is not None:  # it is not served yet
            await _want(engine, bandit, "nothing")
            return bandit
    if not await engine.rounds.restore(bandit, LogPosition(promotion.generation)):
        if bandit.model.spec.mode == "frozen":
            raise Conflict(
                "the model of before is not there any more, and a frozen bandit learns no other one"
            )
        log.warning(
            "bandit %s: the model that challenger %s replaced is not there any more: it is learned"
            " anew from the log", name, challenger,
        )  # fmt: skip
        async with engine.live.changing(name):
            if bandit.configurations.promotion != promotion:
                raise Conflict("the configuration was changed meanwhile")
            await _want(engine, bandit, promoted_spec(former, bandit.model.spec))
            bandit.change_error = None
            engine.reconfiguring.start(bandit)
    return bandit


async def _want(engine: Engine, bandit: Bandit, wanted: Any) -> None:
    append = partial(engine.store.append_config, wanted=wanted)
    row = await engine.commit(append, bandit.record, bandit.model.spec, then=bandit.logged)
    await engine.settled(bandit, row.position)


async def _log(
    engine: Engine,
    bandit: Bandit,
    spec: BanditSpec,
    why: Why | None = None,
    wanted: BanditSpec | None = None,
) -> LogPosition:
    append = partial(engine.store.append_config, wanted=wanted, why=why)
    row = await engine.commit(append, bandit.record, spec, then=bandit.logged)
    await engine.settled(bandit, row.position)
    return LogPosition(row.position)
