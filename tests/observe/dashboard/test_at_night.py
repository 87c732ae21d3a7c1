"""The page for whoever is called at night: what is wrong, where, since when, and why."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.fixtures.waiting import poll
from tests.observe.dashboard.test_page import cells, fits, visit

pytestmark = pytest.mark.needs("chromium")
__all__ = ["visit"]  # a fixture
FREE = {"floor": 0.9}


def bad(fed: Any, name: str) -> None:
    """Make a bandit that serves the worse of two actions, by a floor of 90 %, and shows it."""
    fed.call("PUT", f"/bandits/{name}", {
        "policy": "linear_ts", "context": {"features": "auto"}, "reward_range": [0, 1],
        "limits": {"old": FREE}, "segment": "country",
        "arms": [{"name": "control", "share": 0.1, "policy": "first"}],
    })  # fmt: skip
    fed.call("PUT", f"/bandits/{name}/actions", {"ids": ["old", "new"]})
    countries = ["DE", "FR", "IT"]
    for batch in range(6):
        items = [
            {
                "bandit": name, "decision_id": f"{name}.{batch}.{number}",
                "context": {"country": countries[number % 3], "age": 20 + number % 50},
            }
            for number in range(500)
        ]  # fmt: skip
        answers = [
            i["answer"] for i in fed.call("POST", "/select/batch", {"items": items})["items"]
        ]
        rewards = [
            {"decision_id": a["decision_id"], "reward": 0.8 if a["action"]["id"] == "new" else 0.3}
            for a in answers
        ]
        fed.call("POST", "/reward/batch", {"items": rewards})

    def is_bad() -> bool:
        state = fed.call("GET", f"/bandits/{name}")
        return any(f["name"] == "worse-action" for f in state["learning"]["findings"])

    poll(is_bad, "the alarm")


@pytest.fixture(scope="module")
def server(start_module_server: Any) -> Any:
    from tests.observe.dashboard.fed import Fed

    found = start_module_server()
    with Fed(found.url) as fed:
        for name in ("alpha", "beta", "gamma"):
            fed.shop(name)
        fed.visit("alpha", 0, 30)
        fed.call("PUT", "/bandits/beta/mode", {"mode": "frozen"})
        bad(fed, "zulu")
        fed.counted("zulu", 3000)
        spec = fed.call("GET", "/bandits/zulu")["spec"]
        fed.call("PUT", "/bandits/zulu", spec | {"training": {"train_every": 77}})

        fed.call("POST", "/bandits/zulu/train?wait=true")  # counts of features begin anew

        for _ in range(5):
            context = {"country": "DE", "age": 40}
            fed.call("POST", "/select", {"bandit": "zulu", "context": context})
    return found


def names(page: Any) -> list[str]:
    found: list[str] = page.locator("article").evaluate_all(
        "all => all.map((one) => one.dataset.bandit)"
    )
    return found


def test_the_overview_begins_with_what_is_wrong(server: Any, visit: Any) -> None:
    opened = visit(server.url, viewport={"width": 1280, "height": 900})
    page = opened.page
    expect(page.locator("article").first).to_have_attribute("data-bandit", "zulu")
    expect(page).to_have_title("(1 alarm) 4 bandits - Bandexa")
    assert names(page) == ["zulu", "beta", "alpha", "gamma"]  # alarm, notice, the others
    alarm = page.locator("article[data-bandit=zulu] .finding.alarm").first
    expect(alarm).to_contain_text("Alarm worse-action")
    expect(alarm).to_contain_text("'new' in all of them would have earned")
    expect(alarm).to_contain_text(re.compile(r"Since 20\d\d-\d\d-\d\d \d\d:\d\d"))
    expect(page.locator("article[data-bandit=gamma]")).to_contain_text("Nothing was decided yet")
    page.get_by_label("Sort by").select_option("name")
    expect(page.locator("article").first).to_have_attribute("data-bandit", "alpha")
    page.get_by_label("Find a bandit by name").fill("ET")
    expect(page.locator("article")).to_have_count(1)
    assert names(page) == ["beta"]
    page.get_by_label("Find a bandit by name").fill("nothing such")
    expect(page.locator("#bandits")).to_contain_text('No bandit has "nothing such" in its name')
    page.get_by_label("Find a bandit by name").fill("")
    page.get_by_role("button", name="alarms 1").click()
    expect(page.locator("article")).to_have_count(1)
    assert names(page) == ["zulu"]
    page.locator("article .finding a").first.click()
    expect(page.locator("h1")).to_have_text("zulu")
    assert opened.errors == []


def test_a_page_of_bandits_begins_with_those_that_have_an_alarm(server: Any, feed: Any) -> None:
    fed = feed(server.url)
    first = fed.call("GET", "/dashboard/overview?limit=2")
    assert [one["name"] for one in first["bandits"]] == ["zulu", "alpha"]
    assert (first["total"], first["found"], first["next"]) == (4, 4, "alpha")
    second = fed.call("GET", "/dashboard/overview?limit=2&after=alpha")
    assert [one["name"] for one in second["bandits"]] == ["beta", "gamma"]
    assert second["next"] is None
    found = fed.call("GET", "/dashboard/overview?find=LPH")
    assert [one["name"] for one in found["bandits"]] == ["alpha"]
    assert found["found"] == 1
    only = fed.call("GET", "/dashboard/overview?only=alarm&limit=1")
    assert [one["name"] for one in only["bandits"]] == ["zulu"]
    assert only["alarmed"] == ["zulu"]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_bandit_shows_why_and_since_when(server: Any, visit: Any, width: int) -> None:
    opened = visit(
        f"{server.url}/#/bandit/zulu?range=15m", viewport={"width": width, "height": 900}
    )
    page = opened.page
    expect(page.locator(".u-over").first).to_be_visible()
    rows = {row[0]: row for row in cells(page, "Features")}
    assert set(rows) == {"context.age", "context.country"}
    assert rows["context.age"][2] == "0 %"
    listed = [row[0] for row in cells(page, "Alarms and notices")]
    assert "worse-action" in listed
    better = page.locator("#better")
    expect(better).to_contain_text(
        re.compile(r"better than control\? .* per decision, .* of 3,000 ")
    )
    regions = page.get_by_role("region", name="Arms and actions")
    for text in ("control", "lift of the bandit", "DE", "FR", "IT", "new"):
        expect(regions).to_contain_text(text)
    assert any("train_every: null" in row[3] for row in cells(page, "Changes"))
    newest = page.get_by_role("region", name="Newest decisions")
    row = newest.locator("tbody tr").first
    for cell in (row.locator("td").nth(2), row.locator("td").nth(5)):
        expect(cell).to_be_visible()
        box = cell.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
    delays = page.get_by_role("region", name="Reward delay")
    expect(delays).to_contain_text("a total loss shows after")
    legend = page.get_by_role("region", name="Mean reward").locator(".u-legend .u-value").last
    expect(legend).to_have_text(re.compile(r"[0-9]"))  # without a cursor: the newest values
    fits(page)
    assert opened.errors == []


def test_axes_of_shares_end_at_100_percent(server: Any, visit: Any) -> None:
    page = visit(f"{server.url}/#/bandit/zulu?range=15m").page
    expect(page.locator(".u-over").first).to_be_visible()
    ends = page.evaluate(
        """async () => {
          const { shareAxis } = await import("/dashboard/static/charts.js");
          return [shareAxis(0.9, 1), shareAxis(1, 1), shareAxis(0, 0), shareAxis(0.2, 0.97)];
        }"""
    )
    assert [high for _, high in ends] == [1, 1, 1, 1]
    assert all(0 <= low < 1 for low, _ in ends)


def test_healthy_is_what_evidence_says(server: Any, visit: Any, feed: Any) -> None:
    page = visit(server.url).page
    for name, says in (("gamma", "no traffic yet"), ("alpha", "too few values to judge")):
        expect(page.locator(f"article[data-bandit={name}] .badge").first).to_have_text(says)
    lines = feed(server.url).call("GET", "/dashboard/overview")["bandits"]
    judged = {one["name"]: one["judged_values"] for one in lines}
    assert judged["alpha"] == 0
    assert judged["zulu"] >= 1000  # and it has an alarm; without one it would be healthy
    said = page.evaluate(
        """async () => {
          const { badge } = await import("/dashboard/static/overview.js");
          const one = (judged_values, ...found) =>
            badge({ decisions: 5000, judged_values, findings: found })[1];
          return [one(2000), one(0), one(2000, { severity: "notice" }),
                  one(0, { severity: "alarm" })];
        }"""
    )  # fmt: skip
    assert said == ["healthy", "too few values to judge", "notice", "alarm"]


def test_a_join_rate_is_at_most_100_percent(server: Any, visit: Any) -> None:
    """Rewards of earlier decisions may be more than the decisions of ten seconds."""
    opened = visit("about:blank")

    def late(route: Any) -> None:
        answer = route.fetch()
        found = answer.json()
        found["joined"] = [None, *[1.25] * (len(found["joined"]) - 1)]
        route.fulfill(response=answer, json=found)

    opened.page.route("**/dashboard/bandits/zulu?*", late)
    opened.page.goto(f"{server.url}/#/bandit/zulu?range=15m")
    joined = opened.page.get_by_role("region", name="Join rate")
    joined.get_by_text("Values as a table").click()
    expect(joined.locator("tbody td.num").first).to_have_text("100 %")
    assert opened.errors == []


def test_how_many_values_tell_whether_it_is_better(server: Any, visit: Any) -> None:
    """A width shrinks with the root of the number: twice too wide needs four times as many."""
    found = visit(server.url).page.evaluate(
        """async () => {
          const { neededFor } = await import("/dashboard/static/bandit.js");
          const lift = (mean, low, high) => neededFor({ mean, low, high, num: 1000 });
          return [lift(0.1, -0.1, 0.3), lift(-0.1, -0.3, 0.1), lift(0.1, 0.05, 0.2),
                  lift(0, -0.1, 0.1), lift(0.001, -0.1, 0.1), lift(0.127, -0.004, 0.258)];
        }"""
    )
    assert found == [4000, 4000, None, None, None, 1100]


def test_a_decision_says_what_counted(server: Any, visit: Any, feed: Any) -> None:
    fed = feed(server.url)
    made = fed.call("POST", "/select", {"bandit": "zulu", "context": {"country": "DE", "age": 40}})
    found = fed.call("GET", f"/bandits/zulu/decisions/{made['decision_id']}")
    assert {(one["side"], one["path"]) for one in found["added"]} == {
        ("context", "age"), ("context", "country"),
    }  # fmt: skip
    opened = visit(f"{server.url}/#/bandit/zulu/decision/{made['decision_id']}")
    counted = opened.page.get_by_role("region", name="What counted")
    expect(counted).to_contain_text("country")
    expect(counted).to_contain_text("DE")
    assert len(cells(opened.page, "What counted")) == 2
    fits(opened.page)
    assert opened.errors == []


def test_an_empty_bandit_says_that_nothing_was_decided(server: Any, visit: Any) -> None:
    opened = visit(f"{server.url}/#/bandit/gamma")
    region = opened.page.get_by_role("region", name="Mean reward")
    expect(region).to_contain_text("Nothing in this range.")
    expect(opened.page.get_by_role("region", name="Alarms and notices")).to_contain_text(
        "None so far."
    )
    assert opened.errors == []
