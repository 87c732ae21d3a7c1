"""Findings of challengers: better, returned from a trial, or not to be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from service.observe.health.findings import NOTICE, Finding
from service.observe.health.observed import ChallengerSeen


def check_challengers(seen: Iterable[ChallengerSeen]) -> Iterator[Finding]:
    """Yield what is to be known of the challengers of a bandit."""
    for name, state, score in seen:
        if state == "learning" and score is not None and score.is_better:
            yield Finding(
                "challenger-better", NOTICE,
                f"challenger {name} would earn {score.low:.3g} to {score.high:.3g} a decision more"
                f" than what was served, by {score.num} decisions of the log",
                f"promote it: POST .../challengers/{name}/promote (docs/challengers.md)",
            )  # fmt: skip
        elif state == "returned":
            yield Finding(
                "challenger-returned", NOTICE,
                f"challenger {name} was worse than the bandit in its trial, which has ended",
                "remove it, or put it with another configuration or rule",
            )  # fmt: skip
        elif score is not None and score.error is not None:
            yield Finding(
                "challenger-failed", NOTICE,
                f"challenger {name} cannot be compared: {score.error}",
                "put it with a configuration that the log fits, or remove it",
            )  # fmt: skip
