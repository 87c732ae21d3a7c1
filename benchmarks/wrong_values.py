"""One wrong value: how often a bandit finds the best action afterwards, against the run without it.

Two bandits with nothing named: one whose contexts are numbers, and one whose contexts and actions
are objects (`"features": "auto"`). After 1,000 decisions a reward of 1e9 is reported, or a context
has a value of 1e12. The figure is the share of the next 1,000 decisions that choose the best
action, with it less without it, in percentage points. Decisions are drawn, so that any change moves
the share a little: `usual` reports another usual reward in the place of the wrong one, and shows by
how much. With `--repeats`, what follows a wrong value is played several times with other draws, and
a seed's figure is the mean. Runs are in process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.in_process import InProcessClient
from benchmarks.report import arguments, write

FIRST_SEED = 500
AT = 1000  # the decision with the wrong value
AFTER = 1000
REWARD, VALUE = 1e9, 1e12
POINTS = 2.0
BANDITS = ("numbers", "objects")
NONE, WRONG = "none", ("usual", "reward", "context")
_ACTIONS, _SIZE, _NOISE = 4, 4, 0.2
_DEVICES = ("phone", "tablet", "desktop")
_KINDS = ("gift", "rebate", "news", "trial")


class World:
    """What visitors send and what actions earn: the same for every run of a seed.

    Attributes:
        body: The body of the bandit's PUT.
        features: Those of its actions.
        contexts: One per decision.
        means: The expected rewards, (N, K).
        noise: That of the reward of a decision, (N,).
    """

    def __init__(self, bandit: str, seed: int, num: int) -> None:
        rng = np.random.default_rng(seed)
        lockstep = {"training": {"mode": "lockstep"}, "seed": seed}
        self.features: Any
        self.contexts: list[Any]
        if bandit == "numbers":
            x_NX = rng.normal(size=(num, _SIZE))
            w_XK = rng.normal(size=(_SIZE, _ACTIONS)) / _SIZE**0.5
            self.means: NDArray[np.float64] = 0.5 + 0.5 * x_NX @ w_XK
            self.contexts, self.features = x_NX.tolist(), None
            self.body: dict[str, Any] = {"context": {"shape": [_SIZE]}} | lockstep
        else:
            device_N = rng.integers(len(_DEVICES), size=num)
            basket_N = rng.lognormal(3.0, 0.7, num)
            table = rng.normal(size=(len(_DEVICES), _ACTIONS))
            slope_K = 0.5 * rng.normal(size=_ACTIONS)
            self.means = 0.5 + 0.5 * table[device_N]
            self.means += 0.5 * slope_K * (np.log(basket_N)[:, None] - 3.0)
            self.contexts = [
                {"device": _DEVICES[device], "basket": round(float(basket), 2)}
                for device, basket in zip(device_N.tolist(), basket_N.tolist(), strict=True)
            ]
            prices = rng.lognormal(2.0, 0.5, _ACTIONS).round(2).tolist()
            self.features = [
                {"kind": kind, "price": price} for kind, price in zip(_KINDS, prices, strict=True)
            ]
            named: Mapping[str, Any] = {
                "context": {"features": "auto"}, "actions": {"features": "auto"}
            }  # fmt: skip
            self.body = {**named, **lockstep}
        self.noise = _NOISE * rng.normal(size=num)

    def spoiled(self) -> Any:
        """Return the context of the decision with the wrong value, spoiled."""
        if self.features is None:
            return [VALUE, *self.contexts[AT][1:]]
        return self.contexts[AT] | {"basket": VALUE}


def shares_of_best(
    bandit: str,
    seed: int,
    wrongs: Sequence[str] = WRONG,
    after: int = AFTER,
    sections: Mapping[str, Any] | None = None,
    repeats: int = 1,
) -> dict[str, list[float]]:
    """Return the shares of the best action behind each wrong value, and without one (`none`).

    They have the decisions before it in common, and each repeat has draws of its own.

    Args:
        bandit: A name of `BANDITS`.
        seed: Of the world and of the bandit.
        wrongs: Names of `WRONG`.
        after: How many decisions are counted.
        sections: Further keys of the bandit's configuration.
        repeats: How often each is played.
    """
    world = World(bandit, seed, AT + after)
    ids = [f"a{k}" for k in range(_ACTIONS)]
    client = InProcessClient(
        f"{bandit}-{seed}", world.body | dict(sections or {}), ids, world.features
    )
    best = world.means.argmax(axis=1)

    def decide(n: int, wrong: str, repeat: int = 0) -> bool:
        spoiled = n == AT and wrong == "context"
        context = world.spoiled() if spoiled else world.contexts[n]
        decision_id = f"{n}.{repeat}" if repeat else str(n)  # what its draw is keyed by
        action = ids.index(client.select("", context, decision_id=decision_id).action.id)
        reward = float(world.means[n, action] + world.noise[n])
        if n == AT and wrong in ("usual", "reward"):
            reward = REWARD if wrong == "reward" else float(world.means[n, action])
        if client.reward(decision_id, reward).train_due:
            client.train("")
        return bool(action == best[n])

    for n in range(AT):
        decide(n, NONE)

    def share(wrong: str, repeat: int) -> float:
        return sum(decide(n, wrong, repeat) for n in range(AT, AT + after)) / after

    return {
        wrong: [_forked(partial(share, wrong, repeat)) for repeat in range(repeats)]
        for wrong in (NONE, *wrongs)
    }


def _forked(play: Callable[[], float]) -> float:
    """Return the result of a call in a copy of this process, which changes nothing here."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: theirs.send(play()))
    process.start()
    theirs.close()
    result = float(ours.recv())  # EOFError: it failed, and said why
    process.join()
    return result


def main(argv: Sequence[str]) -> int:
    """Play the seeds and print the differences; returns 0."""
    parser = arguments("wrong_values", __doc__)
    parser.add_argument("--bandits", nargs="*", choices=BANDITS, default=list(BANDITS))
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="of what follows, for each seed")
    given: argparse.Namespace = parser.parse_args(argv)
    torch.set_num_threads(1)
    started = time.perf_counter()
    results: dict[str, float] = {}
    print("| bandit | wrong | without | with | worst seed | mean | within 2 points |")
    print("|---|---|---|---|---|---|---|")
    for bandit in given.bandits:
        played = []
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            played.append(shares_of_best(bandit, seed, repeats=given.repeats))
            print(f"{bandit}, seed {seed}: {played[-1]}", file=sys.stderr, flush=True)
        without = np.mean([found[NONE] for found in played], axis=1)
        for wrong in WRONG:
            shares = np.mean([found[wrong] for found in played], axis=1)
            points = 100.0 * (shares - without)
            num = int((points >= -POINTS).sum())
            results[f"{bandit} {wrong}"] = float(points.mean())
            results[f"{bandit} {wrong} worst"] = float(points.min())
            print(
                f"| {bandit} | {wrong} | {without.mean():.3f} | {shares.mean():.3f} |"
                f" {points.min():+.1f} | {points.mean():+.2f} | {num} of {len(points)} |",
                flush=True,
            )
    write("wrong_values", results, given.json, wall_s=time.perf_counter() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
