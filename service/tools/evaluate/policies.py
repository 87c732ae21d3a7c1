"""The policies that a log can be asked about: each says what it would choose, before it learns."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.tools.evaluate.cases import Case, Changes

Chances = NDArray[np.float64]


class PolicyError(ValueError):
    """A policy cannot be evaluated on this log; the message says why."""


class Asked(Protocol):
    """A policy.

    Attributes:
        name: What reports call it.
        changes: Whether it learns, so that its value is not constant.
        is_log: Whether it is the one that made the log.
    """

    name: str
    changes: bool
    is_log: bool

    def change(self, changes: Changes) -> None:
        """Note changed actions."""

    def chances(self, case: Case) -> Chances | None:
        """Return the probability of each candidate, (K,), to sum 1; None: those of the log."""

    def means(self, case: Case) -> Chances | None:
        """Return what it expects each candidate to earn, (K,); None: it has no model."""

    def learn(self, cases: Sequence[Case]) -> None:
        """Learn from what it was asked about."""


class _Fixed:
    """What does not learn."""

    changes = False
    is_log = False

    def change(self, changes: Changes) -> None:
        """Note nothing."""

    def means(self, case: Case) -> Chances | None:
        """Return None."""

    def learn(self, cases: Sequence[Case]) -> None:
        """Learn nothing."""


class Logging(_Fixed):
    """The policy that made the log."""

    name = "logged"
    changes = True
    is_log = True

    def chances(self, case: Case) -> Chances | None:
        """Return None: the weight of every row is 1."""
        return None


class OneAction(_Fixed):
    """Always one action; all candidates alike where it is not offered."""

    def __init__(self, action: str) -> None:
        self.name = f"action:{action}"
        self._action = action

    def chances(self, case: Case) -> Chances:
        """See `Asked.chances`."""
        chances = np.array([float(name == self._action) for name in case.candidates])
        return chances if chances.any() else np.full(len(chances), 1.0 / len(chances))


class UniformChoice(_Fixed):
    """All candidates alike."""

    name = "uniform"

    def chances(self, case: Case) -> Chances:
        """See `Asked.chances`."""
        return np.full(len(case.candidates), 1.0 / len(case.candidates))


class FilePolicy(_Fixed):
    """A user's own policy: a Python file with a function `policy(context, candidates)`.

    `context` is what was sent; `candidates` are dicts with `id` and, where they have some,
    `features`. It returns the id of its choice, or a probability for each candidate.
    """

    def __init__(self, file: Path) -> None:
        self.name = f"file:{file.name}"
        self._known: dict[str, dict[str, Any]] = {}
        self._choose = _function(file)

    def change(self, changes: Changes) -> None:
        """See `Asked.change`."""
        for line in changes.actions:
            self._known[line["id"]] = self._known.get(line["id"], {}) | line

    def chances(self, case: Case) -> Chances:
        """See `Asked.chances`.

        Raises:
            PolicyError: The function failed, or returned something else.
        """
        features = case.features or [
            self._known.get(name, {}).get("features") for name in case.candidates
        ]
        offered = [
            {"id": name} | ({} if each is None else {"features": each})
            for name, each in zip(case.candidates, features, strict=True)
        ]
        try:
            chosen = self._choose(case.context, offered)
        except Exception as error:  # whatever a user's file raises
            where = f"{self.name}, decision {case.decision_id}"
            raise PolicyError(f"{where}: {type(error).__name__}: {error}") from error
        if isinstance(chosen, str):
            chosen = [float(name == chosen) for name in case.candidates]
        try:
            found = np.asarray(chosen, np.float64)
        except (TypeError, ValueError):
            found = np.empty(0)
        ok = found.shape == (len(case.candidates),) and (found >= 0.0).all()
        if not ok or not math.isclose(found.sum(), 1.0, abs_tol=1e-6):
            raise PolicyError(
                f"{self.name}: must return the id of a candidate, or {len(case.candidates)}"
                " probabilities of sum 1"
            )
        return found


def _function(file: Path) -> Callable[[Any, list[dict[str, Any]]], Any]:
    spec = importlib.util.spec_from_file_location("evaluated_policy", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise PolicyError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise PolicyError(f"{file}: {type(error).__name__}: {error}") from error
    function: Callable[[Any, list[dict[str, Any]]], Any] | None = getattr(module, "policy", None)
    if not callable(function):
        raise PolicyError(f"{file} has no function policy(context, candidates)")
    return function
