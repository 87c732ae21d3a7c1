"""The doorway: in process, and as a server that is called by the SDK of Personalizer's users.

In process, the bandit is that which the first Rank makes, gets the objects that the doorway makes
of a request, and trains when a round is due: the figures do not depend on the machine. By the SDK,
rounds come beside the requests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bandexa_core.schema.namespaces import ACTION, united
from benchmarks.in_process import InProcessClient
from benchmarks.peers.personalizer.play import Ranked
from benchmarks.peers.personalizer.requests import Features
from benchmarks.server import Server
from service.http.personalizer.loops import NEW


class InProcessRanker:
    """A bandit as the doorway makes it, which learns each reward at once.

    Args:
        name: Of the run.
        seed: Its seed.
    """

    def __init__(self, name: str, seed: int) -> None:
        spec = dataclasses.asdict(NEW) | {"training": {"mode": "lockstep"}, "seed": seed}
        self._client = InProcessClient(name, spec, [], None)
        self._name, self._step = name, 0

    def rank(self, context: Features, actions: list[tuple[str, Features]]) -> Ranked:
        """Choose."""
        self._step += 1
        objects = [united(features, "actions") | {ACTION: name} for name, features in actions]
        place, chance = self._client.select_inline(
            f"{self._name}.{self._step}", united(context, "context"),
            [name for name, _ in actions], objects,
        )  # fmt: skip
        return Ranked(actions[place][0], chance)

    def reward(self, value: float) -> None:
        """Learn, and train where a round is due."""
        if self._client.reward(f"{self._name}.{self._step}", value).train_due:
            self._client.train(self._name)


class SdkRanker:
    """The Python SDK of v1.0 against a server of its own.

    Args:
        url: The server.
    """

    def __init__(self, url: str) -> None:
        from azure.cognitiveservices.personalizer import PersonalizerClient
        from msrest.authentication import CognitiveServicesCredentials

        make: Any = PersonalizerClient
        self._client = make(url, CognitiveServicesCredentials("none"))
        self._event = ""

    def rank(self, context: Features, actions: list[tuple[str, Features]]) -> Ranked:
        """Ask for a ranking."""
        from azure.cognitiveservices.personalizer.models import RankableAction, RankRequest

        rankable = [RankableAction(id=name, features=features) for name, features in actions]
        answer = self._client.rank(RankRequest(context_features=context, actions=rankable))
        self._event = answer.event_id
        first = answer.ranking[0]
        return Ranked(answer.reward_action_id, first.probability)

    def reward(self, value: float) -> None:
        """Report the reward of the last event."""
        self._client.events.reward(event_id=self._event, value=value)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()


@contextmanager
def served(folder: Path) -> Iterator[SdkRanker]:
    """Yield a client of a new server, whose first Rank creates the bandit."""
    doorway = {f"BANDEXA_PERSONALIZER__{name}": "true" for name in ("ENABLED", "CREATE")}
    with Server(folder / "data", "os", environment=doorway) as server:
        ranker = SdkRanker(server.address)
        try:
            yield ranker
        finally:
            ranker.close()
