"""A server whose snapshots cannot be written is not ready and says why; `bandexa doctor` does too.

A plain file in the place of the folder stands for a read-only mount: it stops every user, root too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fixtures.commands import bandexa
from tests.fixtures.servers import StartServer

LINEAR: dict[str, Any] = {
    "policy": "linear_ts", "context": {"shape": [2]}, "encoder": {"name": "per_action"},
}  # fmt: skip


def test_a_server_is_not_ready_while_its_snapshots_cannot_be_written(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server()
    assert server.http.put("/bandits/b", json=LINEAR).status_code == 201
    folder, aside = server.data_dir / "snapshots", tmp_path / "aside"
    folder.rename(aside)
    folder.write_text("")
    answer = server.http.get("/readyz")
    assert answer.status_code == 503
    assert f"{folder} cannot be written" in answer.json()["detail"]
    assert server.http.get("/healthz").status_code == 200
    examined = bandexa("doctor", "--json", "--data-dir", server.data_dir)
    assert examined.returncode == 1
    found = [one for one in json.loads(examined.stdout) if one["name"] == "folders"]
    assert [one["state"] for one in found] == ["wrong"]
    assert str(folder) in found[0]["told"]
    folder.unlink()
    aside.rename(folder)
    assert server.http.get("/readyz").status_code == 200
