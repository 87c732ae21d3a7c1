"""How many bandits and actions a key may create: what is there already counts, whoever made it.

Runs on the event loop. Creations of a key with quotas wait for each other, so that two at once do
not exceed them together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from service.http.errors import QuotaExceeded
from service.serving.engine import Engine
from service.serving.threads import in_own_thread
from service.settings import KeySetting
from service.store.errors import StoreError
from service.store.protocol import EventStore
from service.store.records import BanditRecord

log = logging.getLogger(__name__)
_creating: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()


@asynccontextmanager
async def within_quotas(
    engine: Engine, holder: KeySetting | None, name: str, new_actions: Collection[str] = ()
) -> AsyncIterator[None]:
    """Let a key create a bandit, or add actions to one, while its quotas allow that.

    Args:
        engine: The live bandits.
        holder: The key; None: there are no keys.
        name: The bandit, which is created where it is missing.
        new_actions: The actions that it gets, some of which it may have.

    Raises:
        QuotaExceeded: They do not; nothing was changed.
    """
    if holder is None or (holder.max_bandits is None and holder.max_actions is None):
        yield
        return
    async with _creating.setdefault((id(engine), holder.name), asyncio.Lock()):
        _check_bandits(engine, holder, name)
        await _check_actions(engine, holder, name, new_actions)
        yield


def _check_bandits(engine: Engine, holder: KeySetting, name: str) -> None:
    if holder.max_bandits is None or engine.live.exists(name):
        return
    names = [bandit.record.name for bandit in engine.bandits()]
    names += [bandit.record.name for bandit in engine.live.aside()]
    num = sum(map(holder.reaches, names))
    if num >= holder.max_bandits:
        raise QuotaExceeded(
            "max_bandits",
            f"the key {holder.name!r} reaches {num} bandits, and may have {holder.max_bandits}",
        )


async def _check_actions(
    engine: Engine, holder: KeySetting, name: str, wanted: Collection[str]
) -> None:
    if holder.max_actions is None or not wanted:
        return
    num, known = 0, frozenset[str]()
    for bandit in engine.bandits():
        catalogue = bandit.model.catalogue
        if holder.reaches(bandit.record.name):
            num += len(catalogue)
        if bandit.record.name == name:
            known = frozenset(catalogue.ids)
    new = len(frozenset(wanted) - known)
    aside = [each.record for each in engine.live.aside() if holder.reaches(each.record.name)]
    if new and aside:
        num += await in_own_thread(_num_stored, engine.store, aside)
    if new and num + new > holder.max_actions:
        raise QuotaExceeded(
            "max_actions",
            f"the bandits of the key {holder.name!r} have {num} actions, {new} more are sent, and"
            f" they may have {holder.max_actions}",
        )


def _num_stored(store: EventStore, records: Sequence[BanditRecord]) -> int:
    """Return how many actions bandits have by the log: those that are set aside have no model."""
    num = 0
    with store.reader() as reader:
        for record in records:
            try:
                num += len(reader.catalogue_at(record, reader.head(record.key)))
            except StoreError as error:  # the log is damaged there: nobody knows how many
                log.warning("the actions of %s do not count for quotas: %s", record.name, error)
    return num
