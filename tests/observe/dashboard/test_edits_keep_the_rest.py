"""What an edit of the page does not show, or a colleague has changed meanwhile, stays as it is."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.fixtures.waiting import poll
from tests.observe.dashboard.test_page import visit

pytestmark = pytest.mark.needs("chromium")
__all__ = ["visit"]  # a fixture
LONG = 100_000  # optimizer steps of a round that outlasts the test


@pytest.fixture(scope="module")
def server(start_module_server: Any) -> Any:
    return start_module_server()


def test_features_that_are_digests_are_kept_or_typed_again(
    server: Any, visit: Any, feed: Any
) -> None:
    fed = feed(server.url)
    fed.call("PUT", "/bandits/sellers", {
        "context": {"features": "auto"},
        "actions": {"features": {"owner.id": {"type": "hash", "log": "hash"}, "*": "auto"}},
    })  # fmt: skip
    sent = {"owner": {"id": "ada"}, "note": "", "size": "42"}
    fed.call("PUT", "/bandits/sellers/actions", {"actions": [{"id": "lamp", "features": sent}]})

    def features() -> dict[str, Any]:
        found: dict[str, Any] = fed.call("GET", "/bandits/sellers/actions")["actions"][0]
        return dict(found["features"])

    stored = features()
    page = visit(f"{server.url}/#/bandit/sellers/catalogue").page
    page.get_by_role("button", name="Retire lamp").click()
    page.get_by_role("button", name="Retire", exact=True).click()
    page.get_by_role("button", name="Bring back lamp").click()
    expect(page.locator("#toast")).to_contain_text("lamp is offered again")
    assert features() == stored
    # Limits alone are changed: a colleague's features, put after the dialog was opened, stay.
    page.get_by_role("button", name="Edit lamp").click()
    fed.call("PUT", "/bandits/sellers/actions", {
        "actions": [{"id": "lamp", "features": sent | {"colour": "red"}}],
    })  # fmt: skip
    page.get_by_text("Dates, floor and cap").click()
    page.get_by_label("Chosen at most").fill("0.5")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#toast")).to_contain_text("lamp is changed")
    assert features() == stored | {"colour": "red"}
    # Another feature is changed: a digest cannot be sent again, so its value is asked for.
    expect(page.locator("tr[data-action=lamp]")).to_contain_text("colour")
    page.get_by_role("button", name="Edit lamp").click()
    names = page.get_by_label("Name of feature").all()
    rows = {each.input_value(): number for number, each in enumerate(names)}
    owner = page.get_by_label("Value of feature").nth(rows["owner.id"])
    expect(owner).to_have_value("")
    page.get_by_label("Value of feature").nth(rows["colour"]).fill("blue")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("dialog > form > .error")).to_contain_text("owner.id is stored as a digest")
    assert features() == stored | {"colour": "red"}
    owner.fill("ada")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("tr[data-action=lamp]")).to_contain_text("blue")
    digest = stored.pop("owner")["id"]
    assert features() == stored | {"owner.id": digest, "colour": "blue"}, "the same fields"


def test_a_seed_of_many_digits_stays_what_it_is(server: Any, visit: Any, feed: Any) -> None:
    fed = feed(server.url)
    fed.shop("seeded", seed=2**63 - 1)
    page = visit(f"{server.url}/#/bandit/seeded/configuration").page
    page.get_by_label("Reward window in seconds").fill("90")
    page.get_by_role("button", name="Check").click()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#toast")).to_contain_text("The new configuration is served")
    spec = fed.call("GET", "/bandits/seeded")["spec"]
    assert (spec["seed"], spec["rewards"]["reward_window_s"]) == (2**63 - 1, 90)


def test_an_edit_does_not_take_back_a_change_that_is_being_learned(
    server: Any, visit: Any, feed: Any
) -> None:
    fed = feed(server.url)
    path = "/bandits/learning"
    fed.shop("learning")
    fed.visit("learning", 0, 40)
    page = visit(f"{server.url}/#/bandit/learning/configuration").page
    text = page.get_by_label("Whole configuration")
    expect(text).to_have_value(re.compile("linear_ts"))
    spec = json.loads(text.input_value())
    mlp = {"name": "mlp", "params": {"feature_dim": 8, "hidden": [16]}}
    long = {"mode": "lockstep", "optimizer_steps": LONG, "train_every": 100_000}
    more = {"policy": "neural_linear_ts", "encoder": mlp, "training": long}
    text.fill(json.dumps(spec | more))
    page.get_by_role("button", name="Check").click()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#toast")).to_contain_text("is being learned")

    def rebuild() -> dict[str, Any]:
        return fed.call("GET", path)["rebuild"] or {"state": "taken back"}

    try:
        poll(lambda: rebuild()["state"] == "building", "the round")
        expect(text).to_have_value(re.compile("neural_linear_ts"))
        page.get_by_label("Reward window in seconds").fill("90")
        page.get_by_role("button", name="Check").click()
        page.get_by_role("button", name="Apply").click()
        expect(page.locator("#toast")).to_contain_text("is being learned")
        poll(lambda: rebuild()["spec"]["rewards"]["reward_window_s"] == 90, "the window")
        page.get_by_role("link", name="Catalogue").click()
        page.get_by_role("button", name="Edit red").click()
        page.get_by_text("Dates, floor and cap").click()
        page.get_by_label("Chosen at most").fill("0.5")
        page.get_by_role("button", name="Save").click()
        expect(page.locator("tr[data-action=red]")).to_contain_text("at most 50 %")
        found = rebuild()
        assert found["state"] == "building"
        assert found["spec"]["limits"]["red"]["max_share"] == 0.5
    finally:
        fed.call("DELETE", path)
