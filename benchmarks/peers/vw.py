"""Vowpal Wabbit: `--cb_explore_adf`, with products of context and action features.

The context is the namespace `c`, an action's id `i` and its features `f`. Without the products an
action's rank could not depend on the context, so `-q ci` and, where actions have features, `-q cf`
are given; everything else is the library's default. `--squarecb` and `--regcb` need the range of
costs, and receive that of the stream's rewards. A cost is the negative reward.

Where it is given objects, the context is a feature `name=value` for each text and `name:value` for
each number, as a user of the library writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.peers.player import Choice, Context, Features, Outcome, UnavailableError
from benchmarks.peers.stream import Stream


class VwPlayer:
    """One workspace; an action is drawn from the probabilities that it returns."""

    def __init__(
        self, stream: Stream, seed: int, exploration: str, *, objects: bool = False
    ) -> None:
        import vowpalwabbit

        if objects and stream.objects is None:
            raise UnavailableError("the stream has no objects; a table is to be fetched again")
        self._objects = stream.objects if objects else None

        products = "-q ci" if stream.action_features is None else "-q ci -q cf"
        if exploration:
            low, high = -float(stream.rewards.max()), -float(stream.rewards.min())
            exploration += f" --cb_min_cost {low:.9g} --cb_max_cost {high:.9g}"
        options = f"--cb_explore_adf {exploration} {products} --quiet --random_seed {seed}"
        self._workspace = vowpalwabbit.Workspace(options)
        self._rng = np.random.default_rng(seed)
        self._shown: dict[int, tuple[list[str], list[str]]] = {}

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Draw from the probabilities of the prediction."""
        raw = self._objects
        lines = [f"shared |c {_numbers(context) if raw is None else _named(raw[step])}"]
        lines += [
            f"|i {action_id}" + ("" if features is None else f" |f {_numbers(features[row])}")
            for row, action_id in enumerate(ids)
        ]
        chances = np.asarray(self._workspace.predict(lines), np.float64)
        chances /= chances.sum()
        index = int(self._rng.choice(len(ids), p=chances))
        self._shown[step] = lines, list(ids)
        return Choice(ids[index], float(chances[index]))

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Learn one example for each reward."""
        for outcome in outcomes:
            lines, ids = self._shown.pop(outcome.step)
            row = 1 + ids.index(outcome.action_id)
            lines[row] = f"0:{-outcome.reward:.9g}:{outcome.propensity:.9g} {lines[row]}"
            self._workspace.learn(lines)

    def retire(self, action_id: str) -> None:
        """Do nothing: the library has no catalogue."""


def _numbers(values: Context) -> str:
    return " ".join(f"{n}:{value:.7g}" for n, value in enumerate(values.tolist()) if value)


def _named(row: Mapping[str, Any]) -> str:
    return " ".join(
        f"{_plain(name)}={_plain(value)}"
        if isinstance(value, str)
        else f"{_plain(name)}:{value:.7g}"
        for name, value in row.items()
    )


def _plain(text: str) -> str:
    """Return a text without the characters that separate features."""
    return text.translate(_SEPARATORS)


_SEPARATORS = str.maketrans(" :|", "___")
