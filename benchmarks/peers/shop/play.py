"""Plays a stream of a shop, in the time of its own clock.

Before a step is decided, everything is reported that is known by its moment: a click when it comes,
and the close of a decision's window, with or without a click. Every decision is closed exactly
once; those whose windows are open at the end are not closed. What a player does with a click before
the close is its own affair.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.shop.player import Action, Report, ShopPlayer
from benchmarks.peers.stream import Stream
from simulators.environments.shop import ShopStream


class _Due(NamedTuple):
    moment_s: float
    closed: bool  # a click at the very moment of the close comes before it
    step: int
    report: Report


def play(player: ShopPlayer, stream: ShopStream) -> NDArray[np.int64]:
    """Return the chosen offer of every step as its index in the stream, int64 (T,).

    Raises:
        ValueError: The player chose an offer that is not live.
    """
    index = {offer.id: number for number, offer in enumerate(stream.offers)}
    chosen = np.empty(stream.horizon, np.int64)
    waiting: list[_Due] = []
    for t in range(stream.horizon):
        known = []
        while waiting and waiting[0].moment_s <= stream.times_s[t]:
            known.append(heapq.heappop(waiting).report)
        if known:
            player.learn(known)
        for action_id in stream.retirements(t):
            player.retire(action_id)
        if arrived := stream.arrivals(t):
            player.arrive([Action(offer.id, offer.features) for offer in arrived])
        actions = [Action(offer.id, offer.features) for offer in stream.on_offer(t)]
        choice = player.select(t, stream.contexts[t], actions)
        chosen[t] = index.get(choice.action_id, -1)
        columns = np.flatnonzero(stream.live[t] == chosen[t])
        if not len(columns):
            raise ValueError(f"step {t}: {choice.action_id!r} is not offered")
        for due in _reports(stream, t, choice.action_id, float(stream.rewards[t, columns[0]])):
            heapq.heappush(waiting, due)
    return chosen


def scored(stream: ShopStream) -> Stream:
    """Return what `play.figures` needs of a stream: means, rewards and offers, without contexts."""
    return Stream(
        contexts=np.empty((stream.horizon, 0), np.float32),
        action_ids=tuple(offer.id for offer in stream.offers),
        means=stream.means,
        rewards=stream.rewards,
        offered=stream.live,
    )


def _reports(stream: ShopStream, t: int, action_id: str, reward: float) -> list[_Due]:
    """Return what will be known of a decision: a click that is not too late, and the close."""
    click_s = stream.reported_s(t) if reward > 0.0 else None
    reported = reward if click_s is not None else 0.0
    out = [_Due(stream.closes_s(t), True, t, Report(t, action_id, reported, closed=True))]
    if click_s is not None:
        out.append(_Due(click_s, False, t, Report(t, action_id, reward, closed=False)))
    return out
