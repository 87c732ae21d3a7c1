"""Findings of decisions and rewards: lost, rarer, constant or beyond their range."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np

from service.observe.counters import Traffic
from service.observe.health.findings import ALARM, NOTICE, Finding
from service.observe.health.observed import BanditState
from service.observe.silence import CHANCE, Loss

ALIKE = 1000  # decisions or values in a row that are the same
UNREWARDED = 1000  # chosen actions without a single reward
RECENT_MINUTES = 10  # the least number of minutes in which a join rate may have collapsed
EXPECTED_JOINS = 50.0  # rewards that the earlier rate predicts for them, at least
PAST_JOINS = 50  # rewards before them, at least
OUTSIDE_VALUES = 100  # learned values before their share outside of the range counts
OUTSIDE = 0.05
COLLAPSED = 0.25  # of the predicted rewards


def check_traffic(state: BanditState) -> Iterator[Finding]:
    """Yield what is odd in the values that arrive, and in what is chosen."""
    chosen, joined = state.traffic.total()
    if chosen >= UNREWARDED and not joined:
        yield Finding(
            "no-rewards", NOTICE, f"no reward has arrived for {chosen} decisions",
            "report how decisions went with POST /reward",
        )  # fmt: skip
    if state.same_values >= ALIKE:
        yield Finding(
            "constant-reward", NOTICE,
            f"the last {state.same_values} learned values were all {state.last_value}",
            "there is nothing to learn from equal rewards: are failures reported as well?",
        )  # fmt: skip
    many_outside = state.num_values >= OUTSIDE_VALUES and state.outside >= OUTSIDE
    if many_outside:
        low, high = state.reward_range
        yield Finding(
            "rewards-out-of-range", NOTICE,
            f"{state.outside:.0%} of the latest values lie outside of reward_range"
            f" [{low:g}, {high:g}]"
            + (", and are learned as the end that they are beyond" if state.clips else ""),
            "prior and training take their scale from it: with the range that rewards have, or"
            " none, the bandit learns faster"
            + ("; change it, or set rewards.outside to keep" if state.clips else ""),
        )  # fmt: skip
    if state.clipped is not None and not (many_outside and state.clips):
        value, learned = state.clipped
        yield Finding(
            "clipped-rewards", NOTICE,
            f"values far beyond {'reward_range' if state.clips else 'all others'} were clipped"
            f" before they were learned: {state.num_clipped} since the server's start, the last one"
            f" {value:g}, learned as {learned:g}",
            "is that an error of the caller, or another unit? "
            + (
                "Where such rewards are right, change reward_range, or set rewards.outside to keep"
                if state.clips
                else "Where such rewards are right, the bounds widen with the third of them; with"
                " rewards.clip_outliers false every value of later decisions is learned as it is"
            ),
        )  # fmt: skip
    if state.same_actions >= ALIKE:
        yield Finding(
            "one-action", NOTICE,
            f"the last {state.same_actions} decisions all chose {state.last_action!r}",
            "right where one action is best for every context; otherwise check the scores and"
            " selection.epsilon",
        )  # fmt: skip


def loss_finding(loss: Loss) -> Finding:
    """Return the finding that rewards have stopped."""
    when = datetime.fromtimestamp(loss.since, UTC).isoformat(timespec="seconds")
    return Finding(
        "rewards-lost", ALARM,
        f"no reward since {when}: {loss.num} chosen actions are older than {loss.age_s:.3g} s, by"
        f" when nine of ten rewards had come; that is no chance (below {CHANCE:g})",
        "do rewards still reach /reward, with the ids that /select answered?"
        " bandexa_problems_total counts refused ones",
    )  # fmt: skip


def join_rate_drop(traffic: Traffic) -> tuple[float, float] | None:
    """Return (rewards per chosen action before, now) where the rate collapsed, else None.

    Rewards are counted when they arrive, whichever decision they are for. With steady traffic that
    gives the same rate, however late they are, and it drops at once when they stop. "Now" are the
    newest minutes with traffic: at least `RECENT_MINUTES`, and as many as it takes to predict
    `EXPECTED_JOINS` rewards by the rate before them. Fewer than a quarter of the prediction is a
    collapse.
    """
    chosen_N, joined_N = traffic.newest(RECENT_MINUTES)  # N: as "now", ever more minutes
    if not len(chosen_N):
        return None
    past_chosen_N, past_joined_N = chosen_N[-1] - chosen_N, joined_N[-1] - joined_N
    expected_N = chosen_N * past_joined_N / np.maximum(past_chosen_N, 1)
    enough = np.flatnonzero(expected_N >= EXPECTED_JOINS)
    if not len(enough):
        return None
    now = int(enough[0])
    chosen, past_chosen = int(chosen_N[now]), int(past_chosen_N[now])
    joined, past_joined = int(joined_N[now]), int(past_joined_N[now])
    if past_joined < PAST_JOINS or past_chosen < 1 or joined >= COLLAPSED * expected_N[now]:
        return None
    return past_joined / past_chosen, joined / chosen
