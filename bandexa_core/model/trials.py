"""The models of challengers that decide as arms of a bandit.

Such a model stays as its snapshot is: what it decides is a function of that alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Protocol

from bandexa_core.arms import Trial
from bandexa_core.errors import BandexaError
from bandexa_core.ids import SnapshotVersion
from bandexa_core.log.rows import ConfigRow, Group
from bandexa_core.policies.panel import Exploration
from bandexa_core.policies.protocol import Policy
from bandexa_core.snapshots.store import Snapshot
from bandexa_core.spec import BanditSpec

log = logging.getLogger(__name__)


class _Model(Protocol):
    version: SnapshotVersion

    def deciding(self) -> tuple[Policy, Exploration]: ...


class Trials:
    """Models by the name of their arm; a copy shares them.

    Args:
        make: Returns the model of a configuration and its snapshot.
    """

    def __init__(self, make: Callable[[BanditSpec, Snapshot], _Model]) -> None:
        self._make = make
        self._models: dict[str, _Model] = {}

    def copy(self) -> Trials:
        """Return the same models, to go on by itself."""
        other = Trials(self._make)
        other._models = self._models
        return other

    def load(self, spec: BanditSpec, load: Callable[[SnapshotVersion], Snapshot]) -> None:
        """Load the models that are not loaded yet, and drop those of other arms.

        Where one cannot be read, no arm decides anything; see `has_all`.
        """
        found = {}
        for arm in spec.arms:
            if arm.challenger is None:
                continue
            assert arm.snapshot is not None
            assert arm.learned is not None
            known = self._models.get(arm.name)
            if known is None or known.version != arm.snapshot:
                try:
                    snapshot = load(SnapshotVersion(arm.snapshot))
                    known = self._make(BanditSpec.from_json(arm.learned), snapshot)
                except BandexaError as error:
                    log.error(
                        "arm %s: snapshot %d cannot decide: %s", arm.name, arm.snapshot, error
                    )
                    continue
            found[arm.name] = known
        self._models = found

    def follow(self, spec: BanditSpec) -> None:
        """Drop the models of arms that have gone or have another snapshot."""
        versions = {arm.name: arm.snapshot for arm in spec.arms}
        self._models = {n: m for n, m in self._models.items() if versions.get(n) == m.version}

    def end(self, stored: Collection[SnapshotVersion]) -> None:
        """Drop models whose snapshots are not stored any more."""
        self._models = {n: m for n, m in self._models.items() if m.version in stored}

    def has_all(self, spec: BanditSpec) -> bool:
        """Whether the models of all challengers that are to decide as arms are there."""
        return all(arm.challenger is None or arm.name in self._models for arm in spec.arms)

    def policies(self) -> dict[str, Trial]:
        """Return how each of them decides, by the name of its arm."""
        return {name: Trial(*model.deciding()) for name, model in self._models.items()}


def loads_trials(group: Group) -> bool:
    """Whether applying a group loads models of challengers."""
    changes = (row.spec for row in group.rows if isinstance(row, ConfigRow))
    return any(arm.get("challenger") for spec in changes for arm in spec.get("arms", ()))
