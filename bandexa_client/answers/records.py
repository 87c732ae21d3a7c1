"""Answers about what is stored: erased, voided and corrected values, audit entries, log pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bandexa_client.answers.bandits import KeyChange


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure has done.

    Attributes:
        decisions: How many decisions were erased.
        samples: How many rows of training samples, whose decisions had been removed before.
        rebuilt: The bandits whose models were rebuilt without them.
        waiting: The bandits whose models could not be rebuilt yet; the service tries again.
        remaining: Of `rebuilt`, bandits whose models still contain the rows: retention had removed
            the log that a linear policy's rebuild needs, or a rollback had copied them.
        wal_emptied: Whether the write-ahead log was emptied; if not, erase again later.
    """

    decisions: int
    samples: int
    rebuilt: tuple[str, ...]
    waiting: tuple[str, ...]
    remaining: tuple[str, ...]
    wal_emptied: bool


@dataclass(frozen=True, slots=True)
class Voided:
    """What became void; with `dry_run`, what would.

    Attributes:
        decisions: Decisions with values that became void by this call.
        values: How many values; each chosen action has its own.
        rewards: How many rewards had made these values.
        learned: How many of the values had been learned; 0 with `dry_run`.
        unknown: Listed ids of no decision of the bandit, or of an erased one.
        dry_run: Whether nothing changed.
        unlearning: pending, as long as the served model contains void values; else none.
    """

    decisions: int
    values: int
    rewards: int
    learned: int
    unknown: tuple[str, ...]
    dry_run: bool
    unlearning: str


@dataclass(frozen=True, slots=True)
class Corrected:
    """What became of a correction.

    Attributes:
        status: applied; duplicate, when it was the value already; aggregated, when it is learned
            with the decision's activation; pending, when it is learned at the close of the
            decision's window; late, when the decision will never be learned; stored, when the
            bandit has failed and learns it once it is recovered.
        action: The chosen action whose value it is.
        before: The value before; None where it was void, or had no reward.
        after: The value.
    """

    status: str
    action: str
    before: float | None
    after: float


@dataclass(frozen=True, slots=True)
class Compacted:
    """The bytes of the database file before and after; without `is_done` it is cut off later."""

    bytes_before: int
    bytes_after: int
    is_done: bool


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What somebody, or a guard, did to a bandit.

    Attributes:
        row: Its place among all entries.
        time: Seconds since the epoch.
        by: The name of the API key; or (anonymous), (guard).
        what: The call.
        changes: What it changed, by key: the configuration, the served snapshot, the position of
            the log, the number of offered actions; and what its answer said.
    """

    row: int
    time: float
    by: str
    what: str
    changes: tuple[KeyChange, ...]


@dataclass(frozen=True, slots=True)
class AuditTrail:
    """The entries of a bandit's name, newest first; `next` is the `before` of older ones."""

    entries: tuple[AuditEntry, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class LogPage:
    """A part of a bandit's log, as rows.

    Attributes:
        rows: JSON objects, each with a `kind`: first `bandit`, then `actions` and `decision`, last
            `end`.
        row: Where it ends: the next page's `after`.
        moment: The moment that its values are of.
        more: Whether there should be a next page.
    """

    rows: tuple[Mapping[str, object], ...]
    row: int
    moment: str
    more: bool
