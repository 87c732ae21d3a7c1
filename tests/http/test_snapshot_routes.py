"""Export and import of the served model: exact, and refused where it does not belong."""

from __future__ import annotations

import dataclasses
import functools
import re
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from bandexa_core.snapshots.packing import pack, unpack
from tests.fixtures.matrices import spread

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
    "mlp heads": {
        "policy": "neural_linear_ts",
        "encoder": {
            "name": "mlp",
            "params": {"feature_dim": 4, "hidden": [8], "heads": "per_action"},
        },
    },
    "forgetting": {"forgetting": {"half_life": 32}},
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


@pytest.mark.few(3)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "forgetting"])
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
        imports = pool.map(lambda _: put(api, copy, data).status_code, range(20))
        for _ in range(6):
            api.train(copy)
        assert set(imports) == {200}
    assert api.train(copy)["snapshot"] == 6 + 20 + 1
    assert api.call("GET", "/readyz")["status"] == "ready"


@pytest.mark.few(2)
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
def test_a_snapshot_of_another_shape_is_a_conflict(
    api, problem, export, other: dict[str, Any]
) -> None:
    data = export("linear")
    copy = api.two_actions(**other)
    before = api.state(copy)
    problem(put(api, copy, data), 409, "conflict")
    assert api.state(copy) == before


def means_by_id(api, name: str, context: Any) -> dict[str, float]:
    return {row["id"]: row["mean"] for row in api.scores(name, context)["scores"]}


@pytest.mark.few(2)
@pytest.mark.parametrize(("shape", "ids"), spread(["per_action", "mlp heads"], ["yx", "zywx"]))
def test_learned_values_go_to_the_actions_of_the_same_ids(api, export, shape: str, ids) -> None:
    source = trained(api, **SHAPES[shape])
    features = np.eye(2)[[0, 1, 0, 1][: len(ids)]].tolist()
    copy = api.bandit(list(ids), features, **SHAPES[shape], training=TRAINING)
    answer = put(api, copy, exported(api, source))
    assert answer.status_code == 200, answer.text
    for probe in PROBES:
        found = means_by_id(api, copy, probe)
        for action, mean in means_by_id(api, source, probe).items():
            assert found[action] == pytest.approx(mean, rel=1e-12)
    # It learns on, trains with the heads of its own actions, and can be exported in turn.
    for number in range(8):
        api.teach(copy, [number / 5, 1.0], ids[number % len(ids)], number / 8)
    assert api.train(copy)["trained"] is True
    again = api.bandit(list(reversed(ids)), features, **SHAPES[shape], training=TRAINING)
    assert put(api, again, exported(api, copy)).status_code == 200
    for probe in PROBES:
        expected = means_by_id(api, copy, probe)
        assert means_by_id(api, again, probe) == pytest.approx(expected, rel=1e-12)


@pytest.mark.few(2)
@pytest.mark.parametrize("shape", ["per_action", "mlp heads"])
@pytest.mark.parametrize("ids", ["", "x", "zx"])
def test_learned_values_of_actions_that_are_missing_are_a_conflict(
    api, problem, export, shape: str, ids: str
) -> None:
    data = export(shape)
    copy = api.bandit([], None, **SHAPES[shape])
    if ids:
        copy = api.bandit(list(ids), [[1, 0], [0, 1]][: len(ids)], **SHAPES[shape])
    before = api.state(copy)
    answer = problem(put(api, copy, data), 409, "conflict")
    assert "the action 'y', which this bandit does not have" in answer["detail"] or not ids
    assert api.state(copy) == before


REFUSED: dict[str, Callable[[Any], Any]] = {
    "zz": lambda zz: -1e6 * np.eye(len(zz)),
    "zr": lambda zr: zr + 1e300,
    "rr": lambda rr: -rr,
    "n": lambda n: n - 1e6,
}
DERIVED: dict[str, Callable[[Any], Any]] = {
    "root": lambda root: root * 1.01,
    "mean": lambda mean: mean + 0.1,
    "b": lambda b: b * 1.01,
    "prior_mean": lambda mean: mean + 5.0,
    "refresh_every": lambda rows: rows * 1e9,
}


def with_other(data: bytes, tensor: str, change: Callable[[Any], Any]) -> bytes:
    """Return an export in which one tensor of the posterior is another."""
    manifest, tensors = unpack(data)
    name = next(name for name in tensors if re.fullmatch(rf"model/posterior/(\d+/)?{tensor}", name))
    return pack(manifest, tensors | {name: np.asarray(change(tensors[name]), np.float64)})


@pytest.mark.few(3)
@pytest.mark.parametrize(("tensor", "shape"), spread([*REFUSED], ["per_action", "forgetting"]))
def test_sums_that_are_not_those_of_rows_are_refused(
    api, problem, export, shape: str, tensor: str
) -> None:
    poisoned = with_other(export(shape), tensor, REFUSED[tensor])
    copy = api.two_actions(**SHAPES[shape])
    before = api.state(copy)
    answer = problem(put(api, copy, poisoned), 422, "invalid-request", "body")
    assert tensor in answer["detail"] or "posterior" in answer["errors"][0]["message"]
    assert api.state(copy) == before
    api.teach(copy, [1, 1], "x", 0.5)
    assert put(api, copy, export(shape)).status_code == 200


@pytest.mark.few(3)
@pytest.mark.parametrize(("tensor", "shape"), spread([*DERIVED], ["per_action", "forgetting"]))
def test_of_a_posterior_that_is_not_what_its_sums_give_the_sums_are_served(
    api, export, shape: str, tensor: str
) -> None:
    right, copy = (api.two_actions(**SHAPES[shape]) for _ in range(2))
    for name, data in (
        (right, export(shape)), (copy, with_other(export(shape), tensor, DERIVED[tensor]))
    ):  # fmt: skip
        assert put(api, name, data).status_code == 200
        api.teach(name, [2, 1], "x", 1.0)
    for probe in PROBES:
        assert api.means(copy, probe) == pytest.approx(api.means(right, probe), rel=1e-9)
    (_, found), (_, wanted) = (unpack(exported(api, name)) for name in (copy, right))
    for name in wanted:
        if name.endswith(("prior_mean", "refresh_every")):
            assert np.array_equal(found[name], wanted[name])


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


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("constant", "shape"), spread([10.0, 2026.0, 1e7], ["joint", "per_action"])
)
def test_a_bandit_with_a_constant_feature_takes_its_export_back(api, shape, constant) -> None:
    encoder = {"name": "concat" if shape == "joint" else "per_action"}
    name = api.two_actions(encoder=encoder, training=TRAINING)
    rng = np.random.default_rng(3)
    for value in rng.normal(size=40).round(3).tolist():
        chosen = api.select(name, [constant, value])
        api.reward(chosen["decision_id"], value)
    api.call("POST", f"/bandits/{name}/train?wait=true")
    means = api.means(name, [constant, 0.5])
    answer = put(api, name, exported(api, name))
    assert answer.status_code == 200, answer.text
    assert api.means(name, [constant, 0.5]) == pytest.approx(means, rel=1e-9)


def test_a_slot_of_thousands_of_digits_is_refused(api, problem) -> None:
    name = api.two_actions(encoder={"name": "per_action"})
    manifest, tensors = unpack(exported(api, name))
    tensors[f"model/posterior/{'9' * 5000}/zz"] = np.eye(3)
    problem(put(api, name, pack(manifest, tensors)), 422, "invalid-request", "body")
