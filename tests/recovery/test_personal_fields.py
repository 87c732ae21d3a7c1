"""Personal values are in no file of a server, and what it decides with their digests lasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack

from tests.fixtures.commands import bandexa

SECRET, NAME = "xq7-dropped-secret", "zk9-hashed-secret"
SPEC: dict[str, Any] = {
    "context": {"features": {
        "user.mail": {"type": "category", "log": "drop"},
        "user.name": {"type": "hash", "log": "hash"},
        "*": "auto",
    }},
    "actions": {"features": {
        "owner": {"type": "category", "log": "hash"}, "note": {"type": "text", "log": "drop"},
        "kind": "category",
    }},
    "seed": 3, "reward_range": [0, 1], "training": {"mode": "lockstep"},
}  # fmt: skip
OFFERS = [
    {"id": f"o{number}", "features": {"kind": "k", "owner": f"{NAME}-{number}", "note": SECRET}}
    for number in range(3)
]
HER = {"user": {"mail": SECRET, "name": NAME}, "device": "phone"}


def _secrets_in(folder: Path) -> list[tuple[str, str]]:
    return [
        (str(path), secret)
        for path in [*folder.rglob("*"), folder.with_name(f"{folder.name}.log")]
        if path.is_file()
        for secret in (SECRET, NAME)
        if secret.encode() in path.read_bytes()
    ]


def test_no_file_has_a_hashed_or_dropped_value_and_decisions_repeat(start_server, api_of):
    server = start_server(env={"BANDEXA_LOG_LEVEL": "debug"})
    api = api_of(server.http)
    api.call("PUT", "/bandits/shop", SPEC, 201)
    api.call("PUT", "/bandits/shop/actions", {"actions": OFFERS})
    own = {"decision_id": "her-1", "unit": "u"}
    first = api.select("shop", HER, **own)
    assert api.select("shop", HER, **own) == first
    other = {"user": {"name": NAME}, "device": "phone"}
    assert api.select("shop", other, **own) == first, "what is not logged cannot differ"
    api.select("shop", {"user": {"name": "else"}, "device": "phone"}, 409, **own)
    items = [{"bandit": "shop", "context": HER, "candidates": OFFERS} for _ in range(20)]
    headers = {"content-type": "application/msgpack"}
    packed = msgpack.packb({"items": items})
    made = server.http.post("/select/batch", content=packed, headers=headers).json()["items"]
    for number, item in enumerate(made):
        api.reward(item["answer"]["decision_id"], number % 2)
    api.train("shop")
    wrong = {"user": {"mail": [SECRET], "name": [NAME]}}
    refused = api.select("shop", wrong, 422)
    assert refused["errors"][0]["field"].startswith("context.user.")
    assert SECRET not in json.dumps(refused)
    assert NAME not in json.dumps(refused)
    last = api.select("shop", HER, decision_id="her-2")
    explained = api.call("GET", "/bandits/shop/decisions/her-2")
    shown = explained["context"]["object"]
    assert shown["user"].keys() == {"name"}
    assert all(explained["reproduced"].values())
    listed = api.call("GET", "/bandits/shop/actions")["actions"]
    assert listed[0]["features"].keys() == {"kind", "owner"}
    fields = api.state("shop")["features"]["context"]["fields"]
    assert (fields["user.name"]["type"], fields["user.mail"]["type"]) == ("hash", "ignore")
    scores = api.scores("shop", HER)["scores"]
    live = bandexa("verify", server.data_dir, "--live", server.url, "--quiet")
    assert live.returncode == 0, live.stdout + live.stderr
    assert _secrets_in(server.data_dir) == []
    server.kill()
    assert _secrets_in(server.data_dir) == []
    server.start()
    api = api_of(server.http)
    assert api.scores("shop", HER)["scores"] == scores
    assert api.select("shop", HER, decision_id="her-2") == last
    assert api.call("GET", "/bandits/shop/decisions/her-2")["context"]["object"] == shown
    server.stop()
    copy = server.data_dir.with_name("copy")
    assert bandexa("backup", server.data_dir, copy).returncode == 0
    assert bandexa("verify", copy, "--quiet").returncode == 0
    assert _secrets_in(server.data_dir) == []
