"""What can go wrong with a training round."""

from __future__ import annotations

from service.store.errors import Unavailable


class RoundFailed(Unavailable):
    """A training round could not be completed."""


class RoundDropped(RoundFailed):
    """What a round has learned is not wanted any more."""


class ServerEnds(RoundFailed):
    """The server ends before the round has; the next start makes it again."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class BanditGone(RoundFailed):
    """The bandit was deleted before its round was finished."""
