"""Answers that grow with the number of bandits: pages, gzip, metrics without histograms."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bandexa_client import BanditClient
from bandexa_client.calls import bandits
from benchmarks.many import make, name_of
from service.http.large import takes_gzip
from tests.fixtures.servers import Server, servers

NUM = 203


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with many bandits."""
    root = tmp_path_factory.mktemp("many")
    make(root / "data", NUM)
    with servers(root) as start:
        yield start(root / "data")


def raw(server: Server, path: str, accept_encoding: str) -> tuple[bytes, str | None]:
    """Return the bytes of an answer as they were sent, and their encoding."""
    headers = {"accept-encoding": accept_encoding}
    with server.http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["vary"].lower() == "accept-encoding"
        return b"".join(answer.iter_raw()), answer.headers.get("content-encoding")


def test_bandits_come_in_pages_and_each_once(server: Server) -> None:
    first = server.http.get("/bandits", params={"limit": 200}).json()
    second = server.http.get("/bandits", params={"limit": 200, "after": first["next"]}).json()
    names = [one["name"] for page in (first, second) for one in page["bandits"]]
    assert names == [name_of(number) for number in range(NUM)]
    assert len(first["bandits"]) == 200
    assert second["next"] is None
    whole = server.http.get("/bandits").json()
    assert (len(whole["bandits"]), whole["next"]) == (NUM, None)
    few = server.http.get("/bandits", params={"limit": 2, "after": "b00007"}).json()
    assert [one["name"] for one in few["bandits"]] == ["b00008", "b00009"]
    assert few["bandits"][0] == server.http.get("/bandits/b00008").json()
    assert server.http.get("/bandits", params={"limit": 0}).status_code == 422


def test_the_client_lists_all_bandits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandits, "_BANDITS", 100)
    with BanditClient(server.url, trust_env=False) as client:
        assert [one.name for one in client.list_bandits()] == [name_of(n) for n in range(NUM)]


def test_a_page_in_msgpack_is_the_page_in_json(server: Server) -> None:
    answer = server.http.get("/bandits?limit=3", headers={"accept": "application/msgpack"})
    assert answer.headers["content-type"] == "application/msgpack"
    assert msgpack.unpackb(answer.content) == server.http.get("/bandits?limit=3").json()


def test_the_overview_has_pages_and_the_alarms_of_all(server: Server) -> None:
    found = server.http.get("/dashboard/overview?limit=5").json()
    assert [one["name"] for one in found["bandits"]] == [name_of(number) for number in range(5)]
    assert (found["next"], found["total"], found["alarmed"]) == (name_of(4), NUM, [])


@pytest.mark.parametrize("path", ["/learnz", "/bandits", "/dashboard/overview", "/metrics"])
def test_large_answers_are_compressed_where_that_is_asked_for(server: Server, path: str) -> None:
    raw(server, path, "identity")  # the metrics have a route as soon as it was asked for
    plain, encoding = raw(server, path, "identity")
    assert encoding is None
    packed, encoding = raw(server, path, "br;q=1.0, gzip;q=0.5")
    assert encoding == "gzip"
    assert len(packed) < len(plain) / 4
    unpacked = gzip.decompress(packed)
    if path == "/metrics":
        assert len(unpacked.splitlines()) == len(plain.splitlines())
    else:
        assert json.loads(unpacked).keys() == json.loads(plain).keys()


def test_a_select_and_a_small_answer_are_never_compressed(server: Server) -> None:
    headers = {"accept-encoding": "gzip"}
    body = {"bandit": name_of(0), "context": [0.0] * 4}
    for answer in (
        server.http.post("/select", json=body, headers=headers),
        server.http.get("/bandits?limit=1", headers=headers),
    ):
        assert answer.status_code == 200
        assert "content-encoding" not in answer.headers


def test_metrics_leave_out_histograms_of_bandits_on_request(server: Server) -> None:
    whole, short = (
        {family.name: len(family.samples) for family in text_string_to_metric_families(text)}
        for text in (
            server.http.get("/metrics").text,
            server.http.get("/metrics?histograms=false").text,
        )
    )
    assert whole.pop("bandexa_propensity") == NUM * 18
    assert short.pop("bandexa_propensity") == 0
    assert short.keys() == whole.keys()
    assert short["bandexa_position"] == NUM
    assert short["bandexa_select_seconds"] == whole["bandexa_select_seconds"]


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip", True), ("deflate, GZIP", True), ("gzip;q=0.1", True), ("*", True), ("", False),
        ("gzip;q=0", False), ("*;q=0, identity", False), ("gzip;q=x", False), ("br", False),
    ],
)  # fmt: skip
def test_accept_encoding_is_read_as_the_standard_says(header: str, taken: bool) -> None:
    assert takes_gzip(header) is taken


def test_the_directory_was_made_as_a_server_makes_it(server: Server, tmp_path: Path) -> None:
    decision = server.http.post("/select", json={"bandit": name_of(7), "context": [1.0] * 4}).json()
    body = {"decision_id": decision["decision_id"], "reward": 1.0}
    assert server.http.post("/reward", json=body).json()["status"] == "applied"
