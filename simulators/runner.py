"""One run: a policy meets an environment over HTTP, step by step, and its regret is recorded.

Runs in the simulator's main thread. A run that is cut off keeps the steps it has answered and says
that it is not complete. In lockstep every training round is called for and waited for, so that
fixed seeds and decision ids repeat a run exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from simulators.client import BanditClient, BanditError, Selection, array_body
from simulators.environments import Environment

_WINDOW = 200
_CURVE_POINTS = 150
_UPSERT_ROWS = 2000


@dataclass(slots=True)
class Run:
    """What happened to one policy with one seed so far.

    `best` and `chosen` are the expected rewards of the best offered and of the chosen action per
    step, `rewards` what was observed; all have `steps` entries.
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

    @property
    def steps(self) -> int:
        """Number of answered and rewarded steps."""
        return len(self.rewards)

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
        """Mean observed reward of the last 200 steps, 0 before the first."""
        return _recent_mean(self.rewards)

    @property
    def ma_best(self) -> float:
        """Mean expected reward of the best offered action over the last 200 steps."""
        return _recent_mean(self.best)

    @property
    def ma_chosen(self) -> float:
        """Mean expected reward of the chosen action over the last 200 steps."""
        return _recent_mean(self.chosen)

    def record(self, *, best: float, chosen: float, reward: float) -> None:
        """Add one step."""
        self.best.append(best)
        self.chosen.append(chosen)
        self.rewards.append(reward)
        self.regret += best - chosen

    def regret_curve(self) -> list[tuple[int, float]]:
        """Return about 150 pairs of a step (1-based) and the cumulative regret up to it."""
        regret = np.cumsum(np.subtract(self.best, self.chosen))
        stride = max(1, self.horizon // _CURVE_POINTS)
        steps = [*range(stride, self.steps, stride), self.steps] if self.steps else []
        return [(step, float(regret[step - 1])) for step in steps]


def play(
    client: BanditClient,
    environment: Environment,
    run: Run,
    *,
    bandit: str,
    live: bool,
    on_step: Callable[[], None],
) -> None:
    """Play all steps of an environment against an existing bandit and record them in `run`.

    Args:
        client: where the bandit lives.
        environment: what is simulated; `run.horizon` of its steps are played.
        run: is filled step by step, and stays usable when this raises.
        bandit: a bandit whose actions are those of the environment.
        live: leave training to the service; otherwise it is called for whenever it is due.
        on_step: called after every step.

    Raises:
        BanditError: a call failed, or an answer contradicts the environment.
    """
    requests_before = client.num_requests
    started = time.perf_counter()
    for t in range(run.horizon):
        train_due = _step(client, environment, run, bandit, t)
        if train_due and not live:
            client.train(bandit, wait=True)
            run.num_train_rounds += 1
        run.wall_s = time.perf_counter() - started
        run.num_requests = client.num_requests - requests_before
        on_step()
    run.complete = True


def upsert_actions(client: BanditClient, environment: Environment, bandit: str) -> None:
    """Put the environment's actions into a bandit's catalogue, some thousand at a time."""
    ids, features = environment.action_ids, environment.action_features
    for start in range(0, len(ids), _UPSERT_ROWS):
        rows = slice(start, start + _UPSERT_ROWS)
        client.put_actions(
            bandit, ids[rows], None if features is None else wire_array(features[rows])
        )


def wire_array(values: NDArray[np.generic]) -> dict[str, object]:
    """Return an array in the compact form of a request body."""
    return array_body(str(values.dtype), values.shape, values.tobytes())


def _step(client: BanditClient, environment: Environment, run: Run, bandit: str, t: int) -> bool:
    """Select, draw the reward, report it and record both; tell whether training is due."""
    candidates = environment.candidates(t)
    selection = client.select(
        bandit,
        wire_array(environment.context(t)),
        candidates=None
        if candidates is None
        else [environment.action_ids[index] for index in candidates],
        retrieve=environment.retrieve,
        decision_id=f"{bandit}.{t}",
    )
    action = _catalogue_index(environment, candidates, selection)
    reward = environment.reward(t, action)
    status = client.reward(selection.decision_id, reward)
    if status.status in ("duplicate", "late"):
        raise BanditError(f"the reward of {selection.decision_id} came back as {status.status}")
    chosen = float(environment.expected(t, np.array([action]))[0])
    run.record(best=environment.best(t), chosen=chosen, reward=reward)
    return status.train_due


def _catalogue_index(
    environment: Environment, candidates: NDArray[np.int64] | None, selection: Selection
) -> int:
    offered = len(environment.action_ids) if candidates is None else len(candidates)
    index = selection.action.index
    if 0 <= index < offered:
        action = index if candidates is None else int(candidates[index])
        if environment.action_ids[action] == selection.action.id:
            return action
    raise BanditError(
        f"{selection.decision_id} was answered with action {selection.action.id!r} "
        f"at index {index}, which is not what was offered there"
    )


def _recent_mean(values: list[float]) -> float:
    recent = values[-_WINDOW:]
    return sum(recent) / len(recent) if recent else 0.0
