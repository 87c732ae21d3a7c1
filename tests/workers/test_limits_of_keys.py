"""The rate of a key is that of all processes together, and so are its quotas."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from service.http.keys import hash_of, new_key
from tests.workers.crew import Crew, crew_of, killed

BURST = 9


def test_calls_at_all_processes_count_together(start_server, api_of, tmp_path) -> None:
    key = new_key()
    path = tmp_path / "keys.toml"
    path.write_text(
        f'[[keys]]\nname = "slow"\nsha256 = "{hash_of(key)}"\nrate = 0.001\nburst = {BURST}\n'
        'scopes = ["select", "reward", "read", "admin"]\n'
    )
    env = {"BANDEXA_KEYS_FILE": str(path), "BANDEXA_KEEP_ALIVE_S": "3600"}
    server = start_server(None, "--workers", 2, env=env)
    with crew_of(server, 2, api_of) as crew:
        headers = {"Authorization": f"Bearer {key}"}
        statuses = []
        for number in range(BURST):  # a score is answered by the worker, the list by the keeper
            client = crew.clients[1 + number % 2]
            calls = [("POST", "/bandits/none/score", {"context": [1.0]}), ("GET", "/bandits", None)]
            method, where, body = calls[number // 2 % 2]
            statuses.append(client.request(method, where, json=body, headers=headers).status_code)
        assert set(statuses) == {200, 404}
        killed(crew.pids()["worker-2"])  # it takes nothing along
        with server.client() as another:
            for client in (crew.clients[1], another):
                refused = client.get("/bandits", headers=headers)
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) > 100


def test_quotas_hold_at_all_processes_together_and_count_what_is_set_aside(
    start_server, api_of, tmp_path
) -> None:
    key, data_dir, path = new_key(), tmp_path / "data", tmp_path / "keys.toml"
    path.write_text(
        f'[[keys]]\nname = "team"\nsha256 = "{hash_of(key)}"\nbandits = ["team-*"]\n'
        'max_bandits = 3\nmax_actions = 7\nscopes = ["read", "admin"]\n'
    )
    env = {"BANDEXA_KEYS_FILE": str(path), "BANDEXA_KEEP_ALIVE_S": "3600"}
    server = start_server(data_dir, "--workers", 2, env=env)
    spec = {"policy": "linear_ts", "context": {"shape": [1]}}

    def put(client: httpx.Client, where: str, body: dict[str, Any]) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        return client.put(f"/bandits/{where}", json=body, headers=headers).status_code

    def at_both(crew: Crew, of: Callable[[int], tuple[str, dict[str, Any]]], num: int) -> list[int]:
        """Send requests at both workers at once, and return their statuses in order."""

        def send(worker: int) -> list[int]:
            return [put(crew.clients[worker], *of(n)) for n in range(worker - 1, num, 2)]

        with ThreadPoolExecutor(2) as threads:
            return sorted(status for found in threads.map(send, (1, 2)) for status in found)

    def names(crew: Crew) -> list[str]:
        headers = {"Authorization": f"Bearer {key}"}
        listed = crew.clients[1].get("/bandits", headers=headers).json()["bandits"]
        return [each["name"] for each in listed]

    with crew_of(server, 2, api_of) as crew:
        made = at_both(crew, lambda n: (f"team-{n}", spec), 8)
        assert made == [201] * 3 + [403] * 5
        first, *others = names(crew)
        assert put(crew.clients[1], f"{first}/actions", {"ids": ["a", "b", "c"]}) == 200
        added = at_both(crew, lambda n: (f"{others[n % 2]}/actions", {"ids": [f"action-{n}"]}), 8)
        assert added == [200] * 4 + [403] * 4
        uid = (
            crew.clients[1]
            .get(f"/bandits/{first}", headers={"Authorization": f"Bearer {key}"})
            .json()["uid"]
        )
    assert server.stop() == 0
    shutil.rmtree(data_dir / "snapshots" / uid)
    server.start()
    with crew_of(server, 2, api_of) as crew:
        assert names(crew) == others, "the first one is set aside"
        for client in crew.clients.values():
            assert put(client, f"{others[0]}/actions", {"ids": ["one-more"]}) == 403
            assert put(client, "team-new", spec) == 403
