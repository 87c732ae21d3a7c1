"""One live bandit: its configuration, its served model, and the checks of a request's inputs.

It runs on the event loop. Only the applier moves the served model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.configurations import Configurations
from bandexa_core.log.metrics import Totals
from bandexa_core.log.rows import ConfigRow, Group, LogRow
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from bandexa_core.spec import ActionsSpec, BanditSpec, ContextSpec
from service.observe.counters import Vitals
from service.observe.evidence import Evidence
from service.serving.applier import Applier
from service.serving.challengers import Challenger
from service.serving.errors import UnknownAction
from service.serving.inputs import NamedSide, conform
from service.serving.observed import InputCounts
from service.serving.reported_metrics import ReportedMetrics
from service.serving.select.commands import (
    CandidateInput,
    InlineCandidates,
    Offer,
    within_dates,
)
from service.serving.standing import ArmStanding, EarnedByAction, Standing
from service.store.errors import InvalidRequest
from service.store.records import BanditRecord


class ReadLog(Protocol):
    """Yields the groups of a log in (after, up_to]; see `LogReader.follow`."""

    def __call__(
        self,
        record: BanditRecord,
        after: LogPosition,
        up_to: LogPosition,
        *,
        previous: bytes | None,
    ) -> Iterator[Group]:
        """Yield them in order."""


class _Sides(NamedTuple):
    """What the named features of a configuration may be."""

    of_context: ContextSpec
    of_actions: ActionsSpec
    contexts: NamedSide | None
    actions: NamedSide | None

    @classmethod
    def of(cls, spec: BanditSpec, salt: bytes) -> _Sides:
        context, actions = spec.context, spec.actions
        return cls(context, actions, NamedSide.of(context, salt), NamedSide.of(actions, salt))


class Bandit:
    """A live bandit.

    Args:
        read: Returns its log rows in (after, up_to], in lists.
        on_failure: Receives it when a log row could not be applied.
        after: See `Applier`.
        reading: Likewise.
        totals: Of the metrics that were reported for it so far, by name.
        follows: Whether another process changes its configuration: it is then read from the log.
        salt: The key of the digests that are logged in place of personal values.

    Attributes:
        record: Its identity and configuration as it was created.
        snapshots: Its snapshots on disk.
        applier: Applies its log rows to the served model.
        vitals: What has happened to it since the server started.
        inputs: What the objects of requests had.
        imported: Snapshots that are being imported, by version.
        num_numbers: How many numbers a context has; 0 where contexts are objects.
        has_objects: Whether contexts or actions are objects with named features.
        configurations: Those that its log has, as far as is known here.
        num_imported: How many decisions were imported into it.
        metrics: What is known of the metrics that are reported for it.
        standing: How its arms stand, as of the last count; None before the first.
        earned: What its actions with the most values earned, as of the last count.
        evidence: What its recent values say, as of the last count.
        found_since: Since when each of its findings is there, by name, in seconds since the epoch.
        challengers: Those that are declared for it, by name.
        change_error: Why the last attempt to learn the wanted configuration failed; None: it did
            not.
    """

    def __init__(
        self,
        record: BanditRecord,
        model: ServingModel,
        snapshots: SnapshotStore,
        read: ReadLog,
        on_failure: Callable[[Bandit], None],
        after: Callable[[Callable[[], None]], None] | None = None,
        salt: bytes = b"",
        configurations: Configurations | None = None,
        num_imported: int = 0,
        totals: Mapping[str, Totals] | None = None,
        *,
        follows: bool = False,
        reading: Executor | None = None,
    ) -> None:
        self.record = record
        self.configurations = configurations or Configurations(record.spec)
        self.num_imported = num_imported
        self.metrics = ReportedMetrics(self.configurations, totals)
        self.challengers: dict[str, Challenger] = {}
        self.change_error: str | None = None
        self.standing: Standing | None = None
        self.earned: tuple[EarnedByAction, ...] = ()
        self.evidence = Evidence()
        self.found_since: dict[str, float] = {}
        self.snapshots = snapshots
        self.vitals = Vitals()
        self.inputs = InputCounts()
        self.num_numbers = math.prod(record.spec.context.shape or (0,))
        self._salt = salt
        self._sides = sides = _Sides.of(model.spec, salt)
        self.has_objects = sides.contexts is not None or sides.actions is not None
        self.imported: dict[SnapshotVersion, Snapshot] = {}
        self.applier = Applier(
            record.name, model, self._load_import, partial(read, record),
            partial(on_failure, self), after, reading,
        )  # fmt: skip
        if follows:
            self.applier.noted = self._note

    @property
    def model(self) -> ServingModel:
        """The served model; a swap replaces it."""
        return self.applier.model

    @property
    def contexts(self) -> NamedSide | None:
        """What the named features of contexts may be; None where they are numbers."""
        return self._named_sides().contexts if self.has_objects else None

    @property
    def actions(self) -> NamedSide | None:
        """What the named features of actions may be; None where they are numbers."""
        return self._named_sides().actions if self.has_objects else None

    def _named_sides(self) -> _Sides:
        spec = self.applier.model.spec
        if self._sides.of_context is not spec.context or self._sides.of_actions is not spec.actions:
            self._sides = _Sides.of(spec, self._salt)  # a model of another configuration is served
        return self._sides

    def current_standing(self) -> tuple[ArmStanding, ...]:
        """Return how its arms stand, the bandit itself last; none where it has none."""
        spec, found = self.model.spec, self.standing
        if not spec.arms:
            return ()
        if found is None or not found.is_of(spec):
            return Standing.new(spec).arms
        return found.arms

    def logged(self, row: LogRow) -> None:
        """Note that a row of its log is committed."""
        if isinstance(row, ConfigRow):
            self.configurations = self.configurations.with_row(row)
            self.metrics.configure(self.configurations)
            if self.standing is not None and not self.standing.is_of(self.configurations.specs[-1]):
                self.standing = None  # an equal configuration later begins anew
        self.applier.follow(row.position)

    def _note(self, group: Group) -> None:
        """Note the change of the configuration that log rows bring."""
        row = group.rows[0]
        if isinstance(row, ConfigRow) and row.position not in self.configurations.positions:
            self.configure(self.configurations.with_row(row))

    def configure(self, configurations: Configurations) -> None:
        """Take the configurations that its log has; another process has changed them."""
        self.configurations = configurations
        self.metrics.configure(configurations)

    def _load_import(self, version: SnapshotVersion) -> Snapshot:
        """Return an imported snapshot: from memory while it is being imported, else from disk."""
        return self.imported.get(version) or self.snapshots.load(version)

    def context(self, value: Any) -> NDArray[Any]:
        """Return a request's context in the shape and dtype of this bandit's contexts.

        Args:
            value: An array; or an object, where the bandit has named features, or the row that
                `NamedSide.row` made of it.

        Raises:
            InvalidRequest: It does not fit.
        """
        side = self.contexts
        if side is not None and not isinstance(value, np.ndarray):
            return side.row(value, "context")
        if side is not None:
            return _objects(value, "context")
        spec = self.record.spec.context
        return conform(value, spec.stored_shape, spec.stored_dtype, "context")

    def features(self, value: Any, num: int, field: str) -> NDArray[Any]:
        """Return a request's action features, (num, A): numbers, or objects as they are logged.

        Raises:
            InvalidRequest: They do not fit; names `field`.
        """
        spec = self.record.spec
        if self.actions is not None:
            if isinstance(value, np.ndarray):
                return _objects(value, field)
            return self.actions.rows(value, f"{field}.{{}}.features")
        return conform(value, (num, spec.action_dim), "float32", field)

    def offer(self, given: CandidateInput, at: float | None = None) -> Offer:
        """Resolve a request's candidates.

        `at`: Offer only actions within their dates at this time, seconds since the epoch.

        Raises:
            UnknownAction: An id is not in the catalogue.
            InvalidRequest: There are none, one is retired, or features do not fit.
        """
        model = self.model
        absent = model.limits.absent(at) if at is not None and model.limits.has_dates else ()
        if given is None:
            candidates = model.enabled_candidates(at)
            if not len(candidates):
                why = "within its dates " if absent else ""
                raise InvalidRequest(
                    "candidates", f"the bandit has no enabled action {why}to offer"
                )
            return Offer(candidates, None)
        if absent:
            given = within_dates(given, absent)
        if isinstance(given, InlineCandidates):
            features = self.features(given.features, len(given.ids), "candidates")
            parts = None if given.encoded is None else given.encoded.under(model.policy)
            offered = model.inline_candidates(
                given.ids, features, given.groups, given.places, parts
            )
            return Offer(offered, given.ids)
        try:
            candidates = model.candidates(given)
        except KeyError as error:
            raise UnknownAction(error.args[0], "candidates") from error
        enabled = model.catalogue.enabled[candidates.slots]
        if not enabled.all():
            retired = given[int(np.argmin(enabled))]
            raise InvalidRequest("candidates", f"action {retired!r} is retired")
        return Offer(candidates, given)


def _objects(rows: NDArray[Any], field: str) -> NDArray[np.uint8]:
    """Return objects that were read already, under whichever `max_bytes` was in force then."""
    return conform(rows, rows.shape, "uint8", field)
