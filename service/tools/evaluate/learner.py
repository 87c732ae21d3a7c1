"""Another configuration on the log: asked about each row before it learns from it.

A serving model, without store and server, learns the log's values block by block; whatever it would
have chosen itself, it learns from what was chosen. Rounds are trained when they are due. So it is
the value of the policies that this log teaches, one after the other: what their own exploration
would have found out is not in it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.errors import BandexaError
from bandexa_core.features.byte_rows import stacked
from bandexa_core.ids import (
    ActionId,
    ActionSlot,
    DecisionId,
    LogPosition,
    SnapshotVersion,
)
from bandexa_core.limits import projected
from bandexa_core.log.bounds import UNBOUNDED, RewardBounds
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, Group, LearnRow, row_by_row
from bandexa_core.model import Progress, ServingModel, plan_round
from bandexa_core.policies import Candidates, LinearHead
from bandexa_core.randomness import bandit_uid
from bandexa_core.replay import MemoryReplay, Rows
from bandexa_core.replay.protocol import laid_out, wide_enough
from bandexa_core.snapshots.store import Snapshot
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.changes import completed_spec
from service.serving.inputs import NamedSide, conform
from service.store.errors import InvalidRequest
from service.tools.evaluate.cases import Case, Changes
from service.tools.evaluate.policies import Chances, PolicyError

ROWS_AT_ONCE = 512
OWN_NAME = "a configuration under evaluation"  # keys its draws: others than those of the log


class Learner:
    """A configuration; see `Asked`.

    Args:
        name: What reports call it.
        spec: The configuration.
        registry: Encoders by name.
    """

    changes = True
    is_log = False

    def __init__(self, name: str, spec: BanditSpec, registry: EncoderRegistry) -> None:
        self.name = name
        self._spec = spec = completed_spec(spec, seed=0)
        try:
            self._model = ServingModel(
                spec, bandit_uid(OWN_NAME, 0), registry, Catalogue.empty(spec.row_layout)
            )
        except (ValueError, BandexaError) as error:
            raise PolicyError(f"{name}: {error}") from error
        self._model.learns_held = True  # how it decides is asked, not how it is operated
        self._contexts = NamedSide.of_logged(spec.context)
        self._actions = NamedSide.of_logged(spec.actions)
        self._bounds = RewardBounds(spec.reward_range)
        self._replay = MemoryReplay(spec.row_layout)
        self._training: dict[str, NDArray[Any]] = {}
        self._of_last_round = self._model.policy.forgotten(1.0)

    def change(self, changes: Changes) -> None:
        """See `Asked.change`."""
        lines = changes.actions
        ids = tuple(ActionId(line["id"]) for line in lines)
        enabled = np.array([line["enabled"] for line in lines])
        try:
            features = self._action_rows([line.get("features") for line in lines])
            row = CatalogueRow(self._next(), 0.0, CatalogueChange(ids, features, enabled))
            self._model.apply(row_by_row(row), _no_import)
        except (BandexaError, ValueError) as error:
            raise PolicyError(f"{self.name}: the log's actions do not fit: {error}") from error

    def chances(self, case: Case) -> Chances:
        """See `Asked.chances`."""
        context, offered = self._inputs(case)
        ballot = self._model.ballot(DecisionId(case.decision_id), context, offered)
        found, limits = ballot.propensities, self._model.limits
        if not limits.has_shares:
            return found
        places = {ActionId(name): n for n, name in enumerate(case.candidates)}
        bounds = limits.bounds(places.get, len(found))
        return found if bounds is None else projected(found, bounds)

    def means(self, case: Case) -> Chances | None:
        """See `Asked.means`."""
        if not isinstance(self._model.policy, LinearHead) or not self._model.progress.num_learned:
            return None
        context, offered = self._inputs(case)
        return self._model.policy.score(context, offered)[0]

    def learn(self, cases: Sequence[Case]) -> None:
        """See `Asked.learn`: learns a block of rows, and trains where a round is due."""
        rows = []
        for number, case in enumerate(cases):
            context, offered = self._inputs(case)
            bounds = self._bounds.take(case.value) if self._spec.clips_outliers else UNBOUNDED
            position = LogPosition(self._next() + number)
            slot = ActionSlot(int(offered.slots[case.chosen]))
            rows.append(
                LearnRow(
                    position, case.time, DecisionId(case.decision_id), position, None, case.value,
                    context, offered.action(case.chosen), slot, *bounds,
                )
            )  # fmt: skip
        try:
            self._model.apply(Group(tuple(rows), as_block=len(rows) > 1), _no_import)
        except BandexaError as error:
            raise PolicyError(f"{self.name}: it cannot learn from this log: {error}") from error
        self._append(
            Rows(
                np.array([row.position for row in rows]),
                np.array([row.slot for row in rows]),
                np.array([row.learned for row in rows]),
                stacked([row.action for row in rows]),
                stacked([row.context for row in rows]),
            )
        )
        if self._model.round_due():
            self._train()

    def _append(self, rows: Rows) -> None:
        """Append rows to the replay; a larger one takes its place where an object is longer."""
        known, wider = self._replay, wide_enough(self._replay.layout, rows)
        if wider != known.layout:
            self._replay = MemoryReplay(wider)
            for part in known.scan(ROWS_AT_ONCE):
                self._replay.append(laid_out(part, wider))
        self._replay.append(laid_out(rows, wider))

    def _train(self) -> None:
        """Run a round, as a trainer does in lockstep."""
        model = self._model
        learned = model.progress.num_learned
        if model.learns_features:
            from bandexa_core.policies import NeuralLinearTS  # imports torch

            policy = model.policy
            assert isinstance(policy, NeuralLinearTS)
            assert self._of_last_round is not None
            policy.adopt(self._of_last_round)
            plan = plan_round(model, learned, "cpu")
            self._training, _ = policy.train(self._replay, self._training, plan, model.row_weights)
            model.progress = Progress(learned, learned)
            self._of_last_round = policy.posterior.copy()
        else:
            model.refresh(learned, _Learned(self._replay) if model.reads_log(learned) else None)
        model.rebased(SnapshotVersion(model.version + 1))

    def _next(self) -> LogPosition:
        return LogPosition(self._model.position + 1)

    def _inputs(self, case: Case) -> tuple[NDArray[Any], Candidates]:
        try:
            return self._context(case.context), self._offered(case)
        except (InvalidRequest, ValueError, KeyError) as error:
            where = f"{self.name}, decision {case.decision_id}"
            raise PolicyError(f"{where}: it does not fit this configuration: {error}") from error

    def _context(self, context: Any) -> NDArray[Any]:
        if self._contexts is not None:
            return self._contexts.row(context, "context")
        spec = self._spec.context
        assert spec.shape is not None
        return conform(plain_array(context), spec.shape, spec.dtype, "context")

    def _offered(self, case: Case) -> Candidates:
        model = self._model
        ids = [ActionId(name) for name in case.candidates]
        if case.features is not None:
            rows = self._action_rows(case.features)
            assert rows is not None
            return model.inline_candidates(ids, rows)
        if not case.listed:
            offered = model.enabled_candidates()
            if len(offered) == len(ids):
                return offered
        return model.candidates(ids)

    def _action_rows(self, features: Sequence[Any]) -> NDArray[Any] | None:
        """Return the features of actions as they are logged, (N, A); None where they have none."""
        if self._actions is not None:
            return self._actions.rows([each or {} for each in features], "features.{}")
        if not self._spec.action_dim:
            return np.zeros((len(features), 0), np.float32)
        shape = (len(features), self._spec.action_dim)
        return conform(list(features), shape, "float32", "features")


class _Learned:
    """All rows of a replay, as those of a log that nothing has left."""

    are_all = True

    def __init__(self, replay: MemoryReplay) -> None:
        self._replay = replay
        self.scan = replay.scan

    def __len__(self) -> int:
        return len(self._replay)


def plain_array(value: Any) -> Any:
    """Return an array with dtype, shape and data as one, nested lists as they are."""
    if not isinstance(value, dict):
        return value
    if value.keys() != {"dtype", "shape", "data"}:
        raise ValueError("context: an object, where the configuration takes numbers")
    data = base64.b64decode(value["data"])
    return np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"])


def _no_import(version: SnapshotVersion) -> Snapshot:
    raise AssertionError(f"snapshot {version} was never imported here")
