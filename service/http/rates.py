"""How many calls a key may make: a token bucket for each key that has a rate.

A bucket starts with `burst` calls and gains `rate` a second, up to `burst`. A call is let in while
there is one left, and a batch takes as many as it has items, if need be from what is gained later:
so a batch is never too large to be let in, and over time no key makes more than its rate. Of
servers that share a database each lets its part in: rate and burst divided by how many serve now,
so that a key may make no more at all of them together. Runs on the event loop.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from service.http.errors import TooManyCalls
from service.http.shared_rates import BucketTable, SharedBucket
from service.settings import KeySetting


def _one() -> int:
    return 1


class Bucket:
    """The calls that one key may make now.

    Args:
        rate: Calls a second.
        burst: The most calls at once.
        now: A clock in seconds that never goes back.
        servers: Returns among how many servers the calls are divided now.
    """

    __slots__ = ("_at", "_now", "_servers", "_tokens", "burst", "rate")

    def __init__(
        self,
        rate: float,
        burst: float,
        now: Callable[[], float] = time.monotonic,
        servers: Callable[[], int] = _one,
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._now = now
        self._servers = servers
        self._tokens = self._part()[1]
        self._at = now()

    def _part(self) -> tuple[float, float]:
        """Return the rate and the burst of this server; a burst below 1 would let nothing in."""
        servers = self._servers()
        return self.rate / servers, max(min(1.0, self.burst), self.burst / servers)

    def take(self) -> float:
        """Take a call out of it; returns 0, or in how many seconds the next one is let in."""
        now = self._now()
        rate, burst = self._part()
        self._tokens = min(burst, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / rate
        self._tokens -= 1.0
        return 0.0

    def owe(self, calls: int) -> None:
        """Take more calls for one that was let in, also those that are gained later."""
        self._tokens -= calls


class Rates:
    """The buckets of all keys of a server, by the keys' names."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket | SharedBucket] = {}
        self._table: BucketTable | None = None
        self._servers: Callable[[], int] = _one
        self._secret = ""

    @property
    def secret(self) -> str:
        """What a server proves with to another one that it has counted a call; empty: nobody."""
        return self._secret

    def divide(self, servers: Callable[[], int], secret: str) -> None:
        """Divide every rate among servers that share a database.

        Args:
            servers: Returns how many of them serve now.
            secret: What only they know.
        """
        self._servers, self._secret = servers, secret

    def counted_elsewhere(self, proof: str | None) -> bool:
        """Return whether a call was counted by the server that has passed it on."""
        if not self._secret or proof is None:
            return False
        return hmac.compare_digest(proof.encode(), self._secret.encode())

    def share(self, path: Path) -> None:
        """Have the buckets in common with the other processes that name this file."""
        self._table = BucketTable(path)

    def _new(self, holder: KeySetting) -> Bucket | SharedBucket:
        rate, burst = holder.rate or 0.0, holder.at_once
        if self._table is None:
            return Bucket(rate, burst, servers=self._servers)
        return SharedBucket(self._table, holder.name, rate, burst)

    def forget(self, holders: Iterable[KeySetting]) -> None:
        """Forget the buckets of keys that have no rate now, or another one: these begin anew."""
        now = {each.name: (each.rate, each.at_once) for each in holders}
        self._buckets = {
            name: bucket
            for name, bucket in self._buckets.items()
            if now.get(name) == (bucket.rate, bucket.burst)
        }

    def _bucket(self, holder: KeySetting) -> Bucket | SharedBucket:
        bucket = self._buckets.get(holder.name)
        if bucket is None or (bucket.rate, bucket.burst) != (holder.rate, holder.at_once):
            bucket = self._buckets[holder.name] = self._new(holder)
        return bucket

    def charge(self, holder: KeySetting) -> None:
        """Count a call of a key; a key without a rate may make as many as it likes.

        Raises:
            TooManyCalls: It has made too many.
        """
        if holder.rate is None:
            return
        wait_s = self._bucket(holder).take()
        if wait_s > 0.0:
            raise TooManyCalls(
                f"the key {holder.name!r} may make {holder.rate:g} calls a second",
                math.ceil(wait_s),
            )

    def charge_items(self, holder: KeySetting, items: int) -> None:
        """Count the items of a batch, of which `charge` has counted one."""
        if holder.rate is not None and items > 1:
            self._bucket(holder).owe(items - 1)
