"""The ids of decisions: a key for the store, and the text that callers see.

A key is a 63-bit integer: the bandit, then the service time. So the decisions of a bandit lie
together in a store, oldest first, without an index, and a new one is written behind the one before.

The text of an id that the server made is the key and a keyed hash of it (BLAKE2b as a MAC,
RFC 7693), so that it cannot be guessed, behind the name of the *cell*: the group of servers that
holds the decision, for whoever routes requests. A caller's own id is stored as it is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from hashlib import blake2b

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey

CELL = "0"  # of every store so far; ids name it so that requests can be routed by it later
TIME_BITS = 45
_TICK_BITS = 13
TICKS_PER_S = 1 << _TICK_BITS  # ids made faster than that run ahead of the clock; until 2106
FIRST_TIMED = 10**9 * TICKS_PER_S  # smaller places are row numbers of an older format
AHEAD_S = 1.0  # more than a burst of decisions makes their keys run ahead of the clock
MOST_PLACE = (1 << TIME_BITS) - 1  # the largest place of a decision
ALL_KEYS = (0, 1)
MAX_BANDITS = 1 << (63 - TIME_BITS)
_KEY_BYTES, _MAC_BYTES = 8, 6
_MAC_DIGITS = 2 * _MAC_BYTES
_HEX = re.compile(r"[0-9a-f]{32}")
_FORM = re.compile(r"[a-z0-9]{1,8}\.[0-9a-f]{28}")


def first_key(bandit: int) -> DecisionKey:
    """Return the smallest key of a bandit; the keys of the bandit before are all smaller."""
    return DecisionKey(bandit << TIME_BITS)


def key_at(bandit: int, time: float) -> DecisionKey:
    """Return the smallest key of a bandit's decisions that were made at or after a service time."""
    ticks = min(max(0, int(time * TICKS_PER_S)), (1 << TIME_BITS) - 1)
    return DecisionKey(first_key(bandit) + ticks)


def time_of(key: DecisionKey) -> float:
    """Return the service time at which a decision was made, seconds since the epoch."""
    return place_of(key) / TICKS_PER_S


def made_at(key: DecisionKey, time: float) -> float:
    """Return the service time at which a decision was made, given the time that it is stored with.

    Only the keys of decisions that a migration brought along do not hold it.
    """
    place = key & MOST_PLACE  # written out: every reward passes here
    return place / TICKS_PER_S if place >= FIRST_TIMED else time


def is_older(key: DecisionKey, time: float, before: DecisionKey) -> bool:
    """Whether a decision, stored with a time, is older than those with keys from `before` on."""
    untimed = place_of(key) < FIRST_TIMED <= place_of(before)
    return key < before and (not untimed or time < time_of(before))


def bandit_of(key: DecisionKey) -> int:
    """Return the bandit of a decision."""
    return key >> TIME_BITS


def place_of(key: DecisionKey) -> int:
    """Return the place of a decision among those of its bandit; it fits a float64 exactly."""
    return key & ((1 << TIME_BITS) - 1)


def is_server_form(text: str) -> bool:
    """Whether a decision id has the form of those that servers make."""
    return _FORM.fullmatch(text) is not None


def pack_own_id(text: DecisionId) -> str | bytes:
    """Return a caller's id as it is stored: 32 hex digits, as of a UUID, take 16 bytes."""
    return bytes.fromhex(text) if _HEX.fullmatch(text) else text


def unpack_own_id(stored: str | bytes) -> DecisionId:
    """Return the id that `pack_own_id` packed."""
    return DecisionId(stored if isinstance(stored, str) else stored.hex())


class DecisionIds:
    """Makes the ids of one store; used on one thread.

    Args:
        cell: The store's cell, 1 to 8 of the characters a-z and 0-9.
        secret: The key of the hash, 16 random bytes.
        clock: Service time, seconds since the epoch; None: the machine's wall clock.

    Attributes:
        share: Which keys it makes, where several processes make those of one store: those whose
            places leave the first number as their remainder when divided by the second.
    """

    def __init__(self, cell: str, secret: bytes, clock: Callable[[], float] | None = None) -> None:
        self.share = ALL_KEYS
        self._clock = clock
        self._cell = cell
        self._prefix = f"{cell}."
        self._secret = secret
        self._mac = blake2b(key=secret, digest_size=_MAC_BYTES)
        self._last: dict[int, int] = {}

    def with_clock(self, clock: Callable[[], float]) -> DecisionIds:
        """Return the ids of the same store, new ones of another clock."""
        return DecisionIds(self._cell, self._secret, clock)

    def seen(self, key: DecisionKey) -> None:
        """Note a key that is stored, so that later ones are larger."""
        bandit = bandit_of(key)
        self._last[bandit] = max(self._last.get(bandit, 0), key)

    def newest(self) -> float:
        """Return the time of the newest key of any bandit, in seconds since the epoch; 0: none."""
        return max(map(time_of, map(DecisionKey, self._last.values())), default=0.0)

    def new_key(self, bandit: int) -> DecisionKey:
        """Return a key that this store has never returned."""
        key = (bandit << TIME_BITS) | (
            (time.time_ns() << _TICK_BITS) // 1_000_000_000
            if self._clock is None
            else int(self._clock() * TICKS_PER_S)
        )
        last = self._last.get(bandit, 0)
        if key <= last:
            key = last + 1
        if self.share is not ALL_KEYS:
            own, num = self.share
            key += (own - (key & MOST_PLACE)) % num
        self._last[bandit] = key
        return DecisionKey(key)

    def text(self, key: DecisionKey) -> DecisionId:
        """Return the id that callers see."""
        packed = key.to_bytes(_KEY_BYTES)
        mac = self._mac.copy()
        mac.update(packed)
        return DecisionId(f"{self._prefix}{packed.hex()}{mac.hexdigest()}")

    def name(self, key: DecisionKey, own_id: str | bytes | None) -> DecisionId:
        """Return the id of a stored decision: the caller's own, where there is one."""
        return self.text(key) if own_id is None else unpack_own_id(own_id)

    def unit(self, name: str) -> bytes:
        """Return a unit as it is stored: a keyed hash of its name, which is never read back."""
        return blake2b(name.encode(), key=self._secret, person=b"unit", digest_size=16).digest()

    @property
    def store(self) -> str:
        """A name of the store, which its copies have as well, and no other store."""
        return blake2b(key=self._secret, person=b"store", digest_size=8).hexdigest()

    def salt(self, bandit: BanditUid) -> bytes:
        """Return the key of the digests that a bandit logs in place of personal values.

        It follows from the store's secret, so that it lasts as long as the store, and a copy of the
        store has it as well.
        """
        return blake2b(bandit.encode(), key=self._secret, person=b"fields", digest_size=32).digest()

    def place(self, text: DecisionId) -> tuple[str, int | str | bytes]:
        """Return the column that finds a decision by its id, and the value there."""
        key = self.key(text)
        return ("own_id", pack_own_id(text)) if key is None else ("key", key)

    def key(self, text: DecisionId) -> DecisionKey | None:
        """Return the key of an id that this store made, None for any other text."""
        start = len(self._prefix)
        if text[:start] != self._prefix or not is_server_form(text):
            return None
        packed, mac = text[start:-_MAC_DIGITS], self._mac.copy()
        mac.update(bytes.fromhex(packed))
        return DecisionKey(int(packed, 16)) if mac.hexdigest() == text[-_MAC_DIGITS:] else None
