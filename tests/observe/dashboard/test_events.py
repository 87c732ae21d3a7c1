"""What was done to a bandit, on the time axis of its charts: in words, and in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from service.observe.dashboard.events import Event, events
from service.store.records import AuditEntry
from tests.fixtures.servers import servers
from tests.fixtures.waiting import poll
from tests.observe.dashboard.fed import Fed
from tests.observe.dashboard.test_page import fits, visit

__all__ = ["visit"]  # a fixture
# Records the words that are drawn on any canvas.
RECORD = """
  window.drawn = [];
  const fillText = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
    window.drawn.push(`${this.textAlign} ${text}`);
    return fillText.call(this, text, ...rest);
  };
"""
# Two frames: by then the cursor has followed the pointer.
FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def entry(at: float, by: str, what: str, **changes: tuple[Any, Any]) -> AuditEntry:
    listed = [
        {"key": key.replace("__", "."), "old": old, "new": new}
        for key, (old, new) in changes.items()
    ]
    return AuditEntry(at, "shop", by, what, json.dumps(listed))


@pytest.mark.parametrize(
    ("by", "what", "changes", "kind", "text"),
    [
        ("(guard)", "guard", {"spec__mode": ("learn", "control_only")}, "guard", "guard"),
        ("ann", "PUT /bandits/b", {"spec": (None, {})}, "change", "created"),
        ("ann", "PUT /bandits/b", {"spec__segment": (None, "x")}, "change", "segment"),
        ("ann", "PUT /b/mode", {"spec__mode": ("learn", "frozen")}, "change", "mode frozen"),
        ("ann", "PUT /bandits/b/mode", {"spec__serve": (None, "red")}, "change", "serve red"),
        ("ann", "PUT /bandits/b/actions", {"num_actions": (1, 2)}, "change", "actions"),
        ("ann", "PUT /bandits/b/challengers/net", {"challengers__net": (None, {})},
         "change", "challenger net"),
        ("ann", "POST /bandits/b/challengers/net/promote",
         {"spec__arms": ([], [{"name": "net", "challenger": "net", "share": 0.05}])},
         "promotion", "net 5 %"),
        ("ann", "POST /bandits/b/challengers/net/promote", {"spec__policy": ("a", "b")},
         "promotion", "net promoted"),
        ("ann", "POST /bandits/b/challengers/net/demote", {"spec__arms": ([{}], [])},
         "promotion", "net demoted"),
        ("(rule)", "promote", {"challengers__net__share": (None, 0.25)}, "promotion", "net 25 %"),
        ("(rule)", "promote", {"challengers__net__share": (0, 1.0)}, "promotion", "net promoted"),
        ("(rule)", "end of the trial", {"challengers__a.b__why": (None, "worse")},
         "promotion", "a.b: worse"),
        ("ann", "POST /bandits/b/rollback", {"snapshot": (5, 6)}, "swap", "roll back"),
        ("ann", "PUT /bandits/b/snapshot", {"snapshot": (5, 6)}, "swap", "import"),
        ("ann", "POST /bandits/b/train", {"snapshot": (5, 6)}, "change", "train"),
    ],
)  # fmt: skip
def test_each_entry_of_the_trail_has_a_word(by, what, changes, kind, text) -> None:
    (found,) = events([entry(7.0, by, what, **changes)], 0.0, 10.0)
    assert (found.kind, found.text) == (kind, text)


def test_an_event_says_who_did_what_and_what_that_changed() -> None:
    trail = [
        entry(30.0, "late", "PUT /bandits/shop"),
        entry(20.0, "ann", "PUT /bandits/shop/mode", spec__mode=("learn", "frozen"),
              spec__serve=("red", None), position=(3, 4)),
        entry(10.0, "bob", "POST /bandits/shop/log", position=(1, 3), answer__num=(None, 5)),
        entry(10.0, "eve", "POST /bandits/shop/evaluations", answer__requested_at=(None, 9.0)),
        entry(1.0, "early", "PUT /bandits/shop"),
    ]  # fmt: skip
    assert events(trail, 10.0, 30.0) == [
        Event(10.0, "change", "log", "POST /bandits/shop/log by bob"),
        Event(
            20.0, "change", "mode frozen",
            'PUT /bandits/shop/mode by ann: mode "learn" \u2192 "frozen"; serve "red" \u2192 null',
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A bandit that was guarded, changed, whose challenger was promoted, and that was trained."""
    with servers(tmp_path_factory.mktemp("guarded")) as start, Fed((found := start()).url) as fed:
        arms = [{"name": "control", "share": 0.5, "action": "red"}]
        fed.shop("shop", reward_range=[0, 1], arms=arms, guard={"margin": 0.05})
        for _ in range(2):
            items = [{"bandit": "shop", "context": [0.1, 0.2, 1.0]} for _ in range(300)]
            made = fed.call("POST", "/select/batch", {"items": items})["items"]
            rewards = [
                {"decision_id": each["answer"]["decision_id"],
                 "reward": float(each["answer"]["arm"] == "control")}
                for each in made
            ]  # fmt: skip
            fed.call("POST", "/reward/batch", {"items": rewards})
        poll(lambda: fed.call("GET", "/bandits/shop")["guarded"], "the guard acts")
        fed.call("PUT", "/bandits/shop/mode", {"mode": "learn"})
        fed.call("POST", "/bandits/shop/train?wait=true")
        fed.call("PUT", "/bandits/shop/challengers/greedy", {})
        fed.call("POST", "/bandits/shop/challengers/greedy/promote?wait=true", {"share": 0.05})
        for number in range(30):
            limits = {"blue": {"floor": 0.001 * (number + 1)}}
            spec = fed.call("GET", "/bandits/shop")["spec"]
            fed.call("PUT", "/bandits/shop", spec | {"limits": limits})
        fed.visit("shop", 0, 20)
        fed.counted("shop", 620)
        yield found


def test_the_answer_has_everything_that_was_done_in_its_range(server: Any, feed: Any) -> None:
    found = feed(server.url).call("GET", "/dashboard/bandits/shop?range=15m")
    words = [each["text"] for each in found["events"]]
    assert words[:2] == ["created", "actions"]
    for word in ("guard", "mode learn", "greedy 5 %"):
        assert word in words
    assert words.count("limits.blue.floor") == 29, "more than the page lists"
    kinds = {each["text"]: each["kind"] for each in found["events"]}
    assert (kinds["guard"], kinds["greedy 5 %"]) == ("guard", "promotion")
    assert any(one["error"] is None for one in found["rounds"])


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_charts_have_guards_promotions_changes_and_swaps(
    server: Any, visit: Any, width: int
) -> None:
    opened = visit("about:blank", viewport={"width": width, "height": 900})
    page = opened.page
    page.add_init_script(RECORD)
    page.goto(f"{server.url}/#/bandit/shop?range=15m")
    chart = page.get_by_role("region", name="Mean reward")
    expect(chart.locator(".u-over")).to_be_visible()
    poll(lambda: "left guard" in page.evaluate("window.drawn"), "the word that matters most")
    told = swept(page, chart)
    assert re.search(r"guard by \(guard\): mode .learn. . .control_only.", told)
    assert re.search(r"snapshot \d+ was swapped in", told)
    assert "promote by (anonymous): arms" in told
    other = page.get_by_role("region", name="Traffic")
    expect(other.locator(".told")).to_be_empty()  # its cursor follows; it tells nothing twice
    fits(page)
    assert opened.errors == []


def swept(page: Any, chart: Any) -> str:
    """Move the pointer over a chart, and return all that its marks say."""
    over = chart.locator(".u-over")
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    found: dict[str, None] = {}
    for x in range(0, int(box["width"]), 6):
        page.mouse.move(box["x"] + x, box["y"] + 60)
        page.evaluate(FRAMES)
        found[chart.locator(".told").inner_text()] = None
    return "\n".join(found)
