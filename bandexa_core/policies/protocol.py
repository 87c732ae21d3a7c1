"""The protocol of a policy: it selects among candidates and learns from values.

Legend: K candidates, A action features, V size of a cached action part, `*X` context shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.protocol import SlowEncoder
from bandexa_core.features.equal_rows import Groups
from bandexa_core.ids import INLINE_SLOT, ActionSlot
from bandexa_core.policies.panel import Exploration, with_floor
from bandexa_core.posterior import DisjointPosterior, GaussianPosterior
from bandexa_core.replay import LearnedRows, RowWeights, TrainingRows
from bandexa_core.spec import SelectionSpec

__all__ = ["Ballot", "Candidates", "Choice", "EncodedContext", "InputMaps", "Policy", "RowWeights"]


class InputMaps(NamedTuple):
    """What makes of logged contexts (N, *X) and actions (N, A) the inputs of an encoder."""

    contexts: Callable[[NDArray[Any]], NDArray[Any]]
    actions: Callable[[NDArray[Any]], NDArray[Any]]


UNCHANGED = InputMaps(lambda raw: raw, lambda raw: raw)


@dataclass(frozen=True, slots=True)
class EncodedContext:
    """A context whose part was computed beforehand by the policy's encoder.

    Attributes:
        part: The result of `SplitEncoder.context_part`, (U,).
    """

    part: NDArray[np.float64]


class Candidates:
    """The actions that one request may choose from. Immutable.

    Args:
        slots: See below.
        features: Raw action features, float32 (K, A); with `by_slot` those of the whole catalogue,
            whose rows are copied at the first use; an encoder with cached parts never uses them.
        parts: See below.
        by_slot: See `features`.
        groups: Returns the groups with equal features; None: they are compared when it matters.

    Attributes:
        slots: Catalogue slots, int64 (K,); -1 for inline candidates outside the catalogue.
        parts: The encoder's cached action parts for them, (K, V), or None.
    """

    __slots__ = (
        "_are_known", "_features", "_find_groups", "_firsts", "_groups", "_taken", "parts", "slots"
    )  # fmt: skip

    def __init__(
        self,
        slots: NDArray[np.int64],
        features: NDArray[np.float32],
        parts: NDArray[np.float64] | None = None,
        *,
        by_slot: bool = False,
        groups: Callable[[], Groups | None] | None = None,
    ) -> None:
        self._find_groups = groups
        self._groups: Groups | bool | None = False  # not known yet
        self._firsts: Candidates | None = None
        self._are_known: bool | None = None
        self.slots = slots
        self.parts = parts
        self._features = features
        self._taken = None if by_slot else features

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def features(self) -> NDArray[np.float32]:
        """Raw action features, float32 (K, A)."""
        taken = self._taken
        if taken is None:
            self._taken = taken = self._features[self.slots]
        return taken

    @property
    def are_known(self) -> bool:
        """Whether all of them are in the catalogue."""
        known = self._are_known
        if known is None:
            known = self._are_known = not bool((self.slots == INLINE_SLOT).any())
        return known

    @property
    def groups(self) -> Groups | None:
        """The groups of candidates with equal features; None where all differ."""
        groups = self._groups
        if isinstance(groups, bool):
            find = self._find_groups
            self._groups = groups = Groups.of_rows(self.features) if find is None else find()
        return groups

    @property
    def firsts(self) -> Candidates:
        """The first candidate of each group."""
        if self._firsts is None:
            groups = self.groups
            self._firsts = self if groups is None else self.take(groups.first)
        return self._firsts

    def action(self, index: int) -> NDArray[np.float32]:
        """Return the raw features of one candidate, (A,)."""
        taken = self._taken
        row: NDArray[np.float32] = (
            self._features[self.slots[index]] if taken is None else taken[index]
        )
        return row

    def take(self, indexes: NDArray[np.int64]) -> Candidates:
        """Return the candidates at `indexes`, in that order."""
        parts = None if self.parts is None else self.parts[indexes]
        slots = self.slots[indexes]
        if self._taken is None:
            return Candidates(slots, self._features, parts, by_slot=True)
        return Candidates(slots, self._taken[indexes], parts)


NO_SHADOWS: Mapping[str, int] = MappingProxyType({})


class Choice(msgspec.Struct, frozen=True):
    """The result of a selection.

    Attributes:
        chosen: Indexes into the candidates, best first, int64 (k,).
        scores: Their sampled values, float64 (k,).
        retrieved: With `retrieve`, indexes of the candidates that were retrieved, else None.
        propensity: Probability of the first pick under the policy; None if `late_propensity`
            computes it after the answer.
        encode_s: Seconds spent on features; the rest of the time was spent on the draw.
        explored: Whether the first pick differs from the best one by the posterior mean; None if
            that was not checked (there is no posterior, or there are too many candidates).
        std: Posterior standard deviation of the first pick's expected reward, or None.
        propensities: With k above 1, for each place the probability that the policy puts its pick
            there, whatever stands at the others; None where that takes too long.
        all_propensities: Computes the probability of each candidate, (K,), to sum 1; it takes as
            long as the draw. It reads immutable arrays only.
        all_places: With k above 1, computes for each of the first places the probability that each
            candidate stands there, (places, K), given how many places.
        arm: The arm that decided; None where there are none, or none could serve the request.
        shadows: The index that each shadow would have served, by its name.
    """

    chosen: NDArray[np.int64]
    scores: NDArray[np.float64]
    retrieved: NDArray[np.int64] | None = None
    propensity: float | None = None
    late_propensity: Callable[[], float] | None = None
    encode_s: float = 0.0
    explored: bool | None = None
    std: float | None = None
    propensities: tuple[float, ...] | None = None
    all_propensities: Callable[[], NDArray[np.float64]] | None = None
    all_places: Callable[[int], NDArray[np.float64]] | None = None
    arm: str | None = None
    shadows: Mapping[str, int] = NO_SHADOWS


@dataclass(frozen=True, slots=True)
class Ballot:
    """The details of a decision for every candidate.

    Attributes:
        sampled: The values that were ranked, (K,): sampled ones, or posterior means.
        shares: The probability of each candidate without the floor, (K,): its share of the panel's
            votes, or that of the law.
        epsilon: Probability of a uniform choice instead.
    """

    sampled: NDArray[np.float64]
    shares: NDArray[np.float64]
    epsilon: float

    @property
    def propensities(self) -> NDArray[np.float64]:
        """The probability of each candidate's being served, (K,)."""
        return with_floor(self.shares, self.epsilon)


class Policy(Protocol):
    """Picks actions and learns online. Single-threaded; `select` and `score` change nothing."""

    @property
    def learns_features(self) -> bool:
        """Whether a training round trains an encoder."""

    @property
    def slow_encoder(self) -> SlowEncoder | None:
        """The encoder, if a context takes it too long for an event loop; else None."""

    def scaled(self, contexts: NDArray[Any]) -> NDArray[Any]:
        """Return contexts as the encoder takes them."""

    def features(self, contexts: NDArray[Any], actions: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return z of N pairs of a context (*X) and an action (A,), (N, D)."""

    def scaling_due(self, num_rows: int) -> bool:
        """Whether input scaling must be computed again at `num_rows` learned values."""

    def check_training(self, tensors: dict[str, NDArray[Any]], num_actions: int) -> None:
        """Refuse head and optimizer tensors that the first training round would fail on.

        Raises:
            ValueError: They do not fit.
        """

    def select(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        *,
        num: int = 1,
        retrieve: int | None = None,
        exploration: Exploration = ...,
        forced: NDArray[np.int64] | None = None,
    ) -> Choice:
        """Pick `num` different candidates from one joint draw, best first.

        `forced`: Others are served in their place, (num,). All else is drawn as without them, and
        values and probabilities are those of what is served.
        """

    def select_many(
        self,
        contexts: Sequence[NDArray[Any] | EncodedContext],
        candidates: Candidates,
        rngs: Sequence[np.random.Generator],
        exploration: Exploration = ...,
        forced: Sequence[NDArray[np.int64] | None] | None = None,
    ) -> list[Choice]:
        """Pick one candidate for each context, as `select` with each generator would, to the bit.

        Raises ValueError if one of them cannot be decided; `select` reports which one.
        """

    def ballot(
        self,
        context: NDArray[Any] | EncodedContext,
        candidates: Candidates,
        rng: np.random.Generator,
        exploration: Exploration,
        retrieve: int | None = None,
    ) -> Ballot:
        """Draw as `select` does with an equal generator, and return every candidate's details."""

    def score(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of each candidate's expected reward, (K,) each."""

    def action_parts(self, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """Return the cacheable parts of actions (K, A), or None if the encoder has none."""

    def learn(
        self,
        context: NDArray[Any],
        action: NDArray[np.float32],
        slot: ActionSlot,
        before: float | None,
        after: float,
        weight: float = 1.0,
        z_1D: NDArray[np.float64] | None = None,
    ) -> None:
        """Learn a value, or correct one that was `before` and now has the weight `weight`.

        `z_1D`: its features, (1, D), if they were computed beforehand.
        """

    def learn_many(
        self, z_ND: NDArray[np.float64], slots: Sequence[ActionSlot], values: Sequence[float]
    ) -> None:
        """Learn N first values from their features (N, D): as N calls of `learn`, to rounding."""

    def copy(self) -> Self:
        """Return a policy that continues bit for bit and learns on its own.

        It shares what learning does not change, such as the encoder.
        """

    def forgotten(self, factor: float) -> GaussianPosterior | DisjointPosterior | None:
        """Return the posterior with every row's weight multiplied; changes nothing itself.

        It may run on another thread, while nothing is learned.
        """

    def adopt(self, posterior: GaussianPosterior | DisjointPosterior | None) -> None:
        """Continue with the posterior that `forgotten` returned."""

    def rebuild(self, replay: TrainingRows, chunk: int, weights: RowWeights | None = None) -> None:
        """Replace the posterior by the exact one over the replay's rows, weighted by position."""

    def configure(self, selection: SelectionSpec) -> None:
        """Apply a changed selection configuration."""

    def refresh(
        self,
        num_rows: int,
        actions_KA: NDArray[np.float32],
        rows: LearnedRows | None = None,
        weights: RowWeights | None = None,
        *,
        changed: bool = False,
        chunk: int = 4096,
    ) -> None:
        """Rebuild the posterior from its exact statistics.

        If `scaling_due(num_rows)`, the inputs of a fixed map are standardised again: contexts by
        the learned rows, actions by the enabled ones of the catalogue.

        Args:
            num_rows: Learned values so far.
            actions_KA: Features of the enabled actions.
            rows: The rows of the log; None: they cannot be read.
            weights: Weights of rows after forgetting, by position; None: all rows weigh 1.
            changed: The inputs have left their scale, so it is renewed whatever `num_rows` is.
            chunk: Rows that are read at once.
        """

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the whole state as named arrays; equal tensors mean equal behaviour."""

    def load_tensors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Load the state of `tensors`; ValueError if names or shapes do not fit."""
