"""The call that explains a decision."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from bandexa_core.ids import DecisionId
from bandexa_core.log.metrics import Weights, weighted
from bandexa_core.spec import BanditSpec
from service.http.auth import needs
from service.http.codec import WireRoute
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.common import Id
from service.http.schemas.explained import (
    AddedLine,
    AmendmentLine,
    CandidateLine,
    ChosenLine,
    DecisionAnswer,
    LearnLine,
    ReproducedLine,
    RewardLine,
)
from service.http.shown import shown_context, shown_object
from service.serving.explain import Explained
from service.store.records import LearnedValue, StoredDecision

router = APIRouter(prefix="/bandits", route_class=WireRoute)


@router.get(
    "/{name}/decisions/{decision_id}",
    openapi_extra=needs("read"),
    responses=problems(404, 410, 422),
)
async def explain_decision(
    name: Name,
    decision_id: Annotated[Id, Path(description="The decision's id.")],
    engine: EngineDep,
) -> DecisionAnswer:
    """Explain a decision by drawing it again from its snapshot and the log up to its position."""
    bandit = engine.bandit(name)
    decision, why = await engine.explainer.explain(bandit.record, DecisionId(decision_id))
    record = decision.record
    return DecisionAnswer(
        decision_id=record.decision_id,
        bandit=name,
        time=record.time,
        snapshot=record.snapshot,
        position=record.position,
        propensity=record.propensity,
        arm=record.arm,
        shadows=None if record.shadows is None else dict(record.shadows),
        explored=record.explored,
        std=record.std,
        activated=record.activated or decision.activated_at is not None,
        activated_at=decision.activated_at,
        window_closes=decision.closes,
        window_closed=decision.closed,
        matured=decision.matured,
        context=shown_context(bandit.record.spec.context, record.context),
        chosen=_chosen(decision, bandit.model.spec),
        imported=record.imported,
        explained="yes" if isinstance(why, Explained) else "no",
        reason=None if isinstance(why, Explained) else why,
        candidates=_lines(decision, why) if isinstance(why, Explained) else [],
        added=[
            AddedLine(side=each.side, path=each.path, value=each.value, added=each.added)
            for each in (why.added if isinstance(why, Explained) else ())
        ],
        num_candidates=why.total if isinstance(why, Explained) else None,
        reproduced=ReproducedLine(
            action=why.reproduced.action,
            score=why.reproduced.score,
            propensity=why.reproduced.propensity,
        )
        if isinstance(why, Explained)
        else None,
    )


def _value(newest: LearnedValue, learn: Weights | None) -> float:
    """Return a value: of metrics, what they make under the weights that are served."""
    if newest.metrics is None or learn is None:
        return newest.after
    return weighted(newest.metrics, learn)


def _chosen(decision: StoredDecision, spec: BanditSpec) -> list[ChosenLine]:
    """Return the chosen actions; `spec`: as it is served, by which values are clipped now."""
    lines, named = [], spec.actions.features is not None
    for item, picked in enumerate(decision.record.chosen):
        learned = [row for row in decision.learned if row.item == item]
        known = bool(learned) and item not in decision.void
        lines.append(
            ChosenLine(
                id=picked.id,
                index=picked.place,
                score=picked.score,
                propensity=picked.propensity,
                features=shown_object(picked.features) if named else None,
                value=_value(learned[-1], spec.rewards.learn) if known else None,
                metrics=dict(learned[-1].metrics or ()) or None if known else None,
                rewards=[
                    RewardLine(
                        time=r.time,
                        reward=None if isinstance(r.reward, tuple) else r.reward,
                        metrics=dict(r.reward) if isinstance(r.reward, tuple) else None,
                        reward_id=r.reward_id,
                        status=r.status,
                    )
                    for r in decision.rewards
                    if r.item == item
                ],
                learned=[
                    LearnLine(
                        position=r.position,
                        time=r.time,
                        before=r.before,
                        after=r.after,
                        learned=None if (value := spec.learned_as(r.learned)) == r.after else value,
                        metrics=None if r.metrics is None else dict(r.metrics),
                    )
                    for r in learned
                ],
                void=item in decision.void,
                amendments=[
                    AmendmentLine(
                        time=each.time,
                        before=each.before,
                        after=each.after,
                        position=each.position,
                    )
                    for each in decision.amendments
                    if each.item == item
                ],
            )
        )
    return lines


def _lines(decision: StoredDecision, why: Explained) -> list[CandidateLine]:
    served = {picked.id for picked in decision.record.chosen}
    columns = zip(
        why.ids, why.indexes.tolist(), why.means.tolist(), why.stds.tolist(),
        why.sampled.tolist(), why.propensities.tolist(), strict=True,
    )  # fmt: skip
    return [
        CandidateLine(
            id=name, index=index, mean=mean, std=std, sampled=sampled, propensity=propensity,
            chosen=name in served,
        )
        for name, index, mean, std, sampled, propensity in columns
    ]  # fmt: skip
