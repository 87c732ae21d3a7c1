"""A training round of a model: its plan, and the posterior of rows alone."""

from __future__ import annotations

from collections.abc import Iterator

from bandexa_core.model.serving import ServingModel
from bandexa_core.policies import LinearHead, LinearTS
from bandexa_core.policies.protocol import RowWeights
from bandexa_core.policies.schedule import most_decay, optimizer_steps, weight_decay
from bandexa_core.posterior.frame import FIRST_ROWS, frame_of_first
from bandexa_core.randomness import keyed_seed
from bandexa_core.replay import Rows, TrainingRows
from bandexa_core.training.plan import TrainingRound


class _AllRows:
    """Rows that stand for everything a model is to learn."""

    are_all = True

    def __init__(self, rows: TrainingRows) -> None:
        self._rows = rows

    def scan(self, chunk: int) -> Iterator[Rows]:
        """See `LearnedRows.scan`."""
        return self._rows.scan(chunk)

    def __len__(self) -> int:
        return len(self._rows)


def plan_round(model: ServingModel, num_learned: int, device: str) -> TrainingRound:
    """Return the plan of a training round; it depends on the model and `num_learned` only."""
    policy, training = model.policy, model.spec.training
    assert isinstance(policy, LinearHead), "only a learned encoder is trained"
    assert policy.learns_features, "only a learned encoder is trained"
    low, high = model.spec.reward_range or (0.0, 1.0)
    return TrainingRound(
        num_rows=num_learned,
        actions=model.enabled_features,
        steps=optimizer_steps(model.spec, policy.least_steps, num_learned),
        batch_size=training.batch_size,
        lr=training.lr,
        weight_decay=weight_decay(model.spec, num_learned),
        rebuild_chunk=training.rebuild_chunk,
        reward_scale=high - low,
        seed=keyed_seed(model.uid, model.spec.seed or 0, "train", str(num_learned)),
        num_heads=1 if policy.encoder.uses_action else max(1, len(model.catalogue)),
        device=device,
        since=model.base_position,
        most_decay=most_decay(model.spec, num_learned),
    )


def relearn(
    model: ServingModel,
    rows: TrainingRows,
    num_learned: int,
    weights: RowWeights | None = None,
) -> None:
    """Learn a posterior from rows alone.

    Args:
        model: Has learned nothing yet.
        rows: All rows, or a sample of those that are gone and the others.
        num_learned: How many rows were learned so far.
        weights: What each row weighs, by position; None: 1.
    """
    policy, chunk = model.policy, model.spec.training.rebuild_chunk
    oldest = next(iter(rows.scan(FIRST_ROWS)), None)
    if oldest is None or not isinstance(policy, LinearHead):
        return
    frame = frame_of_first(oldest.rewards, policy.posterior.frame, policy.config)
    policy.posterior.reframe(frame)
    if isinstance(policy, LinearTS) and policy.scaling is not None:
        policy.refresh(
            num_learned, model.enabled_features, _AllRows(rows), weights, changed=True,
            chunk=chunk,
        )  # fmt: skip
    else:
        policy.rebuild(rows, chunk, weights)
