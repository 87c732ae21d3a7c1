"""Our policies: the serving model and the rounds of the service, without HTTP and store.

The calls are those of `simulators.runner.play` on `benchmarks.in_process`, so the decisions are
those of the service over HTTP; tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from benchmarks.in_process import InProcessClient
from benchmarks.peers.player import Choice, Context, Features, Outcome, UnavailableError
from benchmarks.peers.stream import Stream
from simulators.runner import wire_array

Body = dict[str, Any]


class OurPlayer:
    """A bandit of the service.

    Args:
        name: Name of the bandit.
        body: The body of PUT /bandits/{name}.
        stream: The stream that it will play; its actions are the catalogue.
        one_hot: Actions without features get one-hot ones.
    """

    def __init__(self, name: str, body: Body, stream: Stream, *, one_hot: bool = False) -> None:
        torch.set_num_threads(1)
        num = len(stream.action_ids)
        features = stream.action_features
        if features is None and one_hot:
            features = np.eye(num, dtype=np.float32)
        size = 0 if features is None else int(features.shape[1])
        whole = {"action_dim": size} if size else {}
        try:
            self._client = InProcessClient(name, body | whole, stream.action_ids, features)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise UnavailableError(f"the service refuses it: {field}: {first['msg']}") from error
        except ValueError as error:
            raise UnavailableError(f"the service refuses it: {error}") from error
        self._name = name
        self._names_candidates = stream.offered is not None
        self.num_rounds = 0

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Choose; candidates are named where the stream does not offer the whole catalogue."""
        del features  # the catalogue has them
        selection = self._client.select(
            self._name,
            wire_array(context),
            candidates=ids if self._names_candidates else None,
            decision_id=f"{self._name}.{step}",
        )
        return Choice(selection.action.id, selection.propensity)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Report rewards, and train when a round is due, as the simulator does in lockstep."""
        due = False
        for outcome in outcomes:
            status = self._client.reward(f"{self._name}.{outcome.step}", outcome.reward)
            due |= status.train_due
        if due:
            self._client.train(self._name)
            self.num_rounds += 1

    def retire(self, action_id: str) -> None:
        """Retire an action, as DELETE /bandits/{name}/actions/{id} does."""
        self._client.retire(action_id)


class NamedPlayer:
    """A bandit of the service that gets a table's rows as objects, and types their fields itself.

    Args:
        name: Name of the bandit.
        seed: Its seed.
        stream: The stream that it will play; it has objects.
        labels: Actions are objects as well, with their label as the one field.
    """

    def __init__(self, name: str, seed: int, stream: Stream, *, labels: bool) -> None:
        torch.set_num_threads(1)
        if stream.objects is None:
            raise UnavailableError("the stream has no objects; a table is to be fetched again")
        body: Body = {
            "context": {"features": "auto"}, "training": {"mode": "lockstep"}, "seed": seed,
        }  # fmt: skip
        features = None
        if labels:
            body["actions"] = {"features": "auto"}
            features = [{"label": name} for name in stream.action_ids]
        self._client = InProcessClient(name, body, stream.action_ids, features)
        self._name, self._objects = name, stream.objects

    def select(self, step: int, context: Context, ids: Sequence[str], features: Features) -> Choice:
        """Choose among the whole catalogue, for the object of this step."""
        del context, ids, features
        selection = self._client.select(
            self._name, self._objects[step], decision_id=f"{self._name}.{step}"
        )
        return Choice(selection.action.id, selection.propensity)

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Report rewards, and train when a round is due, as in lockstep."""
        due = False
        for outcome in outcomes:
            due |= self._client.reward(f"{self._name}.{outcome.step}", outcome.reward).train_due
        if due:
            self._client.train(self._name)

    def retire(self, action_id: str) -> None:
        """Retire an action."""
        self._client.retire(action_id)


Make = Callable[[Stream, str, int], OurPlayer | NamedPlayer]


def named(*, labels: bool) -> Make:
    """Return what makes a player of objects, without further configuration."""
    return lambda stream, name, seed: NamedPlayer(name, seed, stream, labels=labels)


def policy(
    policy: str | None = None,
    encoder: Body | None = None,
    *,
    one_hot: bool = False,
    needs_features: bool = False,
    selection: Body | None = None,
) -> Make:
    """Return what makes a player of these sections; None leaves one to the service."""

    def make(stream: Stream, name: str, seed: int) -> OurPlayer:
        if needs_features and stream.action_features is None:
            raise UnavailableError("its actions have no features")
        body: Body = {
            "context": {"shape": list(stream.contexts.shape[1:])},
            "training": {"mode": "lockstep"},
            "seed": seed,
        }
        if policy is not None:
            body["policy"] = policy
        if encoder is not None:
            body["encoder"] = encoder
        if selection is not None:
            body["selection"] = selection
        return OurPlayer(name, body, stream, one_hot=one_hot)

    return make


PER_ACTION: Body = {"name": "per_action"}
BILINEAR: Body = {"name": "bilinear"}
MLP: Body = {"name": "mlp"}
HEADS: Body = {"name": "mlp", "params": {"heads": "per_action"}}
