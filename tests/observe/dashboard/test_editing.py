"""Bandits are created, changed and compared in a real browser, on a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.fixtures.waiting import poll
from tests.observe.dashboard.test_page import fits, visit

pytestmark = pytest.mark.needs("chromium")
__all__ = ["visit"]  # a fixture


@pytest.fixture(scope="module")
def server(start_module_server: Any) -> Any:
    return start_module_server()


def next_step(page: Page, title: str) -> None:
    page.get_by_role("button", name="Next").click()
    expect(page.get_by_role("heading", level=2)).to_have_text(title)


def test_a_bandit_is_created_step_by_step_and_tried(
    server: Any, visit: Any, feed: Any, tmp_path: Path
) -> None:
    fed = feed(server.url)
    fed.shop("taken")
    opened = visit(f"{server.url}/#/new", viewport={"width": 1280, "height": 900})
    page = opened.page
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".finding.alarm")).to_contain_text("1 to 128 letters")
    page.get_by_label("Name of the bandit").fill("taken")
    expect(page.get_by_label("Shape of the image")).to_be_hidden()
    next_step(page, "2. Actions")
    page.get_by_label("Named features", exact=True).check()
    expect(page.get_by_label("Actions, one a line")).to_have_value(re.compile("tea-01"))
    page.get_by_label("Actions, one a line").fill('tea {"kind": "hot"}\nice {"kind": }')
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".finding.alarm")).to_contain_text("line 2")
    page.get_by_label("Actions, one a line").fill('tea {"kind": "hot"}\nice {"kind": "cold"}')
    next_step(page, "3. Rewards")
    page.get_by_label("Yes: no report means").check()
    page.get_by_label("How long does a report take").fill("60")
    next_step(page, "4. Exploration")
    page.get_by_label("The rule of today").select_option("action")
    page.get_by_label("Action of the control group").fill("soup")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".finding.alarm")).to_contain_text("soup is none of the actions")
    page.get_by_label("Action of the control group").fill("tea")
    next_step(page, "5. Create")
    create = page.get_by_role("button", name="Create taken")
    expect(page.get_by_text("There is a bandit taken already")).to_be_visible()
    expect(create).to_be_disabled()
    for _ in range(4):
        page.get_by_role("button", name="Back").click()
    page.get_by_label("Name of the bandit").fill("drinks")
    for title in ("2. Actions", "3. Rewards", "4. Exploration", "5. Create"):
        next_step(page, title)  # what was typed is still there
    expect(page.get_by_text("Checked: this can be created")).to_be_visible()
    config = page.get_by_label("Configuration")
    spec = json.loads(config.input_value())
    config.fill(json.dumps(spec | {"nonsense": 1}))
    expect(config).to_have_attribute("aria-invalid", "true")
    config.fill(json.dumps(spec))
    create = page.get_by_role("button", name="Create drinks")
    expect(create).to_be_enabled()
    code = page.locator(".code pre")
    expect(code).to_contain_text(f"curl -X PUT {server.url}/bandits/drinks")
    page.get_by_role("button", name="TypeScript").click()
    expect(code).to_contain_text('await client.putBandit("drinks"')
    page.get_by_role("button", name="Python").click()
    page.evaluate("navigator.clipboard.writeText = (text) => { window.copied = text; }")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    program = page.evaluate("window.copied")
    fits(page)
    create.click()
    expect(page.get_by_text("drinks is there.")).to_be_visible()
    made = fed.call("GET", "/bandits/drinks")
    assert made["spec"]["arms"][0]["action"] == "tea"
    assert made["spec"]["rewards"]["reward_window_s"] == 60
    assert made["num_actions"] == 2
    page.get_by_role("button", name="Decide").click()
    expect(page.get_by_text("Decision ", exact=False).locator("a")).to_be_visible()
    decision = page.locator("form .soft a").inner_text()
    page.get_by_label("Reward", exact=True).fill("a lot")
    page.get_by_role("button", name="Send the reward").click()
    expect(page.get_by_text("is no number")).to_be_visible()
    page.get_by_label("Reward", exact=True).fill("0.5")
    page.get_by_role("button", name="Send the reward").click()
    expect(page.get_by_text("The server says: ")).to_be_visible()
    kept = fed.call("GET", f"/bandits/drinks/decisions/{decision}")
    assert [row["reward"] for row in kept["chosen"][0]["rewards"]] == [0.5]
    answered = "Failed to load resource: the server responded with a status of 4"
    assert [error for error in opened.errors if not error.startswith(answered)] == []
    # The program that was copied does the same, against the bandit that is there by now.
    file = tmp_path / "drinks.py"
    file.write_text(program)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("tea", "ice")


def test_numbers_and_images_are_created_by_the_same_steps(
    server: Any, visit: Any, feed: Any
) -> None:
    page = visit(f"{server.url}/#/new").page
    page.get_by_label("Name of the bandit").fill("pictures")
    page.get_by_label("An image").check()
    page.get_by_label("Shape of the image").fill("8, none")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".finding.alarm")).to_contain_text('"none" is no number')
    page.get_by_label("Shape of the image").fill("8 x 8")
    next_step(page, "2. Actions")
    page.get_by_label("A list of numbers").check()
    page.get_by_label("How many numbers").fill("3")
    page.get_by_label("Actions, one a line").fill("left 1 0 0\nright 0, 1")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".finding.alarm")).to_contain_text("3 numbers are needed, these are 2")
    page.get_by_label("Actions, one a line").fill("left 1 0 0\nright 0, 1, 0.5")
    next_step(page, "3. Rewards")
    page.get_by_label("Between two other numbers").check()
    page.get_by_label("Lowest").fill("12")
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".finding.alarm")).to_contain_text("must be less than Highest")
    page.get_by_label("Lowest").fill("-2")
    next_step(page, "4. Exploration")
    page.get_by_label("Share of a control group").fill("0")
    page.get_by_label("By the gaps").check()
    next_step(page, "5. Create")
    page.get_by_role("button", name="Create pictures").click()
    expect(page.get_by_text("pictures is there.")).to_be_visible()
    spec = feed(server.url).call("GET", "/bandits/pictures")["spec"]
    assert spec["context"]["shape"] == [8, 8]
    assert (spec["action_dim"], spec["reward_range"]) == (3, [-2, 10])
    assert (spec["selection"]["method"], spec["arms"]) == ("squarecb", [])
    page.get_by_role("button", name="Decide").click()
    expect(page.locator("dt:text-is('action') + dd")).to_have_text(re.compile("left|right"))


def test_a_configuration_is_checked_and_then_applied(server: Any, visit: Any, feed: Any) -> None:
    fed = feed(server.url)
    fed.shop("edited", encoder={"name": "concat"})
    fed.visit("edited", 0, 20)
    page = visit(f"{server.url}/#/bandit/edited").page
    page.get_by_role("link", name="Configuration").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Configuration of edited")
    text, apply = page.get_by_label("Whole configuration"), page.get_by_role("button", name="Apply")
    plan = page.get_by_role("region", name="What would change")
    expect(text).to_have_value(re.compile("linear_ts"))
    page.get_by_role("button", name="Check").click()
    expect(plan).to_contain_text("Nothing: this is the configuration that is served")
    expect(apply).to_be_disabled()
    # The form writes into the JSON, and what the server refuses is shown at its field.
    page.get_by_label("Reward without a report").fill("0.5")
    assert json.loads(text.input_value())["rewards"]["default_reward"] == 0.5
    page.get_by_role("button", name="Check").click()
    expect(plan).to_contain_text("Refused: ")
    expect(plan).to_contain_text("needs a reward_window_s")
    page.get_by_label("Reward window in seconds").fill("soon")
    expect(page.get_by_label("Reward window in seconds")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Reward window in seconds").fill("3600")
    page.get_by_role("button", name="Check").click()
    expect(plan).to_contain_text("All of it holds from the next decision on")
    apply.click()
    expect(page.locator("#toast")).to_contain_text("The new configuration is served")
    assert fed.call("GET", "/bandits/edited")["spec"]["rewards"]["default_reward"] == 0.5
    # Another encoder is learned anew; an edit after the check has to be checked again.
    spec = json.loads(text.input_value())
    text.fill("{")
    expect(text).to_have_attribute("aria-invalid", "true")
    text.fill(json.dumps(spec | {"encoder": {"name": "bilinear"}}))
    page.get_by_role("button", name="Check").click()
    expect(plan).to_contain_text("18 values are learned anew")
    expect(plan.locator("tr", has_text="encoder.name")).to_contain_text("bilinear")
    fed.call("PUT", "/bandits/edited", spec | {"segment": None, "training": {"train_every": 77}})
    apply.click()
    expect(page.get_by_text("The configuration has changed meanwhile")).to_be_visible()
    expect(apply).to_be_disabled()
    page.get_by_role("button", name="Discard my changes").click()
    expect(text).to_have_value(re.compile('"train_every": 77'))
    text.fill(json.dumps(json.loads(text.input_value()) | {"encoder": {"name": "bilinear"}}))
    page.get_by_role("button", name="Check").click()
    expect(plan).to_contain_text("learned anew")
    apply.click()

    def is_served() -> bool:
        return bool(fed.call("GET", "/bandits/edited")["spec"]["encoder"]["name"] == "bilinear")

    poll(is_served, "the other encoder is served")
    expect(page.get_by_text("The newest change that was learned anew")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_how_much_exploration_is_enough_is_answered_where_it_is_configured(
    server: Any, visit: Any, feed: Any, width: int
) -> None:
    fed, name = feed(server.url), f"explored-{width}"
    fed.shop(name, reward_range=[0, 1], arms=[{"name": "control", "share": 0.1, "action": "red"}])
    fed.visit(name, 0, 40)
    fed.counted(name, 40)
    opened = visit(
        f"{server.url}/#/bandit/{name}/configuration", viewport={"width": width, "height": 900}
    )
    card = opened.page.get_by_role("region", name="How much exploration is enough")
    card.get_by_label("Within how many decisions").fill("50000")
    expect(card).to_contain_text("within 50,000 decisions")
    expect(card).to_contain_text(re.compile(r"A control of [0-9.]+ % \(share of an arm\) shows"))
    expect(card).to_contain_text("arm control has 10 % of the decisions: that takes")
    expect(card.locator("dl")).to_contain_text("of the last week's values")
    card.get_by_label("Difference to be seen").fill("many")
    expect(card).to_contain_text('"many" is no number')
    card.get_by_label("Difference to be seen").fill("3")
    expect(card.get_by_label("Difference to be seen")).to_have_attribute("aria-invalid", "true")
    card.get_by_label("Difference to be seen").fill(".01")
    expect(card).to_contain_text("d = 0.01")
    fits(opened.page)
    assert [one for one in opened.errors if "422" not in one] == []


def test_challengers_that_need_no_configuration_are_offered(
    server: Any, visit: Any, feed: Any
) -> None:
    fed = feed(server.url)
    fed.shop("contested")
    opened = visit(f"{server.url}/#/bandit/contested")
    page = opened.page
    card = page.get_by_role("region", name="Challengers")
    expect(card).to_contain_text("None yet")
    card.get_by_role("button", name="Compare with greedy").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(card.locator("tbody tr")).to_have_count(1)
    expect(card.locator("tbody tr")).to_contain_text("greedy")
    expect(card.locator("tbody tr")).to_contain_text("learning")
    expect(card.get_by_role("button", name="Compare with greedy")).to_have_count(0)
    expect(card.get_by_role("button", name="Compare with linear")).to_be_visible()
    assert [one["name"] for one in fed.call("GET", "/bandits/contested")["challengers"]] == [
        "greedy"
    ]
    assert opened.errors == []


def test_the_mode_is_left_alone_by_an_edit_and_changed_by_its_dialog(
    server: Any, visit: Any, feed: Any
) -> None:
    fed = feed(server.url)
    fed.shop("moody", arms=[{"name": "control", "share": 0.1, "action": "red"}])
    page = visit(f"{server.url}/#/bandit/moody").page
    page.get_by_role("button", name="Change who decides").click()
    page.get_by_label("From the next decision on").select_option("serve")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("dialog .error").last).to_contain_text("name one")
    page.get_by_label("Action", exact=True).fill("blue")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("blue is served")
    assert fed.call("GET", "/bandits/moody")["spec"]["serve"] == "blue"
    page.goto(f"{server.url}/#/bandit/moody/configuration")
    page.get_by_label("Reward window in seconds").fill("90")
    page.get_by_role("button", name="Check").click()
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#toast")).to_contain_text("The new configuration is served")
    spec = fed.call("GET", "/bandits/moody")["spec"]
    assert (spec["serve"], spec["rewards"]["reward_window_s"]) == ("blue", 90)
    page.goto(f"{server.url}/#/bandit/moody")
    page.get_by_role("button", name="Change who decides").click()
    page.get_by_label("From the next decision on").select_option("control_only")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("The mode is control_only")
    spec = fed.call("GET", "/bandits/moody")["spec"]
    assert (spec["serve"], spec["mode"]) == (None, "control_only")


def test_a_catalogue_is_edited_with_named_features_dates_and_limits(
    server: Any, visit: Any, feed: Any
) -> None:
    fed = feed(server.url)
    spec = {"context": {"features": "auto"}, "actions": {"features": "auto"}}
    fed.call("PUT", "/bandits/teas", spec)
    opened = visit(f"{server.url}/#/bandit/teas/catalogue")
    page = opened.page
    expect(page.get_by_text("No action yet")).to_be_visible()
    page.get_by_role("button", name="Add several").click()
    page.get_by_label("Actions, one a line").fill('green {"kind": "tea", "price": 4}\nbad id here')
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("dialog .error").last).to_contain_text("line 2")
    page.get_by_label("Actions, one a line").fill('green {"kind": "tea", "price": 4}\nblack')
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("2 actions are put")
    page.get_by_role("button", name="Add an action").click()
    page.get_by_label("Id", exact=True).fill("green")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("dialog > form > .error")).to_contain_text("is an action already")
    page.get_by_label("Id", exact=True).fill("white")
    page.get_by_label("Name of feature 1").fill("kind")
    page.get_by_label("Value of feature 1").fill("tea")
    page.get_by_role("button", name="Add a feature").click()
    page.get_by_label("Name of feature").last.fill("tags")
    page.get_by_label("Value of feature").last.fill('["new", "light"]')
    page.get_by_text("Dates, floor and cap").click()
    page.get_by_label("Offered until").fill("2030-01-31T18:00")
    page.get_by_label("Chosen at most").fill("0.25")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("white is offered")
    row = page.locator("tr[data-action=white]")
    expect(row).to_contain_text('{"kind":"tea","tags":["new","light"]}')
    expect(row).to_contain_text("until 2030-01-31 18:00:00, at most 25 %")
    limits = fed.call("GET", "/bandits/teas")["spec"]["limits"]
    assert limits["white"]["max_share"] == 0.25
    page.get_by_role("button", name="Edit white").click()
    page.get_by_label("Chosen at most").fill("")
    page.get_by_label("Chosen at least").fill("2")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("dialog > form > .error")).to_contain_text("floor")
    page.get_by_label("Chosen at least").fill("0.1")
    page.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("at least 10 %")
    expect(row).not_to_contain_text("at most")
    page.get_by_role("button", name="Retire green").click()
    page.get_by_role("button", name="Retire", exact=True).click()
    green = page.locator("tr[data-action=green]")
    expect(green).to_contain_text("retired")
    page.get_by_role("button", name="Bring back green").click()
    expect(green).to_contain_text("offered")
    actions = fed.call("GET", "/bandits/teas/actions")["actions"]
    assert actions[0]["features"] == {"kind": "tea", "price": 4}, "they were kept"
    page.get_by_label("Find an action by id").fill("WHI")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Find an action by id").fill("coffee")
    expect(page.get_by_text('No action has "coffee" in its id')).to_be_visible()
    fits(page)


def test_two_bandits_are_compared_and_decisions_are_found(
    server: Any, visit: Any, feed: Any
) -> None:
    fed = feed(server.url)
    for name, value in (("worse", 0.2), ("better", 0.6)):
        fed.call("PUT", f"/bandits/{name}", {
            "policy": "linear_ts", "context": {"shape": [1]}, "reward_range": [0, 1],
        })  # fmt: skip
        fed.call("PUT", f"/bandits/{name}/actions", {"ids": ["one", "two"]})
        for number in range(30):
            one = fed.call("POST", "/select", {
                "bandit": name, "context": [1.0], "decision_id": f"{name}:{number}",
            })  # fmt: skip
            report = {"decision_id": one["decision_id"], "reward": value + 0.01 * (number % 7)}
            fed.call("POST", "/reward", report)
        fed.counted(name, 30)
    opened = visit(f"{server.url}/#/bandit/worse", viewport={"width": 390, "height": 800})
    page = opened.page
    pages = page.get_by_role("navigation", name="Pages of this bandit")
    pages.get_by_role("link", name="Compare").click()
    page.get_by_label("Second bandit").select_option("better")

    def said() -> bool:
        verdict = page.locator("#lift")
        return verdict.count() > 0 and "better earns more" in verdict.inner_text()

    poll(lambda: page.wait_for_timeout(50) or said(), "the verdict")
    lift = float(re.findall(r"\+([\d.]+) per decision", page.locator("#lift").inner_text())[0])
    assert lift == pytest.approx(0.4, abs=0.01)
    figures = page.get_by_role("region", name="Figures")
    expect(figures.locator("tr", has_text="values")).to_contain_text("30")
    table = page.get_by_role("region", name="By action")
    expect(table.locator("tbody tr")).to_have_count(2)
    page.locator("[data-range='15m']").click()
    expect(page.locator("[data-range='15m']")).to_have_attribute("aria-pressed", "true")
    poll(lambda: page.wait_for_timeout(50) or said(), "the verdict of another range")
    fits(page)
    page.goto(f"{server.url}/#/")
    find = page.get_by_label("Find a decision by id")
    find.fill("no-such-decision")
    find.press("Enter")
    expect(page.locator(".find .error")).to_contain_text("there is no decision 'no-such-decision'")
    find.fill("better:7")
    find.press("Enter")
    expect(page.locator("#candidates")).to_be_visible()
    assert page.url.endswith("#/bandit/better/decision/better%3A7")


def test_a_key_without_admin_reads_and_is_told_why_it_changes_nothing(
    start_server: Any, visit: Any, tmp_path: Path, feed: Any
) -> None:
    from service.http.keys import hash_of

    keys = {name: f"bx_{name}-{'k' * 30}" for name in ("reader", "owner")}
    scopes = {"reader": ["read"], "owner": ["read", "admin"]}
    config = tmp_path / "server.toml"
    config.write_text("".join(
        f'[[keys]]\nname = "{name}"\nsha256 = "{hash_of(key)}"\nscopes = {scopes[name]!r}\n'
        for name, key in keys.items()
    ))  # fmt: skip
    server = start_server(None, "--config", str(config))
    feed(server.url, keys["owner"]).shop()
    page = visit(f"{server.url}/#/bandit/shop/configuration").page
    page.locator("dialog input").fill(keys["reader"])
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("The key reader lacks the scope admin")).to_be_visible()
    expect(page.get_by_label("Whole configuration")).to_have_attribute("readonly", "")
    assert page.get_by_role("button", name="Apply").count() == 0
    page.get_by_role("link", name="Catalogue").click()
    expect(page.get_by_text("The key reader lacks the scope admin")).to_be_visible()
    expect(page.locator("tr[data-action=red]")).to_contain_text("offered")
    assert page.get_by_role("button", name="Add").count() == 0
    page.get_by_role("link", name="New bandit").click()
    page.get_by_label("Name of the bandit").fill("mine")
    for title in ("2. Actions", "3. Rewards", "4. Exploration", "5. Create"):
        next_step(page, title)
    expect(page.locator(".code pre")).to_contain_text("authorization: Bearer $BANDEXA_KEY")
    expect(page.get_by_role("button", name="Create mine")).to_be_disabled()
    page.get_by_role("button", name="API key").click()
    page.locator("dialog input").fill(keys["owner"])
    page.get_by_role("button", name="Use this key").click()
    page.get_by_label("Name of the bandit").fill("mine")
    for title in ("2. Actions", "3. Rewards", "4. Exploration", "5. Create"):
        next_step(page, title)
    page.get_by_role("button", name="Create mine").click()
    expect(page.get_by_text("This key lacks the scope select")).to_be_visible()
    expect(page.get_by_role("button", name="Decide")).to_be_disabled()
