"""A FastAPI file around a library, as its users write one: `/select` and `/reward` beside a log.

`python -m benchmarks.peers.served vw|mabwiser|bayesianbandits` does what `bandexa serve` does for a
bandit with a posterior for each action: it chooses one of 50 actions for a context in R^16 and
answers with its propensity; a decision is in a SQLite file before it is answered, and so is a
reward, which is joined with its decision and learned at once. The file is written as with
durability `os`: it survives a killed process. Decisions that wait for a reward are in memory too,
so that none is read back.

Each library works as it does by default. mabwiser has no propensities, so its choice is LinUCB's
behind a floor, whose chances are known; bayesianbandits' is that of a panel of 64 draws, as ours.
It takes the options of `bandexa serve`, of which it needs host, port and data directory.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.workload import DIM, NUM_ACTIONS

PANEL, EPSILON = 64, 0.005
IDS = tuple(f"a{number}" for number in range(NUM_ACTIONS))
Context = NDArray[np.float64]


class Chosen(NamedTuple):
    """A decision: the index of the action, its propensity, and what the library learns from."""

    action: int
    propensity: float
    shown: Any


class Library(Protocol):
    """A library behind two calls."""

    def select(self, context: list[float]) -> Chosen:
        """Choose one of the actions."""

    def learn(self, chosen: Chosen, reward: float) -> None:
        """Learn the reward of a decision."""


class _Vw:
    """`--cb_explore_adf` with the products of context and action ids; a cost is minus a reward."""

    def __init__(self, rng: np.random.Generator) -> None:
        import vowpalwabbit

        self._rng = rng
        self._workspace = vowpalwabbit.Workspace("--cb_explore_adf -q ci --quiet --random_seed 1")

    def select(self, context: list[float]) -> Chosen:
        """Draw from the probabilities of the prediction."""
        shared = " ".join(f"{n}:{value:.7g}" for n, value in enumerate(context))
        lines = [f"shared |c {shared}", *(f"|i {name}" for name in IDS)]
        chances = np.asarray(self._workspace.predict(lines), np.float64)
        chances /= chances.sum()
        action = int(self._rng.choice(NUM_ACTIONS, p=chances))
        return Chosen(action, float(chances[action]), lines)

    def learn(self, chosen: Chosen, reward: float) -> None:
        """Learn one example."""
        lines = list(chosen.shown)
        label = f"0:{-reward:.9g}:{chosen.propensity:.9g}"
        lines[1 + chosen.action] = f"{label} {lines[1 + chosen.action]}"
        self._workspace.learn(lines)


class _Mabwiser:
    """LinUCB, which chooses at random before the first reward, behind a floor."""

    def __init__(self, rng: np.random.Generator) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        self._rng = rng
        self._mab = MAB(list(IDS), LearningPolicy.LinUCB(), seed=1)
        self._is_fitted = False

    def select(self, context: list[float]) -> Chosen:
        """Choose the greatest bound, or with a small chance any action."""
        row = [*context, 1.0]
        if not self._is_fitted:
            return Chosen(int(self._rng.integers(NUM_ACTIONS)), 1.0 / NUM_ACTIONS, row)
        found = self._mab.predict_expectations([row])
        best = int(np.argmax([found[name] for name in IDS]))
        explores = self._rng.random() < EPSILON
        action = int(self._rng.integers(NUM_ACTIONS)) if explores else best
        propensity = EPSILON / NUM_ACTIONS + (1.0 - EPSILON) * (action == best)
        return Chosen(action, propensity, row)

    def learn(self, chosen: Chosen, reward: float) -> None:
        """Fit the reward."""
        fit = self._mab.partial_fit if self._is_fitted else self._mab.fit
        fit([IDS[chosen.action]], [reward], [chosen.shown])
        self._is_fitted = True


class _Bayesian:
    """A `NormalInverseGammaRegressor` for each action, and a panel of their draws."""

    def __init__(self, rng: np.random.Generator) -> None:
        import bayesianbandits

        make = bayesianbandits.NormalInverseGammaRegressor
        self._learners = [make(random_state=rng) for _ in IDS]

    def select(self, context: list[float]) -> Chosen:
        """Choose the best of the first member, whose share of the panel is the propensity."""
        row = np.array([[*context, 1.0]])
        draws = [each.sample(row, size=PANEL).reshape(PANEL) for each in self._learners]
        winners = np.argmax(draws, axis=0)
        action = int(winners[0])
        return Chosen(action, float(np.count_nonzero(winners == action)) / PANEL, row)

    def learn(self, chosen: Chosen, reward: float) -> None:
        """Update the learner of the action."""
        self._learners[chosen.action].partial_fit(chosen.shown, np.array([reward]))


LIBRARIES: Mapping[str, type[Any]] = {
    "vw": _Vw, "mabwiser": _Mabwiser, "bayesianbandits": _Bayesian,
}  # fmt: skip


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SelectRequest(_Body):
    """A select, as it is sent."""

    context: list[float] = Field(min_length=DIM, max_length=DIM)


class SelectAnswer(BaseModel):
    """A decision."""

    decision_id: str
    action: str
    propensity: float


class RewardRequest(_Body):
    """A reward, as it is sent."""

    decision_id: str
    reward: float = Field(allow_inf_nan=False)


class RewardAnswer(BaseModel):
    """What happened to a reward."""

    status: str


def app_of(library: Library, db: sqlite3.Connection) -> FastAPI:
    """Return the app; everything runs on its event loop."""
    app = FastAPI()
    waiting: dict[str, Chosen] = {}

    @app.post("/select")
    async def select(body: SelectRequest) -> SelectAnswer:
        chosen = library.select(body.context)
        name = uuid.uuid4().hex
        db.execute(
            "INSERT INTO decisions VALUES (?, ?, ?, ?)",
            (name, json.dumps(body.context), IDS[chosen.action], chosen.propensity),
        )
        waiting[name] = chosen
        return SelectAnswer(
            decision_id=name, action=IDS[chosen.action], propensity=chosen.propensity
        )

    @app.post("/reward")
    async def reward(body: RewardRequest) -> RewardAnswer:
        chosen = waiting.pop(body.decision_id, None)
        if chosen is None:
            raise HTTPException(404, "no decision has this id")
        db.execute("INSERT INTO rewards VALUES (?, ?)", (body.decision_id, body.reward))
        library.learn(chosen, body.reward)
        return RewardAnswer(status="applied")

    return app


def opened(folder: Path) -> sqlite3.Connection:
    """Return a new log: each insert is committed by itself, and survives a killed process."""
    folder.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(folder / "decisions.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE decisions (id PRIMARY KEY, context, action, propensity)")
    db.execute("CREATE TABLE rewards (id PRIMARY KEY, reward)")
    return db


def main(argv: Sequence[str] | None = None) -> None:
    """Serve one of the libraries until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=list(LIBRARIES))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--data-dir", type=Path, required=True)
    given, _ = parser.parse_known_args(argv)
    app = app_of(LIBRARIES[given.library](np.random.default_rng(1)), opened(given.data_dir))
    listener = socket.create_server((given.host, given.port))
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="off", log_config=None, access_log=False
    )
    line = {"event": "listening", "url": f"http://{host}:{port}", "pid": os.getpid()}
    print(json.dumps(line), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
