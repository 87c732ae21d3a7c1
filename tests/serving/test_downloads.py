"""A download of weights that hangs holds up its own bandit alone."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

from tests.fixtures.servers import servers

LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"},
}  # fmt: skip
IMAGES: dict[str, Any] = {
    "policy": "neural_linear_ts", "context": {"shape": [28, 28], "dtype": "uint8"},
    "encoder": {"name": "resnet18", "params": {"weights": "imagenet"}},
}  # fmt: skip


def test_bandits_are_created_while_the_weights_of_another_do_not_arrive(tmp_path: Path) -> None:
    """The way out takes connections and never answers, until it ends."""
    answers: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as silent, servers(tmp_path) as start:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"TORCH_HOME": str(tmp_path / "torch"), "https_proxy": proxy, "no_proxy": ""}
        server = start(None, env=env)

        def put() -> None:
            with server.client() as http:
                answers.append(http.put("/bandits/images", json=IMAGES))

        thread = threading.Thread(target=put)
        thread.start()
        connection, _ = silent.accept()  # the download waits
        with connection:
            assert server.http.put("/bandits/other", json=LINEAR).status_code == 201
            assert server.http.get("/bandits/other").status_code == 200
            assert not answers
        thread.join()
        refused = answers[0]
        assert refused.status_code == 422
        assert "could not be downloaded" in refused.text
        assert [one["name"] for one in server.http.get("/bandits").json()["bandits"]] == ["other"]
