"""Metrics outlast restarts, retention and erasing; a change of their weights reads them again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import poll

OLD, NEW = {"money": 1.0}, {"click": 2.0, "money": -0.5}
NUM = 60
PLAIN: dict[str, Any] = {  # neither the prior nor the scale of inputs follows from rows
    "reward_range": [-2, 4],
    "posterior": {"prior_mean": 0.0}, "encoder": {"name": "concat", "standardize": False},
}  # fmt: skip


def own_id(name: str, number: int) -> str:
    return f"{name}.{number}"


def play(node, rig, name: str, among: range) -> None:
    selects, reports = [], []
    for number in among:
        rng = np.random.default_rng(number)
        action = rig.action_ids[number % len(rig.action_ids)]
        unit = {"unit": "somebody"} if number % 10 == 0 else {}
        context = rig.context_of(name, number)
        selects.append(
            {"bandit": name, "context": context, "decision_id": own_id(name, number)}
            | {"candidates": [action]} | unit
        )  # fmt: skip
        metrics = {"click": number % 3, "money": round(float(rng.normal()), 3)}
        reports.append({"decision_id": own_id(name, number), "metrics": metrics})
    node.call("POST", "/select/batch", {"items": selects})
    answers = node.call("POST", "/reward/batch", {"items": reports})["items"]
    assert [item["answer"]["status"] for item in answers] == ["applied"] * len(reports)


def verified(node, *more: str) -> None:
    done = bandexa("verify", node.data_dir, "--quiet", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict: ok" in done.stdout


def changed(node, name: str, learn: dict[str, float]) -> None:
    spec = node.state(name)["spec"] | {"rewards": {"learn": learn}}
    state = node.call("PUT", f"/bandits/{name}", spec, wait="true")
    assert state["rebuild"]["state"] == "done"


@pytest.fixture(scope="module")
def expected(launch, rig):
    """Return the scores of a bandit that has had the new weights from the start."""
    node = launch("expected")
    node.create("m", rig.linear(rewards={"learn": NEW}, **PLAIN))
    play(node, rig, "m", range(NUM))
    scores = node.score("m")
    node.stop()
    return scores


def test_a_restart_keeps_metrics_and_their_weights_can_change_then(launch, rig, expected):
    node = launch("restarted")
    for name in ("m", "n"):
        node.create(name, rig.linear(rewards={"learn": OLD}, **PLAIN))
        play(node, rig, name, range(NUM // 2))
    node.kill()
    node.start()
    totals = node.state("m")["metrics"]
    assert totals["click"]["count"] == NUM // 2
    play(node, rig, "m", range(NUM // 2, NUM))
    changed(node, "m", NEW)
    for found, known in zip(node.score("m"), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-9)
    verified(node)
    verified(node, "--live", node.url)
    state, scores = node.state("m"), node.score("m")
    node.kill()
    node.start()
    assert node.state("m") == state
    for found, before in zip(node.score("m"), scores, strict=True):
        np.testing.assert_allclose(found, before, rtol=1e-9, atol=1e-12)
    explained = node.call("GET", f"/bandits/m/decisions/{own_id('m', 1)}")
    assert explained["reproduced"] == {"action": True, "score": True, "propensity": True}
    node.call("POST", "/erase", {"unit": "somebody"})
    poll(lambda: node.state("m")["unlearning"] == "none", "rebuilt models")
    verified(node)
    export = node.data_dir.parent / "m.jsonl"
    done = bandexa("export", "m", export, "--url", node.url)
    assert done.returncode == 0, done.stderr
    assert '"metrics":{"click":' in export.read_text()


def test_the_sample_of_rows_that_left_the_log_is_weighed_anew(launch, rig, expected):
    node = launch("trimmed", keep_snapshots=2)
    node.create("m", rig.linear(rewards={"learn": OLD}, **PLAIN))
    play(node, rig, "m", range(NUM // 2))
    node.train("m")
    node.train("m")
    node.stop()
    node.env["BANDEXA_MAX_AGE_DAYS"] = "1e-9"
    node.start()
    poll(lambda: rig.query(node, "SELECT count(*) FROM decisions") == [(0,)], "trimmed logs")
    node.stop()
    del node.env["BANDEXA_MAX_AGE_DAYS"]
    node.start()
    play(node, rig, "m", range(NUM // 2, NUM))
    assert rig.query(node, "SELECT count(*) FROM evicted WHERE metrics NOT NULL") == [(NUM // 2,)]
    changed(node, "m", NEW)
    for found, known in zip(node.score("m"), expected, strict=True):
        np.testing.assert_allclose(found, known, rtol=1e-9, atol=1e-9)
    verified(node)


def test_verify_finds_metrics_that_were_changed(launch, rig):
    node = launch("damaged")
    node.create("m", rig.linear(rewards={"learn": OLD}, **PLAIN))
    play(node, rig, "m", range(4))
    node.stop()
    other = msgpack.packb((("click", 9.0), ("money", 9.0)))
    log = msgpack.packb(((("click", 9.0), ("money", 9.0)), None))
    for statement, blob, expected in (
        ("UPDATE rewards SET metrics = ? WHERE key = (SELECT min(key) FROM rewards)", other,
         "pick 0: click is not that of its rewards"),
        ("UPDATE log SET payload = ? WHERE kind = 1 AND position = 4", log,
         "its metrics are not those of log row 4"),
    ):  # fmt: skip
        with closing(sqlite3.connect(node.data_dir / "bandexa.db")) as db:
            db.execute(statement, (blob,))
            db.commit()
        done = bandexa("verify", node.data_dir, "--quiet")
        assert done.returncode == 1
        assert expected in done.stdout
    assert "row 4: its hash" in done.stdout
