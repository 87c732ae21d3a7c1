"""All live bandits of a server by name, uid and key; those that cannot be served stand aside."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from weakref import WeakValueDictionary

from bandexa_core.ids import BanditUid
from service.serving.bandit import Bandit
from service.serving.collection import LastingObjects
from service.serving.errors import BanditFailed, UnknownBandit
from service.serving.failed_bandits import SetAside
from service.serving.reported_metrics import ReportedMetrics
from service.store.errors import Unavailable
from service.store.records import BanditRecord


class Bandits:
    """The live bandits of a server.

    Attributes:
        coming: The names of those that are about to be served.
        is_behind: Whether not all names are known: what is not here may have been created just now.
        is_missing: Returns whether it is certain that no bandit has a name; None: it always is.
    """

    def __init__(self) -> None:
        self.coming: set[str] = set()
        self.is_behind = False
        self.is_missing: Callable[[str], bool] | None = None
        self._by_name: dict[str, Bandit] = {}
        self._by_uid: dict[BanditUid, Bandit] = {}
        self._records: dict[int, BanditRecord] = {}
        self._aside: dict[str, SetAside] = {}
        self._lasting = LastingObjects()
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def add(self, bandit: Bandit) -> None:
        """Serve a bandit from now on."""
        self._aside.pop(bandit.record.name, None)
        self._by_name[bandit.record.name] = bandit
        self._by_uid[bandit.record.uid] = bandit
        self._records[bandit.record.key] = bandit.record
        self._lasting.freeze(len(self._by_name))

    def set_aside(self, bandit: SetAside) -> None:
        """Note a bandit that exists and cannot be served."""
        self._aside[bandit.record.name] = bandit

    def get(self, name: str) -> Bandit | None:
        """Return a live bandit, or None.

        Raises:
            BanditFailed: It exists and cannot be served.
        """
        bandit = self._by_name.get(name)
        if bandit is None and name in self._aside:
            raise BanditFailed(name, self._aside[name].failure.reason)
        return bandit

    def named(self, name: str) -> Bandit:
        """Return a live bandit.

        Raises:
            UnknownBandit: There is none.
            BanditFailed: It exists and cannot be served.
        """
        bandit = self.get(name)
        if bandit is None:
            if name in self.coming:
                raise Unavailable(f"bandit {name!r} is being loaded")
            if self.is_behind or (self.is_missing is not None and not self.is_missing(name)):
                raise Unavailable(f"bandit {name!r} is not known yet: bandits are being read")
            raise UnknownBandit(name)
        return bandit

    def served_or_not(self, name: str) -> Bandit | SetAside:
        """Return a bandit, even one that was set aside; UnknownBandit where there is none."""
        return self._aside.get(name) or self.named(name)

    def find(self, uid: BanditUid) -> Bandit | None:
        """Return the live bandit of a uid, or None."""
        return self._by_uid.get(uid)

    def record(self, key: int) -> BanditRecord | None:
        """Return the record of the live bandit with a key in the store, or None."""
        return self._records.get(key)

    def with_first_rules(self, key: int) -> BanditRecord | None:
        """Return the record of a live bandit whose reward rules were never changed, or None."""
        bandit = self.at(key)
        return None if bandit is None or bandit.configurations.rules_changed else bandit.record

    def metrics_of(self, key: int) -> ReportedMetrics | None:
        """Return what is known of the metrics of a live bandit, or None."""
        bandit = self.at(key)
        return None if bandit is None else bandit.metrics

    def at(self, key: int) -> Bandit | None:
        """Return the live bandit with a key in the store, or None."""
        record = self._records.get(key)
        return None if record is None else self._by_uid.get(record.uid)

    def remove(self, name: str) -> Bandit | SetAside:
        """Stop serving a bandit and return it; UnknownBandit where there is none."""
        bandit = self.served_or_not(name)
        self._aside.pop(name, None)
        self._by_name.pop(name, None)
        self._by_uid.pop(bandit.record.uid, None)
        self._records.pop(bandit.record.key, None)
        if isinstance(bandit, Bandit):
            bandit.applier.close()
        return bandit

    def put_back(self, bandit: Bandit | SetAside) -> None:
        """Undo `remove`."""
        if isinstance(bandit, SetAside):
            self.set_aside(bandit)
        else:
            self.add(bandit)
            bandit.applier.reopen()

    def __len__(self) -> int:
        """Return the number of bandits that are served."""
        return len(self._by_name)

    def exists(self, name: str) -> bool:
        """Return whether there is a bandit of this name, served or not."""
        return name in self._by_name or name in self._aside

    def aside(self) -> list[SetAside]:
        """Return the bandits that are not served, sorted by name."""
        return [self._aside[name] for name in sorted(self._aside)]

    def is_aside(self, uid: BanditUid) -> bool:
        """Return whether a bandit exists and cannot be served."""
        return any(each.record.uid == uid for each in self._aside.values())

    def changing(self, name: str) -> asyncio.Lock:
        """Return the lock under which a bandit is created or changed; others have their own.

        A creation may take minutes: it reads or downloads an encoder's weights.
        """
        return self._changing.setdefault(name, asyncio.Lock())

    def page(
        self, after: str | None, limit: int, among: Callable[[str], bool] | None = None
    ) -> tuple[list[Bandit], str | None]:
        """Return bandits by name, those behind `after`, and the last name where there are more.

        `among`: Whether a name is one of those that are asked for; None: all are.
        """
        names = sorted(self._by_name)
        if among is not None:
            names = [name for name in names if among(name)]
        first = 0 if after is None else bisect_right(names, after)
        found = names[first : first + limit]
        more = first + limit < len(names)
        return [self._by_name[name] for name in found], found[-1] if more else None

    def all(self) -> list[Bandit]:
        """Return all bandits, sorted by name."""
        return [self._by_name[name] for name in sorted(self._by_name)]
