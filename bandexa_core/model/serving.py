"""The serving model: a snapshot plus the log rows after it, applied in order.

`load_model` then `ServingModel.apply` is the one code path of start, crash recovery, swap after
training and verification. Applying reads no clock and no randomness, so equal (snapshot, rows)
give equal models, bit for bit on one kind of CPU.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.allocation import retain_freed_memory
from bandexa_core.arms import Asked, Division
from bandexa_core.encoders import EncoderRegistry
from bandexa_core.encoders.protocol import SlowEncoder
from bandexa_core.errors import RowNotApplied
from bandexa_core.features.byte_rows import stacked
from bandexa_core.features.equal_rows import Groups
from bandexa_core.features.watch import Extremes
from bandexa_core.ids import (
    ActionId,
    BanditUid,
    DecisionId,
    LogPosition,
    SnapshotVersion,
)
from bandexa_core.limiting import Decided, limited
from bandexa_core.limits import Bounds, Limits
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.configurations import SWITCHED, changed_spec
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.holding import Held
from bandexa_core.log.metrics import weighted_group
from bandexa_core.log.rows import (
    CatalogueRow,
    ConfigRow,
    ErasedRow,
    Group,
    ImportRow,
    LearnRow,
    LogRow,
    VoidRow,
    learn_rows,
)
from bandexa_core.model.inputs import Inputs
from bandexa_core.model.offered import Offered
from bandexa_core.model.progress import Progress
from bandexa_core.model.trials import Trials
from bandexa_core.policies import (
    Candidates,
    Choice,
    EncodedContext,
    LinearHead,
    LinearTS,
    Uniform,
    make_policy,
)
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.protocol import Ballot, Policy, RowWeights
from bandexa_core.policies.schedule import SNAPSHOT_EVERY, next_round
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.randomness import drawing_rng
from bandexa_core.replay import LearnedRows
from bandexa_core.snapshots.store import Snapshot
from bandexa_core.spec import BanditSpec, LimitSpec

# Objects with named features, which an event loop encodes in some milliseconds.
MANY_OBJECTS = 100
MODEL_FILE = "model"
TRAINING_FILE = "training"
FORGETTING = "forgetting/"
CATALOGUE = "catalogue/"
GENERATION = "generation"  # in the manifest


class ServingModel:
    """Policy, catalogue and configuration at one log position: it answers selects.

    Single-threaded, apart from `select` and `score`, which change nothing. `frozen` is set when a
    newer model has replaced this one: selects in flight finish on it, rows go to its successor.

    Attributes:
        log_hash: The hash of the log up to its position; None: it is not known, or only some rows
            of a group are applied.
        passes_until: Switches to other generations up to here do not concern it: its own generation
            is served again behind them.
        void_from: The first row of those that it may have learned and that are void since; None:
            there are none. A snapshot that is built from here on has not learned them.
        held: The values that it has passed over, because its bandit was frozen.
        learns_held: Whether it learns them all the same: a snapshot is built of it.
    """

    def __init__(
        self, spec: BanditSpec, uid: BanditUid, registry: EncoderRegistry, catalogue: Catalogue
    ) -> None:
        retain_freed_memory()
        self.spec = spec
        self.generation = LogPosition(0)  # see `configurations`
        self.passes_until = LogPosition(0)
        self.uid = uid
        self.registry = registry
        self.policy = make_policy(spec, uid, registry)
        self.version = SnapshotVersion(0)
        self.created_at = 0.0
        self.base_position = LogPosition(0)
        self.position = LogPosition(0)
        self.log_hash: bytes | None = None
        self.progress = Progress()
        self.forgetting = Forgetting()
        self.frozen = False
        self.void_from: LogPosition | None = None
        self.held = Held()
        self.learns_held = False
        self._limits: tuple[dict[str, LimitSpec] | None, Limits] = (None, Limits({}))
        self._asks: tuple[BanditSpec, int, Policy, Policy, Exploration] | None = None
        self._trials = Trials(partial(_challenger, uid, registry))
        self._inputs = Inputs(self.policy, objects=spec.actions.features is not None)
        self._offered = Offered(self.policy, catalogue)

    @property
    def catalogue(self) -> Catalogue:
        """The actions at this position."""
        return self._offered.catalogue

    # -- selecting ----------------------------------------------------------------------------

    def enabled_candidates(self, at: float | None = None) -> Candidates:
        """Return every enabled action of the catalogue, in slot order.

        `at`: Only those that are offered at this time, in seconds since the epoch.
        """
        return self._offered.enabled(self.limits, at)

    @property
    def limits(self) -> Limits:
        """The limits of actions."""
        limits = self.spec.limits
        if self._limits[0] is not limits:
            self._limits = limits, Limits(limits or {})
        return self._limits[1]

    def candidates(self, ids: Sequence[ActionId]) -> Candidates:
        """Return catalogue actions by id; KeyError names the first unknown one."""
        return self._offered.at(ids)

    def inline_candidates(
        self,
        ids: Sequence[ActionId],
        features: NDArray[np.float32],
        groups: Callable[[], Groups | None] | None = None,
        places: Mapping[ActionId, int] | None = None,
        parts: NDArray[np.float64] | None = None,
    ) -> Candidates:
        """Return candidates that bring their own features; see `Offered.inline`."""
        return self._offered.inline(ids, features, groups, places, parts)

    def select(
        self,
        decision_id: DecisionId,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        *,
        num: int = 1,
        retrieve: int | None = None,
        asked: Asked | None = None,
        bounds: Bounds | None = None,
    ) -> Choice:
        """Pick `num` candidates for a decision; the same id on the same model picks the same.

        `asked`: What arms need to know of the request; None: the bandit decides.
        `bounds`: How probable its choice of each candidate may be; None: there are no limits.

        Raises:
            ValueError: The candidates do not suit the policy.
        """
        policy, exploration = self.deciding()
        division = forced = None
        if asked is not None and self.spec.has_arms:
            division = Division(
                self.spec, self.uid, self.policy, exploration, decision_id, context, candidates,
                asked, num, retrieve, self._trials.policies(),
            )  # fmt: skip
            forced = division.forced
        choice = policy.select(
            context, candidates, self._rng(decision_id), num=num, retrieve=retrieve,
            exploration=exploration, forced=forced,
        )  # fmt: skip
        if bounds is not None:

            def again(picks: NDArray[np.int64]) -> Choice:
                return policy.select(
                    context, candidates, self._rng(decision_id), num=num, retrieve=retrieve,
                    exploration=exploration, forced=picks,
                )  # fmt: skip

            seed, version = self.spec.seed or 0, exploration.version
            decided = Decided(self.uid, seed, version, decision_id)
            choice = limited(decided, choice, bounds, again, is_forced=forced is not None)
        return choice if division is None else division.made(choice)

    def select_many(
        self,
        decision_ids: Sequence[DecisionId],
        contexts: Sequence[NDArray[Any] | EncodedContext],
        candidates: Candidates,
        asked: Sequence[Asked] | None = None,
        bounds: Bounds | None = None,
    ) -> list[Choice]:
        """Pick one candidate for each of several decisions: what `select` picks, to the bit.

        Raises:
            ValueError: One of them does not suit the policy; `select` reports which one.
        """
        if bounds is not None:
            each_asked = [None] * len(contexts) if asked is None else asked
            whole = zip(decision_ids, contexts, each_asked, strict=True)
            return [
                self.select(name, context, candidates, asked=each, bounds=bounds)
                for name, context, each in whole
            ]
        policy, exploration = self.deciding()
        rngs = [self._rng(decision_id) for decision_id in decision_ids]
        if asked is None or not self.spec.has_arms:
            return policy.select_many(contexts, candidates, rngs, exploration)
        rows = zip(decision_ids, contexts, asked, strict=True)
        trials = self._trials.policies()
        divisions = [
            Division(
                self.spec, self.uid, self.policy, exploration, name, x, candidates, each,
                trials=trials,
            )
            for name, x, each in rows
        ]  # fmt: skip
        forced = [division.forced for division in divisions]
        choices = policy.select_many(contexts, candidates, rngs, exploration, forced)
        pairs = zip(divisions, choices, strict=True)
        return [division.made(choice) for division, choice in pairs]

    def ballot(
        self,
        decision_id: DecisionId,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        *,
        retrieve: int | None = None,
    ) -> Ballot:
        """Return how `select` picks for a decision, for every candidate."""
        policy, exploration = self.deciding()
        rng = self._rng(decision_id)
        return policy.ballot(context, candidates, rng, exploration, retrieve)

    def try_out(self, load: Callable[[SnapshotVersion], Snapshot]) -> None:
        """Load the models of challengers that decide as arms; see `Trials.load`."""
        self._trials.load(self.spec, load)

    def end_trials(self, stored: Collection[SnapshotVersion]) -> None:
        """Drop the models of challengers whose snapshots are not stored any more."""
        self._trials.end(stored)

    @property
    def has_trials(self) -> bool:
        """Whether the models of all challengers that are to decide as arms are there."""
        return self._trials.has_all(self.spec)

    def _rng(self, decision_id: DecisionId) -> np.random.Generator:
        spec = self.spec
        return drawing_rng(
            spec.selection.version, self.uid, spec.seed or 0, "decision", decision_id
        )

    def deciding(self) -> tuple[Policy, Exploration]:
        """Return the policy that decides at this number of rows, and how it explores."""
        spec, learned, policy = self.spec, self.progress.num_learned, self.policy
        known = self._asks
        if known is not None and known[0] is spec and known[1] == learned and known[2] is policy:
            return known[3], known[4]
        selection, method = spec.selection, spec.selection.method
        is_uniform = method == "uniform" and spec.policy != "greedy"
        is_random = learned < selection.warmup_random or is_uniform
        gamma = selection.gamma_at(learned) / spec.reward_width
        epsilon, scale = spec.epsilon_at(learned), spec.posterior_scale
        exploration = Exploration(selection.panel, epsilon, scale, method, gamma, selection.version)
        deciding = Uniform() if is_random else policy
        self._asks = spec, learned, policy, deciding, exploration
        return deciding, exploration

    # -- learning -----------------------------------------------------------------------------

    def apply(
        self,
        group: Group,
        load: Callable[[SnapshotVersion], Snapshot],
        z_ND: NDArray[np.float64] | None = None,
    ) -> None:
        """Apply the next group of log rows, by the rule that the log has for it.

        Args:
            group: The rows from `position + 1` on.
            load: Loads an imported snapshot; called for import rows alone.
            z_ND: The features of the learn rows, if `features` computed them beforehand.

        Raises:
            RowNotApplied: Features could not be computed, or a row does not fit. Where features
                failed, the model is unchanged; otherwise it is at the row before.
        """
        assert not self.frozen, "rows go to the successor of a replaced model"
        group = weighted_group(group, self.spec.rewards.learn)
        first, holds = group.rows[0], self.holds
        assert first.position == self.position + 1, f"row {first.position} after {self.position}"
        try:
            if not holds and (self._scale_actions(group) or z_ND is None):
                z_ND = self.features(group)
            if group.as_block and z_ND is not None and not (holds or self.held.first):
                self._learn_block(group.rows, z_ND)
            else:
                index = 0
                for row in group.rows:
                    z_1D = None if z_ND is None else z_ND[index : index + 1]
                    self._apply(row, load, z_1D)
                    index += isinstance(row, LearnRow)
                    self.position = row.position
            self.log_hash = group.hash
        except Exception as error:
            self.log_hash = None
            raise RowNotApplied(LogPosition(self.position + 1), error) from error

    @property
    def holds(self) -> bool:
        """Whether it passes over values, because its bandit is frozen."""
        return self.spec.mode == "frozen" and not self.learns_held

    @property
    def lacks_held(self) -> bool:
        """Whether values that were passed over are to be learned: its bandit learns again."""
        return self.held.first > 0 and not self.holds

    def _scale_actions(self, group: Group) -> bool:
        """Standardise the actions of a fixed map before its first value; returns whether it did.

        All of them are known then, and nothing was learned under another scale.
        """
        policy = self.policy
        if self.progress.num_learned or self.spec.edition == 1 or not isinstance(policy, LinearTS):
            return False
        if not any(isinstance(row, LearnRow) for row in group.rows):
            return False
        if not policy.scale_actions(self.enabled_features):
            return False
        self._inputs.reset()
        self._offered.reset()
        return True

    def successor(
        self,
        group: Group,
        load: Callable[[SnapshotVersion], Snapshot],
        z_ND: NDArray[np.float64] | None = None,
    ) -> ServingModel:
        """Return a model with the next group applied; this one is unchanged.

        It may run on another thread, while nothing is applied here: so that a group which forgets,
        and with that factorises, or brings many objects, does not stop the event loop.

        Raises:
            RowNotApplied: See `apply`.
        """
        other = copy.copy(self)
        imports = isinstance(group.rows[0], ImportRow)  # then everything is loaded, the encoder too
        other.policy = (
            make_policy(self.spec, self.uid, self.registry) if imports else self.policy.copy()
        )
        other._offered = self._offered.copy(other.policy)
        other._inputs = self._inputs.copy(other.policy)
        other._trials = self._trials.copy()
        other.apply(group, load, z_ND)
        other.try_out(load)
        other.prepare()
        return other

    def _learn_block(self, rows: Sequence[LogRow], z_ND: NDArray[np.float64]) -> None:
        """Learn a group: consecutive first values together, corrections and steps in between.

        `z_ND` has no features of erased rows.
        """
        first: list[LearnRow] = []
        start = 0
        for row in rows:
            share = self.share_before(row)
            corrects = isinstance(row, LearnRow) and row.before is not None
            if share < 1.0 or corrects:
                self._learn_first(first, z_ND[start : start + len(first)])
                start, first = start + len(first), []
            self._forget_before(row, share)
            if not isinstance(row, LearnRow):
                continue
            if corrects:
                self._learn(row, z_ND[start : start + 1])
                self.position = row.position
                start += 1
            else:
                first.append(row)
        self._learn_first(first, z_ND[start:])
        self.position = rows[-1].position

    def _learn_first(self, rows: Sequence[LearnRow], z_ND: NDArray[np.float64]) -> None:
        """Learn first values."""
        if not rows:
            return
        self.policy.learn_many(z_ND, [row.slot for row in rows], [row.learned for row in rows])
        self._count_learned(rows)
        self.position = rows[-1].position

    def _apply(
        self,
        row: LogRow,
        load: Callable[[SnapshotVersion], Snapshot],
        z_1D: NDArray[np.float64] | None,
    ) -> None:
        if self.spec.forgetting.half_life is not None:
            self._forget_before(row, self.share_before(row))
        if isinstance(row, LearnRow) and (self.holds or self.held.has(row)):
            self.held = self.held.with_row(row)
        elif isinstance(row, LearnRow):
            self._learn(row, z_1D)
            if row.before is None:
                self._count_learned([row])
        elif isinstance(row, ErasedRow):
            pass
        elif isinstance(row, VoidRow):
            known = row.origin if self.void_from is None else self.void_from
            self.void_from = min(known, row.origin)
        elif isinstance(row, CatalogueRow):
            self._offered.change(row.change)
        elif isinstance(row, ConfigRow):
            switched = row.spec.get(SWITCHED, self.generation) != self.generation
            if switched and row.position > self.passes_until:
                raise ValueError("from this row on a model of another configuration is served")
            forgetting = self.spec.forgetting
            self.spec = changed_spec(self.spec, row.spec)
            self._trials.follow(self.spec)
            if self.spec.forgetting != forgetting:
                self.forgetting = self.forgetting.restarted()
            self.policy.configure(self.spec.selection)
        else:
            self._take_import(row, load(row.version))

    def _learn(self, row: LearnRow, z_1D: NDArray[np.float64] | None) -> None:
        weight = 1.0 if row.before is None else self.forgetting.weight(row.origin)
        before, after = row.learned_before, row.learned
        self.policy.learn(row.context, row.action, row.slot, before, after, weight, z_1D)

    def _count_learned(self, rows: Sequence[LearnRow]) -> None:
        self.progress = self.progress.after(len(rows))
        self._inputs.see([row.context for row in rows])

    def ends_before(self, group: Group) -> bool:
        """Whether a model of another configuration is served from a group on: it is a switch."""
        row = group.rows[0]
        return (
            isinstance(row, ConfigRow)
            and row.spec.get(SWITCHED, self.generation) != self.generation
            and row.position > self.passes_until
        )

    def encodes_many(self, group: Group) -> bool:
        """Whether a group brings so many objects that encoding them is not for an event loop."""
        if self.spec.actions.features is None:
            return False
        changes = (row.change for row in group.rows if isinstance(row, CatalogueRow))
        num = sum(len(change.ids) for change in changes if change.features is not None)
        return num > MANY_OBJECTS

    def prepare(self) -> None:
        """Do now what the first select after a change of the catalogue would do."""
        if isinstance(self.policy, LinearHead):
            _ = self.enabled_candidates().groups  # and the changes and their parts, on the way
            self.policy.prepare(len(self.enabled_candidates()))

    def share_before(self, row: LogRow) -> float:
        """Return the weight that learned rows retain when `row` is applied; 1 forgets nothing.

        If it is below 1, applying the row begins with a factorisation.
        """
        due: float = 2.0 ** -self.forgetting.due(self.spec.forgetting, row.position, row.time)
        return due

    def forgets_before(self, group: Group) -> bool:
        """Whether applying a group factorises: a forgetting step is due before one of its rows."""
        spec, state, first = self.spec.forgetting, self.forgetting, group.rows[0]
        if spec.half_life is None or self.holds:
            return False
        if state.cell is None:  # the first row ever forgets nothing, but the next ones may
            state = state.after(spec, first.position, first.time)
        return any(state.due(spec, row.position, row.time) > 0.0 for row in group.rows)

    def _forget_before(self, row: LogRow, share: float) -> None:
        if share < 1.0 and not self.holds:
            self.policy.adopt(self.policy.forgotten(share))
        self.forgetting = self.forgetting.after(self.spec.forgetting, row.position, row.time)

    @property
    def row_weights(self) -> RowWeights | None:
        """Weights of learned rows after forgetting, by position; None: all rows weigh 1."""
        return self.forgetting.weights if len(self.forgetting.positions) else None

    def _take_import(self, row: ImportRow, snapshot: Snapshot) -> None:
        self._load(snapshot, row.position)

    def _load(self, snapshot: Snapshot, position: LogPosition) -> None:
        tensors = snapshot.tensors[MODEL_FILE]
        beside = (FORGETTING, CATALOGUE)  # whoever loads it knows the actions at its position
        own = {name: t for name, t in tensors.items() if not name.startswith(beside)}
        self.policy.load_tensors(own)
        self.forgetting = Forgetting.from_tensors(take_prefix(tensors, FORGETTING))
        manifest = snapshot.manifest
        self.position, self.log_hash = position, None
        self.void_from = None
        self.held = Held()
        self.progress = Progress(**manifest.meta["progress"])
        self.created_at = manifest.created_at
        self.rebased(SnapshotVersion(manifest.version))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the learned state as named arrays; `MODEL_FILE` has the actions beside it."""
        steps = {f"{FORGETTING}{name}": t for name, t in self.forgetting.tensors().items()}
        return self.policy.tensors() | steps

    def rebased(self, version: SnapshotVersion) -> None:
        """Mark the present state as that of snapshot `version`, built at this position."""
        self.version = version
        self.base_position = self.position
        self._inputs.reset()
        self._offered.reset()

    # -- rounds -------------------------------------------------------------------------------

    @property
    def slow_encoder(self) -> SlowEncoder | None:
        """The encoder, if a context takes it too long for an event loop; else None."""
        return self.policy.slow_encoder

    def scaled(self, context: NDArray[Any]) -> NDArray[Any]:
        """Return a context as the encoder takes it."""
        return self.policy.scaled(context)

    def features(self, group: Group) -> NDArray[np.float64] | None:
        """Return z of a group's learn rows under the encoder, (N, D), by the rule of the group.

        None for rows of another kind, and where the policy has no features. It may run on another
        thread.
        """
        rows = learn_rows(group)
        if not rows or not isinstance(self.policy, LinearHead):
            return None
        if group.as_block:
            contexts = stacked([row.context for row in rows])
            return self.policy.features(contexts, stacked([row.action for row in rows]))
        of = self.policy.features
        if len(rows) == 1:
            return of(rows[0].context[None], rows[0].action[None])
        return np.concatenate([of(row.context[None], row.action[None]) for row in rows])

    @property
    def learns_features(self) -> bool:
        """Whether a round trains an encoder."""
        return self.policy.learns_features

    @property
    def enabled_features(self) -> NDArray[np.float32]:
        """The features of the enabled actions, (K, A)."""
        catalogue = self.catalogue
        return catalogue.features[catalogue.enabled_slots]

    def refresh(
        self, num_learned: int, rows: LearnedRows | None = None, *, renew: bool = False
    ) -> None:
        """Rebuild the posterior, from its statistics or from the log; see `Policy.refresh`.

        `renew`: standardise the inputs anew, due or not.
        """
        self.policy.refresh(
            num_learned, self.enabled_features, rows, self.row_weights,
            changed=renew or self._inputs_changed(), chunk=self.spec.training.rebuild_chunk,
        )  # fmt: skip

    def reads_log(self, num_learned: int) -> bool:
        """Whether `refresh` reads the rows of the log now."""
        policy = self.policy
        return (
            isinstance(policy, LinearHead)
            and policy.scaling is not None
            and (self._inputs_changed() or policy.scaling.is_old or policy.scaling_due(num_learned))
        )

    def _inputs_changed(self) -> bool:
        """See `Inputs.changed`."""
        return self._inputs.changed(self.progress.num_learned, self.catalogue)

    @property
    def extremes(self) -> Extremes:
        """The extreme values of contexts since the server's start."""
        return self._inputs.extremes

    def follow_on(self, other: ServingModel) -> None:
        """Continue the counts of extreme values of the model that this one replaces."""
        self._inputs.follow_on(other._inputs)

    def extreme_action(self) -> tuple[ActionId, int, float] | None:
        """Return an enabled action with an extreme feature, its index and value; None without."""
        return self._inputs.extreme_action(self.catalogue)

    def round_due(self) -> bool:
        """Whether a training round (or, without an encoder to train, a snapshot) is due."""
        if self.holds:
            return False
        if self.void_from is not None or self.held.first > 0:  # see `lacks_held`
            return True
        if self.position - self.base_position >= SNAPSHOT_EVERY:
            return True
        progress = self.progress
        if not self.learns_features:
            return self._inputs_changed() or self.policy.scaling_due(progress.num_learned)
        if not progress.may_train(progress.num_learned):
            return False
        return self._inputs_changed() or progress.num_learned >= next_round(
            progress.trained_rows, self.spec.training, self.spec.forgetting
        )


def load_model(
    spec: BanditSpec,
    uid: BanditUid,
    registry: EncoderRegistry,
    snapshot: Snapshot,
    catalogue: Catalogue,
) -> ServingModel:
    """Return the serving model at the snapshot's position.

    Args:
        spec: The configuration as of that position.
        uid: The bandit's uid.
        registry: Encoders by name.
        snapshot: With its `MODEL_FILE` tensors loaded.
        catalogue: The actions as of that position.

    Raises:
        ValueError: The snapshot's tensors do not fit the configuration.
    """
    model = ServingModel(spec, uid, registry, catalogue)
    model.generation = LogPosition(snapshot.manifest.meta.get(GENERATION, 0))
    manifest = snapshot.manifest
    model._load(snapshot, LogPosition(manifest.position))
    if manifest.log_hash or not manifest.position:  # an export has none
        model.log_hash = bytes.fromhex(manifest.log_hash)
    return model


def _challenger(
    uid: BanditUid, registry: EncoderRegistry, spec: BanditSpec, snapshot: Snapshot
) -> ServingModel:
    return load_model(spec, uid, registry, snapshot, Catalogue.empty(spec.row_layout))
