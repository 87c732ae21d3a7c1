"""The version of a bandit's configuration: by it, two people do not overwrite each other's changes.

It follows from what is served and what is wanted, so that it needs no row of its own and is the
same after a restart. It runs on the event loop.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from hashlib import blake2b
from typing import NewType

from service.serving.bandit import Bandit
from service.serving.errors import BanditExists, ConfigurationChanged

ConfigurationVersion = NewType("ConfigurationVersion", str)
ANY = ConfigurationVersion("*")
ABSENT = ConfigurationVersion("")  # of a bandit that is not there: the change creates it
_BYTES = 10


def version_of(bandit: Bandit) -> ConfigurationVersion:
    """Return the version of a configuration: another one for every change, and every new bandit.

    A change that is learned anew makes two of them: when it is asked for, and when it is served.
    """
    pending = bandit.configurations.pending
    parts = [
        bandit.record.uid,
        dataclasses.asdict(bandit.model.spec),
        None if pending is None else dataclasses.asdict(pending.spec),
    ]
    text = json.dumps(parts, sort_keys=True)
    return ConfigurationVersion(blake2b(text.encode(), digest_size=_BYTES).hexdigest())


def check_version(name: str, bandit: Bandit | None, wanted: Collection[str] | None) -> None:
    """Refuse a change that was made for another configuration than is there.

    Args:
        name: The bandit.
        bandit: The same, where it is there.
        wanted: The versions that the change suits; `ANY` among them: any of a bandit that is
            there; `ABSENT`: a missing bandit alone; None: whatever is there.

    Raises:
        BanditExists: It suits a missing bandit, and there is one.
        ConfigurationChanged: It suits none of what is there.
    """
    if wanted is None:
        return
    current = None if bandit is None else version_of(bandit)
    if ABSENT in wanted:
        if current is not None:
            raise BanditExists(name, current)
    elif current is None or (current not in wanted and ANY not in wanted):
        raise ConfigurationChanged(name, current, wanted)
