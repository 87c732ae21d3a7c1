"""The alert rules and the dashboard for Prometheus and Grafana hold on a real server."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.docs.pages import anchors
from tests.fixtures.waiting import poll

ROOT = Path(__file__).parents[2]
MONITOR = ROOT / "docker/monitor"
RUNBOOK = ROOT / "docs/runbook.md"
BOARD = json.loads((MONITOR / "grafana/bandexa.json").read_text())
# What stays empty on a healthy server without named features.
EMPTY = {"Findings", "Drift of features", "Problems by type", "Disk is full in"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITOR / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def findings() -> set[str]:
    """Return the names of all findings, as the table of docs/metrics.md has them."""
    text = (ROOT / "docs/metrics.md").read_text()
    return set(re.findall(r"^\| `([a-z-]+)` \| (?:alarm|notice) \|", text, re.M))


def test_every_alert_and_every_finding_has_a_section_of_the_runbook():
    sections = anchors(RUNBOOK)
    assert len(findings()) > 20
    assert findings() <= sections
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/runbook.md"
        assert anchor in sections | {"{{ $labels.finding }}"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.needs("promtool")
def test_each_alert_fires_in_its_scene_and_in_no_quiet_one():
    """Every rule has a scene in which it fires, and one in which it does not."""
    scenes = yaml.safe_load((MONITOR / "alerts.test.yml").read_text())["tests"]
    checks = [check for scene in scenes for check in scene["alert_rule_test"]]
    named = {rule["alert"] for rule in rules()}
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == named
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == named
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        ended = subprocess.run(
            ["promtool", *command], cwd=MONITOR, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_rules_and_panels_read_metrics_that_are_served(http: httpx.Client, api):
    served = set(re.findall(r"^# TYPE (\w+) ", http.get("/metrics").text, re.M)) | {"up"}
    ends = re.compile(r"_(bucket|sum|count|total)$")
    served |= {ends.sub("", name) for name in served}
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in panels() for target in panel["targets"]]
    used = {name for text in expressions
            for name in re.findall(r"\b(?:bandexa|process)_\w+|\bup\b", text)}  # fmt: skip
    assert len(used) > 30
    assert {name for name in used if ends.sub("", name) not in served} == set()


@pytest.fixture
def prometheus(http: httpx.Client, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that scrapes the test server five times a second, with the project's rules."""
    program = shutil.which("prometheus")
    assert program is not None
    config = yaml.safe_load((MONITOR / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "1s"}
    config["scrape_configs"][0] |= {
        "static_configs": [{"targets": [http.base_url.netloc.decode()]}]
    }
    del config["scrape_configs"][0]["authorization"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(MONITOR / "alerts.yml", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [program, f"--config.file={tmp_path}/prometheus.yml",
             f"--storage.tsdb.path={tmp_path}/tsdb", f"--web.listen-address={address}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.needs("prometheus")
def test_every_panel_has_an_answer_on_a_live_server(prometheus: str, api):
    name = api.two_actions(
        policy="neural_linear_ts", encoder={"name": "mlp", "params": {"feature_dim": 4}},
        training={"mode": "lockstep", "optimizer_steps": 4}, rewards={"learn": {"click": 1}},
        arms=[{"name": "control", "share": 0.5, "policy": "first"},
              {"name": "rule", "share": 0, "shadow": True, "policy": "greedy"}],
    )  # fmt: skip

    def traffic() -> None:
        for number in range(3):
            chosen = api.select(name, [number, 1])
            report = {"decision_id": chosen["decision_id"], "metrics": {"click": number / 2}}
            api.call("POST", "/reward", report)

    with httpx.Client(base_url=prometheus, trust_env=False, verify=False) as client:

        def value(query: str) -> list[Any]:
            for written, here in (
                ("$__rate_interval", "4s"), ('"$instance"', '".*"'), ('"$bandit"', f'"{name}"'),
            ):  # fmt: skip
                query = query.replace(written, here)
            answer = client.get("/api/v1/query", params={"query": query})
            if answer.status_code == 503:  # it has not started yet
                return []
            assert answer.status_code == 200, (query, answer.text)
            found: list[Any] = answer.json()["data"]["result"]
            return found

        def up() -> bool:
            try:
                return bool(value('up{job="bandexa"} == 1'))
            except httpx.TransportError:
                return False

        poll(up, "Prometheus has scraped the server")
        traffic()
        api.train(name)
        for panel in panels():
            for target in panel["targets"]:
                if panel["title"] in EMPTY:
                    value(target["expr"])  # the query is valid
                    continue

                def answered(expression: str = target["expr"]) -> bool:
                    traffic()
                    return bool(value(expression))

                poll(answered, f"panel {panel['title']}: {target['expr']}")
        alerts = client.get("/api/v1/rules").json()["data"]["groups"]
        loaded = {rule["name"]: rule["health"] for group in alerts for rule in group["rules"]}
        assert loaded.keys() == {rule["alert"] for rule in rules()}
        assert set(loaded.values()) <= {"ok", "unknown"}


def test_compose_mounts_the_files_that_are_there():
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitor"]
        mounts = [mount.split(":")[0] for mount in services[name]["volumes"]]
        files = [mount for mount in mounts if mount.startswith("./")]
        assert files
        assert all((ROOT / "docker" / mount).is_file() for mount in files)
