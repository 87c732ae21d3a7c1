"""Export and import of the served model: exact, and refused where it does not belong."""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bandexa_core.snapshots.packing import pack, unpack

MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}
SHAPES: dict[str, dict[str, Any]] = {
    "linear": {},
    "interactions": {"encoder": {"name": "interactions"}},
    "per_action": {"encoder": {"name": "per_action"}},
    "mlp": {"policy": "neural_linear_ts", "encoder": MLP},
    "two_tower": {
        "policy": "neural_linear_ts",
        "encoder": {"name": "two_tower", "params": {"tower_dim": 3, "hidden": [8]}},
    },
    "greedy mlp": {"policy": "greedy", "encoder": MLP},
    "uniform": {"policy": "uniform"},
}
TRAINING = {"mode": "lockstep", "optimizer_steps": 4}
PROBES = [[1, 1], [0.3, -2], [-1, 0.125]]


def trained(api, **spec: Any) -> str:
    """Return a bandit with a trained snapshot and a tail of rows after it."""
    name: str = api.two_actions(**spec, training=TRAINING)
    for number in range(6):
        api.teach(name, [number / 5, 1 - number / 3], "xy"[number % 2], number / 6)
        if number == 3:
            api.train(name)
    return name


def exported(api, name: str) -> bytes:
    response = api.http.get(f"/bandits/{name}/snapshot")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    data: bytes = response.content
    return data


@pytest.fixture(scope="module")
def export(api) -> Callable[[str], bytes]:
    """Return the export of a trained bandit of a shape; each is made once."""
    return functools.cache(lambda shape: exported(api, trained(api, **SHAPES[shape])))


def put(api, name: str, data: bytes) -> Any:
    headers = {"content-type": "application/octet-stream"}
    return api.http.put(f"/bandits/{name}/snapshot", content=data, headers=headers)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_import_scores_exactly_as_the_exporter(api, shape: str) -> None:
    source = trained(api, **SHAPES[shape])
    copy = api.two_actions(**SHAPES[shape], training=TRAINING)
    answer = put(api, copy, exported(api, source))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"snapshot": 1, "position": 2}
    for probe in PROBES:
        assert api.scores(copy, probe)["scores"] == api.scores(source, probe)["scores"]
    state = api.state(copy)
    assert (state["snapshot"], state["position"], state["num_learned"]) == (1, 2, 6)
    # Both learn on from there in the same way.
    for name in (source, copy):
        api.teach(name, [2, 1], "x", 1.0)
    for probe in PROBES:
        assert api.means(copy, probe) == api.means(source, probe)


def test_an_import_replaces_what_was_learned_and_can_be_repeated(api) -> None:
    source, copy = trained(api), trained(api)
    api.teach(copy, [3, 3], "x", -1.0)
    data = exported(api, source)
    for position in (9, 10):
        assert put(api, copy, data).json()["position"] == position
        assert api.means(copy, [1, 1]) == api.means(source, [1, 1])
    assert exported(api, copy) != b""
    assert api.train(copy)["trained"] is True
    assert api.means(copy, [1, 1]) == pytest.approx(api.means(source, [1, 1]), rel=1e-9)


def test_a_decision_made_before_an_import_can_still_be_rewarded(api, export) -> None:
    copy = api.two_actions()
    decision = api.select(copy, [1, 1])
    put(api, copy, export("linear"))
    before = api.means(copy, [1, 1])
    assert api.reward(decision["decision_id"], 1.0)["status"] == "applied"
    assert api.means(copy, [1, 1]) != before


def test_imports_and_training_rounds_at_the_same_time_do_not_disturb_one_another(
    api, export
) -> None:
    """Both take the next free version of the bandit's snapshots, in two processes."""
    data = export("mlp")
    copy = api.two_actions(**SHAPES["mlp"], training=TRAINING)

    with ThreadPoolExecutor(2) as pool:
        imports = pool.map(lambda _: put(api, copy, data).status_code, range(40))
        for _ in range(12):
            api.train(copy)
        assert set(imports) == {200}
    assert api.train(copy)["snapshot"] == 12 + 40 + 1
    assert api.call("GET", "/readyz")["status"] == "ready"


@pytest.mark.parametrize(
    "other",
    [
        {"policy": "greedy"},
        {"context": {"shape": [2, 1]}},
        {"context": {"shape": [2], "dtype": "float64"}},
        {"encoder": {"name": "interactions"}},
        {"posterior": {"prior_var": 7.0}},
    ],
)
def test_a_snapshot_of_another_shape_is_a_conflict(api, problem, other: dict[str, Any]) -> None:
    data = exported(api, trained(api))
    copy = api.two_actions(**other)
    before = api.state(copy)
    problem(put(api, copy, data), 409, "conflict")
    assert api.state(copy) == before


def test_posteriors_of_other_actions_are_a_conflict(api, problem, export) -> None:
    copy = api.bandit(["y", "x"], [[1, 0], [0, 1]], encoder={"name": "per_action"})
    problem(put(api, copy, export("per_action")), 409, "conflict")


def tampered(data: bytes, **changes: Any) -> bytes:
    """Return an export, complete and with a correct checksum, whose manifest has other content."""
    manifest, tensors = unpack(data)
    return pack(dataclasses.replace(manifest, **changes), tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_rows": None},
        {"num_rows": "many"},
        {"num_rows": -1},
        {"num_rows": 10**400},
        {"num_rows": [6]},
        {"spec_hash": 5},
        {"meta": {}},
        {"meta": {"actions": 5}},
        {"meta": {"actions": None}},
        {"meta": {"actions": {"x": 1}}},
    ],
)
@pytest.mark.parametrize("shape", ["linear", "per_action"])
def test_a_manifest_that_makes_no_sense_is_refused(
    api, problem, export, shape: str, changes: dict[str, Any]
) -> None:
    data = export(shape)
    copy = api.two_actions(**SHAPES[shape])
    before = api.state(copy)
    problem(put(api, copy, tampered(data, **changes)), 422, "invalid-request", "body")
    assert api.state(copy) == before
    assert put(api, copy, tampered(data)).status_code == 200


def test_garbage_and_cut_off_bytes_are_refused_and_change_nothing(api, problem, export) -> None:
    data = export("mlp")
    copy = api.two_actions(**SHAPES["mlp"])
    before = api.state(copy), api.scores(copy, [1, 1])
    junk = [
        b"", b"x", b"\x00" * 64, b"\xff" * 64, b"{}", struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2) + b"[]",
    ]  # fmt: skip
    cuts = [data[:length] for length in (1, 7, 8, 9, 100, len(data) // 2, len(data) - 1)]
    for wrong in (*junk, *cuts, data + b"x"):
        problem(put(api, copy, wrong), 422, "invalid-request", "body")
    assert (api.state(copy), api.scores(copy, [1, 1])) == before
    assert put(api, copy, data).status_code == 200


def test_snapshots_of_unknown_bandits_are_404(api, problem) -> None:
    path = f"/bandits/{api.fresh()}/snapshot"
    problem(api.http.get(path), 404, "unknown-bandit")
    problem(api.http.put(path, content=b"x"), 404, "unknown-bandit")
