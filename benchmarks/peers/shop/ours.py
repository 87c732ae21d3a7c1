"""Our policies on a shop: the serving model and the rounds of the service.

They get the objects as they are, or vectors by a hand-written encoding.

A decision is learned once, as its window closes: with its click, or with 0. The service does so
with `rewards.reward_window_s` and a `default_reward` of 0. Offers are put into the catalogue when
they come and retired when they go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.in_process import InProcessClient
from benchmarks.peers.player import Choice
from benchmarks.peers.shop.encoding import HandEncoding
from benchmarks.peers.shop.player import Action, Report
from simulators.environments.shop import OfferFeatures, ShopStream, Visit
from simulators.runner import wire_array

_LOGGED = 200
"""The visits whose values the encoding knows."""


class NamedShopPlayer:
    """A bandit of the service that gets the objects, and types their fields by itself.

    Args:
        name: Name of the bandit.
        seed: Its seed.
        sections: Further keys of the body of PUT /bandits/{name}.
    """

    def __init__(self, name: str, seed: int, sections: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        named = {"context": {"features": "auto"}, "actions": {"features": "auto"}}
        lockstep = {"training": {"mode": "lockstep"}, "seed": seed}
        self._client = InProcessClient(name, named | lockstep | sections, [], None)
        self._name = name

    def arrive(self, actions: Sequence[Action]) -> None:
        """Put actions into the catalogue, as PUT /bandits/{name}/actions does."""
        rows = [self._action(row.features) for row in actions]
        self._client.put_actions([row.id for row in actions], rows)

    def _action(self, features: OfferFeatures) -> Any:
        """Return the features of an action as they are sent."""
        return features

    def _context(self, visit: Visit) -> Any:
        """Return a context as it is sent."""
        return visit

    def retire(self, action_id: str) -> None:
        """Retire an action, as DELETE /bandits/{name}/actions/{id} does."""
        self._client.retire(action_id)

    def select(self, step: int, context: Visit, actions: Sequence[Action]) -> Choice:
        """Choose among the whole catalogue."""
        del actions  # the catalogue has them
        selection = self._client.select(
            self._name, self._context(context), decision_id=f"{self._name}.{step}"
        )
        return Choice(selection.action.id, selection.propensity)

    def learn(self, reports: Sequence[Report]) -> None:
        """Learn what is closed, and train when a round is due, as in lockstep."""
        due = False
        for report in reports:
            if not report.closed:
                continue
            status = self._client.reward(f"{self._name}.{report.step}", report.reward)
            due |= status.train_due
        if due:
            self._client.train(self._name)


class EncodedShopPlayer(NamedShopPlayer):
    """A bandit that gets vectors, by an encoding that a user has to write for it.

    Args:
        stream: The stream that it will play; the encoding is made from its first visits.
        name: Name of the bandit.
        seed: Its seed.
        sections: Further keys of the body of PUT /bandits/{name}.
    """

    def __init__(self, stream: ShopStream, name: str, seed: int, sections: dict[str, Any]) -> None:
        logged = min(_LOGGED, stream.horizon)
        offers = [offer.features for offer in stream.offers if offer.arrives < logged]
        self._encoding = HandEncoding(stream.contexts[:logged], offers)
        sizes = {
            "context": {"shape": [self._encoding.num_context]},
            "actions": {},
            "action_dim": self._encoding.num_action,
        }
        super().__init__(name, seed, sizes | sections)

    def _action(self, features: OfferFeatures) -> Any:
        return self._encoding.action(features)

    def _context(self, visit: Visit) -> Any:
        return wire_array(self._encoding.context(visit))
