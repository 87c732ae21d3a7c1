"""Health, readiness, metrics and the API's documentation."""

from __future__ import annotations

import re

import pytest

ROUTES = {
    ("post", "/select"),
    ("post", "/reward"),
    ("post", "/select/batch"),
    ("post", "/reward/batch"),
    ("get", "/bandits"),
    ("put", "/bandits/{name}"),
    ("get", "/bandits/{name}"),
    ("delete", "/bandits/{name}"),
    ("put", "/bandits/{name}/actions"),
    ("delete", "/bandits/{name}/actions/{action_id}"),
    ("post", "/bandits/{name}/score"),
    ("post", "/bandits/{name}/train"),
    ("get", "/bandits/{name}/snapshot"),
    ("put", "/bandits/{name}/snapshot"),
    ("get", "/bandits/{name}/snapshots"),
    ("post", "/bandits/{name}/rollback"),
    ("post", "/bandits/{name}/recover"),
    ("get", "/bandits/{name}/actions"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/learnz"),
    ("get", "/metrics"),
}
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
EXTERNAL = re.compile(r"""(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}""", re.IGNORECASE)


def test_alive_and_ready(api) -> None:
    assert api.call("GET", "/healthz")["status"] == "alive"
    ready = api.call("GET", "/readyz")
    assert ready["status"] == "ready"
    assert set(ready["trainer"]) == {"state", "phase", "pid", "rounds"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/learnz"])
def test_health_answers_head_as_it_answers_get_without_a_body(start_server, path: str) -> None:
    with start_server().client() as http:
        got, head = http.get(path), http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


def test_metrics_count_what_was_done(api) -> None:
    name = api.two_actions()
    decision_id = api.select(name, [1, 2])["decision_id"]
    for reward in (1.0, 1.0, 0.0):
        api.reward(decision_id, reward)
    api.train(name)
    response = api.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    lines = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if line[0] != "#")
    assert lines[f'bandexa_selects_total{{bandit="{name}"}}'] == "1.0"
    for status in ("applied", "duplicate", "ignored"):
        assert lines[f'bandexa_rewards_total{{bandit="{name}",status="{status}"}}'] == "1.0"
    assert lines[f'bandexa_snapshot{{bandit="{name}"}}'] == "1.0"
    assert lines[f'bandexa_position{{bandit="{name}"}}'] == "2.0"
    assert float(lines["bandexa_select_seconds_count"]) >= 1
    assert float(lines["bandexa_swaps_total"]) >= 1


def test_the_schema_documents_every_route_and_its_errors(api) -> None:
    schema = api.call("GET", "/openapi.json")
    found = {(method, path) for path, methods in schema["paths"].items() for method in methods}
    assert found >= ROUTES
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    for method, path in sorted(ROUTES - {("get", "/readyz"), ("get", "/learnz")}):
        responses = schema["paths"][path][method]["responses"]
        failures = {status: answer for status, answer in responses.items() if status >= "400"}
        for answer in failures.values():
            assert list(answer["content"]) == ["application/problem+json"]
        if "{name}" in path:
            assert failures.keys() >= {"422", "503"}
        if method in ("post", "put") and "requestBody" in schema["paths"][path][method]:
            assert failures.keys() >= {"413", "422"}


def test_the_documentation_comes_from_the_server_alone(api) -> None:
    page = api.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert EXTERNAL.findall(page.text) == []
    linked = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page.text)
    local = {link for link in linked if not link.startswith("data:")}
    assert local == {"openapi.json", *(f"docs/{asset}" for asset in ASSETS)}
    for link in local:
        assert api.http.get(f"/{link}").status_code == 200


@pytest.mark.parametrize(("asset", "media_type"), ASSETS.items())
def test_the_assets_are_whole_and_load_nothing_from_elsewhere(
    api, asset: str, media_type: str
) -> None:
    response = api.http.get(f"/docs/{asset}")
    assert response.headers["content-type"].startswith(media_type)
    assert len(response.content) > 50_000
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", response.text) == []
    assert "cdn." not in response.text


@pytest.mark.parametrize(
    "path", ["/docs/nothing.js", "/docs/..%2f..%2fapp.py", "/docs/LICENSE", "/redoc"]
)
def test_nothing_else_is_served_beside_the_documentation(api, problem, path: str) -> None:
    problem(api.http.get(path), 404, "not-found")
