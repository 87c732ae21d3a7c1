"""The errors of the core: a caller may act on each of them; none knows HTTP.

BandexaError
+-- SnapshotError        no snapshot could be written, read or found
|   +-- SnapshotCorrupt  the bytes are not what was published
|   +-- SnapshotRefused  this snapshot may not be published
+-- ReplayError          a replay cannot be read or written: delete it, rebuild it from the log
+-- ReplayLocked         the replay's directory is open elsewhere: do not delete it
+-- ClosedError          use after close

A caller's mistake (a wrong shape, a wrong dtype, an unknown name) is a plain ValueError.
"""

from __future__ import annotations


class BandexaError(Exception):
    """Base of all errors that the core raises on purpose."""


class SnapshotError(BandexaError):
    """No snapshot could be written, read or found."""


class SnapshotCorrupt(SnapshotError):
    """The bytes of a snapshot are not what was published; the message names the file and why."""


class SnapshotRefused(SnapshotError):
    """This snapshot may not be published: its version exists, or its epoch is stale."""


class ReplayError(BandexaError):
    """A replay cannot be read or written; it is derived: delete it and rebuild from the log."""


class ReplayLocked(BandexaError):
    """Another process (or another object of this one) has the replay's directory open.

    Not a ReplayError, since the answer to those is to delete the directory.
    """


class ClosedError(BandexaError):
    """An object was used after its close()."""
