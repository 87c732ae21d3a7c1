"""A decision, explained."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from bandexa_core.ids import DecisionId
from service.http.auth import needs
from service.http.codec import WireRoute
from service.http.routes.common import EngineDep, Name, problems
from service.http.schemas.models import Id
from service.serving.explain import Explained
from service.store.records import StoredDecision

router = APIRouter(prefix="/bandits", route_class=WireRoute)
MAX_VALUES = 1024


class ContextArray(BaseModel):
    """A context as it was sent: base64 of its bytes, in C order, little endian."""

    dtype: str
    shape: list[int]
    data: str
    values: list[float] | None = Field(
        description="The same as numbers, in C order; of contexts of up to 1,024."
    )


class RewardLine(BaseModel):
    """A reward as it was reported, and what became of it."""

    time: float
    reward: float
    reward_id: str | None
    status: str


class LearnLine(BaseModel):
    """A row of the log that taught a value, or corrected one (`before` is not null)."""

    position: int
    time: float
    before: float | None
    after: float


class ChosenLine(BaseModel):
    """One chosen action: its sampled value, and what was reported and learned of it."""

    id: str
    index: int
    score: float
    value: float | None = Field(description="The value learned, as it is now.")
    rewards: list[RewardLine]
    learned: list[LearnLine]


class CandidateLine(BaseModel):
    """What the model thought of a candidate when it decided."""

    id: str
    index: int
    mean: float
    std: float
    sampled: float = Field(description="The value that was ranked: of the member that was served.")
    propensity: float
    chosen: bool


class ReproducedLine(BaseModel):
    """Whether drawing again gave the action, its sampled value and its propensity."""

    action: bool
    score: bool
    propensity: bool | None


class DecisionAnswer(BaseModel):
    """A decision: what was asked, what the model thought, what was chosen, what was learned."""

    decision_id: str
    bandit: str
    time: float
    snapshot: int
    position: int
    propensity: float | None
    explored: bool | None = Field(description="Whether another action had the best mean.")
    std: float | None
    activated: bool
    activated_at: float | None
    window_closes: float | None
    window_closed: float | None
    context: ContextArray
    chosen: list[ChosenLine]
    explained: Literal["yes", "no"]
    reason: str | None = Field(description="Why the candidates cannot be told any more.")
    candidates: list[CandidateLine]
    num_candidates: int | None
    reproduced: ReproducedLine | None


@router.get(
    "/{name}/decisions/{decision_id}",
    openapi_extra=needs("read"),
    responses=problems(404, 422),
)
async def explain_decision(
    name: Name, decision_id: Annotated[Id, Path(description="Its id.")], engine: EngineDep
) -> DecisionAnswer:
    """Explain a decision: it is drawn again from its snapshot and the log up to its position."""
    bandit = engine.bandit(name)
    kept, why = await engine.explainer.explain(bandit.record, DecisionId(decision_id))
    record = kept.record
    context = record.context
    told = isinstance(why, Explained)
    return DecisionAnswer(
        decision_id=record.decision_id,
        bandit=name,
        time=record.time,
        snapshot=record.snapshot,
        position=record.position,
        propensity=record.propensity,
        explored=record.explored,
        std=record.std,
        activated=record.activated or kept.activated_at is not None,
        activated_at=kept.activated_at,
        window_closes=kept.closes,
        window_closed=kept.closed,
        context=ContextArray(
            dtype=str(context.dtype),
            shape=list(context.shape),
            data=base64.b64encode(context.tobytes()).decode(),
            values=context.ravel().tolist() if context.size <= MAX_VALUES else None,
        ),
        chosen=_chosen(kept),
        explained="yes" if told else "no",
        reason=None if isinstance(why, Explained) else why,
        candidates=_lines(kept, why) if isinstance(why, Explained) else [],
        num_candidates=why.total if isinstance(why, Explained) else None,
        reproduced=ReproducedLine(
            action=why.reproduced.action,
            score=why.reproduced.score,
            propensity=why.reproduced.propensity,
        )
        if isinstance(why, Explained)
        else None,
    )


def _chosen(kept: StoredDecision) -> list[ChosenLine]:
    lines = []
    for item, picked in enumerate(kept.record.chosen):
        learned = [row for row in kept.learned if row.item == item]
        lines.append(
            ChosenLine(
                id=picked.id,
                index=picked.index,
                score=picked.score,
                value=learned[-1].after if learned else None,
                rewards=[
                    RewardLine(time=r.time, reward=r.reward, reward_id=r.reward_id, status=r.status)
                    for r in kept.rewards
                    if r.item == item
                ],
                learned=[
                    LearnLine(position=r.position, time=r.time, before=r.before, after=r.after)
                    for r in learned
                ],
            )
        )
    return lines


def _lines(kept: StoredDecision, why: Explained) -> list[CandidateLine]:
    served = {picked.id for picked in kept.record.chosen}
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
