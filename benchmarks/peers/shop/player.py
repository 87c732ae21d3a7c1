"""What plays a shop: a policy that receives JSON objects, and clicks once they are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from benchmarks.peers.player import Choice
from simulators.environments.shop import OfferFeatures, Visit


class Action(NamedTuple):
    """What a player sees of an offer: its id and its features, a JSON object."""

    id: str
    features: OfferFeatures


class Report(NamedTuple):
    """What becomes known of a decision: its click, or that its window is over.

    Attributes:
        step: The step of the decision.
        action_id: The chosen action.
        reward: What the click pays; at the close, what was reported before it, 0 without a click.
        closed: Whether this is the close of the window, after which nothing more is reported.
    """

    step: int
    action_id: str
    reward: float
    closed: bool


class ShopPlayer(Protocol):
    """One policy in one run."""

    def arrive(self, actions: Sequence[Action]) -> None:
        """Take actions into the catalogue; they are offered from the next `select` on."""

    def retire(self, action_id: str) -> None:
        """Take an action out of the catalogue: it is not offered again."""

    def select(self, step: int, context: Visit, actions: Sequence[Action]) -> Choice:
        """Choose one of these actions, which are all of the catalogue."""

    def learn(self, reports: Sequence[Report]) -> None:
        """Learn what became known since the last step, in the order of its moments."""
