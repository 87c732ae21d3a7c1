"""The files of a bandit beside the store: its snapshots and its replay."""

from __future__ import annotations

import shutil

from bandexa_core.ids import BanditUid
from service.settings import Settings


def remove_files(settings: Settings, uid: BanditUid) -> None:
    """Remove the snapshots and the replay of a deleted bandit."""
    for root in (settings.snapshots, settings.replays):
        shutil.rmtree(root / uid, ignore_errors=True)
