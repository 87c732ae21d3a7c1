"""The examples, each run against a real server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.fixtures.waiting import poll

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CLIENT_BLOCKS = [  # `tests/docs` runs all of them; what this one prints is part of the page
    block for block in BLOCK.findall((ROOT / "docs/client.md").read_text()) if "fallback=" in block
]


@pytest.mark.slow
@pytest.mark.needs("curl")
def test_the_curl_example_learns_the_best_offers(server):
    done = subprocess.run(
        ["bash", "examples/curl.sh", server.url], cwd=ROOT, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, scores = done.stdout.splitlines()
    taken = re.fullmatch(r"offers taken: (\d+) of 100", first)
    assert taken is not None
    assert int(taken.group(1)) > 55, "a uniform choice takes a third"
    assert '"free-shipping"' in scores


def test_the_example_encoder_is_trained_and_served(start_server):
    server = start_server(
        None, "--config", ROOT / "examples/own_encoder.toml", env={"PYTHONPATH": str(ROOT)}
    )
    with server.client() as http:
        spec = {
            "policy": "neural_linear_ts", "context": {"shape": [2]}, "action_dim": 1,
            "encoder": {"name": "seasons", "params": {"width": 4}},
            "training": {"optimizer_steps": 20},
        }  # fmt: skip
        assert http.put("/bandits/b", json=spec).status_code == 201
        actions = [{"id": "coat", "features": [1.0]}, {"id": "shorts", "features": [-1.0]}]
        http.put("/bandits/b/actions", json={"actions": actions}).raise_for_status()
        for day in range(0, 360, 12):
            chosen = http.post("/select", json={"bandit": "b", "context": [day, 20.0]}).json()
            body = {"decision_id": chosen["decision_id"], "reward": float(day % 180 < 90)}
            http.post("/reward", json=body).raise_for_status()
        assert http.post("/bandits/b/train?wait=true").json()["trained"] is True
        wrong = spec | {"context": {"shape": [3]}}
        refused = http.put("/bandits/c", json=wrong)
        assert refused.status_code == 422
        assert "day and price" in refused.text


def test_the_shop_answers_with_the_service_and_without_it(start_server, tmp_path):
    server = start_server()
    spec = {"policy": "linear_ts", "context": {"shape": [4]}, "encoder": {"name": "per_action"}}
    server.http.put("/bandits/shop", json=spec).raise_for_status()  # README's, on the same server
    log = tmp_path / "shop.log"
    with log.open("w") as stderr:
        shop = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "examples.shop:app", "--port", "0"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr,
            env={**os.environ, "SHOP_BANDIT_URL": server.url, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

    def address() -> str | None:
        assert shop.poll() is None, f"the shop has ended:\n{log.read_text()}"
        found = re.search(r"running on (http://\S+)", log.read_text())
        return found and found.group(1)

    try:
        url = poll(address, "the shop listens")
        with httpx.Client(base_url=url, trust_env=False, verify=False, timeout=60.0) as http:
            visit = {"visits": 3, "basket": 40.0, "mobile": True}
            offers = [http.get("/offer", params=visit).json() for _ in range(20)]
            for offer in offers:
                path = f"/bought/{offer['decision_id']}"
                assert http.post(path, params={"amount": 25.0}).status_code == 202
            assert {offer["offer"] for offer in offers} > {"nothing"}
            pages = [f"/bandits/webshop/decisions/{offer['decision_id']}" for offer in offers]
            poll(
                lambda: all(server.http.get(page).json()["chosen"][0]["rewards"] for page in pages),
                "the rewards are delivered",  # they are learned when the window closes
            )
            server.stop()  # it answers what it has received: the shop's queue is empty then
            away = http.get("/offer", params=visit).json()
            assert away["offer"] == "nothing"
            path = f"/bought/{away['decision_id']}"
            assert http.post(path, params={"amount": 1.0}).status_code == 202
        shop.send_signal(signal.SIGTERM)
        assert shop.wait(60) == 0 or shop.returncode == -signal.SIGTERM
    finally:
        shop.kill()
        shop.wait()


def test_a_select_of_the_client_page_has_a_fallback(server):
    with server.client() as http:  # the bandit that the first block creates
        spec = {"policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"}}
        http.put("/bandits/offers", json=spec).raise_for_status()
        actions = {"actions": [{"id": "red"}, {"id": "blue"}]}
        http.put("/bandits/offers/actions", json=actions).raise_for_status()
    (found,) = CLIENT_BLOCKS
    block = found.replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "red True None\nfallback\n"
