"""One person is erased from a server: nothing of her is left in any file, and models forget her.

Alice's decisions lie among those of others. A second server never sees her, so that what the first
one has learned without her is known.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.store.opening import open_store
from tests.fixtures.commands import bandexa
from tests.fixtures.waiting import poll

NAMES = ("linear", "disjoint", "neural")
NUM, EVERY = 120, 6  # every sixth decision is hers
ALICE = "alice-4711"


def is_hers(number: int) -> bool:
    return number % EVERY == 2


def own_id(name: str, number: int) -> str:
    return f"{ALICE}.{name}.{number}" if is_hers(number) else f"{name}.{number}"


def play(node, rig, name: str, *, with_her: bool, among: range = range(NUM)) -> None:
    """Select with one candidate each, so that both servers learn of the same actions."""
    numbers = [number for number in among if with_her or not is_hers(number)]
    selects = [
        {
            "bandit": name, "context": rig.context_of(name, number),
            "decision_id": own_id(name, number), "unit": ALICE if is_hers(number) else "bob",
            "candidates": [rig.action_ids[number % len(rig.action_ids)]],
        }
        for number in numbers
    ]  # fmt: skip
    for first in range(0, len(numbers), 10):  # several groups of rows
        node.call("POST", "/select/batch", {"items": selects[first : first + 10]})
        rewards = [
            {
                "decision_id": own_id(name, number), "reward_id": f"{own_id(name, number)}.paid",
                "reward": rig.reward_of(rig.context_of(name, number), number % 5),
            }
            for number in numbers[first : first + 10]
        ]  # fmt: skip
        answers = node.call("POST", "/reward/batch", {"items": rewards})["items"]
        assert [item["answer"]["status"] for item in answers] == ["applied"] * len(rewards)


def create(node, rig) -> None:
    node.create("linear", rig.linear())
    node.create("disjoint", rig.disjoint())
    node.create(
        "neural", rig.neural(training=rig.training(optimizer_steps=60), replay={"backend": "disk"})
    )


def traces(node, rig) -> dict[str, list[str]]:
    """Return which of Alice's ids and contexts are in which files of the data directory."""
    wanted = {"unit and ids": ALICE.encode()}
    for name in NAMES:
        for number in filter(is_hers, range(NUM)):
            context = np.array(rig.context_of(name, number))
            wanted[f"{name}.{number}, float32"] = context.astype(np.float32).tobytes()
            wanted[f"{name}.{number}, float64"] = context.tobytes()
    found: dict[str, list[str]] = {}
    for path in sorted(path for path in node.data_dir.rglob("*") if path.is_file()):
        content = path.read_bytes()
        here = [what for what, data in wanted.items() if data in content]
        if here:
            found[str(path.relative_to(node.data_dir))] = here
    return found


@pytest.fixture(scope="module")
def without_her(launch, rig):
    """Return the scores of a server that never saw Alice."""
    node = launch("without-her")
    create(node, rig)
    for name in NAMES:
        play(node, rig, name, with_her=False)
        node.train(name)
    scores = {name: node.score(name) for name in NAMES}
    node.stop()
    return scores


@pytest.fixture(scope="module")
def erased(launch, rig):
    """Return a server that has erased Alice, with its answer, and what there was before."""
    node = launch("with-her", keep_snapshots=2)
    create(node, rig)
    for name in NAMES:
        play(node, rig, name, with_her=True)
        node.train(name)
    server_made = node.call(
        "POST", "/select", {"bandit": "linear", "context": [0.5] * 6, "unit": ALICE}
    )["decision_id"]
    before = traces(node, rig)
    answer = node.call("POST", "/erase", {"unit": ALICE})
    return node, answer, before, server_made


def test_nothing_of_her_is_left_in_any_file(erased, rig):
    node, answer, before, _ = erased
    in_files = " ".join(before)
    assert all(part in in_files for part in ("bandexa.db", "replay/"))
    assert answer["decisions"] == len(NAMES) * len(list(filter(is_hers, range(NUM)))) + 1
    assert sorted(answer["rebuilt"]) == sorted(NAMES)
    assert answer["waiting"] == []
    assert answer["wal_emptied"]
    assert traces(node, rig) == {}


@pytest.mark.few(2)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_what_it_would_be_without_her(erased, without_her, name):
    node, *_ = erased
    for found, expected in zip(node.score(name), without_her[name], strict=True):
        assert np.abs(found - expected).max() < 1e-9


def test_a_later_reward_is_answered_gone_and_changes_nothing(erased, rig):
    node, _, _, server_made = erased
    response = node.http.post("/reward", json={"decision_id": server_made, "reward": 1.0})
    assert response.status_code == 410
    assert response.json()["type"] == "urn:bandexa:erased"
    own = {"decision_id": own_id("linear", 2), "reward": 1.0}  # her id is not known any more
    assert node.http.post("/reward", json=own).status_code == 404
    assert node.http.post("/activate", json={"decision_id": server_made}).status_code == 410


def test_explanations_say_erased_and_those_of_others_work(erased):
    node, _, _, server_made = erased
    gone = node.http.get(f"/bandits/linear/decisions/{server_made}")
    assert gone.status_code == 410
    assert "erased" in gone.json()["detail"]
    chosen = node.call("POST", "/select", {"bandit": "linear", "context": [0.1] * 6})
    explained = node.call("GET", f"/bandits/linear/decisions/{chosen['decision_id']}")
    assert explained["explained"] == "yes"
    assert explained["reproduced"]["action"]


def test_erasing_again_does_nothing(erased):
    node, *_ = erased
    again = node.call("POST", "/erase", {"unit": ALICE})
    assert (again["decisions"], again["rebuilt"]) == (0, [])


def test_verify_passes_and_names_what_was_erased(erased, rig):
    node, *_ = erased
    found = node.data_dir.with_name("verified.json")
    done = bandexa("verify", node.data_dir, "--quiet", "--json", found)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 erased" in found.read_text()
    live = bandexa("verify", node.data_dir, "--quiet", "--live", node.url)
    assert live.returncode == 0, live.stdout + live.stderr
    scores = {name: node.score(name) for name in NAMES}
    assert node.stop() == 0
    node.start()
    for name in NAMES:
        for found, expected in zip(node.score(name), scores[name], strict=True):
            assert np.abs(found - expected).max() < 1e-9
    assert traces(node, rig) == {}


def query(node, sql: str):
    """Ask the database, beside its server or without one."""
    with closing(sqlite3.connect(f"file:{node.data_dir}/bandexa.db?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def is_finished(node) -> bool:
    tables = ("erasures", "relearning")
    return not any(query(node, f"SELECT 1 FROM {table}") for table in tables)


def test_a_kill_before_the_model_is_rebuilt_is_finished_by_the_next_start(launch, rig, without_her):
    node = launch("killed")
    node.create("linear", rig.linear())
    play(node, rig, "linear", with_her=True)
    node.train("linear")
    trainer = node.trainer_pid()
    os.kill(trainer, signal.SIGSTOP)  # the erasure gets no further than to its round
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(node.http.post, "/erase", json={"unit": ALICE})
        poll(lambda: query(node, "SELECT 1 FROM relearning"), "blanked decisions")
        node.signal(signal.SIGKILL)
        assert isinstance(answer.exception(), httpx.HTTPError)
    node.wait()
    os.kill(trainer, signal.SIGKILL)
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has not rebuilt the model yet" in done.stdout
    node.start()
    poll(lambda: is_finished(node), "the erasure is finished")
    for found, expected in zip(node.score("linear"), without_her["linear"], strict=True):
        assert np.abs(found - expected).max() < 1e-9
    poll(lambda: traces(node, rig) == {}, "no traces in any file")


def test_a_kill_before_anything_is_erased_is_finished_by_the_next_start(launch, rig):
    node = launch("killed-early")
    node.create("linear", rig.linear())
    play(node, rig, "linear", with_her=True)
    node.kill()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    store = open_store(node.data_dir / "bandexa.db", "os", answers.put)
    store.begin_erasure(None, ALICE, (), lambda _, error: None)
    answers.get(timeout=20)()
    store.close()
    node.start()
    poll(lambda: is_finished(node), "the erasure is finished")
    poll(lambda: traces(node, rig) == {}, "no traces in any file")
    assert query(node, "SELECT count(*) FROM erased") == [(NUM // EVERY,)]


def test_the_file_shrinks_while_it_is_served(erased):
    node, *_ = erased
    big = {"bandit": "linear", "context": [0.25] * 6, "unit": "carol"}
    features = [{"id": f"x{n}", "features": [0.125] * 4} for n in range(400)]
    for _ in range(40):
        node.call("POST", "/select", big | {"candidates": features})
    sent = np.full(4, 0.125, np.float32).tobytes()
    files = [node.data_dir / "bandexa.db", node.data_dir / "bandexa.db-wal"]
    assert any(sent in file.read_bytes() for file in files)  # on pages of their own: 6 KB each
    done = bandexa("erase", "--url", node.url, "--unit", "carol")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 decisions erased" in done.stdout
    assert not any(sent in file.read_bytes() for file in files)
    answer = node.call("POST", "/compact")
    assert answer["is_done"]
    assert answer["bytes_after"] < answer["bytes_before"] - 40 * 4096
    assert (node.data_dir / "bandexa.db").stat().st_size == answer["bytes_after"]
    assert query(node, "PRAGMA freelist_count") == [(0,)]


def test_a_bad_request_names_the_field(erased):
    node, *_ = erased
    for body in ({}, {"unit": "a", "decision_ids": ["b"]}):
        response = node.http.post("/erase", json=body)
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "unit"
    assert node.http.post("/erase", json={"unit": "a", "bandit": "none"}).status_code == 404


def test_a_directory_of_an_earlier_release_is_erased_from_and_shrinks(launch, tmp_path):
    saved = Path(__file__).parent / "data" / "0.3.0"
    shutil.copytree(saved, tmp_path / "data")
    done = bandexa("verify", tmp_path / "data", "--quiet")  # no server has opened it yet
    assert done.returncode == 0, done.stdout + done.stderr
    node = launch("saved", content=saved)
    [(key, own_id)] = query(
        node, "SELECT d.key, d.own_id FROM decisions AS d JOIN ledger AS l ON l.key = d.key"
        " WHERE typeof(d.own_id) = 'text' ORDER BY d.key LIMIT 1",
    )  # fmt: skip
    answer = node.call("POST", "/erase", {"decision_ids": [own_id]})
    assert answer["decisions"] == 1
    assert len(answer["rebuilt"]) == 1
    assert query(node, f"SELECT length(context), own_id FROM decisions WHERE key = {key}") == [
        (0, None)
    ]
    refused = node.http.post("/compact")
    assert refused.status_code == 409
    assert "bandexa compact --data-dir" in refused.json()["detail"]
    assert bandexa("compact", "--data-dir", node.data_dir).returncode == 2  # a server has it open
    assert node.stop() == 0
    done = bandexa("compact", "--data-dir", node.data_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    node.start()
    assert node.call("POST", "/compact")["is_done"]
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_after_retention_samples_are_erased_and_sums_are_named(launch, rig):
    node = launch("trimmed", keep_snapshots=2)
    node.create("linear", rig.linear())
    node.create("neural", rig.neural(training=rig.training(optimizer_steps=20)))
    for name in ("linear", "neural"):
        play(node, rig, name, with_her=True, among=range(NUM // 2))
        node.train(name)
        node.train(name)
    node.stop()
    node.env["BANDEXA_MAX_AGE_DAYS"] = "1e-9"
    node.start()
    left = "SELECT count(*) FROM decisions"
    poll(lambda: query(node, left) == [(0,)], "logs without learn rows")
    node.stop()
    del node.env["BANDEXA_MAX_AGE_DAYS"]
    node.start()
    for name in ("linear", "neural"):  # no snapshot is older than these rows
        play(node, rig, name, with_her=True, among=range(NUM // 2, NUM))
        node.train(name)
        node.train(name)
    answer = node.call("POST", "/erase", {"unit": ALICE})
    assert answer["decisions"] == 2 * 10  # of the second half
    assert answer["samples"] == 2 * 10  # of the first half
    assert sorted(answer["rebuilt"]) == ["linear", "neural"]
    assert answer["remaining"] == ["linear"]
    assert traces(node, rig) == {}
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rollback_that_had_learned_from_her_is_named(launch, rig):
    node = launch("rolled-back")
    node.create("linear", rig.linear())
    new = node.http.get("/bandits/linear/snapshot").content
    play(node, rig, "linear", with_her=True)
    snapshot = node.train("linear")["snapshot"]
    node.call("POST", "/bandits/linear/rollback", {"version": 0})
    answer = node.call("POST", "/erase", {"decision_ids": [own_id("linear", 2)]})
    assert (answer["rebuilt"], answer["remaining"]) == (["linear"], [])
    assert snapshot not in [
        each["version"] for each in node.call("GET", "/bandits/linear/snapshots")["snapshots"]
    ]
    play(node, rig, "linear", with_her=True, among=range(NUM, NUM + 10))
    newest = node.train("linear")["snapshot"]
    node.call("POST", "/bandits/linear/rollback", {"version": newest})
    answer = node.call("POST", "/erase", {"decision_ids": [own_id("linear", NUM + 2)]})
    assert (answer["rebuilt"], answer["remaining"]) == (["linear"], ["linear"])
    again = node.call("POST", "/erase", {"decision_ids": [own_id("linear", NUM + 2)]})
    assert (again["decisions"], again["remaining"]) == (0, ["linear"]), "it is still so"
    node.stop()
    node.start()
    answer = node.call("POST", "/erase", {"decision_ids": [own_id("linear", NUM + 5)]})
    assert (answer["rebuilt"], answer["remaining"]) == (["linear"], ["linear"]), "of before"
    play(node, rig, "linear", with_her=True, among=range(NUM + 10, NUM + 20))
    later = node.train("linear")["snapshot"]
    node.call("POST", "/bandits/linear/rollback", {"version": later})
    again = node.call("POST", "/erase", {"decision_ids": ["nobody"]})
    assert again["remaining"] == ["linear"], "what was learned since is added to the same sums"
    assert node.http.put("/bandits/linear/snapshot", content=new).status_code == 200
    again = node.call("POST", "/erase", {"decision_ids": ["nobody"]})
    assert again["remaining"] == []


def test_what_a_rollback_left_behind_does_not_remain(launch, rig):
    """Her row is before the rollback that took it out of the model, and no later model has it."""
    node = launch("left-behind")
    for name in ("linear", "copied"):
        node.create(name, rig.linear())
        play(node, rig, name, with_her=True, among=range(2, 3))
        node.call("POST", f"/bandits/{name}/rollback", {"version": 0})
        play(node, rig, name, with_her=True, among=range(3, 8))
    version = node.train("linear")["snapshot"]
    node.call("POST", "/bandits/linear/rollback", {"version": version})
    export = node.http.get("/bandits/copied/snapshot").content
    assert node.http.put("/bandits/copied/snapshot", content=export).status_code == 200
    for name in ("linear", "copied"):
        answer = node.call("POST", "/erase", {"decision_ids": [own_id(name, 2)]})
        assert (answer["decisions"], answer["remaining"]) == (1, [])
        play(node, rig, name, with_her=True, among=range(8, 9))
        assert node.train(name)
        answer = node.call("POST", "/erase", {"decision_ids": [own_id(name, 8)]})
        assert (answer["decisions"], answer["rebuilt"], answer["remaining"]) == (1, [name], [])


def test_a_bandit_that_cannot_be_served_waits(launch, rig):
    node = launch("aside")
    node.create("linear", rig.linear())
    play(node, rig, "linear", with_her=True, among=range(10))
    node.train("linear")
    node.stop()
    [snapshots] = (node.data_dir / "snapshots").iterdir()
    elsewhere = node.data_dir.with_name("elsewhere")
    shutil.move(snapshots, elsewhere)
    snapshots.mkdir()
    node.start()
    for decisions in (2, 0):
        answer = node.call("POST", "/erase", {"unit": ALICE})
        assert (answer["decisions"], answer["waiting"]) == (decisions, ["linear"])
    node.stop()
    snapshots.rmdir()
    shutil.move(elsewhere, snapshots)
    node.start()
    answer = node.call("POST", "/erase", {"unit": ALICE})
    assert (answer["waiting"], answer["remaining"]) == ([], [])
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_large_columns_before_the_first_scaling_verify(launch, rig):
    node = launch("large")
    spec = rig.linear(
        context={"shape": [3]}, encoder={"name": "per_action"}, action_dim=0,
        posterior={"prior_mean": 0.5}, reward_range=[0, 1],
    )  # fmt: skip
    draw = np.random.default_rng(4)
    for exponent in (4, 6, 9):
        name = f"large-{exponent}"
        node.http.put(f"/bandits/{name}", json=spec).raise_for_status()
        node.call("PUT", f"/bandits/{name}/actions", {"ids": ["a", "b"]})
        for number in range(6):
            large = (1.0 + 0.1 * draw.random(2)) * 10.0**exponent
            ask = {"bandit": name, "context": [*large.tolist(), draw.normal()]}
            made = node.call("POST", "/select", ask)
            report = {"decision_id": made["decision_id"], "reward": float(number % 2)}
            node.call("POST", "/reward", report)
        node.train(name)
    node.stop()
    done = bandexa("verify", node.data_dir, "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rounding moves it that far" in done.stdout


def test_a_decision_behind_an_erased_correction_says_so(launch, rig):
    node = launch("corrected")
    node.create("linear", rig.linear(rewards={"aggregate": "sum"}))
    play(node, rig, "linear", with_her=True, among=range(10))
    version = node.train("linear")["snapshot"]
    node.call("POST", "/bandits/linear/rollback", {"version": version})
    more = {"decision_id": own_id("linear", 2), "reward": 3.0, "reward_id": "more"}
    assert node.call("POST", "/reward", more)["status"] == "aggregated"
    chosen = node.call("POST", "/select", {"bandit": "linear", "context": [0.1] * 6})
    address = f"/bandits/linear/decisions/{chosen['decision_id']}"
    assert node.call("GET", address)["reproduced"]["score"]
    node.call("POST", "/erase", {"decision_ids": [own_id("linear", 2)]})
    explained = node.call("GET", address)
    assert (explained["explained"], explained["reproduced"]) == ("no", None)
    assert explained["reason"] == "values that it had learned were erased since: 1"


def test_an_own_export_that_comes_back_is_named(launch, rig):
    node = launch("restored")
    node.create("linear", rig.linear())
    play(node, rig, "linear", with_her=True, among=range(10))
    export = node.http.get("/bandits/linear/snapshot").content
    assert node.http.put("/bandits/linear/snapshot", content=export).status_code == 200
    answer = node.call("POST", "/erase", {"decision_ids": [own_id("linear", 2)]})
    assert (answer["decisions"], answer["remaining"]) == (1, ["linear"])


def test_an_export_of_before_the_erasure_is_named_and_one_of_after_it_is_not(launch, rig):
    node = launch("brought-back")
    node.create("linear", rig.linear())
    play(node, rig, "linear", with_her=True, among=range(10))
    before = node.http.get("/bandits/linear/snapshot").content
    answer = node.call("POST", "/erase", {"decision_ids": [own_id("linear", 2)]})
    assert (answer["decisions"], answer["remaining"]) == (1, [])
    after = node.http.get("/bandits/linear/snapshot").content
    for export, remaining in ((before, ["linear"]), (after, []), (before, ["linear"])):
        assert node.http.put("/bandits/linear/snapshot", content=export).status_code == 200
        answer = node.call("POST", "/erase", {"decision_ids": ["nobody"]})
        assert (answer["decisions"], answer["remaining"]) == (0, remaining)
    play(node, rig, "linear", with_her=True, among=range(10, 20))
    node.train("linear")
    answer = node.call("POST", "/erase", {"decision_ids": [own_id("linear", 12)]})
    assert (answer["rebuilt"], answer["remaining"]) == (["linear"], ["linear"])


def test_a_repeated_call_waits_for_the_rebuild_that_the_first_one_waits_for(launch, rig):
    node = launch("repeated")
    node.create("linear", rig.linear())
    play(node, rig, "linear", with_her=True)
    node.train("linear")
    trainer = node.trainer_pid()
    os.kill(trainer, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(node.call, "POST", "/erase", {"unit": ALICE})
            erased = "SELECT count(*) FROM decisions WHERE length(context) = 0"
            poll(lambda: query(node, erased) != [(0,)], "an erasure")
            second = pool.submit(node.call, "POST", "/erase", {"unit": ALICE})
            with pytest.raises(TimeoutError):
                second.result(0.5)
            os.kill(trainer, signal.SIGCONT)
            answers = [each.result(60) for each in (first, second)]
    finally:
        os.kill(trainer, signal.SIGCONT)
    assert [answer["rebuilt"] for answer in answers] == [["linear"], ["linear"]]
    assert traces(node, rig) == {}
