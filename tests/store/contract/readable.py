"""Everything that can be read from a store, as values that can be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import msgspec
import numpy as np
from msgspec.structs import replace

from bandexa_core.ids import DecisionId, LogPosition
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.spec import BanditSpec
from service.store.errors import StoreError
from service.store.identity import first_key, key_at
from service.store.protocol import EventStore
from service.store.reading import CountingReader, DecisionHistory, LogReader
from service.store.records import BanditRecord, Moment

FAR = LogPosition(1 << 40)
ALL_UP_TO = 24  # of a longer log only some positions are read
MOST = 1 << 30


def plain(value: Any) -> Any:
    """Return a value made of tuples; arrays as dtype, shape and bytes."""
    if value is None or isinstance(value, str | bytes | int | float | BanditSpec):
        return value
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Catalogue):
        return plain((value.ids, value.slots, value.features, value.enabled))
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value)]
        return type(value).__name__, *(plain(getattr(value, name)) for name in names)
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, *plain(msgspec.structs.astuple(value))
    if isinstance(value, dict):
        return tuple(sorted((plain(key), plain(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    return value


def attempt(read: Callable[..., Any], *args: Any) -> Any:
    """Return what a call reads, or the name of the error that it raises."""
    try:
        return plain(read(*args))
    except StoreError as error:
        return type(error).__name__


class Readers:
    """The readers of a store; stay open while it is written."""

    def __init__(self, store: EventStore) -> None:
        self.log: LogReader = store.reader()
        self.follower: LogReader = store.follower()
        self.history: DecisionHistory = store.history()
        self.counting: CountingReader = store.counting()

    def close(self) -> None:
        for reader in (self.log, self.follower, self.history, self.counting):
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def everything(
        self, bandits: Iterable[BanditRecord], ids: Sequence[DecisionId], now: float
    ) -> dict[str, Any]:
        """Return all that can be read, by name.

        Args:
            bandits: All that ever were.
            ids: The decisions that are looked up.
            now: The time.
        """
        log, counting = self.log, self.counting
        found = {
            "epoch": log.epoch(),
            "bandits": plain(log.bandits()),
            "deleted": log.deleted(),
            "next uids": [log.next_uid(bandit.name) for bandit in bandits],
            "answers": [plain(log.answer(each)) for each in ids],
            "times of decisions": [log.decision_time(n) for n in (0, 1, 2, 9, 99, MOST)],
            "with old rows": [
                log.with_old_rows(now - ago, size)
                for ago in (-1.0, 2.0, MOST)
                for size in (0, MOST)
            ],
            "counted": counting.newest(),
        }
        for bandit in bandits:
            whole = self.of_log(bandit, now) | self.of_decisions(bandit, ids, now)
            found |= {f"{name} of {bandit.key}": value for name, value in whole.items()}
        return found

    def of_log(self, bandit: BanditRecord, now: float) -> dict[str, Any]:
        """Return what can be read of a bandit's log."""
        log, key = self.log, bandit.key
        head, trim = log.head(key), log.trim(key)
        every = [LogPosition(n) for n in range(head + 2)]
        hashes = {n: log.hash_at(key, n) for n in every}
        ends = [n for n in every if hashes[n] is not None]
        some = every if head <= ALL_UP_TO else [LogPosition(0), *ends[-4:], LogPosition(head + 1)]
        num_first = log.count_learned(key, trim.position, head)
        fresh = Forgetting()
        found = {
            "log": (head, plain(trim), hashes),
            "groups": [
                attempt(lambda n=n: list(log.follow(bandit, n, FAR, 7)))
                for n in {0, trim.position, *ends[-2:]}
            ],
            "newest groups": [
                attempt(lambda n=n: list(self.follower.follow(bandit, n, head))) for n in ends[-2:]
            ],
            "specs": [log.spec_at(bandit, n) for n in some],
            "catalogues": [attempt(log.catalogue_at, bandit, n) for n in some],
            "forgetting": [plain(log.forgetting_at(bandit, fresh, n, head)) for n in ends[-2:]],
            "imports": (plain(log.imports(key)), [log.last_import(key, n) for n in some]),
            "learned": [(log.count_learned(key, LogPosition(0), n), num_first) for n in some],
            "blanked": plain(log.blanked(key)),
            "metrics": plain(log.metrics(key)),
            "first": [
                log.first_learned(key, n, head) for n in (1, 2, num_first) if 0 < n <= num_first
            ],
            "void": [
                (plain(log.void_rows(key, n, head)), plain(log.void_rows(key, LogPosition(0), n)))
                for n in some
            ],
            "void values": plain(
                list(log.void_values(bandit, log.void_rows(key, trim.position, head)))
            ),
            "groups without void": [
                attempt(lambda n=n: list(log.follow(bandit, trim.position, head, voids=n)))
                for n in {trim.position, *ends[-2:]}
            ],
            "before": [log.last_before(key, now - ago) for ago in (-1.0, 0.0, 2.0, 9.0, 99.0)],
            "removable": log.removable_changes(key),
            "removable rows": [log.may_trim(key, n) for n in some],
            "removable decisions": [
                log.may_drop(bandit, key_at(key, now - ago), first_key(key))
                for ago in (-1.0, 2.0, 9.0)
            ],
            "evicted": [
                attempt(log.evicted, bandit, n, at, most, weights)
                for n, at in ((0, head), (trim.position, trim.position), (head, head))
                for most, weights in ((3, None), (1000, None), (1000, {"click": 3.0}))
            ],
        }
        if ends:
            start = ends[len(ends) // 2]
            if isinstance(attempt(log.catalogue_at, bandit, start), tuple):
                begun = log.catalogue_at(bandit, start)
                found["catalogue since"] = plain(log.catalogue_at(bandit, head, begun, start))
            begun_forgetting = log.forgetting_at(bandit, fresh, ends[0], start)
            found["forgetting since"] = plain(
                log.forgetting_at(bandit, begun_forgetting, start, head)
            )
        return found

    def of_decisions(
        self, bandit: BanditRecord, ids: Iterable[DecisionId], now: float
    ) -> dict[str, Any]:
        """Return what people and the dashboard can read of a bandit."""
        history, counting = self.history, self.counting
        newest = history.newest(bandit, None, 5)
        older = history.newest(bandit, newest[-1].row, 3) if newest else []
        counted = counting.decisions(bandit.key, 0, 20, MOST)
        later = counting.decisions(bandit.key, counted[0].key, 3, MOST) if counted else []
        key, head = bandit.key, self.log.head(bandit.key)
        moments = [
            Moment(LogPosition(at), key_at(key, then), then)
            for at, then in ((head, now + 1e6), (head // 2, now + 1e6), (head, now - 3.0))
        ]
        return {
            "logged": [
                attempt(lambda m=m: history.logged(bandit, m, first_key(key), 10_000, MOST))
                for m in moments
            ],
            "decisions": [plain(history.decision(bandit, each)) for each in ids],
            "newest": plain([newest, older]),
            "valued": [
                plain(history.valued(bandit, since, until, key_at(bandit.key, 0.0), 300))
                for since, until in ((None, None), (now - 3.0, None), (None, now - 2.0))
            ],
            "rounds": [plain(history.rounds(bandit, now - ago, 3)) for ago in (0.0, 5.0, MOST)],
            # How much a decision was to read is the store's own affair.
            "counted decisions": plain([replace(row, num_bytes=0) for row in counted + later]),
            "counted values": plain(
                [
                    counting.learned(bandit.key, after, MOST, 7, shadows=after == 0)
                    for after in (0, 3)
                ]
            ),
        }
