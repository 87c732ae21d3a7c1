"""One run of a shop: offers come and go, contexts are objects, and clicks are late.

Runs in the simulator's main thread. By the world's own clock a decision is reported when its window
closes: its click, or 0. Clicks that were reported as they come would be learned before the silences
of the same time, so that every new offer would look better than it is. Decisions whose windows are
open at the end have no reward, as in a service that is looked at while it runs.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from bandexa_client import BanditError, Catalogue, RewardReport, Selection
from simulators.environments.shop import Offer, ShopStream
from simulators.runner import Calls, Run, report


class ShopCalls(Calls, Protocol):
    """The calls of `BanditClient` that a run of a shop makes."""

    def put_actions(self, bandit: str, actions: Sequence[Any]) -> Catalogue:
        """See `BanditClient.put_actions`."""

    def retire_action(self, bandit: str, action: str) -> Catalogue:
        """See `BanditClient.retire_action`."""


class _Due(NamedTuple):
    moment_s: float
    step: int
    report: RewardReport


def play_shop(
    client: ShopCalls,
    stream: ShopStream,
    run: Run,
    *,
    bandit: str,
    live: bool,
    delay: int,
    on_step: Callable[[], None],
) -> None:
    """Play all steps of a shop against an existing bandit without actions; see `runner.play`.

    Args:
        client: a client of the service.
        stream: the shop; its first `run.horizon` steps are played.
        run: the record to fill, step by step; it remains usable if this raises.
        bandit: name of the bandit.
        live: leave training to the service; otherwise request a round whenever one is due.
        delay: number of known rewards that are collected and then sent together.
        on_step: called after every step.

    Raises:
        BanditError: a call failed, or an answer contradicts the shop.
    """
    requests_before, started = client.num_requests, time.perf_counter()
    waiting: list[_Due] = []
    known: list[RewardReport] = []
    for t in range(run.horizon):
        while waiting and waiting[0].moment_s <= stream.times_s[t]:
            known.append(heapq.heappop(waiting).report)
        if len(known) >= delay:
            train_due = report(client, known)
            known.clear()
            if train_due and not live:
                client.train(bandit, wait=True)
                run.num_train_rounds += 1
        _change_offers(client, stream, bandit, t)
        heapq.heappush(waiting, _step(client, stream, run, bandit, t))
        run.wall_s = time.perf_counter() - started
        run.num_requests = client.num_requests - requests_before
        on_step()
    run.complete = True


def put_offers(client: ShopCalls, stream: ShopStream, bandit: str) -> None:
    """Put the offers of a whole run into a bandit, as they are at its end."""
    client.put_actions(bandit, _bodies(stream.offers))
    for offer in stream.offers:
        if offer.retires < stream.horizon:
            client.retire_action(bandit, offer.id)


def _change_offers(client: ShopCalls, stream: ShopStream, bandit: str, t: int) -> None:
    for action_id in stream.retirements(t):
        client.retire_action(bandit, action_id)
    if arrived := stream.arrivals(t):
        client.put_actions(bandit, _bodies(arrived))


def _bodies(offers: Sequence[Offer]) -> list[dict[str, object]]:
    return [{"id": offer.id, "features": offer.features} for offer in offers]


def _step(client: ShopCalls, stream: ShopStream, run: Run, bandit: str, t: int) -> _Due:
    """Select an offer and record the step; return what will be reported of it, and when."""
    context: Any = stream.contexts[t]
    selection = client.select(bandit, context, decision_id=f"{bandit}.{t}")
    column = _column(stream, selection, t)
    means, reward = stream.means[t], float(stream.rewards[t, column])
    run.record(
        best=float(means.max()), chosen=float(means[column]), uniform=float(means.mean()),
        reward=reward,
    )  # fmt: skip
    known = reward if stream.reported_s(t) is not None else 0.0
    return _Due(stream.closes_s(t), t, RewardReport(selection.decision_id, known))


def _column(stream: ShopStream, selection: Selection, t: int) -> int:
    """Return the place of the chosen offer among the live ones."""
    ids = [stream.offers[index].id for index in stream.live[t].tolist()]
    found = np.flatnonzero(np.array(ids) == selection.action.id)
    if not len(found):
        raise BanditError(f"step {t}: {selection.action.id!r} is not on offer")
    return int(found[0])
