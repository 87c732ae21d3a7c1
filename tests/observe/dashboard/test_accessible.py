"""The page by axe-core, on every view at the width of a screen and of a telephone; and by keyboard.

axe-core checks names, roles, contrasts, landmarks, headings and what the keyboard reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.fixtures.system_packages import find
from tests.fixtures.waiting import poll
from tests.observe.dashboard.fed import Fed
from tests.observe.dashboard.test_page import fits, visit

pytestmark = pytest.mark.needs("chromium", "axe-core")
__all__ = ["visit"]  # a fixture
CHARTS = ".u-over"
FEW = 60  # keys, until what is looked for has the focus


@pytest.fixture(scope="module")
def server(start_module_server: Any) -> Any:
    """A bandit with all that the page shows: names, arms, a challenger, findings, snapshots."""
    found = start_module_server()
    with Fed(found.url) as fed:
        spec = {
            "policy": "linear_ts", "context": {"features": "auto"}, "reward_range": [0, 1],
            "actions": {"features": "auto"}, "segment": "country",
            "arms": [
                {"name": "control", "share": 0.2, "policy": "first"},
                {"name": "dark", "share": 0.0, "policy": "greedy", "shadow": True},
            ],
            "limits": {"red": {"floor": 0.1}},
        }  # fmt: skip
        fed.call("PUT", "/bandits/shown", spec)
        actions = [{"id": name, "features": {"kind": name, "n": 1}} for name in ("red", "blue")]
        fed.call("PUT", "/bandits/shown/actions", {"actions": actions})
        challenger = {"policy": "neural_linear_ts", "encoder": {"name": "mlp"}}
        fed.call("PUT", "/bandits/shown/challengers/deep", challenger)
        for number in range(40):
            context = {"country": ("DE", "FR")[number % 2], "age": 20 + number}
            body = {"bandit": "shown", "context": context, "decision_id": f"shown-{number}"}
            made = fed.call("POST", "/select", body)
            fed.call("POST", "/reward", {"decision_id": made["decision_id"], "reward": 2.0})
        fed.call("POST", "/bandits/shown/train?wait=true")
        fed.shop("empty")
        fed.counted("shown", 40)

        fed.call("PUT", "/bandits/shown/mode", {"mode": "frozen"})

        def is_noted() -> bool:
            return bool(fed.call("GET", "/bandits/shown/findings")["findings"])

        poll(is_noted, "a finding over time")
        fed.call("PUT", "/bandits/shown/mode", {"mode": "learn"})
    return found


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong in what is shown."""
    path = find("axe-core")
    assert path is not None
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(Path(path).read_text())
    found = page.evaluate(
        "axe.run(document, {resultTypes: ['violations'], runOnly: {type: 'tag', values: ['wcag2a',"
        " 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}})"
    )
    assert len(found["passes"]) > 15, "it has looked at the page"
    return [
        f"{page.url}: {each['id']}: {node['html'][:160]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def opened(name: str) -> Callable[[Page], None]:
    """Return what opens a dialog, and waits for it."""

    def act(page: Page) -> None:
        page.get_by_role("button", name=name).first.click()
        expect(page.locator("dialog")).to_be_visible()

    return act


def steps(page: Page) -> None:
    """Go through the steps of a new bandit, and look at each."""
    page.get_by_label("Name of the bandit").fill("another")
    for title in ("2. Actions", "3. Rewards", "4. Exploration", "5. Create"):
        page.get_by_role("button", name="Next").click()
        expect(page.get_by_role("heading", level=2).first).to_have_text(title)
        assert violations(page) == []
        fits(page)
    expect(page.get_by_text("Checked: this can be created")).to_be_visible()


def checked(page: Page) -> None:
    """Have a change checked that is learned anew."""
    text = page.get_by_label("Whole configuration")
    text.fill(text.input_value().replace('"reward_range": [\n    0', '"reward_range": [\n    -1'))
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("values are learned anew")).to_be_visible()


VIEWS: list[tuple[str, str, Callable[[Page], None] | None]] = [
    ("", "article dd", None),
    ("#/bandit/shown?range=15m", CHARTS, None),
    ("#/bandit/shown?range=15m", CHARTS, opened("Roll back")),
    ("#/bandit/shown?range=15m", CHARTS, opened("Change who decides")),
    ("#/bandit/shown?range=15m", CHARTS, opened("Promote")),
    ("#/bandit/empty", CHARTS, None),
    ("#/bandit/shown/decision/shown-7", "#candidates table", None),
    ("#/bandit/shown/configuration", "textarea:enabled", checked),
    ("#/bandit/shown/catalogue", "tr[data-action=red]", None),
    ("#/bandit/shown/catalogue", "tr[data-action=red]", opened("Edit red")),
    ("#/bandit/shown/catalogue", "tr[data-action=red]", opened("Add several")),
    ("#/compare/shown/empty?range=15m", CHARTS, None),
    ("#/new", "form", steps),
]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_view_violates_a_rule_of_accessibility(
    server: Any, visit: Any, width: int, scheme: str
) -> None:
    page = visit(
        server.url, viewport={"width": width, "height": 900}, color_scheme=scheme,
        reduced_motion="reduce",
    ).page  # fmt: skip
    found = []
    for place, there, act in VIEWS:
        page.goto("about:blank")  # dialogs and what was typed are gone
        page.goto(f"{server.url}/{place}")
        expect(page.locator(there).first).to_be_visible()
        if act is not None:
            act(page)
        found += violations(page)
        fits(page)
    assert found == []


def test_the_walk_of_somebody_without_a_mouse(server: Any, visit: Any, feed: Any) -> None:
    """A bandit is created, tried, edited and looked at with the keyboard alone."""
    page = visit(server.url).page
    expect(page.locator("article").first).to_be_visible()

    def to(what: str) -> None:
        for _ in range(FEW):
            if page.evaluate(f"document.activeElement.matches({what!r})"):
                shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert shown != "none", f"{what}: the focus is not seen"
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{what} is not reached")

    to("header a[href='#/new']")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name of the bandit")).to_be_visible()
    to(".field input")
    page.keyboard.type("typed")
    to("input[type=radio]")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("A list of numbers")).to_be_checked()
    to(".field input")
    page.keyboard.press("Control+a")
    page.keyboard.type("2")
    page.keyboard.press("Enter")  # a form goes on by Enter
    for number in (2, 3, 4):
        head = page.get_by_role("heading", level=2)
        expect(head).to_contain_text(f"{number}. ")
        expect(head).to_be_focused()  # a screen reader says where one is
        to("button.main")
        page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Create typed")).to_be_enabled()
    to("button.main")
    page.keyboard.press("Enter")
    expect(page.get_by_text("typed is there.")).to_be_visible()
    to("button.main")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Send the reward")).to_be_enabled()
    to(".field input")
    to("form:nth-of-type(2) button")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The server says: ")).to_be_visible()
    to("a[href$='/catalogue']")
    page.keyboard.press("Enter")
    expect(page.locator("main h1")).to_have_text("Catalogue of typed")
    expect(page.locator("tr").nth(1)).to_be_visible()
    to("[data-do=edit]")
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    assert page.evaluate("document.activeElement.closest('dialog') !== null")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.matches('[data-do=edit]')"), "back where it was"
    assert len(feed(server.url).call("GET", "/bandits/typed/actions")["actions"]) == 3
