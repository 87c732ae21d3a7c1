"""The manifests that the Helm chart makes: what servers and trainers need of a cluster.

`python -m docker.chart` renders them with Helm's engine, and compares them with the schemas of
Kubernetes. Here they are read, and must be those of the chart as it is.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
import yaml

from docker.chart import CHART, MANIFESTS, OTHER, REFUSED, digest
from service.settings import Settings

TEXT = MANIFESTS.read_text()
FOUND: dict[tuple[str, str], dict[str, Any]] = {
    (each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(TEXT)
}
SERVER, TRAINER = FOUND["Deployment", "bandexa"], FOUND["Deployment", "bandexa-trainer"]


def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


def environment(deployment: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod(deployment)["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def labels(deployment: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return found


def test_the_manifests_are_those_of_the_chart():
    (written,) = re.findall(r"^# chart: (\w+)$", TEXT, re.MULTILINE)
    assert written == digest(), "run `python -m docker.chart`"


@pytest.mark.parametrize("deployment", [SERVER, TRAINER], ids=["server", "trainer"])
def test_what_a_pod_sets_is_a_setting(deployment):
    chosen = environment(deployment)
    known = {f"BANDEXA_{field.upper()}" for field in Settings.model_fields}
    assert set(chosen) - {"POD_IP"} <= known
    assert chosen["BANDEXA_STORE"] == {
        "secretKeyRef": {"name": "bandexa-database", "key": "url"}
    }, "the URL has a password"
    assert chosen["BANDEXA_SNAPSHOT_STORE"] == "postgresql"
    # For a Service named bandexa a cluster would set BANDEXA_PORT to an address.
    assert pod(deployment)["enableServiceLinks"] is False


def test_the_servers_settings_are_taken_together():
    texts = {key: value for key, value in environment(SERVER).items() if isinstance(value, str)}
    given = {key.removeprefix("BANDEXA_").lower(): value for key, value in texts.items()}
    given |= {"store": "postgresql://a@b/c", "server_url": "http://10.0.0.7:8080"}
    given.pop("keys_file")
    settings = Settings(**given)
    assert settings.servers == SERVER["spec"]["replicas"] + 1
    assert settings.trainer == "elsewhere"
    assert texts["BANDEXA_SERVER_URL"] == "http://$(POD_IP):8080"
    grace_s = pod(SERVER)["terminationGracePeriodSeconds"]
    assert grace_s > settings.drain_s + settings.grace_s


def test_one_server_at_a_time_is_away():
    change = SERVER["spec"]["strategy"]["rollingUpdate"]
    assert change == {"maxUnavailable": 1, "maxSurge": 0}, "more would have no number"
    budget = FOUND["PodDisruptionBudget", "bandexa"]["spec"]
    assert budget["maxUnavailable"] == 1
    chosen = budget["selector"]["matchLabels"]
    assert chosen.items() <= labels(SERVER).items()
    assert not chosen.items() <= labels(TRAINER).items()


def test_requests_go_to_servers_that_are_ready():
    service = FOUND["Service", "bandexa"]["spec"]
    assert service["selector"].items() <= labels(SERVER).items()
    assert not service["selector"].items() <= labels(TRAINER).items()
    (container,) = pod(SERVER)["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    noticed_s = probes["readiness"]["periodSeconds"] * probes["readiness"]["failureThreshold"]
    assert noticed_s < float(environment(SERVER)["BANDEXA_DRAIN_S"])


@pytest.mark.parametrize("deployment", [SERVER, TRAINER], ids=["server", "trainer"])
def test_a_pod_may_do_little(deployment):
    (container,) = pod(deployment)["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(deployment)["securityContext"]["runAsUser"] == 10001
    assert pod(deployment)["automountServiceAccountToken"] is False
    writable = {each["mountPath"] for each in container["volumeMounts"] if "readOnly" not in each}
    assert writable == {"/data", "/tmp"}


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return values as Helm merges them: objects by their keys, all else as a whole."""
    both = {
        key: merged(values[key], value)
        if isinstance(value, dict) and isinstance(values.get(key), dict)
        else value
        for key, value in more.items()
    }
    return values | both


def test_values_have_a_schema_that_names_what_is_wrong():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    check = jsonschema_rs.validator_for(schema)
    check.validate(values)
    check.validate(merged(values, OTHER))
    for wrong in REFUSED:
        assert not check.is_valid(merged(values, wrong)), wrong
    (names,) = [schema["properties"]["settings"]["propertyNames"]["not"]["enum"]]
    assert set(names) <= set(Settings.model_fields)
