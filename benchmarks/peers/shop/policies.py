"""Who plays a shop: our policies, with and without an encoding by hand, and Vowpal Wabbit.

A policy has the name that it has on the other problems, where it plays those.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.peers.player import UnavailableError
from benchmarks.peers.shop.ours import EncodedShopPlayer, NamedShopPlayer
from benchmarks.peers.shop.player import ShopPlayer
from benchmarks.peers.shop.vw import ShopVwPlayer
from simulators.environments.shop import ShopStream

_ROOT = Path(__file__).resolve().parents[3]
# What decides every run on a shop, and what decides ours and the library's beside it.
_EVERY = (
    "simulators/environments/shop/*.py",
    "benchmarks/peers/play.py",
    "benchmarks/peers/player.py",
    "benchmarks/peers/stream.py",
    "benchmarks/peers/shop/play.py",
    "benchmarks/peers/shop/player.py",
)
_OURS = ("bandexa_core/**/*.py", "benchmarks/in_process.py", "benchmarks/peers/shop/*.py")
_VW = ("benchmarks/peers/shop/vw.py",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShopPolicy:
    """One row of the tables.

    Attributes:
        make: Builds the player from the stream, the name of the run, and a seed.
        files: Patterns of the files that decide its runs, beside those of every run.
        package: The package that a peer needs; None: a policy of ours.
    """

    name: str
    make: Callable[[ShopStream, str, int], ShopPlayer]
    files: tuple[str, ...]
    package: str | None = None

    def player(self, stream: ShopStream, run: str, seed: int) -> ShopPlayer:
        """Return a player of one run.

        Raises:
            UnavailableError: Its package is not installed.
        """
        try:
            return self.make(stream, run, seed)
        except ImportError as error:
            raise UnavailableError(
                f"the package {self.package} is not installed: pip install '.[peers]'"
            ) from error

    def version(self) -> str:
        """Return what a stored run belongs to: a digest of the code that plays it.

        A change of ours leaves the stored runs of a library as they are.
        """
        found = blake2b(digest_size=6)
        patterns = (*_EVERY, *self.files)
        for path in sorted({path for pattern in patterns for path in _ROOT.glob(pattern)}):
            found.update(path.read_bytes())
        if self.package is None:
            return f"ours {found.hexdigest()}"
        try:
            version = importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        return f"{self.package} {version} {found.hexdigest()}"


def _ours(name: str, **sections: Any) -> ShopPolicy:
    return ShopPolicy(
        name=name,
        make=lambda _, run, seed: NamedShopPlayer(run, seed, sections),
        files=_OURS,
    )


def _encoded(name: str, **sections: Any) -> ShopPolicy:
    return ShopPolicy(
        name=name,
        make=lambda stream, run, seed: EncodedShopPlayer(stream, run, seed, sections),
        files=_OURS,
    )


def _vw(name: str, exploration: str) -> ShopPolicy:
    return ShopPolicy(
        name=name,
        make=lambda stream, _, seed: ShopVwPlayer(stream, seed, exploration),
        files=_VW,
        package="vowpalwabbit",
    )


_ROWS = [
    _ours("default"),
    _encoded("encoded_by_hand"),
    _ours("squarecb", selection={"method": "squarecb"}),
    _ours("linear", policy="linear_ts"),
    _ours("uniform", policy="uniform"),
    _vw("vw", ""),
    _vw("vw_squarecb", "--squarecb"),
    _vw("vw_bag", "--bag 5"),
    _vw("vw_cover", "--cover 5"),
]
POLICIES: Mapping[str, ShopPolicy] = {row.name: row for row in _ROWS}
