"""Bodies of select, reward, their batches, activate and score, decoded by type.

These structs are the only description of those bodies: the decoders, the OpenAPI document and the
messages of refused requests all come from them. `Raw` parts are decoded when they are used: a
context as an array, an item of a batch on its own.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw

from bandexa_core.spec import MAX_METRICS
from service.http.arrays import ARRAY_SCHEMA, ActionFeatures
from service.serving.inputs import MAX_SIZE

MAX_CANDIDATES = 1_000_000
MAX_BATCH = 1000
ID_PATTERN = r"^[A-Za-z0-9._:-]{1,128}$"
# Python's `$` alone would accept a newline at the end.
WHOLE_ID = ID_PATTERN.removesuffix("$") + r"(?![\s\S])"
Id = Annotated[str, Meta(pattern=WHOLE_ID)]
# `candidates.resolved` checks listed ids: a pattern here would cost 0.3 us for each of them.
ListedId = Annotated[str, Meta(extra_json_schema={"pattern": ID_PATTERN})]
Array = Annotated[Raw, Meta(extra_json_schema=ARRAY_SCHEMA)]


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, gc=False):
    """Base of request bodies: unknown keys are refused, and "1" or true where a number belongs."""


class InlineAction(Body, frozen=True, kw_only=True):
    """A candidate that brings its own features."""

    id: ListedId
    features: ActionFeatures = msgspec.field(default_factory=list)


Candidates = Annotated[
    list[ListedId | InlineAction],
    Meta(
        min_length=1, max_length=MAX_CANDIDATES,
        description="Ids of the catalogue, or actions with features; none: all enabled actions.",
    ),
]  # fmt: skip


class SelectRequest(Body, frozen=True, kw_only=True):
    """Which action for this context?"""

    bandit: Id = "default"
    context: Array
    candidates: Candidates | None = None
    retrieve: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Only this many actions, best by the sampled weights, are candidates.",
            ),
        ]
        | None
    ) = None
    decision_id: (
        Annotated[Id, Meta(description="The caller's own id: makes retries safe.")] | None
    ) = None
    k: Annotated[int, Meta(ge=1, le=1000, description="How many different actions to choose.")] = 1
    activate: bool = True
    unit: (
        Annotated[Id, Meta(description="The user or session: what is erased together.")] | None
    ) = None
    served: (
        Annotated[
            Id,
            Meta(
                description="The action that the caller would serve: what arms of the policy"
                ' "request" serve.'
            ),
        ]
        | None
    ) = None
    all_propensities: Annotated[
        bool,
        Meta(
            description="Answer with the probability of every candidate: of up to 10,000, and of"
            " 100,000 in a batch."
        ),
    ] = False


class ActionRef(msgspec.Struct, frozen=True, gc=False):
    """An action: its id, and its place among the candidates sent (else its catalogue slot)."""

    id: str
    index: int


class CandidatePropensity(msgspec.Struct, frozen=True, gc=False):
    """The probability that a candidate is chosen first."""

    id: str
    index: int
    propensity: float


class SelectAnswer(msgspec.Struct, frozen=True, gc=False):
    """The decision."""

    decision_id: str
    action: ActionRef
    actions: Annotated[list[ActionRef] | None, Meta(description="All chosen actions, when k > 1.")]
    score: Annotated[float, Meta(description="The sampled value of the first action.")]
    propensity: float | None
    propensities: Annotated[
        list[float] | None,
        Meta(
            description="When k > 1: for each of `actions`, the probability that it stands at this"
            " place, whatever the other places hold; null for more candidates than can be ranked"
            " in time."
        ),
    ]
    snapshot: int
    position: int
    all_propensities: Annotated[
        list[CandidatePropensity] | None,
        Meta(
            description="Where the request asks for them: the probability of each candidate, in"
            " candidate order. They sum to 1."
        ),
    ] = None
    arm: Annotated[
        str | None,
        Meta(
            description="Where the bandit has arms, the one that decided; null where one of them"
            " cannot serve the request, which is the bandit's then."
        ),
    ] = None


class RewardRequest(Body, frozen=True, kw_only=True):
    """How a decision went."""

    decision_id: Id
    bandit: Annotated[str, Meta(description="The decision's bandit, where it is known.")] | None = (
        None
    )
    reward: (
        Annotated[
            float,
            Meta(
                ge=-MAX_SIZE,
                le=MAX_SIZE,
                description="A single reward; needed where there are no `metrics`.",
            ),
        ]
        | None
    ) = None
    metrics: (
        Annotated[
            dict[str, Annotated[float, Meta(ge=-MAX_SIZE, le=MAX_SIZE)]],
            Meta(
                min_length=1,
                max_length=MAX_METRICS,
                description="In place of `reward`: several metrics by name, of a bandit with"
                " `rewards.learn`.",
            ),
        ]
        | None
    ) = None
    reward_id: Id | None = None
    action: (
        Annotated[Id, Meta(description="Which of several chosen actions the reward is for.")] | None
    ) = None


class RewardAnswer(msgspec.Struct, frozen=True, gc=False):
    """What became of a reward; `stored`: it is learned once the failed bandit is recovered.

    `void`: an administrator has voided the value that it is for, and nothing is learned of it.
    """

    status: Literal[
        "applied", "duplicate", "ignored", "aggregated", "pending", "late", "void", "stored"
    ]
    train_due: bool


class ActivateRequest(Body, frozen=True, kw_only=True):
    """A decision made with `activate` false took effect: it counts from now on."""

    decision_id: Id


class ActivateAnswer(msgspec.Struct, frozen=True):
    """What became of an activation; `late`: the reward window of the decision had closed."""

    status: Literal["applied", "duplicate", "late"]


class ScoreRequest(Body, frozen=True, kw_only=True):
    """What does the served model expect of the candidates?"""

    context: Array
    candidates: Candidates | None = None


class Score(msgspec.Struct, frozen=True, gc=False):
    """Mean and standard deviation of one candidate's expected reward."""

    id: str
    index: int
    mean: float
    std: float


class ScoreAnswer(msgspec.Struct, frozen=True):
    """The scores, in candidate order."""

    scores: list[Score]
    snapshot: int
    position: int


Items = Annotated[list[Raw], Meta(min_length=1, max_length=MAX_BATCH)]


class SelectBatch(Body, frozen=True, kw_only=True):
    """Up to 1000 selects; each succeeds or fails on its own."""

    items: Items


class RewardBatch(Body, frozen=True, kw_only=True):
    """Up to 1000 rewards; each succeeds or fails on its own."""

    items: Items


class FieldProblem(msgspec.Struct, frozen=True):
    """One field that is wrong."""

    field: str
    message: str


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457: what went wrong. `type` is stable."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None


class SelectItem(msgspec.Struct, frozen=True):
    """One answer of a batch: `answer` with code 200, else `error`."""

    code: int
    answer: SelectAnswer | None = None
    error: Problem | None = None


class RewardItem(msgspec.Struct, frozen=True):
    """One answer of a batch: `answer` with code 200, else `error`."""

    code: int
    answer: RewardAnswer | None = None
    error: Problem | None = None


class SelectBatchAnswer(msgspec.Struct, frozen=True):
    """The answers, in the order of the items."""

    items: list[SelectItem]


class RewardBatchAnswer(msgspec.Struct, frozen=True):
    """The answers, in the order of the items."""

    items: list[RewardItem]
