"""Log files are rotated as the example says, while the server writes to them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fixtures.servers import Server
from tests.fixtures.system_packages import find

EXAMPLE = Path(__file__).parents[2] / "examples" / "logrotate.conf"
ROTATIONS = 3


@pytest.mark.needs("logrotate")
def test_each_line_is_in_one_of_the_files(start_server, tmp_path: Path) -> None:
    server: Server = start_server()
    config, state = tmp_path / "logrotate.conf", tmp_path / "state"
    text = EXAMPLE.read_text()
    assert "/var/log/bandexa.log {" in text
    config.write_text(text.replace("/var/log/bandexa.log", str(server.log)))
    config.chmod(0o600)
    wanted = []
    with server.client() as http:
        for number in range(ROTATIONS):
            for part in range(20):
                name = f"nobody-{number}-{part}"
                assert http.delete(f"/bandits/{name}").status_code == 404
                wanted.append(f"/bandits/{name}")
            subprocess.run(
                [str(find("logrotate")), "--force", "--state", state, config],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
        http.delete("/bandits/last")
    rotated = sorted(server.log.parent.glob(f"{server.log.name}.*"))
    assert len(rotated) == ROTATIONS
    assert [path.suffix for path in rotated] == [".1", ".gz", ".gz"]
    for path in rotated[1:]:
        subprocess.run([str(shutil.which("gzip")), "-d", path], check=True)
    files = [server.log, *sorted(server.log.parent.glob(f"{server.log.name}.*"))]
    found = []
    for file in reversed(files):  # the oldest first
        for line in file.read_text().splitlines():
            one = json.loads(line)  # whole lines, and no gap at the start of a file
            if one["event"] == "administrative call":
                found.append(one["path"])
    assert found == [*wanted, "/bandits/last"]
