"""The source of every random number of the method.

A draw is keyed by its purpose, never by the number of draws before it, so a decision repeats
bit for bit from (bandit uid, seed, decision id) and two ids never share a stream. Philox: Salmon
et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from bandexa_core.ids import BanditUid

_COUNTER = np.zeros(4, np.uint64)  # Philox's own start value, whose conversion takes 4 us


class _Key(ISeedSequence):
    """A generator's key: `Philox(key=...)` sets the same, but reads entropy from the system."""

    def __init__(self, digest: bytes) -> None:
        self._words = np.frombuffer(digest, "<u8")

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Return the key's words: as many as the generator requests."""
        return self._words


def bandit_uid(name: str, num_earlier: int) -> BanditUid:
    """Return the uid of a new bandit, after `num_earlier` bandits of its name in the same store."""
    return BanditUid(blake2b(f"{name}\x1f{num_earlier}".encode(), digest_size=12).hexdigest())


def keyed_rng(uid: BanditUid, seed: int, purpose: str, key: str) -> np.random.Generator:
    """Return the generator for one purpose ("decision", "train", "init") and key.

    Args:
        uid: The bandit's uid.
        seed: The bandit's configured seed.
        purpose: Separates streams that share a key.
        key: The subject of the draw, e.g. a decision id.
    """
    digest = _digest(uid, seed, purpose, key)
    return np.random.Generator(np.random.Philox(_Key(digest), counter=_COUNTER))  # type: ignore[arg-type]


def drawing_rng(
    version: int, uid: BanditUid, seed: int, purpose: str, key: str
) -> np.random.Generator:
    """Return the generator for the draws of a decision, in a version of `SelectionSpec.draws`.

    From 2 on it is SFC64 (Doty-Humphrey, PractRand, 2014), whose state of 192 bits is the key's
    hash: its numbers take half of Philox's time, and nothing here jumps within a stream.
    """
    if version == 1:
        return keyed_rng(uid, seed, purpose, key)
    digest = _digest(uid, seed, purpose, key, 24)
    return np.random.Generator(np.random.SFC64(_Key(digest)))  # type: ignore[arg-type]


def keyed_number(uid: BanditUid, seed: int, purpose: str, key: str) -> float:
    """Return a number in [0, 1) from the same kind of key: its hash, in 53 bits."""
    return (int.from_bytes(_digest(uid, seed, purpose, key)[:8], "little") >> 11) / 2.0**53


def _digest(uid: BanditUid, seed: int, purpose: str, key: str, size: int = 16) -> bytes:
    name = "\x1f".join((uid, str(seed), purpose, key))
    return blake2b(name.encode(), digest_size=size).digest()


def keyed_seed(uid: BanditUid, seed: int, purpose: str, key: str) -> int:
    """Return a 63-bit seed for a `torch.Generator` from the same kind of key."""
    return int(keyed_rng(uid, seed, purpose, key).integers(0, 2**63 - 1))
