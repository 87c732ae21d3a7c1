"""The rate of a key is that of all processes together."""

from __future__ import annotations

from service.http.keys import hash_of, new_key
from tests.workers.crew import crew_of, killed

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
