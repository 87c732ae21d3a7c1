"""One run: a policy plays an environment over HTTP, step by step, and its regret is recorded.

Runs in the simulator's main thread. A run that is cut off contains its answered steps and is marked
as not complete. In lockstep the simulator requests every training round and waits for it, so fixed
seeds and decision ids repeat a run exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bandexa_client import (
    BanditClient,
    BanditError,
    Features,
    Rejected,
    RewardReport,
    RewardStatus,
    Selection,
    Training,
    array_body,
)
from simulators.environments import Environment

_WINDOW = 200
_CURVE_POINTS = 150
_UPSERT_ROWS = 2000
_BATCH_ITEMS = 1000  # the limit of one call


@dataclass(slots=True)
class Run:
    """The steps of one policy with one seed so far.

    `best` and `chosen` are the expected rewards of the best offered and of the chosen action per
    step, `rewards` the observed rewards; all have `steps` entries. `regret` is the sum of
    best - chosen, `uniform_regret` its expectation under uniform choices among the offered actions.
    """

    policy: str
    seed: int
    horizon: int
    complete: bool = False
    best: list[float] = field(default_factory=list)
    chosen: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    num_requests: int = 0
    num_train_rounds: int = 0
    wall_s: float = 0.0
    regret: float = 0.0
    uniform_regret: float = 0.0

    @property
    def steps(self) -> int:
        """Number of answered steps; the rewards of the last ones may not be sent yet."""
        return len(self.rewards)

    @property
    def percent_of_uniform(self) -> float | None:
        """Regret in percent of the expected regret of uniform choices; None if that is 0."""
        return 100.0 * self.regret / self.uniform_regret if self.uniform_regret > 0.0 else None

    @property
    def steps_per_s(self) -> float:
        """Steps per second of the run, training included."""
        return self.steps / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def requests_per_s(self) -> float:
        """HTTP requests per second of the run, training included."""
        return self.num_requests / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def ma_reward(self) -> float:
        """Mean observed reward of the last 200 steps; 0 before the first step."""
        return _recent_mean(self.rewards)

    @property
    def ma_best(self) -> float:
        """Mean expected reward of the best offered action over the last 200 steps."""
        return _recent_mean(self.best)

    @property
    def ma_chosen(self) -> float:
        """Mean expected reward of the chosen action over the last 200 steps."""
        return _recent_mean(self.chosen)

    def record(self, *, best: float, chosen: float, uniform: float, reward: float) -> None:
        """Add one step: three expected rewards and the observed one."""
        self.best.append(best)
        self.chosen.append(chosen)
        self.rewards.append(reward)
        self.regret += best - chosen
        self.uniform_regret += best - uniform

    def regret_curve(self) -> list[tuple[int, float]]:
        """Return about 150 pairs of a step (1-based) and the cumulative regret after it."""
        regret = np.cumsum(np.subtract(self.best, self.chosen))
        stride = max(1, self.horizon // _CURVE_POINTS)
        steps = [*range(stride, self.steps, stride), self.steps] if self.steps else []
        return [(step, float(regret[step - 1])) for step in steps]


class Calls(Protocol):
    """The calls of `BanditClient` that a run makes."""

    num_requests: int

    def select(
        self,
        bandit: str,
        context: Features,
        *,
        candidates: Sequence[str] | None = None,
        retrieve: int | None = None,
        decision_id: str | None = None,
    ) -> Selection:
        """See `BanditClient.select`."""

    def reward(self, decision_id: str, reward: float) -> RewardStatus:
        """See `BanditClient.reward`."""

    def reward_batch(self, reports: Sequence[RewardReport]) -> Sequence[RewardStatus | Rejected]:
        """See `BanditClient.reward_batch`."""

    def train(self, bandit: str, *, wait: bool = True) -> Training | None:
        """See `BanditClient.train`."""


def play(
    client: Calls,
    environment: Environment,
    run: Run,
    *,
    bandit: str,
    live: bool,
    delay: int,
    on_step: Callable[[], None],
) -> None:
    """Play all steps of an environment against an existing bandit and record them in `run`.

    Args:
        client: a client of the service.
        environment: the environment; its first `run.horizon` steps are played.
        run: the record to fill, step by step; it remains usable if this raises.
        bandit: name of a bandit with the actions of the environment.
        live: leave training to the service; otherwise request a round whenever one is due.
        delay: number of rewards that are collected and then sent together in their order; 1 sends
            each at once. The last batch may be smaller.
        on_step: called after every step.

    Raises:
        BanditError: a call failed, or an answer contradicts the environment.
    """
    requests_before = client.num_requests
    started = time.perf_counter()
    waiting: list[RewardReport] = []
    for t in range(run.horizon):
        waiting.append(_step(client, environment, run, bandit, t))
        if len(waiting) == delay or t == run.horizon - 1:
            train_due = report(client, waiting)
            waiting.clear()
            if train_due and not live:
                client.train(bandit, wait=True)
                run.num_train_rounds += 1
        run.wall_s = time.perf_counter() - started
        run.num_requests = client.num_requests - requests_before
        on_step()
    run.complete = True


def upsert_actions(client: BanditClient, environment: Environment, bandit: str) -> None:
    """Put the environment's actions into a bandit's catalogue, 2000 per call."""
    ids, features = environment.action_ids, environment.action_features
    for start in range(0, len(ids), _UPSERT_ROWS):
        rows = slice(start, start + _UPSERT_ROWS)
        client.put_actions(
            bandit, ids[rows], None if features is None else wire_array(features[rows])
        )


def wire_array(values: NDArray[np.generic]) -> dict[str, object]:
    """Return an array in the compact form of a request body."""
    return array_body(str(values.dtype), values.shape, values.tobytes())


def _step(client: Calls, environment: Environment, run: Run, bandit: str, t: int) -> RewardReport:
    """Select an action, draw its reward and record both; return the reward to report."""
    candidates = environment.candidates(t)
    offered = np.arange(len(environment.action_ids)) if candidates is None else candidates
    selection = client.select(
        bandit,
        wire_array(environment.context(t)),
        candidates=None
        if candidates is None
        else [environment.action_ids[index] for index in candidates],
        retrieve=environment.retrieve,
        decision_id=f"{bandit}.{t}",
    )
    index = _offered_index(environment, offered, selection)
    reward = environment.reward(t, int(offered[index]))
    expected = environment.expected(t, offered)
    run.record(
        best=float(expected.max()),
        chosen=float(expected[index]),
        uniform=float(expected.mean()),
        reward=reward,
    )
    return RewardReport(selection.decision_id, reward)


def report(client: Calls, reports: Sequence[RewardReport]) -> bool:
    """Send rewards; return whether training is due.

    Raises:
        BanditError: A reward was refused, or came too late.
    """
    answers: list[RewardStatus | Rejected] = []
    if len(reports) == 1:
        (only,) = reports
        assert only.reward is not None, "environments have single rewards"
        answers.append(client.reward(only.decision_id, only.reward))
    else:
        for start in range(0, len(reports), _BATCH_ITEMS):
            answers += client.reward_batch(reports[start : start + _BATCH_ITEMS])
    train_due = False
    for sent, answer in zip(reports, answers, strict=True):
        if isinstance(answer, Rejected):
            raise BanditError(f"the reward of {sent.decision_id} was refused: {answer}")
        if answer.status in ("duplicate", "late"):
            raise BanditError(f"the reward of {sent.decision_id} came back as {answer.status}")
        train_due |= answer.train_due
    return train_due


def _offered_index(
    environment: Environment, offered: NDArray[np.int64], selection: Selection
) -> int:
    """Return the index of the chosen action among the offered ones."""
    index = selection.action.index
    known = 0 <= index < len(offered)
    if not known or environment.action_ids[offered[index]] != selection.action.id:
        raise BanditError(
            f"{selection.decision_id} was answered with action {selection.action.id!r} "
            f"at index {index}, but that is not the action offered there"
        )
    return index


def _recent_mean(values: list[float]) -> float:
    recent = values[-_WINDOW:]
    return sum(recent) / len(recent) if recent else 0.0
