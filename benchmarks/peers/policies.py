"""Who plays: our policies and the peers by name, and the package that a peer needs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path

from benchmarks.peers.bayesian import BayesianPlayer
from benchmarks.peers.contextual import ContextualPlayer
from benchmarks.peers.mabwiser_linear import MabwiserPlayer
from benchmarks.peers.ours import BILINEAR, HEADS, MLP, PER_ACTION, Make, named, policy
from benchmarks.peers.player import Player, UnavailableError
from benchmarks.peers.river_linear import RiverPlayer
from benchmarks.peers.stream import Stream
from benchmarks.peers.vw import VwPlayer

_ROOT = Path(__file__).resolve().parents[2]
# What decides a run, beside the player itself: streams, adapters and arithmetic.
_AROUND = {"__init__", "__main__", "command", "data", "results", "summary", "text"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One row of the tables.

    Attributes:
        make: Builds the player from the stream, the name of the run, and a seed.
        package: The package that a peer needs; None: a policy of ours.
    """

    name: str
    make: Callable[[Stream, str, int], Player]
    package: str | None = None

    def player(self, stream: Stream, run: str, seed: int) -> Player:
        """Return a player of one run.

        Raises:
            UnavailableError: Its package is not installed, or it cannot play this stream.
        """
        try:
            return self.make(stream, run, seed)
        except ImportError as error:
            raise UnavailableError(
                f"the package {self.package} is not installed: pip install '.[peers]'"
            ) from error

    def version(self) -> str:
        """Return what a stored run belongs to: a digest of the code that plays it.

        Ours has all of `bandexa_core` in it; a peer has its package's version instead.
        """
        folder = _ROOT / "benchmarks" / "peers"
        files = [path for path in folder.glob("*.py") if path.stem not in _AROUND]
        if self.package is None:
            files += (_ROOT / "bandexa_core").rglob("*.py")
            return f"ours {_digest(files)}"
        try:
            version = importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            version = "missing"
        return f"{self.package} {version} {_digest(files)}"


def _digest(files: Iterable[Path]) -> str:
    found = blake2b(digest_size=6)
    for path in sorted(files):
        found.update(path.read_bytes())
    return found.hexdigest()


def _ours(name: str, make: Make) -> Policy:
    return Policy(name=name, make=make)


def _peer(name: str, package: str, make: Callable[[Stream, int], Player]) -> Policy:
    return Policy(name=name, make=lambda stream, _, seed: make(stream, seed), package=package)


_ROWS = [
    _ours("default", policy()),
    _ours("auto", named(labels=True)),
    _ours("auto_ids", named(labels=False)),
    _ours("squarecb", policy(selection={"method": "squarecb"})),
    _ours("linear_ts", policy("linear_ts", PER_ACTION)),
    _ours("linear_greedy", policy("greedy", PER_ACTION)),
    _ours("bilinear_ts", policy("linear_ts", BILINEAR, needs_features=True)),
    _ours("mlp_ts", policy("neural_linear_ts", MLP, one_hot=True)),
    _ours("mlp_greedy", policy("greedy", MLP, one_hot=True)),
    _ours("heads_ts", policy("neural_linear_ts", HEADS)),
    _ours("heads_greedy", policy("greedy", HEADS)),
    _ours("uniform", policy("uniform")),
    _peer("vw", "vowpalwabbit", partial(VwPlayer, exploration="")),
    _peer("vw_squarecb", "vowpalwabbit", partial(VwPlayer, exploration="--squarecb")),
    _peer("vw_raw", "vowpalwabbit", partial(VwPlayer, exploration="", objects=True)),
    _peer(
        "vw_raw_squarecb", "vowpalwabbit",
        partial(VwPlayer, exploration="--squarecb", objects=True),
    ),
    _peer("vw_regcb", "vowpalwabbit", partial(VwPlayer, exploration="--regcb --regcbopt")),
    _peer("mabwiser_linucb", "mabwiser", partial(MabwiserPlayer, learning="LinUCB")),
    _peer("mabwiser_lints", "mabwiser", partial(MabwiserPlayer, learning="LinTS")),
    _peer(
        "bayesianbandits_nig", "bayesianbandits",
        partial(BayesianPlayer, regressor="NormalInverseGammaRegressor"),
    ),
    _peer(
        "bayesianbandits_eb", "bayesianbandits",
        partial(BayesianPlayer, regressor="EmpiricalBayesNormalRegressor"),
    ),
    _peer("contextualbandits", "contextualbandits", ContextualPlayer),
    _peer("river_linucb", "river", RiverPlayer),
]  # fmt: skip
POLICIES: Mapping[str, Policy] = {row.name: row for row in _ROWS}
NAMED = ("auto", "auto_ids")  # ours, that get objects
OURS = tuple(row.name for row in _ROWS if row.package is None)
PEERS = tuple(row.name for row in _ROWS if row.package is not None)
