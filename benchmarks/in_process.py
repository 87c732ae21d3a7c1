"""A bandit without HTTP and store, behind the calls of the client that a simulated run makes.

The same serving model and the same rounds as the service's, so the same decisions: the regret
benchmark uses it for speed and shows on each workload that HTTP decides identically.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace
from pydantic import TypeAdapter

from bandexa_client import Action, RewardReport, RewardStatus, Selection, Training
from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, DecisionId, LogPosition, SnapshotVersion
from bandexa_core.log.bounds import UNBOUNDED, RewardBounds
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, LearnRow, row_by_row
from bandexa_core.model import Progress, ServingModel, plan_round
from bandexa_core.policies import NeuralLinearTS
from bandexa_core.policies.named_inputs import padded
from bandexa_core.randomness import bandit_uid
from bandexa_core.replay import MemoryReplay, Rows
from bandexa_core.schema import accept
from bandexa_core.snapshots.store import Snapshot
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.changes import completed_spec
from service.http.arrays import convert_array
from service.serving.inputs import conform

_SPEC = TypeAdapter(BanditSpec)


class InProcessClient:
    """One bandit, called as `bandexa_client.BanditClient` is.

    Args:
        bandit: Its name; with the seed it keys every draw, as on a fresh server.
        body: The body of PUT /bandits/{name}.
        ids: The actions' ids; there may be none yet.
        features: Their features, (N, A), or None.
        corrects: Whether a further reward of a decision corrects its value; else it is an error.
    """

    def __init__(
        self,
        bandit: str,
        body: Mapping[str, Any],
        ids: Sequence[str],
        features: Any,
        *,
        corrects: bool = False,
    ) -> None:
        spec = completed_spec(_SPEC.validate_python(body), seed=0)
        self.num_requests = 0
        self.model = ServingModel(
            spec, bandit_uid(bandit, 0), EncoderRegistry(), Catalogue.empty(spec.row_layout)
        )
        self._bounds = RewardBounds(spec.reward_range)
        if ids:
            self.put_actions(ids, features)
        self._replay = MemoryReplay(spec.row_layout)
        self._training: dict[str, Any] = {}
        self._of_last_round = self.model.policy.forgotten(1.0)
        self._open: dict[str, tuple[Any, Any, ActionSlot]] = {}
        self._rows: dict[str, LearnRow] | None = {} if corrects else None

    def put_actions(self, ids: Sequence[str], features: Any) -> None:
        """Add actions or overwrite their features; see `BanditClient.put_actions`."""
        declared = self.model.spec.actions.declared
        if declared is not None:
            size = self.model.spec.actions.max_bytes
            rows = [accept(declared, features_of, "action") for features_of in features]
            features = np.stack([padded(row, size) for row in rows])
        elif features is not None:
            features = np.asarray(features, np.float32)
        change = CatalogueChange(
            tuple(ActionId(i) for i in ids), features, np.ones(len(ids), np.bool_)
        )
        position = LogPosition(self.model.position + 1)
        self.model.apply(row_by_row(CatalogueRow(position, 0.0, change)), _no_import)

    def retire(self, action_id: str) -> None:
        """Stop offering an action; see `BanditClient.retire_action`."""
        change = CatalogueChange((ActionId(action_id),), None, np.zeros(1, np.bool_))
        position = LogPosition(self.model.position + 1)
        self.model.apply(row_by_row(CatalogueRow(position, 0.0, change)), _no_import)

    def select(
        self,
        bandit: str,
        context: Any,
        *,
        candidates: Sequence[str] | None = None,
        retrieve: int | None = None,
        decision_id: str | None = None,
    ) -> Selection:
        """Choose; see `BanditClient.select`."""
        assert decision_id is not None
        model, spec = self.model, self.model.spec
        declared = spec.context.declared
        if declared is None:
            assert spec.context.shape is not None
            shape, dtype = spec.context.shape, spec.context.dtype
            array = conform(convert_array(context), shape, dtype, "context")
        else:
            array = padded(accept(declared, context, "context"), spec.context.max_bytes)
        offered = (
            model.enabled_candidates()
            if candidates is None
            else model.candidates([ActionId(i) for i in candidates])
        )
        choice = model.select(DecisionId(decision_id), array, offered, retrieve=retrieve)
        index = int(choice.chosen[0])
        slot = ActionSlot(int(offered.slots[index]))
        self._open[decision_id] = (array, offered.features[index], slot)
        shown = index if candidates is not None else slot
        action = Action(model.catalogue.ids[slot], shown)
        return Selection(
            decision_id, action, (action,), float(choice.scores[0]), choice.propensity,
            model.version, model.position,
        )  # fmt: skip

    def select_inline(
        self,
        decision_id: str,
        context: Mapping[str, Any],
        ids: Sequence[str],
        features: Sequence[Any],
    ) -> tuple[int, float]:
        """Choose among candidates that bring objects; returns the place and its propensity."""
        model, spec = self.model, self.model.spec
        of_context, of_actions = spec.context.declared, spec.actions.declared
        assert of_context is not None, "both sides have names"
        assert of_actions is not None, "both sides have names"
        array = padded(accept(of_context, context, "context"), spec.context.max_bytes)
        size = spec.actions.max_bytes
        rows: Any = np.stack(
            [padded(accept(of_actions, each, "action"), size) for each in features]
        )
        offered = model.inline_candidates([ActionId(each) for each in ids], rows)
        choice = model.select(DecisionId(decision_id), array, offered)
        place = int(choice.chosen[0])
        slot = ActionSlot(int(offered.slots[place]))
        self._open[decision_id] = (array, offered.features[place], slot)
        assert choice.all_propensities is not None, "every policy gives them"
        return place, float(choice.all_propensities()[place])

    def enable(self, action_id: str, *, enabled: bool) -> None:
        """Enable or retire an action; see `BanditClient.patch_action`."""
        change = CatalogueChange((ActionId(action_id),), None, np.array([enabled]))
        row = CatalogueRow(LogPosition(self.model.position + 1), 0.0, change)
        self.model.apply(row_by_row(row), _no_import)

    def reward(self, decision_id: str, reward: float) -> RewardStatus:
        """Learn; see `BanditClient.reward`."""
        if self._rows is not None and (known := self._rows.get(decision_id)) is not None:
            return self._correct(known, reward)
        context, action, slot = self._open.pop(decision_id)
        model = self.model
        position = LogPosition(model.position + 1)
        bounds = self._bounds.take(reward) if model.spec.clips_outliers else UNBOUNDED
        row = LearnRow(
            position, 0.0, DecisionId(decision_id), position, None, reward, context, action, slot,
            *bounds,
        )  # fmt: skip
        model.apply(row_by_row(row), _no_import)
        if self._rows is not None:
            self._rows[decision_id] = row
        self._replay.append(
            Rows(
                np.array([position]),
                np.array([slot]),
                np.array([row.learned]),
                action[None],
                context[None],
            )
        )
        return RewardStatus("applied", model.round_due())

    def _correct(self, known: LearnRow, reward: float) -> RewardStatus:
        model = self.model
        row = replace(
            known, position=LogPosition(model.position + 1), before=known.after, after=reward
        )
        model.apply(row_by_row(row), _no_import)
        assert self._rows is not None
        self._rows[row.decision_id] = row
        self._replay.correct(np.array([row.origin]), np.array([row.learned]))
        return RewardStatus("applied", model.round_due())

    def reward_batch(self, reports: Sequence[RewardReport]) -> list[RewardStatus]:
        """Learn in order; see `BanditClient.reward_batch`."""
        return [self.reward(each.decision_id, each.reward or 0.0) for each in reports]

    def train(self, bandit: str, *, wait: bool = True) -> Training:
        """Run a round, as the trainer does; see `BanditClient.train`."""
        model, policy = self.model, self.model.policy
        learned = model.progress.num_learned
        metrics: dict[str, float] = {}
        if isinstance(policy, NeuralLinearTS):
            plan = plan_round(model, learned, "cpu")
            policy.adopt(self._of_last_round)  # as the trainer, which has its snapshot alone
            self._training, metrics = policy.train(
                self._replay, self._training, plan, model.row_weights
            )
            model.progress = Progress(learned, learned)
            self._of_last_round = policy.posterior.copy()
        else:
            rows = _Learned(self._replay) if model.reads_log(learned) else None
            model.refresh(learned, rows)
        model.rebased(SnapshotVersion(model.version + 1))
        return Training("served", True, model.version, model.position, metrics)


class _Learned:
    """All rows of a replay, as those of a log that nothing has left."""

    are_all = True

    def __init__(self, replay: MemoryReplay) -> None:
        self._replay = replay
        self.scan = replay.scan

    def __len__(self) -> int:
        return len(self._replay)


def _no_import(version: SnapshotVersion) -> Snapshot:
    raise AssertionError(f"snapshot {version} was never imported here")
