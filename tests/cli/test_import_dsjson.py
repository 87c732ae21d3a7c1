"""`bandexa import` of Personalizer's joined logs: every kind of line, and estimates from them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estimators.bandits import ips
from estimators.utils.ds_parse import json_cooked
from typer.testing import CliRunner, Result

from service.cli import app
from service.tools.importing.names import action_of

DISHES = ("soup", "salad", "kräuter quark")
KINDS = ("plain", "skipped", "dangling", "apprentice", "ccb", "broken", "impossible", "blank")
SHARES = (0.6, 0.06, 0.06, 0.1, 0.1, 0.02, 0.02, 0.04)


class Log:
    """A joined log with lines of all kinds, written by its rules, and what estimates need of it.

    Attributes:
        lines: The lines.
        counts: How many are of each kind.
        plain: As `weighed`, of lines of one choice that was served alone.
        weighed: Of each decision its probability, reward, place and the number of actions.
    """

    def __init__(self, num: int, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self._rng = rng
        self.lines: list[bytes] = []
        self.counts: Counter[str] = Counter()
        self.plain: list[tuple[float, float, int, int]] = []
        self.weighed: list[tuple[float, float, int, int]] = []
        for number in range(num):
            kind = str(rng.choice(KINDS, p=SHARES))
            self.counts[kind] += 1
            text: str = getattr(self, f"_{kind}")(number)
            self.lines.append(text.encode())

    def _line(self, number: int, cost: float, chances: Any, chosen: int, **more: Any) -> str:
        order = [chosen] + [place for place in range(3) if place != chosen]
        line = {
            "_label_cost": cost, "_label_probability": float(chances[chosen]),
            "_label_Action": chosen + 1, "_labelIndex": chosen,
        } | more | {
            "o": [{"v": -cost, "EventId": f"visit-{number}", "ActionTaken": False}],
            **self._head(number), "a": [place + 1 for place in order], "c": self._context(number),
            "p": [float(chances[place]) for place in order], "VWState": {"m": "model/1"},
        }  # fmt: skip
        return json.dumps(line, separators=(",", ":"), ensure_ascii=False)

    def _head(self, number: int) -> dict[str, Any]:
        minutes, seconds = divmod(number, 60)
        time = f"2026-05-{4 + minutes // 1440:02}T{minutes // 60 % 24:02}:{minutes % 60:02}"
        return {
            "Timestamp": f"{time}:{seconds:02}.0000000Z", "Version": "1",
            "EventId": f"visit-{number}",
        }  # fmt: skip

    def _context(self, number: int) -> dict[str, Any]:
        return {
            "FromUrl": [{"visit": {"hour": number % 24, "daypart": "evening"}}, {"member": True}],
            "_multi": [
                {"_tag": name, "i": {"constant": 1, "id": name}, "j": [{"dish": {"price": 7}}]}
                for name in DISHES
            ],
        }  # fmt: skip

    def _drawn(self) -> tuple[Any, int, float]:
        chances = self._rng.dirichlet([1.0, 2.0, 3.0]) * 0.97 + 0.01
        return chances, int(self._rng.choice(3, p=chances)), int(self._rng.integers(3)) / 2

    def _plain(self, number: int) -> str:
        chances, chosen, reward = self._drawn()
        self.plain.append((float(chances[chosen]), reward, chosen, 3))
        self.weighed.append(self.plain[-1])
        return self._line(number, -reward, chances, chosen)

    def _skipped(self, number: int) -> str:
        chances, chosen, reward = self._drawn()
        more = {"_skipLearn": True, "_deferred": True}
        return self._line(number, -reward, chances, chosen, **more)

    def _dangling(self, number: int) -> str:
        head = self._head(number)
        return json.dumps({"RewardValue": 1.0, "EnqueuedTimeUtc": head["Timestamp"], **head})

    def _apprentice(self, number: int) -> str:
        """The label says whether the first action would have been chosen, the other cost how
        well that went."""
        chances, chosen, _ = self._drawn()
        reward = (1 + int(self._rng.integers(3))) / 4
        self.weighed.append((1.0, reward, 0, 3))
        label = -1.0 if chosen == 0 else 0.0
        line = self._line(number, label, chances, chosen)
        return f'{line[:-1]},"_original_label_cost":{-reward}}}'

    def _ccb(self, number: int) -> str:
        left, outcomes = [0, 1, 2], []
        for _ in range(2):
            chances = self._rng.dirichlet([1.0] * len(left)) * 0.9 + 0.1 / len(left)
            place = int(self._rng.choice(len(left), p=chances))
            order = [left[place]] + [each for each in left if each != left[place]]
            known = dict(zip(left, chances, strict=True))
            reward = int(self._rng.integers(2)) / 1
            self.weighed.append((float(chances[place]), reward, left[place], len(left)))
            outcomes.append({
                "_label_cost": -reward, "_id": f"visit-{number}", "_a": order,
                "_p": [float(known[each]) for each in order], "_o": [],
                "_original_label_cost": -reward,
            })  # fmt: skip
            left = [each for each in left if each != left[place]]
        slots = [{"_id": each, "sj": [{"size": each}, {"_inc": [0, 1, 2]}]} for each in "ab"]
        context = self._context(number) | {"_slots": slots}
        line = {"_outcomes": outcomes, **self._head(number), "c": context, "VWState": {"m": "m"}}
        return json.dumps(line)

    def _broken(self, number: int) -> str:
        return self._line(number, 0.0, [0.5, 0.25, 0.25], 0)[:-30]

    def _impossible(self, number: int) -> str:
        return self._line(number, 0.0, [0.0, 0.5, 0.5], 0)

    def _blank(self, number: int) -> str:
        return "  "


@pytest.fixture
def run(server) -> Callable[..., Result]:
    def command(*arguments: object, expect: int = 0) -> Result:
        words = [str(each) for each in arguments]
        result = CliRunner().invoke(app, words, env={"BANDEXA_URL": server.url})
        assert result.exit_code == expect, result.output
        return result

    return command


@pytest.mark.parametrize("num", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_estimates_of_an_imported_log_are_those_of_vw_estimators(
    api, run: Callable[..., Result], tmp_path: Path, num: int
) -> None:
    log = Log(num)
    file = tmp_path / "joined.json"  # packed, as downloads are, whatever the name says
    file.write_bytes(gzip.compress(b"\n".join(log.lines)))
    name = api.bandit(
        action_dim=0, context={"features": "auto", "max_bytes": 512}, policy="uniform",
        actions={"features": "auto", "max_bytes": 256},
    )  # fmt: skip
    found = json.loads(run("import", name, file, "--json", expect=1).stdout)
    counts = log.counts
    num_single = counts["plain"] + counts["apprentice"]
    assert found["imported"] == num_single + 2 * counts["ccb"] == len(log.weighed)
    assert found["refused"] == counts["broken"]
    assert found["skipped"] == {
        "was never activated": counts["skipped"],
        "is a reward without its decision": counts["dangling"],
        "has no probability above 0": counts["impossible"],
    }
    note = "the learning mode Apprentice: the first action was shown"
    assert found["notes"] == {note: counts["apprentice"]}
    again = json.loads(run("import", name, file, "--json", expect=1).stdout)
    assert (again["imported"], again["duplicate"]) == (0, len(log.weighed))
    theirs = {each: ips.Estimator() for each in ("logged", "uniform")}
    for p, reward, _, size in log.weighed:
        theirs["logged"].add_example(p, reward, p)
        theirs["uniform"].add_example(p, reward, 1 / size)
    whole = json.loads(run("evaluate", name, "--json").stdout)
    assert whole["imported"] == len(log.weighed)
    ours = {each["policy"]: each for each in whole["policies"]}
    for policy in ("logged", "uniform"):
        value = ours[policy]["estimates"]["ips"]["value"]
        assert value == pytest.approx(theirs[policy].get(), abs=1e-12), policy


def test_the_parser_of_vw_estimators_reads_such_lines(tmp_path: Path) -> None:
    log = Log(200)
    plain = [line for line in log.lines if line.startswith(b'{"_label_cost"')]
    whole = [line for line in plain if line.endswith(b"}") and b"_original" not in line]
    cooked = [each for each in map(json_cooked, whole) if not each["skipLearn"] and each["p"] > 0]
    found = [(each["p"], -float(each["cost"]), each["a"] - 1, each["num_a"]) for each in cooked]
    assert found == log.plain
    assert len(found) == log.counts["plain"]


def test_what_was_imported_is_what_the_doorway_would_have_noted(
    api, run: Callable[..., Result], tmp_path: Path
) -> None:
    log = Log(40, seed=5)
    file = tmp_path / "joined.dsjson"
    file.write_bytes(b"\n".join(log.lines))
    name = api.bandit(
        action_dim=0, context={"features": "auto"}, policy="uniform", actions={"features": "auto"}
    )
    run("import", name, file, expect=1)
    rows = [json.loads(line) for line in api.http.get(f"/bandits/{name}/log").text.splitlines()]
    made = {row["imported"]: row for row in rows if row["kind"] == "decision"}
    slots = [row for event, row in made.items() if "/" in event]
    plain = next(row for event, row in made.items() if "/" not in event)
    assert plain["context"] == {
        "member": True, "visit.daypart": "evening", "visit.hour": plain["context"]["visit.hour"],
    }  # fmt: skip
    assert plain["features"][0] == {"dish.price": 7, "i.id": "soup"}
    assert plain["features"][2] == {"dish.price": 7, "i.id": "kräuter quark"}
    assert plain["candidates"][:2] == ["soup", "salad"]
    assert plain["candidates"][2].startswith("pz-")
    assert slots
    assert {row["context"]["slot.id"] for row in slots} == {"a", "b"}
    assert {row["context"]["sj.size"] for row in slots} == {"a", "b"}


def test_all_lines_may_be_those_of_an_apprentice(
    api, run: Callable[..., Result], tmp_path: Path
) -> None:
    log = Log(60, seed=7)
    file = tmp_path / "joined.dsjson"
    file.write_bytes(b"\n".join(log.lines))
    name = api.bandit(
        action_dim=0, context={"features": "auto"}, policy="uniform", actions={"features": "auto"}
    )
    run("import", name, file, "--apprentice", expect=1)
    rows = [json.loads(line) for line in api.http.get(f"/bandits/{name}/log").text.splitlines()]
    single = [r for r in rows if r["kind"] == "decision" and "/" not in r["imported"]]
    assert {(row["action"], row["propensity"]) for row in single} == {("soup", 1.0)}


def test_failures_of_an_apprentice_are_those_of_the_first_action(
    api, run: Callable[..., Result], tmp_path: Path
) -> None:
    """With rewards of 0 and 1, a label of Apprentice is often the reward, too: 0 and 0, 1 and 1.

    Each line: what the learner would choose, and the reward. Then the loop goes online.
    """
    chances, log = [0.5, 0.3, 0.2], Log(0)
    before = [(2, 1), (1, 0), (0, 1), (0, 0), (2, 0)]
    online = [(2, 1), (1, 0), (0, 1), (0, 0), (2, 0)]
    lines = []
    for number, (chosen, reward) in enumerate(before + online):
        label = -reward if number >= len(before) else -1 if chosen == 0 else 0
        line = log._line(number, label, chances, chosen, _original_label_cost=-reward)
        lines.append(line.encode())
    file = tmp_path / "joined.dsjson"
    file.write_bytes(b"\n".join(lines))
    name = api.bandit(
        action_dim=0, context={"features": "auto"}, policy="uniform", actions={"features": "auto"}
    )
    run("import", name, file)
    text = api.http.get(f"/bandits/{name}/log").text
    rows = [row for row in map(json.loads, text.splitlines()) if row["kind"] == "decision"]
    found = {row["imported"]: (row["action"], row["propensity"], row["value"]) for row in rows}
    quark = str(action_of(DISHES[2]))
    assert [found[f"visit-{number}"] for number in range(5)] == [
        ("soup", 1.0, float(reward)) for _, reward in before
    ]
    assert [found[f"visit-{number}"] for number in range(5, 10)] == [
        (quark, 0.2, 1.0), ("salad", 0.3, 0.0), ("soup", 0.5, 1.0), ("soup", 0.5, 0.0),
        (quark, 0.2, 0.0),
    ]  # fmt: skip
