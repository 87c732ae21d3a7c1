"""Publishes a snapshot with shared files in a process of its own, which a kill ends at a step.

Arguments: the URL of the database, the local directory, and the step.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bandexa_core.ids import BanditUid, LogPosition, SnapshotVersion
from bandexa_core.snapshots.manifest import Manifest
from service.store.address import PostgresUrl
from service.store.snapshots import snapshots_of

UID = BanditUid("shop-1")
FILES = {
    "model": {"S": np.arange(12.0).reshape(3, 4), "n": np.array(7)},
    "training": {"head": np.arange(5, dtype=np.float32)},
}
STEPS = ("written", "one blob", "all blobs", "row", "renamed")


def draft(version: int, position: int = 0) -> Manifest:
    return Manifest(
        version=SnapshotVersion(version), parent=None, bandit_uid=UID,
        position=LogPosition(position), log_hash="ab" * 16, spec_hash="s", num_rows=position,
        epoch=1, encoder="concat", metrics={}, meta={},
    )  # fmt: skip


class Ending:
    """Passes calls on, and kills the process after the call that completes a step."""

    def __init__(self, inner: Any, name: str, after: int = 1) -> None:
        self._inner, self._name, self._after = inner, name, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._name:
            return found

        def call(*arguments: Any) -> Any:
            result = found(*arguments)
            self._after -= 1
            if not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def end_after(snapshots: Any, step: str) -> None:
    """Make a store of snapshots kill the process after a step of `publish`."""
    if step == "written":
        snapshots._blobs = Ending(snapshots._blobs, "put", 0)
        snapshots._fs = Ending(snapshots._fs, "sync_dir", 2)
    elif step == "one blob":
        snapshots._blobs = Ending(snapshots._blobs, "put")
    elif step == "all blobs":
        snapshots._blobs = Ending(snapshots._blobs, "put", len(FILES))
    elif step == "row":
        snapshots._register = Ending(snapshots._register, "add")
    else:
        snapshots._fs = Ending(snapshots._fs, "rename")


if __name__ == "__main__":
    url, root, step = sys.argv[1:]
    found = snapshots_of(Path(root), PostgresUrl(url), UID)
    end_after(found, step)
    found.publish(draft(0), FILES)
