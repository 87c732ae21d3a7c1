"""Build a new bandit from the log of another one, under another configuration.

Runs on the event loop; the rows are read in a thread. Each learned row becomes a decision of the
new bandit, which is offered that row's action alone, and a reward: the value as it is now. So the
new bandit's log, posterior and rounds are what they would be if it had been taught these rows. What
has left the old log is stood for by the sample of retention, each of whose rows counts once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandexa_core.ids import INLINE_SLOT, ActionId, LogPosition
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.metrics import Weights
from bandexa_core.replay import Rows
from bandexa_core.spec import BanditSpec, RewardSpec
from bandexa_core.spec.changes import fixed_part
from service.serving import manage
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.planning import differences, shown
from service.serving.select.commands import CandidateInput, InlineCandidates, SelectCommand
from service.store.errors import Conflict, LogTrimmed, Unavailable
from service.store.logged_rows import LoggedRows
from service.store.reading import LogReader
from service.store.records import RewardReport

ROWS_AT_ONCE = 128
ELSEWHERE = ActionId("inline")  # the log's rows have no ids of actions outside of the catalogue


class Replayed(NamedTuple):
    """What a replay has done.

    Attributes:
        rows: How many rows the new bandit learned.
        sampled: How many of them are of the sample of those that left the log.
        skipped: Rows of actions that are in no catalogue and have no features.
    """

    rows: int
    sampled: int
    skipped: int


async def replay(
    engine: Engine, source_name: str, name: str, spec: BanditSpec, given: Collection[str] = ()
) -> tuple[Bandit, Replayed]:
    """Create a bandit, and have it learn the rows of another one.

    While it does, its reward rules are the simplest ones, and objects may be as long as they are;
    what `spec` says of both holds from then on.

    Raises:
        UnknownBandit: There is no such bandit to learn from.
        Conflict: The new name is taken, or contexts or actions have another form.
        InvalidRequest: The configuration makes no sense.
    """
    source = engine.bandit(source_name)
    if engine.live.exists(name):
        raise Conflict(f"there is a bandit {name!r} already: replay into a new one")
    wanted = (await manage.plan(engine, name, spec, given)).spec
    for key, old, new in differences(fixed_part(source.model.spec), fixed_part(wanted)):
        raise Conflict(
            f"{key}: is {shown(old)} in {source_name} and cannot be {shown(new)} in {name}"
        )
    learning = dataclasses.replace(wanted, rewards=_at_once(wanted))
    bandit, is_new = await manage.put_bandit(engine, name, learning)
    if not is_new:
        raise Conflict(f"there is a bandit {name!r} already: replay into a new one")
    catalogue = _copied_actions(source, bandit)
    if bandit.actions is not None and len(catalogue):
        await _make_room(engine, bandit, "actions", catalogue.features)
    await _put(engine, name, wanted, catalogue, np.ones(len(catalogue), np.bool_))
    replayed = Replayed(0, 0, 0)
    with engine.store.reader() as reader:
        learn = wanted.rewards.learn or source.model.spec.rewards.learn
        parts = _rows_of(reader, source, learn)
        try:
            while (found := await asyncio.to_thread(next, parts, None)) is not None:
                part, is_sampled = found
                part = _copied(part, source, bandit)
                if bandit.contexts is not None:
                    await _make_room(engine, bandit, "context", part.contexts)
                if bandit.actions is not None:
                    await _make_room(engine, bandit, "actions", part.actions)
                num = await _teach(engine, bandit, part, catalogue)
                replayed = Replayed(
                    replayed.rows + num,
                    replayed.sampled + is_sampled * num,
                    replayed.skipped + len(part) - num,
                )
        except LogTrimmed as error:
            raise Unavailable(f"{error}: delete {name} and try again") from error
    if not catalogue.enabled.all():
        await _put(engine, name, wanted, catalogue, catalogue.enabled)
    await manage.put_bandit(engine, name, wanted)
    if bandit.model.learns_features and replayed.rows:
        await engine.rounds.train(bandit)
    return bandit, replayed


def _at_once(spec: BanditSpec) -> RewardSpec:
    """Return rules by which a value is learned with its reward, a single number.

    What is logged was accepted, so that nothing is refused, as in a change of a configuration.
    """
    outside = spec.rewards.outside
    first = spec.edition == 1
    return RewardSpec(
        maturity=None if first else "report",
        outside="keep" if outside == "refuse" else outside,
        clip_outliers=None if first else spec.clips_outliers,
    )


async def _put(
    engine: Engine, name: str, spec: BanditSpec, catalogue: Catalogue, enabled: np.ndarray
) -> None:
    if len(catalogue):
        features = catalogue.features if spec.has_action_features else None
        await manage.put_actions(engine, name, catalogue.ids, features, enabled)


def _copied(rows: Rows, source: Bandit, target: Bandit) -> Rows:
    """Return rows as the new log has them: see `NamedSide.copied`."""
    if target.contexts is not None and source.contexts is not None:
        contexts = target.contexts.copied(rows.contexts, source.contexts.declared)
        rows = dataclasses.replace(rows, contexts=contexts)
    if target.actions is not None and source.actions is not None:
        actions = target.actions.copied(rows.actions, source.actions.declared)
        rows = dataclasses.replace(rows, actions=actions)
    return rows


def _copied_actions(source: Bandit, target: Bandit) -> Catalogue:
    catalogue = source.model.catalogue
    if target.actions is None or source.actions is None or not len(catalogue):
        return catalogue
    features = target.actions.copied(catalogue.features, source.actions.declared)
    return Catalogue(catalogue.ids, catalogue.slots, features, catalogue.enabled)


async def _make_room(engine: Engine, bandit: Bandit, side: str, rows: NDArray[Any]) -> None:
    """Raise the most bytes of an object, where one of the rows (N, R) is longer, until the end.

    They are a limit of requests, and what is replayed was accepted once.

    Raises:
        Conflict: An object would have more bytes than any may have.
    """
    spec, size = bandit.model.spec, rows.shape[1]
    if size <= getattr(spec, side).max_bytes:
        return
    try:
        wider = {side: dataclasses.replace(getattr(spec, side), max_bytes=size)}
    except ValueError as error:
        raise Conflict(f"{side}: an object with its digests has {size} bytes: {error}") from error
    await manage.put_bandit(engine, bandit.record.name, dataclasses.replace(spec, **wider))


def _rows_of(
    reader: LogReader, source: Bandit, learn: Weights | None
) -> Iterator[tuple[Rows, bool]]:
    """Yield the rows of a log in parts, and whether they are sampled; oldest first.

    Values of metrics are those under the weights `learn`.

    Raises:
        LogTrimmed: Retention removed rows while they were read.
    """
    record = source.record
    head, trim = reader.head(record.key), reader.trim(record.key)
    most = source.model.spec.replay.evicted_sample
    sample = reader.evicted(record, trim.position, head, most, learn)
    if sample is not None:
        rows = sample.rows
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            yield Rows(
                rows.positions[part], rows.slots[part], rows.rewards[part], rows.actions[part],
                rows.contexts[part],
            ), True  # fmt: skip
    num = reader.count_learned(record.key, LogPosition(0), head) - trim.learned
    for logged in LoggedRows(reader, record, head, num, learn).scan(ROWS_AT_ONCE):
        yield logged, False


async def _teach(engine: Engine, bandit: Bandit, rows: Rows, catalogue: Catalogue) -> int:
    """Have a bandit decide and learn rows; returns how many."""
    spec, named = bandit.model.spec, bandit.actions is not None
    commands: list[tuple[SelectCommand, float]] = []
    for row in range(len(rows)):
        slot = int(rows.slots[row])
        if slot == INLINE_SLOT and not spec.has_action_features:
            continue
        ids = (ELSEWHERE if slot == INLINE_SLOT else catalogue.ids[slot],)
        offered: CandidateInput = ids
        if spec.has_action_features:  # as they were at the decision
            offered = InlineCandidates(ids, rows.actions[row : row + 1], objects=named)
        command = SelectCommand(
            bandit.record.name, rows.contexts[row], offered, None, None, 1, True, None
        )
        commands.append((command, float(rows.rewards[row])))
    decided = await asyncio.gather(
        *(engine.selecting.select(command, patient=True) for command, _ in commands)
    )
    reports = [
        RewardReport(each.decision_id, reward, None, None, time.time())
        for each, (_, reward) in zip(decided, commands, strict=True)
    ]
    await asyncio.gather(*map(engine.rewards.reward, reports))
    return len(commands)
