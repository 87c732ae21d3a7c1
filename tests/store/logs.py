"""Fills logs and reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from msgspec.structs import replace

from bandexa_core.ids import ActionId, LogPosition, SnapshotVersion
from bandexa_core.log.catalogue import CatalogueChange
from bandexa_core.log.rows import LearnRow, LogRow
from bandexa_core.spec import TrainingSpec
from service.store.protocol import Logged
from tests.store.contract.readable import FAR, plain
from tests.store.reporting import rewards


def change(*ids: str, start: float = 0.0, enabled: bool = True) -> CatalogueChange:
    """Return a change that gives each action other features."""
    features = np.arange(2 * len(ids), dtype=np.float32).reshape(-1, 2) + np.float32(start)
    return CatalogueChange(
        tuple(ActionId(i) for i in ids), features, np.full(len(ids), enabled, np.bool_)
    )


def retired(*ids: str) -> CatalogueChange:
    """Return a change that retires actions."""
    return CatalogueChange(tuple(ActionId(i) for i in ids), None, np.zeros(len(ids), np.bool_))


def decide(client, store, make, bandit, first: int, num: int, time: float = 5.0) -> None:
    """Store the decisions d<first> and so on, each a second after the one before."""
    for number in range(first, first + num):
        decision = replace(make.decision(bandit, f"d{number}"), time=time + number)
        client.call(store.append_decision, decision)


def learn(client, store, make, bandit, first: int, num: int) -> list[Logged]:
    """Store decisions and reward each; returns the learned rows."""
    decide(client, store, make, bandit, first, num)
    numbers = range(first, first + num)
    return [client.call(rewards(store), make.report(f"d{n}", n / 8)).row for n in numbers]


def fill(client, store, make, bandit) -> list[Any]:
    """Append nine rows of every kind and return their answers."""
    spec = dataclasses.replace(bandit.spec, training=TrainingSpec(train_every=9))
    return [
        client.call(store.append_change, bandit, change("a0", "a1")),
        *learn(client, store, make, bandit, 0, 3),
        client.call(store.append_config, bandit, spec),
        client.call(store.append_import, bandit, SnapshotVersion(4)),
        *learn(client, store, make, bandit, 3, 2),
        client.call(store.append_change, bandit, retired("a0")),
    ]


def trim(client, store, bandit, up_to: int, size: int = 100) -> None:
    """Remove the learn rows up to a position."""
    while client.call(store.trim_log, bandit, LogPosition(up_to), size).more:
        pass


def followed(reader, bandit, after: int = 0, up_to: int = FAR, chunk: int = 512) -> list[LogRow]:
    """Return the rows of the groups in (after, up_to]."""
    groups = list(reader.follow(bandit, LogPosition(after), LogPosition(up_to), chunk))
    return [row for group in groups for row in group.rows]


def learn_rows(reader, bandit, after: int = 0) -> list[LearnRow]:
    """Return the learn rows after a position."""
    return [row for row in followed(reader, bandit, after) if isinstance(row, LearnRow)]


def answer_of(row: LogRow | Logged) -> Any:
    """Return a row as the store answers the operation that appended it."""
    if isinstance(row, LearnRow):
        return plain(
            Logged(row.position, row.time, row.decision_id, row.before, row.after, row.learned)
        )
    return plain(row)
