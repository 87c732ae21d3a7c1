"""Proves what challengers promise: a better one is promoted, an equal one is not, undone is undone.

- In process: a served model decides and learns in worlds where another encoder earns .05 more, at a
  floor of .05 that stays, a third of it for each action; the challenger is compared as a server
  does it, each time the log has a quarter more values. It has to be found better within the
  decisions that are asked for.
- Many worlds at once, with posteriors in closed form (`finite_worlds`): in 95 % of those where a
  tenth of the contexts gains .5 the better one is found, and in three quarters of those where a
  quarter gains .2. These rows say least: each is weighed by what the floor leaves of its action.
- Many worlds with a challenger that is equal: the same features under another prior. It may be
  found better in 5 of 200 worlds at most.
- On a server: a better challenger with a rule passes its trial, and is served, within the decisions
  that are asked for; then it is demoted. The posterior has to be that of a twin which got the same
  rows and was never promoted, and `bandexa verify` finds nothing wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionSlot, DecisionId, LogPosition
from bandexa_core.limits import projected
from bandexa_core.log.rows import LearnRow, row_by_row
from benchmarks.in_process import InProcessClient
from benchmarks.proofs.audit import verify
from benchmarks.proofs.finite_worlds import FiniteWorlds, Found
from benchmarks.report import arguments, report
from benchmarks.server import Server, temporary_server
from service.serving.challengers import Challenger
from service.tools.challenge.contest import GROWTH
from service.tools.challenge.scoring import Comparison
from service.tools.evaluate.cases import Case, Changes, blocks
from service.tools.evaluate.learner import Learner

IDS = ("a", "b", "c")
RARE = 0.1  # how often a context is of the kind whose best action is another one
MEANS = np.array([[0.5, 0.29, 0.3], [0.2, 0.73, 0.2]])  # by kind; .1 x .53 x .95 is .05
# The same lift, from more contexts that gain less: each of their rows says less of it.
OFTEN = 0.25
SMALL = np.array([[0.5, 0.29, 0.3], [0.3, 0.51, 0.3]])  # .25 x .21 x .95 is .05
CONTEXTS = np.array([[1.0, 0.0], [1.0, 1.0]])
FLOOR = 0.05
SHARING = 3  # challengers that share the error, as on a server
CHAMPION: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 3, "reward_range": [0, 1],
    "encoder": {"name": "concat"}, "selection": {"epsilon": FLOOR},
    # The floor of all actions together falls with the number of values; these stay.
    "limits": {name: {"floor": FLOOR / len(IDS)} for name in IDS},
}  # fmt: skip
PRODUCTS = {"encoder": {"name": "bilinear"}}
PLAIN = {"encoder": {"name": "bilinear", "standardize": False}}
SUMS = {"encoder": {"name": "concat", "standardize": False}}
EQUAL = {"posterior": {"prior_var": 2.0}}
LEAST = 1000
# Rounds scale inputs anew by the rows that there are then: those of two bandits come at other rows.
_ALIKE = {"encoder": {"name": "concat", "standardize": False}, "training": {"mode": "lockstep"}}
_AT_ONCE = 250
_WITHIN_S = 1800.0


def world(champion: dict[str, Any], differs: dict[str, Any], seed: int, num: int) -> Found:
    """Return what becomes of a challenger within so many decisions."""
    client = InProcessClient(f"world-{seed}", champion | {"seed": seed}, IDS, np.eye(3))
    challenger = Challenger(name="c", created=0.0, position=0, given=differs)
    learner = Learner("c", challenger.spec(client.model.spec), EncoderRegistry())
    comparison = Comparison({"c": learner}, {"c": LEAST}, SHARING)
    seen, look_at, count = None, 100.0, 0
    for block in blocks(_decided(client.model, np.random.default_rng((29, seed)), num)):
        comparison.take(block)
        count += len(block) if isinstance(block, list) else 0
        if count < look_at:
            continue
        look_at = GROWTH * count
        if comparison.scores()["c"].is_better:
            seen = count
            break
    score = comparison.scores()["c"]
    return Found(seen, score.lift or 0.0, score.low or 0.0, score.high or 0.0)


def worlds(
    champion: dict[str, Any],
    differs: dict[str, Any],
    num_worlds: int,
    num: int,
    *,
    means: Any = MEANS,
    rare: float = RARE,
) -> list[Found]:
    """Return what becomes of a challenger in many worlds; inputs are not standardised."""
    served = InProcessClient("worlds", champion | {"seed": 0}, IDS, np.eye(3)).model.spec
    challenger = Challenger(name="c", created=0.0, position=0, given=differs)
    shares = np.array([1.0 - rare, rare])
    return FiniteWorlds(means, shares, CONTEXTS, np.eye(3, dtype=np.float32)).compared(
        served, challenger.spec(served), num_worlds=num_worlds, num=num, least=LEAST,
        sharing=SHARING, growth=GROWTH, seed=0,
    )  # fmt: skip


def _decided(model: Any, rng: np.random.Generator, num: int) -> Iterator[Case | Changes]:
    """Have a served model decide and learn; yields what its log has."""
    features = np.eye(3, dtype=np.float32)
    yield Changes(
        [
            {"id": name, "enabled": True, "features": row.tolist()}
            for name, row in zip(IDS, features, strict=True)
        ]
    )
    for number in range(num):
        kind = int(rng.random() < RARE)
        x = np.array([1.0, kind], np.float32)
        name = DecisionId(f"d{number}")
        chances = model.ballot(name, x, model.enabled_candidates()).propensities
        if (bounds := model.limits.bounds(IDS.index, len(IDS))) is not None:
            chances = projected(chances, bounds)
        served = int(rng.choice(len(IDS), p=chances))
        propensity = float(chances[served])
        value = float(rng.random() < MEANS[kind, served])
        position = LogPosition(model.position + 1)
        row = LearnRow(
            position, 0.0, name, position, None, value, x, features[served], ActionSlot(served)
        )
        model.apply(row_by_row(row), lambda version: None)
        yield Case(name, 0.0, x.tolist(), IDS, None, False, served, propensity, None, value)


# -- on a server --------------------------------------------------------------------------------


class _Live:
    """A bandit on a server whose challenger has a rule, and a twin without one."""

    def __init__(self, server: Server, http: httpx.Client) -> None:
        self.server = server
        self.http = http
        self.rng = np.random.default_rng(31)
        for name in ("shop", "twin"):
            self.call("PUT", f"/bandits/{name}", CHAMPION | _ALIKE | {"seed": 3})
            actions = {"ids": list(IDS), "features": np.eye(3).tolist()}
            self.call("PUT", f"/bandits/{name}/actions", actions)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.http.request(method, f"{self.server.address}{path}", json=body)
        answer.raise_for_status()
        return answer.json()

    def play(self, num: int) -> float:
        """Have the bandit decide and learn; the twin learns the same rows. Returns the mean."""
        kinds = (self.rng.random(num) < RARE).astype(int).tolist()
        items = [{"bandit": "shop", "context": [1.0, kind]} for kind in kinds]
        answers = self.call("POST", "/select/batch", {"items": items})["items"]
        chosen = [item["answer"]["action"]["id"] for item in answers]
        values = [
            float(self.rng.random() < MEANS[kind, IDS.index(name)])
            for kind, name in zip(kinds, chosen, strict=True)
        ]
        same = [
            {"bandit": "twin", "context": [1.0, kind], "candidates": [name]}
            for kind, name in zip(kinds, chosen, strict=True)
        ]
        taught = self.call("POST", "/select/batch", {"items": same})["items"]
        for part in (answers, taught):
            rewards = [
                {"decision_id": item["answer"]["decision_id"], "reward": value}
                for item, value in zip(part, values, strict=True)
            ]
            self.call("POST", "/reward/batch", {"items": rewards})
        return float(np.mean(values))

    def challenger(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "/bandits/shop/challengers/products")
        return found

    def scores(self, name: str) -> np.ndarray:
        answers = [
            self.call("POST", f"/bandits/{name}/score", {"context": context})["scores"]
            for context in ([1.0, 0.0], [1.0, 1.0], [0.3, -0.7])
        ]
        return np.array([[(row["mean"], row["std"]) for row in each] for each in answers])


def live(most: int) -> tuple[dict[str, Any], list[str]]:
    """Return what became of a rule on a server, and what contradicts the claims."""
    results: dict[str, Any] = {}
    wrong: list[str] = []
    with temporary_server() as server, httpx.Client(timeout=120.0) as http:
        run = _Live(server, http)
        rule = {"rule": "auto", "margin": 0.02, "steps": [0.05, 0.25, 1]}
        run.call("PUT", "/bandits/shop/challengers/products", PRODUCTS | {"promotion": rule})
        num, deadline = 0, time.monotonic() + _WITHIN_S
        while time.monotonic() < deadline:
            found = run.challenger()
            if found["state"] not in ("learning", "promoting"):
                results.setdefault("decisions until its trial", num)
            if found["state"] == "served":
                break
            learned = 0 if found["score"] is None else found["score"]["learned"]
            waits = found["state"] == "learning" and num >= max(250, 1.3 * learned)
            ends = num >= most and found["state"] == "learning"
            if waits or ends or found["state"] == "promoting":
                time.sleep(0.2)  # a comparison, or a round, is under way
                if ends and learned >= num / GROWTH:
                    break
                continue
            run.play(_AT_ONCE)
            num += _AT_ONCE
        results["decisions until it is served"] = num
        if run.challenger()["state"] != "served":
            return results, [f"the better challenger is {found['state']} after {num} decisions"]
        before = np.mean([run.play(_AT_ONCE) for _ in range(8)])
        results["mean reward, served"] = float(before)
        run.call("POST", "/bandits/shop/challengers/products/demote")
        run.play(_AT_ONCE)
        mine, twin = run.scores("shop"), run.scores("twin")
        apart = float(np.max(np.abs(mine - twin) / np.maximum(np.abs(twin), 1e-3)))
        results["largest difference from the twin"] = apart
        if apart > 1e-9:
            wrong.append(f"demoted, the posterior differs by {apart:.1e}")
        server.stop()
        if (problem := verify(server.data_dir)) is not None:
            wrong.append(problem)
    return results, wrong


def main(argv: Sequence[str]) -> int:
    """Run the proof; returns 0 when every claim holds."""
    parser = arguments("challengers", __doc__)
    parser.add_argument("--better", type=int, default=10, help="worlds with a better challenger")
    parser.add_argument("--many", type=int, default=100, help="worlds of large and of small gains")
    parser.add_argument("--equal", type=int, default=200, help="worlds with an equal one")
    parser.add_argument("--decisions", type=int, default=30_000, help="in the first ones, at most")
    parser.add_argument("--equal-decisions", type=int, default=5000, help="in the others")
    parser.add_argument("--no-server", action="store_true", help="leave out the server")
    given = parser.parse_args(argv)
    results: dict[str, Any] = {}
    wrong: list[str] = []
    better = [world(CHAMPION, PRODUCTS, seed, given.decisions) for seed in range(given.better)]
    seen = [each.seen for each in better if each.seen is not None]
    results["better: worlds"] = len(better)
    results["better: found"] = len(seen)
    if seen:
        results["better: median decisions"] = float(np.median(seen))
        results["better: most decisions"] = max(seen)
    if len(seen) < len(better):
        wrong.append(f"a better challenger was found in {len(seen)} of {len(better)} worlds")
    for name, means, rare in (("large", MEANS, RARE), ("small", SMALL, OFTEN)):
        most = given.decisions
        many = worlds(CHAMPION | SUMS, PLAIN, given.many, most, means=means, rare=rare)
        took = sorted(np.inf if each.seen is None else each.seen for each in many)
        if many:
            results[f"{name} gains: worlds"] = len(many)
            results[f"{name} gains: found"] = int(np.isfinite(took).sum())
            results[f"{name} gains: median decisions"] = took[len(took) // 2]
            results[f"{name} gains: mean lift"] = float(np.mean([each.lift for each in many]))
            least = 0.95 if name == "large" else 0.75
            if np.isfinite(took).mean() < least:
                wrong.append(f"{name} gains are found in fewer than {least:.0%} of the worlds")
    equal = worlds(CHAMPION | PLAIN, EQUAL, given.equal, given.equal_decisions)
    false = sum(each.seen is not None for each in equal)
    results["equal: worlds"], results["equal: found better"] = len(equal), false
    if equal:
        results["equal: mean lift"] = float(np.mean([each.lift for each in equal]))
    if false > 0.025 * len(equal):
        wrong.append(f"an equal challenger was found better in {false} of {len(equal)} worlds")
    if not given.no_server:
        found, problems = live(given.decisions)
        results |= found
        wrong += problems
    claim = "a better challenger is promoted, an equal one is not, and undoing restores"
    return report("challengers", results, given.json, wrong=wrong, claim=claim)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
