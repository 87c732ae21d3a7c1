"""A snapshot contains the actions at its position: no start and no round folds them from row 1."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from tests.fixtures.servers import Server


def damage_first_change(server: Server) -> None:
    """Make every fold that begins at row 1 fail: the payload of that row is another one."""
    with closing(sqlite3.connect(server.data_dir / "bandexa.db")) as database:
        changed = database.execute(
            "UPDATE log SET payload = x'00' WHERE position = 1 AND kind = 2"
        ).rowcount
        database.commit()
    assert changed == 1


def actions(api: Any, name: str) -> list[tuple[str, bool, list[float]]]:
    found = api.call("GET", f"/bandits/{name}/actions")["actions"]
    return [(action["id"], action["enabled"], action["features"]) for action in found]


def changed(api: Any, name: str, number: int) -> None:
    """Change the catalogue: a new action, an old one with other features, one that is retired."""
    body = [
        {"id": f"new{number}", "features": [number, 1.0]},
        {"id": "x", "features": [0.25 * number, 2.0]},
        {"id": "y", "enabled": False, "features": [0.0, 1.0]},
    ]
    api.call("PUT", f"/bandits/{name}/actions", {"actions": body})


def test_a_start_a_round_and_a_rollback_take_the_actions_from_the_snapshot(
    start_server, api_of
) -> None:
    server = start_server()
    with server.client() as client:
        api = api_of(client)
        name = api.two_actions(training={"mode": "lockstep"})
        for number in range(5):
            api.teach(name, [number / 5, 1.0], "x", 0.5)
        changed(api, name, 1)
        assert api.train(name)["snapshot"] == 1
        changed(api, name, 2)
        api.teach(name, [0.5, 1.0], "new2", 0.25)
        expected, scores = actions(api, name), api.scores(name, [1.0, 0.5])
    assert server.stop() == 0
    damage_first_change(server)
    server.start()
    with server.client() as client:
        api = api_of(client)
        assert actions(api, name) == expected
        assert api.scores(name, [1.0, 0.5]) == scores
        assert api.train(name)["snapshot"] == 2
        assert actions(api, name) == expected
        api.call("POST", f"/bandits/{name}/rollback", {"version": 1})
        assert actions(api, name) == expected, "a rollback leaves the catalogue as it is"
        changed(api, name, 3)
        expected = actions(api, name)
        decision = api.select(name, [1.0, 0.5])
    assert server.stop() == 0
    server.start()
    with server.client() as client:
        api = api_of(client)
        assert actions(api, name) == expected
        explained = api.call("GET", f"/bandits/{name}/decisions/{decision['decision_id']}")
        assert explained["explained"] == "yes"
        assert explained["reproduced"] == {"action": True, "score": True, "propensity": True}
    assert server.stop() == 0
