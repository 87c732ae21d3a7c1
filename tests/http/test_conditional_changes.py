"""A `PUT` with `If-Match` changes a bandit only while its configuration has that version."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll

SPEC = {
    "policy": "linear_ts", "context": {"shape": [2]}, "action_dim": 2, "seed": 1,
    "reward_range": [0, 1], "posterior": {"prior_mean": 0.0},
}  # fmt: skip


def put(api, name: str, tag: str | None, dry_run: bool = False, **changes: Any) -> httpx.Response:
    headers = {} if tag is None else {"if-match": tag}
    path = f"/bandits/{name}" + "?dry_run=true" * dry_run
    response: httpx.Response = api.http.put(path, json=SPEC | changes, headers=headers)
    return response


def tag_of(api, name: str) -> str:
    tag: str = api.http.get(f"/bandits/{name}").headers["etag"]
    return tag


def test_a_change_for_another_version_is_refused_and_names_both(api, problem) -> None:
    name = api.two_actions()
    first = tag_of(api, name)
    for _ in range(3):
        made = api.select(name, [1, 0])
        api.reward(made["decision_id"], 1.0)
    api.train(name)
    assert tag_of(api, name) == first, "what is learned is no change of the configuration"
    done = put(api, name, first, training={"train_every": 7})
    second = done.headers["etag"]
    assert done.status_code == 200
    assert tag_of(api, name) == second != first
    before = api.state(name)
    for dry_run in (True, False):
        refused = put(api, name, first, dry_run, training={"train_every": 8})
        detail = problem(refused, 412, "configuration-changed")["detail"]
        assert first in detail
        assert second in detail
        assert refused.headers["etag"] == second
    assert api.state(name)["spec"] == before["spec"]
    for number, tag in enumerate((second, f'"other", {second}', "*", f"W/{second}", None)):
        assert put(api, name, tag, True, training={"train_every": 9 + number}).status_code == 200
    assert put(api, name, None, training={"train_every": 9}).status_code == 200
    packed = api.http.get(f"/bandits/{name}", headers={"accept": "application/msgpack"})
    assert packed.headers["etag"] == tag_of(api, name) != second


def test_a_change_whose_answer_was_lost_may_be_sent_again(api, problem) -> None:
    name = api.two_actions()
    first = tag_of(api, name)
    second = put(api, name, first, training={"train_every": 7}).headers["etag"]
    again = put(api, name, first, training={"train_every": 7})
    assert (again.status_code, again.headers["etag"]) == (200, second)
    for _ in range(2):  # the second one finds it wanted, or served already
        assert put(api, name, first, training={"train_every": 8}).status_code == 412
        assert put(api, name, second, reward_range=[0, 2]).status_code == 200
    problem(put(api, name, first, context={"shape": [3]}), 409, "conflict")


def test_what_is_only_to_be_created_changes_no_bandit_that_is_there(api, problem) -> None:
    name, only_new = api.fresh(), {"if-none-match": "*"}
    path = f"/bandits/{name}"
    planned = api.http.put(f"{path}?dry_run=true", json=SPEC, headers=only_new)
    assert (planned.status_code, planned.json()["status"]) == (200, "created")
    made = api.http.put(path, json=SPEC, headers=only_new)
    assert made.status_code == 201
    for given in (SPEC, SPEC | {"seed": 2}):
        for query in ("", "?dry_run=true"):
            refused = api.http.put(path + query, json=given, headers=only_new)
            assert name in problem(refused, 412, "bandit-exists")["detail"]
            assert refused.headers["etag"] == made.headers["etag"] == tag_of(api, name)
    both = api.http.put(path, json=SPEC, headers=only_new | {"if-match": "*"})
    for wrong in (both, api.http.put(path, json=SPEC, headers={"if-none-match": '"a"'})):
        problem(wrong, 422, "invalid-request", "If-None-Match")


def test_who_decides_is_part_of_the_version_and_a_bandit_of_the_same_name_has_another(api) -> None:
    name = api.two_actions()
    tags = [tag_of(api, name)]
    for serve in ("y", None):
        api.call("PUT", f"/bandits/{name}/mode", {"serve": serve})
        tags.append(tag_of(api, name))
    assert tags[2] == tags[0] != tags[1]
    spec = api.state(name)["spec"]
    api.call("DELETE", f"/bandits/{name}", expect=204)
    for tag in (tags[0], "*"):
        assert put(api, name, tag).status_code == 412
    api.call("GET", f"/bandits/{name}", expect=404)
    assert api.call("PUT", f"/bandits/{name}", spec, 201)["spec"] == spec
    assert tag_of(api, name) not in tags


def test_a_change_that_is_learned_anew_is_a_change_before_it_is_served(api) -> None:
    name = api.two_actions()
    api.teach(name, [1, 0], "x", 0.5)
    first = tag_of(api, name)
    wanted = put(api, name, first, reward_range=[0, 2]).headers["etag"]
    assert wanted != first
    assert put(api, name, first, reward_range=[0, 3]).status_code == 412

    def is_served() -> bool:
        return bool(api.state(name)["spec"]["reward_range"] == [0, 2])

    poll(is_served, "the other range is served")


@pytest.mark.parametrize("tag", ["abc", '"abc', '"a", b', "", '*, "a"', '"*"', '""'])
def test_what_is_no_version_is_refused_by_its_name(api, problem, tag) -> None:
    problem(put(api, api.fresh(), tag), 422, "invalid-request", "If-Match")


def test_of_changes_for_one_version_at_once_one_is_made(api) -> None:
    name = api.two_actions()
    first, start = tag_of(api, name), threading.Barrier(6)

    def change(number: int) -> int:
        with open_client(str(api.http.base_url)) as own:
            body = json.dumps(SPEC | {"training": {"train_every": 100 + number}})
            headers = {"content-type": "application/json", "if-match": first}
            start.wait()
            return own.put(f"/bandits/{name}", content=body, headers=headers).status_code

    with ThreadPoolExecutor(6) as threads:
        found = sorted(threads.map(change, range(6)))
    assert found == [200] + [412] * 5
