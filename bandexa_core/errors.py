"""The errors that the core raises on purpose. Callers act on their type; none knows HTTP.

BandexaError
+-- SnapshotError        a snapshot cannot be written, read or found
|   +-- SnapshotCorrupt  the bytes differ from those that were published
|   +-- SnapshotRefused  the snapshot must not be published
+-- ReplayError          a replay cannot be read or written: delete it and rebuild it from the log
+-- ReplayLocked         another object has the replay's directory open: do not delete it
+-- RowNotApplied        a log row cannot be applied to a model
+-- ClosedError          an object was used after its close()

A mistake of the caller, such as a wrong shape, dtype or name, is a plain ValueError.
"""

from __future__ import annotations


class BandexaError(Exception):
    """Base of all errors that the core raises on purpose."""


class SnapshotError(BandexaError):
    """A snapshot cannot be written, read or found."""


class SnapshotCorrupt(SnapshotError):
    """The bytes of a snapshot differ from those that were published; the message gives details."""


class SnapshotRefused(SnapshotError):
    """The snapshot must not be published: its version exists, or its epoch is stale."""


class ReplayError(BandexaError):
    """A replay cannot be read or written. It is derived: delete it and rebuild it from the log."""


class ReplayLocked(BandexaError):
    """Another process, or another object of this process, has the replay's directory open.

    It is not a ReplayError, because callers answer a ReplayError by deleting the directory.
    """


class RowNotApplied(BandexaError):
    """A log row cannot be applied to a model: its encoder failed, or the row does not fit it.

    Attributes:
        position: The row's position in the log.
        reason: What went wrong.
    """

    def __init__(self, position: int, reason: Exception) -> None:
        super().__init__(f"log row {position} cannot be applied: {type(reason).__name__}: {reason}")
        self.position = position
        self.reason = reason


class ClosedError(BandexaError):
    """An object was used after its close()."""
