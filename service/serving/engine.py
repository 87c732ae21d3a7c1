"""The engine: all live bandits of a server by name and uid, and the services that work on them.

The engine only finds them: `lifecycle` builds and closes it, `select.answer` answers selects,
`rewards` takes rewards, `rounds` trains. It runs on the event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid
from service.observe.counters import Metrics
from service.serving.bandit import Bandit
from service.serving.collection import ImportedModules
from service.serving.commits import Committer
from service.serving.errors import UnknownBandit
from service.serving.explain import Explainer
from service.serving.rewards import Rewards
from service.serving.rounds import Rounds
from service.serving.select.answer import Selecting
from service.settings import Settings
from service.store.protocol import EventStore


class Bandits:
    """The live bandits of a server."""

    def __init__(self) -> None:
        self._by_name: dict[str, Bandit] = {}
        self._by_uid: dict[BanditUid, Bandit] = {}
        self._modules = ImportedModules()
        self.changing = asyncio.Lock()  # two creations of one name must not race

    def add(self, bandit: Bandit) -> None:
        """Serve a bandit from now on."""
        self._by_name[bandit.record.name] = bandit
        self._by_uid[bandit.record.uid] = bandit
        self._modules.freeze()

    def get(self, name: str) -> Bandit | None:
        """Return a live bandit, or None."""
        return self._by_name.get(name)

    def named(self, name: str) -> Bandit:
        """Return a live bandit; UnknownBandit where there is none."""
        bandit = self._by_name.get(name)
        if bandit is None:
            raise UnknownBandit(name)
        return bandit

    def find(self, uid: BanditUid) -> Bandit | None:
        """Return the live bandit of a uid, or None."""
        return self._by_uid.get(uid)

    def remove(self, name: str) -> Bandit:
        """Stop serving a bandit and return it; UnknownBandit where there is none."""
        bandit = self.named(name)
        del self._by_name[name]
        self._by_uid.pop(bandit.record.uid)
        return bandit

    def all(self) -> list[Bandit]:
        """Return all bandits, sorted by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]


@dataclass(frozen=True, slots=True)
class Engine:
    """A running server without HTTP.

    Attributes:
        settings: The server's settings.
        metrics: Counters of the whole server.
        loop: The event loop it runs on.
        registry: Encoders by name.
        store: The event store.
        live: The live bandits.
        commit: Appends to the store and waits for the commit.
        selecting: Answers selects.
        rewards: Takes rewards.
        rounds: Orders training rounds and swaps their models in.
        explainer: Explains decisions.
    """

    settings: Settings
    metrics: Metrics
    loop: asyncio.AbstractEventLoop
    registry: EncoderRegistry
    store: EventStore
    live: Bandits
    commit: Committer
    selecting: Selecting
    rewards: Rewards
    rounds: Rounds
    explainer: Explainer

    def bandit(self, name: str) -> Bandit:
        """Return a live bandit; UnknownBandit where there is none."""
        return self.live.named(name)

    def bandits(self) -> list[Bandit]:
        """Return all live bandits, sorted by name."""
        return self.live.all()

    def failure(self) -> str | None:
        """Return why the server is not ready, None when it is."""
        failure = self.store.failure
        return None if failure is None else f"the store takes no writes: {failure}"

    @property
    def failed_for_good(self) -> bool:
        """Whether only a new process can find out what the store holds: this one has to end."""
        return self.store.failed_for_good
