"""The npm clients of Personalizer against a real server, also through a gateway that drops answers.

They come from the registry of npm, so the tests run in `.ci/run` alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.http.personalizer.conftest import ACTIONS, CONTEXT
from tests.http.personalizer.lossy import Lossy
from tests.http.personalizer.test_sdks import SLOTS, rewards, slot_rewards

pytestmark = [pytest.mark.slow, pytest.mark.needs("node", "npm"), pytest.mark.timeout(600)]
HERE = Path(__file__).parent / "node"
BODY = {"contextFeatures": CONTEXT, "actions": ACTIONS}
INSTALL = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of `node`, with the clients that they need."""
    folder: Path = shutil.copytree(HERE, tmp_path_factory.mktemp("npm") / "node")
    ended = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    return folder


def node(programs: Path, program: str, *arguments: str) -> dict[str, Any]:
    ended = subprocess.run(
        ["node", program, *arguments], cwd=programs, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize("drops", [False, True])
def test_the_npm_client_of_v1(doorway, personalizer, programs: Path, drops: bool) -> None:
    event = personalizer.fresh()
    with Lossy(doorway.url, 504).running() as gateway:
        url = gateway.url if drops else doorway.url
        found = node(programs, "first.cjs", url, event, json.dumps(BODY))
    assert found["answer"]["eventId"] == event
    assert {each["id"] for each in found["answer"]["ranking"]} == {"soup", "toast", "salad"}
    assert found["refused"][0] == 400
    assert found["refused"][1]["error"]["code"] == "InvalidRankRequest"
    assert not drops or set(gateway.tries.values()) == {2}
    assert rewards(personalizer, event) == [(0.75, "aggregated")]
    assert personalizer.decision(event)["activated"] is True


@pytest.mark.parametrize("drops", [False, True])
def test_the_npm_client_of_the_preview(doorway, personalizer, programs: Path, drops: bool) -> None:
    event = personalizer.fresh()
    with Lossy(doorway.url, 504).running() as gateway:
        url = gateway.url if drops else doorway.url
        found = node(
            programs, "newest.cjs", url, event, json.dumps(BODY), json.dumps(SLOTS["slots"])
        )
    assert found["answer"]["rewardActionId"] in ("soup", "toast", "salad")
    assert [each["id"] for each in found["several"]["slots"]] == ["top", "side"]
    assert found["written"] == found["service"]
    assert found["refused"][0] == "400"
    assert found["refused"][1]["error"]["code"] == "InvalidRankRequest"
    assert not drops or set(gateway.tries.values()) == {2}
    assert rewards(personalizer, event) == [(0.5, "pending")]
    assert slot_rewards(personalizer, event) == [[(1.0, "pending")], []]
