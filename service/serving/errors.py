"""What can go wrong while serving: a name, an action or a snapshot that does not exist."""

from __future__ import annotations

from collections.abc import Collection

from service.store.errors import ServiceError, Unavailable


class UnknownBandit(ServiceError):
    """No bandit has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no bandit {name!r}")


class BanditFailed(Unavailable):
    """The bandit's model cannot be built from its snapshots and its log, or not right now."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"bandit {name!r} has failed: {reason}")


class EncoderBusy(Unavailable):
    """Too many selects wait for a slow encoder: this one did not reach the store."""

    def __init__(self) -> None:
        super().__init__("too many selects wait for a slow encoder")


class UnknownAction(ServiceError):
    """The catalogue has no action of this id; `field` of the body named it, or the path (None)."""

    def __init__(self, action_id: str, field: str | None = None) -> None:
        self.field = field
        self.message = f"the bandit has no action {action_id!r}"
        super().__init__(self.message if field is None else f"{field}: {self.message}")


class UnknownSnapshot(ServiceError):
    """The bandit has no snapshot of this version."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"there is no snapshot {version}, or not any more: docs/snapshots.md says how long each"
            " one lasts"
        )


class UnknownChallenger(ServiceError):
    """The bandit has no challenger of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no challenger {name!r}")


class ConfigurationChanged(ServiceError):
    """A change was made for another version of a configuration than is there.

    Attributes:
        current: The version that is there; None: there is no such bandit.
    """

    def __init__(self, name: str, current: str | None, wanted: Collection[str]) -> None:
        self.current = current
        asked = " or ".join(f'"{each}"' for each in wanted)
        there = "there is no such bandit" if current is None else f'it has version "{current}"'
        super().__init__(
            f"the change is for version {asked} of the configuration of {name!r}, and {there}:"
            " nothing was changed"
        )


class BanditExists(ServiceError):
    """A bandit was to be created only where there is none of its name, and there is one.

    Attributes:
        current: The version of its configuration.
    """

    def __init__(self, name: str, current: str) -> None:
        self.current = current
        super().__init__(
            f'there is a bandit {name!r} already, and it has version "{current}": nothing was'
            " changed"
        )
