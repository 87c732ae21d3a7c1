"""Named features that do not suit their encoding: counts, metrics, and the notice of `/learnz`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bandexa_core.policies.named_inputs import NamedInputs
from bandexa_core.schema import Encoding, Features, fit, to_bytes
from bandexa_core.schema.limits import MAX_FIELDS
from service.observe.health import Misfit, collisions, drifts, misfits
from service.serving.observed import ALL_OF, EVERY, InputCounts

AUTO = Features(auto=True)
ROWS = [{"device": name, "age": age} for name in ("phone", "pc") for age in range(20, 60)]
NOTHING = np.frombuffer(b"{}", np.uint8)


def counted(
    named: NamedInputs, values: list[Any], counts: InputCounts | None = None
) -> InputCounts:
    counts = InputCounts() if counts is None else counts
    for value in values:
        counts.selected(named, np.frombuffer(to_bytes(value), np.uint8), NOTHING)
    return counts


@pytest.fixture(scope="module")
def fitted() -> NamedInputs:
    return NamedInputs(fit(AUTO, ROWS), None)


def test_all_of_the_first_selects_are_counted_and_a_part_of_the_later_ones(fitted) -> None:
    counts = counted(fitted, [{"device": "pc"}] * (ALL_OF + 10 * EVERY))
    assert counts.contexts.observed.rows == ALL_OF + 10
    assert counts.contexts.observed.missing("age") == ALL_OF + 10
    assert counts.actions.observed.rows == 0


def test_counts_start_again_with_another_encoding_alone(fitted) -> None:
    counts = counted(fitted, [{"age": 30}] * 5)
    assert fitted.x is not None
    same = NamedInputs(Encoding.from_bytes(fitted.x.to_bytes()), None)
    counted(same, [{"age": 30}] * 3, counts)
    assert counts.contexts.observed.rows == 8
    counted(NamedInputs(Encoding.initial(AUTO), None), [{"age": 30}] * 2, counts)
    assert counts.contexts.observed.rows == 2


def test_keys_that_callers_make_up_take_no_memory() -> None:
    """Before a round every key is a field; of endless ones, 256 are counted."""
    counts = counted(
        NamedInputs(Encoding.initial(AUTO), None), [{f"key{number}": 1} for number in range(600)]
    )
    assert len(counts.contexts.observed.fields) <= MAX_FIELDS


def test_a_field_that_does_not_fit_is_found(fitted) -> None:
    fits = {"device": "pc", "age": 30}
    values = [fits] * 70 + [{"device": "watch", "age": "unknown"}] * 30
    found = list(misfits(counted(fitted, values)))
    assert sorted(found, key=lambda one: one.path) == [
        Misfit("context.age", "wrong", 0.3, 100), Misfit("context.device", "unseen", 0.3, 100),
    ]  # fmt: skip
    assert list(misfits(counted(fitted, [*values[:80], *values[:20]]))) == []
    assert list(misfits(counted(fitted, values[-30:]))) == [], "too few to say anything"


def test_ids_that_share_a_place_are_counted_over_all_requests() -> None:
    """64 places, one for each id as long as there is room: 400 ids leave hardly one alone."""
    features = Features.from_json({"user": {"type": "hash", "width": 64}})
    rows = [{"user": f"u{number}"} for number in range(400)]
    named = NamedInputs(fit(features, rows), None)
    counts = counted(named, rows[:4] * 30)
    seen = counts.contexts.observed.fields["user"]
    assert (seen.hashed, seen.collided) == (120, 0)
    assert collisions(counts) == []
    counts = counted(named, rows[:250])
    seen = counts.contexts.observed.fields["user"]
    assert seen.hashed == 250
    assert seen.collided >= 250 - 64, "at most one id of a place was there first"
    assert collisions(counts) == [("context.user", seen.collided / 250)]


def test_drift_is_that_of_the_served_encoding(fitted) -> None:
    counts = counted(fitted, [{"device": "pc", "age": 25}] * 150)
    assert counts.contexts.drift_under(fitted.x)["device"] > 0.25
    other = fit(AUTO, ROWS[:60])
    assert counts.contexts.drift_under(other) == {}
    counted(NamedInputs(other, None), [{"device": "pc"}] * 5, counts)
    assert counts.contexts.drift_under(other) == {}, "it has too few"


def test_neither_the_hour_nor_what_is_chosen_is_a_drift() -> None:
    days = [f"2026-03-{1 + number % 28:02d}T{number % 24:02d}:00:00Z" for number in range(400)]
    seen = [{"at": day, "device": ("pc", "tv")[number % 2]} for number, day in enumerate(days)]
    x, a = fit(AUTO, seen), fit(AUTO, [{"kind": "a"}, {"kind": "b"}] * 50)
    named = NamedInputs(x, a)
    action = np.frombuffer(to_bytes({"kind": "a"}), np.uint8)
    found = {}
    for name, device in (("hour", ("pc", "tv")), ("device", ("pc", "pc"))):
        counts = InputCounts()
        for number in range(200):
            value = {"at": "2026-03-05T03:00:00Z", "device": device[number % 2]}
            counts.selected(named, np.frombuffer(to_bytes(value), np.uint8), action)
        assert counts.contexts.drift_under(x)["at"] > 0.25
        assert counts.actions.drift_under(a)["kind"] > 0.25
        found[name] = [path for path, _ in drifts(counts)]
    assert found == {"hour": [], "device": ["context.device"]}


def test_the_notice_and_the_metrics_of_a_server(api) -> None:
    """A caller sends a new kind of device after the round, under a key that needs an escape."""
    name, key = api.fresh("misfit"), 'de"vi\\ce'
    spec = {"context": {"features": "auto"}, "actions": {"features": "auto"}}
    api.call("PUT", f"/bandits/{name}", spec | {"training": {"mode": "lockstep"}}, 201)
    actions = [{"id": one, "features": {"kind": one}} for one in "xy"]
    api.call("PUT", f"/bandits/{name}/actions", {"actions": actions})
    for number in range(40):
        made = api.select(name, {key: ("phone", "pc")[number % 2], "n": number})
        api.reward(made["decision_id"], number % 2)
    api.train(name)
    for _ in range(2):
        contexts = [{key: "watch", "n": number % 40} for number in range(60)]
        items = [{"bandit": name, "context": context} for context in contexts]
        api.call("POST", "/select/batch", {"items": items})
    fields = api.state(name)["features"]["context"]["fields"]
    assert fields[key]["drift"] > 0.25
    assert (fields[key]["log"], fields[key]["collided"]) == ("keep", 0)
    assert fields[key]["hashed"] == 120, "the watch is in a bucket"
    findings = api.state(name)["learning"]["findings"]
    assert [one["name"] for one in findings] == ["features-misfit"]
    assert "has an unseen value in 100% of the last 120 counted requests" in findings[0]["message"]
    rates = api.http.get("/learnz").json()["bandits"][name]["feature_rates"]
    never = {"missing": 0.0, "unseen": 0.0, "wrong": 0.0, "collided": None}
    assert rates == {f"context.{key}": never | {"unseen": 1.0, "collided": 0.0}}
    text = api.http.get("/metrics").text
    found = {
        (sample.labels["side"], sample.labels["field"], sample.labels["kind"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "bandexa_feature_values" and sample.labels["bandit"] == name
    }
    assert found["context", key, "unseen"] == 120
    drift = {
        sample.labels["field"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "bandexa_feature_drift" and sample.labels["bandit"] == name
    }
    assert drift[key] == pytest.approx(fields[key]["drift"], abs=1e-3)
    items = [{"bandit": name, "context": {key: "pc", "n": "many"}}, {"bandit": name, "context": {}}]
    api.call("POST", "/select/batch", {"items": items * 40})
    rates = api.state(name)["learning"]["feature_rates"]
    assert rates[f"context.{key}"]["missing"] == rates["context.n"]["missing"] == 0.2
    assert (rates[f"context.{key}"]["unseen"], rates["context.n"]["wrong"]) == (0.6, 0.2)
