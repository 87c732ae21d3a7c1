"""The dashboard in a real browser, on a real server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from service.http.keys import hash_of
from tests.fixtures.transport import open_client
from tests.fixtures.waiting import poll
from tests.observe.dashboard.fed import Fed

pytestmark = pytest.mark.needs("chromium")
STATIC = files("service.http") / "static" / "dashboard"
UPLOT = {  # of uPlot 1.6.32, as its package on npm has them
    "uplot.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uplot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
expect.set_options(timeout=30_000)
NEURAL, NUM = "products", 100
WAIT_MS = 30_000


@pytest.fixture(scope="module")
def server(start_module_server: Any) -> Any:
    found = start_module_server()
    with Fed(found.url) as fed:
        fed.shop(NEURAL, policy="neural_linear_ts", encoder={"name": "mlp"})
        fed.visit(NEURAL, 0, NUM)
        fed.call("POST", f"/bandits/{NEURAL}/train?wait=true")
        fed.counted(NEURAL, NUM)
    return found


class OpenPage:
    """A page, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._record)
        page.on("request", lambda request: self.requests.append(request.url))

    def _record(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def fact(self, place: str, name: str) -> str:
        """Return the figure under a name."""
        found = self.page.locator(place).locator(f"dt:text-is('{name}') + dd").first
        return found.inner_text()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Any]:
    contexts = []

    def open_page(url: str, **options: Any) -> OpenPage:
        context = browser.new_context(**options)
        contexts.append(context)
        opened = OpenPage(context.new_page())
        opened.page.goto(url)
        return opened

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", UPLOT)
def test_the_chart_library_is_the_one_that_was_published(name: str) -> None:
    assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == UPLOT[name]


def test_the_page_loads_nothing_from_elsewhere_and_may_not(server: Any) -> None:
    with open_client(server.url) as http:
        answer = http.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        links = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
        assert all(not re.match(r"(?:https?:)?//", link) for link in links)
        tag = http.get("/dashboard/static/app.js").headers["etag"]
        same = http.get("/dashboard/static/app.js", headers={"if-none-match": tag})
        assert same.status_code == 304
        assert http.get("/dashboard/static/..%2f..%2fapp.py").status_code == 404


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"), (390, "dark"),  # neither rule of the style sheet depends on the other
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_view_shows_what_the_api_says(
    server: Any, visit: Any, scheme: str, width: int, feed: Any
) -> None:
    fed = feed(server.url)
    opened = visit(
        server.url, viewport={"width": width, "height": 800}, color_scheme=scheme,
        reduced_motion="reduce",
    )  # fmt: skip
    page = opened.page
    card = page.locator(f"article[data-bandit='{NEURAL}']")
    expect(card).to_be_visible()
    lines = {one["name"]: one for one in fed.call("GET", "/dashboard/overview")["bandits"]}
    assert opened.fact(f"article[data-bandit='{NEURAL}']", "decisions") == str(NUM)
    assert opened.fact(f"article[data-bandit='{NEURAL}']", "learned") == str(
        lines[NEURAL]["num_learned"]
    )
    fits(page)
    card.get_by_role("link", name=NEURAL).click()
    expect(page.locator(".u-over").first).to_be_visible()
    for title in ("Traffic", "Mean reward", "Exploration", "Posterior spread"):
        page.get_by_role("region", name=title).locator("summary").click()
    assert page.url.endswith("?range=15m")  # it is minutes old
    found = fed.call("GET", f"/dashboard/bandits/{NEURAL}?range=15m")
    assert sum(int(row[1]) for row in cells(page, "Traffic")) == sum(found["selects"])
    last = [value for value in found["reward"]["mean"] if value is not None][-1]
    assert float(cells(page, "Mean reward")[0][3]) == pytest.approx(last, rel=0.01)
    last = [value for value in found["spread"] if value is not None][-1]
    assert float(cells(page, "Posterior spread")[0][1]) == pytest.approx(last, rel=0.01)
    drawn = page.evaluate(
        "() => [...document.querySelectorAll('.u-wrap canvas')].map((c) =>"
        " c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(Boolean))"
    )
    latency = page.get_by_role("region", name="Select latency")  # of the last minutes alone
    is_empty = latency.get_by_text("Nothing in this range.").is_visible()
    assert drawn == [True] * (7 if is_empty else 8)
    fits(page)
    newest = page.get_by_role("region", name="Newest decisions").locator("td a").first
    name = newest.inner_text()
    newest.click()
    expect(page.locator("#reproduced")).to_have_text("reproduced exactly")
    kept = fed.call("GET", f"/bandits/{NEURAL}/decisions/{name}")
    (chosen,) = [one for one in kept["candidates"] if one["chosen"]]
    (row,) = [row for row in cells(page, "Candidates") if row[0].endswith("chosen")]
    assert row[0].startswith(chosen["id"])
    assert [float(cell) for cell in row[1:4]] == pytest.approx(
        [chosen["mean"], chosen["std"], chosen["sampled"]], rel=0.01, abs=1e-4
    )
    fits(page)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 200) == (scheme == "dark")
    assert opened.errors == []
    assert all(url.startswith((server.url, "data:")) for url in opened.requests)


def test_a_decision_with_named_features_shows_its_objects(
    server: Any, visit: Any, feed: Any
) -> None:
    """Text is text: markup in a value is shown as it was sent."""
    fed = feed(server.url)
    gift = {"id": "gift-07", "features": {"kind": "<b>gift</b>", "price": 9.5}}
    fed.call(
        "PUT", "/bandits/gifts", {"context": {"features": "auto"}, "actions": {"features": "auto"}}
    )
    fed.call("PUT", "/bandits/gifts/actions", {"actions": [gift]})
    ask = {"bandit": "gifts", "context": {"user": {"age": 31}, "note": "<i>x</i>"}}
    made = fed.call("POST", "/select", ask)
    fed.counted("gifts", 1)
    opened = visit(f"{server.url}/#/bandit/gifts/decision/{made['decision_id']}")
    context = opened.page.get_by_role("region", name="Context")
    expect(context).to_contain_text('"age": 31')
    expect(context).to_contain_text('"note": "<i>x</i>"')
    expect(context).to_contain_text("Features of gift-07")
    expect(context).to_contain_text('"kind": "<b>gift</b>"')
    fits(opened.page)
    assert opened.errors == []


def cells(page: Page, region: str) -> list[list[str]]:
    """Return the texts of a table's body."""
    rows = page.get_by_role("region", name=region).locator(".scroll tbody tr")
    texts = "rows => rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
    found: list[list[str]] = rows.evaluate_all(texts)
    return found


def fits(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_follows_new_traffic_without_growing(server: Any, visit: Any, feed: Any) -> None:
    fed = feed(server.url)
    fed.shop("live")
    fed.visit("live", 0, 10)
    fed.counted("live", 10)
    opened = visit(f"{server.url}/#/bandit/live?range=1h")
    page = opened.page
    summary = page.get_by_role("region", name="Traffic").locator("summary")
    expect(page.locator(".u-over").first).to_be_visible()
    summary.click()

    def selects() -> int:
        return sum(int(row[1]) for row in cells(page, "Traffic"))

    assert selects() == 10
    fed.visit("live", 10, 30)
    poll(lambda: page.wait_for_timeout(100) or selects() == 40, "the new decisions are shown")
    newest = page.get_by_role("region", name="Newest decisions").locator("td a").first
    expect(newest).to_have_text("live-39")
    count = "document.getElementsByTagName('*').length"
    before = page.evaluate(count)
    page.clock.install()
    page.reload()
    expect(page.locator(".u-over").first).to_be_visible()
    settled = page.evaluate(count)
    for _ in range(5):  # ten seconds, as fast as the server answers
        with page.expect_response(re.compile("range=1h")):
            page.clock.run_for(2100)
    assert page.evaluate(count) <= max(before, settled) + 20
    drawn = page.evaluate("document.querySelectorAll('.uplot').length")
    assert drawn == 7  # there was no round, and so nothing to draw of it
    assert opened.errors == []


def test_a_hidden_tab_asks_nothing(server: Any, visit: Any) -> None:
    opened = visit(server.url)
    page = opened.page
    expect(page.locator("article").first).to_be_visible()
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    notify = " document.dispatchEvent(new Event('visibilitychange'))"
    page.clock.install()
    page.reload()
    with page.expect_response(re.compile("overview")):  # visible, it asks in its turns
        page.clock.run_for(2100)
    page.evaluate(hide % "true" + notify)
    page.wait_for_timeout(300)  # what was under way ends
    asked = len(opened.requests)
    page.clock.run_for(60_000)
    page.wait_for_timeout(300)  # what it asked would have arrived
    assert len(opened.requests) == asked
    with page.expect_response(re.compile("overview")):
        page.evaluate(hide % "false" + notify)


def test_everything_is_reached_by_keyboard(server: Any, visit: Any) -> None:
    page = visit(server.url).page
    expect(page.locator("article").first).to_be_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"

    def to(what: str) -> None:
        for _ in range(120):
            if page.evaluate(f"document.activeElement.matches({what!r})"):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline != "none"
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{what} is not reached")

    to("article a")
    page.keyboard.press("Enter")
    expect(page.locator(".u-over").first).to_be_visible()
    to("[data-range='6h']")
    page.keyboard.press("Enter")
    expect(page.locator("[data-range='6h']")).to_have_attribute("aria-pressed", "true")
    to("#admin button")
    page.keyboard.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    expect(
        page.get_by_role("region", name="Newest decisions").locator("td a").first
    ).to_be_visible()
    to("td a")
    page.keyboard.press("Enter")
    to("[data-sort=std]")
    page.keyboard.press("Enter")
    stds = [float(row[2]) for row in cells(page, "Candidates")]
    assert stds == sorted(stds, reverse=True)


def test_buttons_do_what_they_say_after_asking(server: Any, visit: Any, feed: Any) -> None:
    fed = feed(server.url)
    fed.shop("pressed", policy="neural_linear_ts", encoder={"name": "mlp"})
    fed.visit("pressed", 0, 30)
    page = visit(f"{server.url}/#/bandit/pressed").page
    page.get_by_role("button", name="Retire an action").click()
    page.locator("dialog input").fill("nothing")
    page.get_by_role("button", name="Retire", exact=True).click()
    expect(page.locator("dialog .error")).to_contain_text("nothing")
    page.locator("dialog input").fill("blue")
    page.get_by_role("button", name="Retire", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("blue is retired")
    actions = fed.call("GET", "/bandits/pressed/actions")["actions"]
    assert {one["id"]: one["enabled"] for one in actions} == {
        "red": True, "green": True, "blue": False,
    }  # fmt: skip
    page.get_by_role("button", name="Train now").click()
    page.get_by_role("button", name="Cancel").click()
    assert fed.call("GET", "/bandits/pressed")["snapshot"] == 0
    page.get_by_role("button", name="Train now").click()
    page.get_by_role("button", name="Train", exact=True).click()
    poll(lambda: fed.call("GET", "/bandits/pressed")["snapshot"] == 1, "the round is served")
    page.get_by_role("button", name="Roll back").click()
    row = page.locator("dialog tbody tr").first  # the served one is the newest
    expect(row).to_contain_text("1 (served)")
    expect(row.locator("input")).to_be_disabled()
    page.get_by_label("0", exact=True).check()
    page.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("Snapshot 0 is served again")
    assert fed.call("GET", "/bandits/pressed")["snapshot"] == 2


def test_challengers_are_promoted_and_demoted_from_the_page(
    server: Any, visit: Any, feed: Any
) -> None:
    fed = feed(server.url)
    fed.shop("contested", policy="linear_ts", encoder={"name": "concat"})
    fed.visit("contested", 0, 30)
    where = "/bandits/contested/challengers/products"
    fed.call("PUT", where, {"encoder": {"name": "bilinear"}})
    page = visit(f"{server.url}/#/bandit/contested").page
    card = page.get_by_role("region", name="Challengers")
    expect(card.locator("tbody tr")).to_contain_text("not compared yet")
    card.get_by_role("button", name="Promote").click()
    page.get_by_role("button", name="Cancel").click()
    assert fed.call("GET", where)["state"] == "learning", "nothing is done before it is confirmed"
    card.get_by_role("button", name="Promote").click()
    page.locator("dialog select").select_option("0.25")
    page.get_by_role("button", name="Promote", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("products decides 25")
    assert (fed.call("GET", where)["state"], fed.call("GET", where)["share"]) == ("trial", 0.25)
    card.get_by_role("button", name="Demote").click()
    page.get_by_role("button", name="Demote", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("products is demoted")
    assert fed.call("GET", "/bandits/contested")["arms"] == []
    card.get_by_role("button", name="Promote").click()
    page.locator("dialog select").select_option("1")
    page.get_by_role("button", name="Promote", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("products is being learned")
    poll(lambda: fed.call("GET", where)["state"] == "served", "its configuration is served")
    expect(card.locator("tbody tr td").nth(1)).to_have_text("served")
    card.get_by_role("button", name="Demote").click()
    page.get_by_role("button", name="Demote", exact=True).click()
    poll(
        lambda: fed.call("GET", "/bandits/contested")["spec"]["encoder"]["name"] == "concat",
        "what it replaced is served",
    )
    assert fed.call("GET", where)["state"] == "learning"


def test_with_keys_it_asks_for_one_and_shows_what_it_allows(
    start_server: Any, visit: Any, tmp_path: Path, feed: Any
) -> None:
    names = {"reader": ["read"], "owner": ["read", "admin"], "shop": ["select", "reward"]}
    keys = {name: f"bx_{name}-{'k' * 30}" for name in names}
    tables = "".join(
        f'[[keys]]\nname = "{name}"\nsha256 = "{hash_of(keys[name])}"\nscopes = {scopes!r}\n'
        for name, scopes in names.items()
    )
    config = tmp_path / "server.toml"
    config.write_text(tables)
    server = start_server(None, "--config", str(config))
    feed(server.url, keys["owner"]).shop()
    page = visit(server.url).page
    field = page.locator("dialog input")
    field.fill("bx_wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("dialog .error")).to_contain_text("not known")
    field.fill(keys["shop"])
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("h1")).to_have_text("This key may not read")
    page.get_by_role("button", name="API key").click()
    field.fill(keys["reader"])
    page.get_by_role("button", name="Use this key").click()
    page.get_by_role("link", name="shop").click()
    expect(page.locator(".u-over").first).to_be_visible()
    expect(page.get_by_text("lacks the scope admin")).to_be_visible()
    assert page.locator("#admin").count() == 0
    page.get_by_role("button", name="API key").click()
    field.fill(keys["owner"])
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#admin")).to_be_visible()
    stored = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    assert page.evaluate(stored) == '[{},{},""]'
    assert all(key not in page.content() + page.url for key in keys.values())
    page.reload()
    expect(page.locator("dialog input")).to_be_visible()  # forgotten


def test_a_restart_of_the_server_is_shown_and_survived(
    start_server: Any, visit: Any, feed: Any
) -> None:
    server = start_server()
    feed(server.url).shop()
    opened = visit(server.url)
    page = opened.page
    expect(page.locator("article")).to_be_visible()
    server.kill()
    expect(page.locator("#banner")).to_contain_text("does not answer")
    again = start_server(server.data_dir, "--port", server.url.rpartition(":")[2])
    fed = feed(again.url)
    fed.visit("shop", 0, 7)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("article dd").nth(2)).to_have_text("7")
    assert not [error for error in opened.errors if "ERR_CONNECTION" not in error]


def test_without_bandits_it_says_how_to_begin(start_server: Any, visit: Any) -> None:
    page = visit(start_server().url).page
    expect(page.get_by_text("No bandit yet")).to_be_visible()
    expect(page.locator("pre")).to_contain_text("curl -X PUT")
