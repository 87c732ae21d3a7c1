"""Takes the documentation's pictures of the dashboard from a real server.

`make pictures` has them written to docs/images, of a longer play; without it they are only taken.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.observe.dashboard.fed import Fed, simulate

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]
WANTED = os.environ.get("PICTURES")  # a folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_of_every_view(
    start_module_server: Any, browser: Browser, tmp_path: Path, scheme: str
) -> None:
    server = start_module_server()
    horizon = 1500 if WANTED else 60
    simulate(server.url, "synthetic", "--horizon", str(horizon))
    simulate(server.url, "mnist", "--horizon", str(horizon // 10))
    neural = "synthetic-neural_linear_ts-0"
    with Fed(server.url) as fed:
        fed.counted(neural, horizon)
    folder = Path(WANTED) if WANTED else tmp_path
    ending = "" if scheme == "light" else "-dark"
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    views = {
        "overview": ("", "article dd"),
        "bandit": (f"#/bandit/{neural}?range=15m", ".u-over"),
        "decision": ("", "#candidates table"),
    }
    with Fed(server.url) as fed:
        path = "/dashboard/bandits/mnist-neural_linear_ts-0/decisions?limit=1"
        (newest,) = fed.call("GET", path)["decisions"]
    views["decision"] = (
        f"#/bandit/mnist-neural_linear_ts-0/decision/{newest['decision_id']}", "#candidates table"
    )  # fmt: skip
    for name, (place, there) in views.items():
        page.goto(f"{server.url}/{place}")
        expect(page.locator(there).first).to_be_visible()
        page.wait_for_timeout(300)  # charts are drawn in the next frames
        taken = page.screenshot(path=folder / f"dashboard-{name}{ending}.png")
        assert len(taken) > 10_000
    context.close()
