"""The engine: the live bandits of a server, and the services that work on them.

The engine only finds them: `lifecycle` builds and closes it, `select.answer` answers selects,
`rewards` takes rewards, `rounds` trains. It runs on the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import LogPosition
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import SnapshotStore
from service.observe.counters import Metrics
from service.serving.amending import Amending
from service.serving.bandit import Bandit
from service.serving.commits import Committer
from service.serving.erase import Eraser
from service.serving.explain import Explainer
from service.serving.failed_bandits import Recovery
from service.serving.keeping import Keeping
from service.serving.live import Bandits
from service.serving.reconfiguring import Reconfiguring
from service.serving.rewards import Rewards
from service.serving.rounds import Rounds
from service.serving.select.answer import Selecting
from service.settings import Settings
from service.store.protocol import EventStore
from service.store.reading import LogReader
from service.store.records import BanditRecord


@dataclass(frozen=True, slots=True)
class Engine:
    """A running server without HTTP.

    Attributes:
        settings: The server's settings.
        metrics: Counters of the whole server.
        loop: The event loop it runs on.
        registry: Encoders by name.
        store: The event store.
        reader: Reads the store on the event loop: little, and what was just written.
        live: The live bandits.
        commit: Appends to the store and waits for the commit.
        selecting: Answers selects.
        rewards: Takes rewards.
        rounds: Orders training rounds and swaps their models in.
        explainer: Explains decisions.
        recovery: Recovers failed bandits.
        serve: Serves a bandit from now on, given its record, its snapshots and its model.
        eraser: Erases decisions.
        reconfiguring: Brings wanted configurations about.
        amending: Voids and corrects values.
        keeping: Announces what changes to the other processes of the server.
    """

    settings: Settings
    metrics: Metrics
    loop: asyncio.AbstractEventLoop
    registry: EncoderRegistry
    store: EventStore
    reader: LogReader
    live: Bandits
    commit: Committer
    selecting: Selecting
    rewards: Rewards
    rounds: Rounds
    explainer: Explainer
    recovery: Recovery
    serve: Callable[[BanditRecord, SnapshotStore, ServingModel], Bandit]
    eraser: Eraser
    reconfiguring: Reconfiguring
    amending: Amending
    keeping: Keeping

    async def settled(self, bandit: Bandit, position: LogPosition) -> None:
        """Wait until a change of a bandit is served; a failed bandit is recovered for it.

        Raises:
            BanditFailed: It cannot be; the change is stored, and is served once it is recovered.
        """
        if not await bandit.applier.applied(position):
            await self.recovery.recover(bandit)

    def bandit(self, name: str) -> Bandit:
        """Return a live bandit; UnknownBandit where there is none."""
        return self.live.named(name)

    def bandits(self) -> list[Bandit]:
        """Return all live bandits, sorted by name."""
        return self.live.all()

    def failure(self) -> str | None:
        """Return why the server is not ready, None when it is."""
        failure = self.store.failure
        if failure is not None:
            return f"the store takes no writes: {failure}"
        folder = self.settings.snapshots
        if os.access(folder, os.W_OK | os.X_OK):
            return None
        return f"{folder} cannot be written: no bandit can be created or trained"

    @property
    def failed_for_good(self) -> bool:
        """Whether only a new process can find out what the store holds: this one has to end."""
        return self.store.failed_for_good
