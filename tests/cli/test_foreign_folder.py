"""A server that is started in a folder with a `service` package of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bandexa_client import BanditClient
from tests.fixtures.commands import ROOT, clean_environment, read_line

# What the installed command runs; `-P`: as there, the folder is not searched for modules.
ENTRY_POINT = [sys.executable, "-P", "-c", "from service.cli import main; main()"]
SPEC = {
    "policy": "neural_linear_ts", "context": {"shape": [2]},
    "encoder": {"name": "mlp", "params": {"feature_dim": 4, "hidden": [4], "heads": "per_action"}},
    "training": {"optimizer_steps": 2},
}  # fmt: skip


def test_it_serves_and_trains_with_its_own_modules(tmp_path: Path) -> None:
    package = tmp_path / "service"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the package of the folder')\n")
    readable, writable = os.pipe()
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*ENTRY_POINT, "serve", "--port", "0", "--data-dir", "data", "--durability", "os"],
            cwd=tmp_path, env=clean_environment() | {"PYTHONPATH": str(ROOT)}, stdout=writable,
            stderr=errors, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    os.close(writable)
    try:
        line = read_line(readable, 60.0)
        assert line, log.read_text()
        with BanditClient(json.loads(line)["url"], trust_env=False) as client:
            client.put_bandit("b", SPEC)
            client.put_actions("b", ["x", "y"])
            for _ in range(3):
                chosen = client.select("b", [0.5, 1.0])
                assert client.reward(chosen.decision_id, 1.0).status == "applied"
            trained = client.train("b")
            assert (trained.status, trained.snapshot) == ("served", 1)
    finally:
        process.terminate()
        status = process.wait(60.0)
        os.close(readable)
    assert status == 0
    assert "the package of the folder" not in log.read_text()
