"""A server that speaks TLS itself, one behind nginx, and the unit for systemd."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import trustme
from typer.testing import CliRunner

from bandexa_client import BanditClient
from service.cli import app
from service.cli.certificate import Certificate
from service.settings import load_settings
from tests.fixtures.servers import Server
from tests.fixtures.waiting import poll

EXAMPLES = Path(__file__).parents[2] / "examples"
SPEC = {"policy": "linear_ts", "context": {"shape": [1]}, "encoder": {"name": "per_action"}}


def issue(authority: trustme.CA, folder: Path, *names: str) -> tuple[Path, Path]:
    """Write a certificate for these names and its key; return their paths."""
    made = authority.issue_cert(*names)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made.private_key_pem.write_to_path(str(key))
    certificate.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    return certificate, key


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ssl.SSLContext:
    """A client's context that trusts the authority, as does the environment of the test."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return ssl.create_default_context(cafile=str(path))


def decides(url: str) -> str:
    """Create a bandit and let it decide with the client; return the chosen action."""
    with BanditClient(url) as client:
        client.put_bandit("tls", SPEC)
        client.put_actions("tls", ["a"])
        decision = client.select("tls", [1.0])
        client.reward(decision.decision_id, 1.0)
        return decision.action.id


def commands_reach(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the commands trust who the environment trusts, and say how to trust another."""
    live = ["verify", str(server.data_dir), "--quiet", "--live", server.url]
    verified = CliRunner().invoke(app, live)
    assert verified.exit_code == 0, verified.output
    folder = Path(os.environ["SSL_CERT_FILE"]).parent
    settings = folder / "settings.toml"
    settings.write_text(
        f'port = {httpx.URL(server.url).port}\ndata_dir = "{server.data_dir}"\n'
        f'tls_certificate = "{folder}/certificate.pem"\ntls_key = "{folder}/key.pem"\n'
    )
    examined = CliRunner().invoke(app, ["doctor", "--config", str(settings), "--json"])
    (port,) = (each for each in json.loads(examined.stdout) if each["name"] == "port")
    assert "a bandexa server answers there" in port["told"]
    with monkeypatch.context() as others:
        others.delenv("SSL_CERT_FILE")
        listed = CliRunner().invoke(app, ["bandits", "list", "--url", server.url])
        assert listed.exit_code == 3
        assert "SSL_CERT_FILE" in listed.stderr
        for url in (server.url, server.url.replace("https", "HTTPS")):
            refused = CliRunner().invoke(app, [*live[:-1], url, "--api-key", "secret"])
            assert "SSL" in refused.stderr, "whoever shows another certificate gets no key"


def serial(url: str, context: ssl.SSLContext) -> str:
    address = httpx.URL(url)
    with (
        socket.create_connection((address.host, address.port)) as plain,
        context.wrap_socket(plain, server_hostname=address.host) as found,
    ):
        return str((found.getpeercert() or {})["serialNumber"])


def test_a_server_with_a_certificate_speaks_tls_and_renews_it(
    start_server: Callable[..., Server],
    authority: trustme.CA,
    trusted: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, key = issue(authority, tmp_path, "127.0.0.1")
    names = {"BANDEXA_TLS_CERTIFICATE": str(certificate), "BANDEXA_TLS_KEY": str(key)}
    server = start_server(env=names | {"BANDEXA_HEAD_TIMEOUT_S": "2"})
    assert server.url.startswith("https://127.0.0.1:")
    assert decides(server.url) == "a"
    first = serial(server.url, trusted)
    commands_reach(server, monkeypatch)
    plain = httpx.URL(server.url).copy_with(scheme="http")
    with pytest.raises(httpx.TransportError):
        httpx.get(plain, trust_env=False)
    old = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert serial(server.url, old) == first

    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port), timeout=20.0) as silent:
        assert silent.recv(1) == b"", "who begins no handshake takes no connection for long"

    key.write_text("no key")
    poll(lambda: "the TLS certificate stays as it is" in server.log_text(), "the report")
    assert serial(server.url, trusted) == first
    issue(authority, tmp_path, "127.0.0.1")
    poll(lambda: serial(server.url, trusted) != first, "the new certificate")
    assert server.stop() == 0


def test_wrong_certificates_are_refused_by_name(authority: trustme.CA, tmp_path: Path) -> None:
    certificate, key = issue(authority, tmp_path, "localhost")
    other = trustme.CA().issue_cert("localhost").private_key_pem
    other.write_to_path(str(tmp_path / "other.pem"))
    with pytest.raises(ValueError, match=r"tls_certificate: .*certificate\.pem with .*other\.pem"):
        Certificate(certificate, tmp_path / "other.pem")
    with pytest.raises(ValueError, match=r"tls_certificate: .*No such file"):
        Certificate(tmp_path / "none.pem", key)
    for one in ("tls_certificate", "tls_key"):
        (other_one,) = {"tls_certificate", "tls_key"} - {one}
        with pytest.raises(ValueError, match=rf"{other_one}: .*belong together"):
            load_settings(None, **{one: certificate})


def test_files_that_are_away_are_reported_once_and_read_when_they_are_back(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = issue(authority, tmp_path, "localhost")
    found = Certificate(*paths)
    paths[1].unlink()
    for _ in range(3):
        asyncio.run(found.read_anew())
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "the TLS certificate stays as it is" in record.getMessage()
    caplog.set_level("INFO")
    issue(authority, tmp_path, "localhost")
    asyncio.run(found.read_anew())
    assert "was read anew" in caplog.text


@pytest.fixture
def behind_nginx(
    start_server: Callable[..., Server], authority: trustme.CA, tmp_path: Path
) -> Iterator[tuple[str, Server]]:
    """A server behind the example's nginx; yields nginx' address and the server."""
    doorway = {f"BANDEXA_PERSONALIZER__{name}": "true" for name in ("ENABLED", "CREATE")}
    server = start_server(env={"BANDEXA_ALLOWED_HOSTS": '["bandits.shop.example"]'} | doorway)
    certificate, key = issue(authority, tmp_path, "bandits.shop.example", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = (EXAMPLES / "nginx.conf").read_text()
    for written, here in (
        ("127.0.0.1:8080", httpx.URL(server.url).netloc.decode()),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server_name bandits.shop.example", "server_name bandits.shop.example 127.0.0.1"),
        ("/etc/ssl/bandexa/fullchain.pem", str(certificate)),
        ("/etc/ssl/bandexa/key.pem", str(key)),
        ("http {", f"http {{\n    access_log {tmp_path}/access.log;"),
    ):
        assert text.count(written) == 1, written
        text = text.replace(written, here)
    (tmp_path / "nginx.conf").write_text(text)
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert program is not None
    command = [program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    command += ["-g", f"daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log;"]
    with (tmp_path / "nginx.out").open("w") as out:
        nginx = subprocess.Popen(command, stdout=out, stderr=out)

    def listens() -> bool:
        assert nginx.poll() is None, (tmp_path / "nginx.out").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        poll(listens, "nginx listens")
        yield f"https://127.0.0.1:{port}", server
    finally:
        nginx.terminate()
        nginx.wait(30)


@pytest.mark.needs("nginx")
def test_nginx_as_in_the_example_passes_requests_on(
    behind_nginx: tuple[str, Server], trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    url, server = behind_nginx
    assert decides(f"{url}/bandexa") == "a"
    with httpx.Client(base_url=url, verify=trusted, trust_env=False) as http:
        page = http.get("/bandexa/", headers={"Host": "bandits.shop.example"})
        assert page.status_code == 200
        assert "<title>" in page.text
        asset = re.search(r'(?:src|href)="([^"]+\.js)"', page.text)
        assert asset is not None
        found = http.get(f"/bandexa/{asset[1]}", headers={"Host": "bandits.shop.example"})
        assert found.status_code == 200
        assert http.get("/").status_code == 404
        too_large = http.post("/bandexa/select", content=b"x" * (17 << 20))
        assert too_large.status_code == 413
        assert too_large.headers["content-type"] == "application/problem+json"
        foreign = http.post("/bandexa/select", json={}, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        own = http.post("/bandexa/select", json={}, headers={"Origin": url})
        assert own.status_code == 422  # the page's own address has a port
        listed = http.get("/bandexa/bandits", params={"limit": 0})
        assert listed.status_code == 422  # the query arrives
        for _ in range(20):
            assert http.get("/bandexa/healthz").status_code == 200
    assert server.http.get("/readyz").status_code == 200


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("root", ["/bandexa/personalizer", "/personalizer"])
def test_nginx_passes_ids_on_as_they_were_sent(
    behind_nginx: tuple[str, Server], trusted: ssl.SSLContext, root: str
) -> None:
    """An id that is an address has two slashes, and one with dots is no path."""
    url, server = behind_nginx
    body = {"actions": [{"id": "soup", "features": [{"price": 4}]}]}
    with httpx.Client(base_url=url, verify=trusted, trust_env=False) as http:
        for number, event in enumerate(("https://shop.example/a b", "a/../b", "50%2F")):
            ranked = http.post(f"{root}/v1.0/rank", json=body | {"eventId": event})
            assert ranked.json()["eventId"] == event
            path = f"{root}/v1.0/events/{quote(event, safe='')}/reward"
            assert http.post(path, json={"value": number}).status_code == 204
    metrics = server.http.get("/metrics").text
    assert "\nbandexa_personalizer_unknown_events_total 0.0\n" in metrics


@pytest.mark.needs("systemd-analyze")
def test_the_unit_is_valid_and_confined(tmp_path: Path) -> None:
    text = (EXAMPLES / "bandexa.service").read_text()
    assert text.count("/opt/bandexa/bin/bandexa") == 1
    unit = tmp_path / "bandexa.service"
    unit.write_text(text.replace("/opt/bandexa/bin/bandexa", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr.strip()) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-500:]
