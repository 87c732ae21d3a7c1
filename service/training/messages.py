"""The messages between the service and the trainer process: one JSON object per line.

The service sends a `Configuration`, then orders: `RoundOrder` and `ForgetOrder`. The trainer
answers `Ready` once, and for each round `Heartbeat`s and then `Published`, `Failed` or `Gone`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from service.settings import Settings
from service.store.address import address_text
from service.store.placing import store_of


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """How a trainer process runs; paths are those of the server's settings.

    `database` is a path, or the URL of a database, perhaps with its password.
    """

    database: str
    snapshots: str
    replays: str
    encoders: dict[str, str]
    weights: dict[str, str]
    device: str
    threads: int
    processes: int = 1
    niceness: int
    keep_snapshots: int
    keep_snapshots_h: float
    keep_snapshots_bytes: int
    epoch: int
    log_format: Literal["json", "text"]
    log_level: str

    @classmethod
    def of(cls, settings: Settings, epoch: int) -> Configuration:
        """Return the configuration that follows from a server's settings."""
        return cls(
            database=address_text(store_of(settings.data_dir, settings.store)),
            snapshots=str(settings.snapshots),
            replays=str(settings.replays),
            encoders=settings.encoders,
            weights={name: str(path) for name, path in settings.weights.items()},
            device=settings.device,
            threads=settings.trainer_threads,
            processes=settings.trainer_processes,
            niceness=settings.trainer_niceness,
            keep_snapshots=settings.keep_snapshots,
            keep_snapshots_h=settings.keep_snapshots_h,
            keep_snapshots_bytes=settings.keep_snapshots_bytes,
            epoch=epoch,
            log_format=settings.log_format,
            log_level=settings.log_level,
        )


RELEARNED = "relearned_rows"  # a metric of a round that learned a configuration from the log
LOG_ROWS = "log_rows"  # a metric of a round: rows of the log that inputs were standardised by


class RoundOrder(msgspec.Struct, frozen=True, tag_field="do", tag="round"):
    """Build and publish a bandit's snapshot at `position`; `served` is not pruned.

    Attributes:
        erased_from: Decisions were erased, and snapshots at or after this position were learned
            from them: the round starts from one before it; None: from any.
        wanted: The generation that is to be learned from the log; None: the served one goes on.
    """

    uid: BanditUid
    position: LogPosition
    served: SnapshotVersion
    erased_from: LogPosition | None = None
    wanted: LogPosition | None = None


class ForgetOrder(msgspec.Struct, frozen=True, tag_field="do", tag="forget"):
    """Close and remove the files of a deleted bandit."""

    uid: BanditUid


class Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    """The trainer takes orders."""

    pid: int


class Heartbeat(
    msgspec.Struct, frozen=True, tag_field="event", tag="heartbeat", omit_defaults=True
):
    """How far a round is.

    Attributes:
        phase: What the trainer does: replay, optimizer, rebuild or publish.
        share: The share of the phase that is done.
        resident_bytes: Memory of the process; 0 where /proc does not say.
        replay_rows: Rows of the round's replay; None before it is open.
        replay_bytes: Their bytes.
    """

    phase: str
    share: float
    resident_bytes: int
    replay_rows: int | None = None
    replay_bytes: int | None = None


class Published(msgspec.Struct, frozen=True, tag_field="event", tag="published"):
    """A round's snapshot is on disk."""

    uid: BanditUid
    version: SnapshotVersion
    position: LogPosition
    metrics: dict[str, float]


class Failed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """A round failed; the trainer's log has the traceback."""

    error: str


class Gone(msgspec.Struct, frozen=True, tag_field="event", tag="gone"):
    """The bandit of the round was deleted."""


Order = RoundOrder | ForgetOrder
Event = Ready | Heartbeat | Published | Failed | Gone
_ORDERS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Order)
_EVENTS: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Event)


def line_of(message: msgspec.Struct) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"


def order_in(line: bytes | str) -> Order:
    """Return the order of a line."""
    found: Order = _ORDERS.decode(line)
    return found


def event_in(line: bytes | str) -> Event:
    """Return the event of a line."""
    found: Event = _EVENTS.decode(line)
    return found


def configuration_in(line: bytes | str) -> Configuration:
    """Return the configuration of a trainer's first line."""
    return msgspec.json.decode(line, type=Configuration)
