"""A client in the processes of its users: forked workers, threads, several event loops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from bandexa_client import NO_RETRY, AsyncBanditClient, BanditClient, ContractBroken

FORKS = """
import os, sys
from bandexa_client import BanditClient
client = BanditClient(sys.argv[1], trust_env=False)
client.select("b", [0.0], decision_id="parent")
children = []
for child in range(6):
    pid = os.fork()
    if pid == 0:
        for number in range(50):
            name = f"{child}.{number}"
            assert client.select("b", [0.0], decision_id=name).decision_id == name
        os._exit(0)
    children.append(pid)
for number in range(50):
    client.select("b", [0.0], decision_id=f"parent.{number}")
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""


def test_a_client_made_before_a_fork_gets_its_own_answers(script, selected):
    """Answers are checked by their ids, and every request is answered once."""
    script.then(200, selected)
    ended = subprocess.run([sys.executable, "-c", FORKS, script.url], check=False, timeout=60)
    assert ended.returncode == 0
    sent = [body["decision_id"] for body in script.bodies()]
    assert len(sent) == len(set(sent)) == 351


def test_threads_may_share_a_client(script, selected):
    script.then(200, selected)
    found = []
    with BanditClient(script.url, trust_env=False) as client:

        def work(number: int) -> None:
            for turn in range(20):
                name = f"{number}.{turn}"
                chosen = client.select("b", [0.0], decision_id=name, within_s=20.0)
                found.append(chosen.decision_id == name)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert found == [True] * 160


def test_connections_are_made_anew_after_an_answer_to_another_request(script, selected):
    script.then(200, selected | {"decision_id": "another"}).then(200, selected)
    with BanditClient(script.url, trust_env=False, retry=NO_RETRY) as client:
        with pytest.raises(ContractBroken):
            client.select("b", [0.0], decision_id="first")
        assert client.select("b", [0.0], decision_id="second").decision_id == "second"


def test_each_event_loop_has_its_own_asynchronous_client(script, selected):
    script.then(200, selected)

    async def one(name: str) -> str:
        async with AsyncBanditClient(script.url, trust_env=False) as client:
            return (await client.select("b", [0.0], decision_id=name)).decision_id

    assert [asyncio.run(one(name)) for name in ("first", "second")] == ["first", "second"]


@pytest.mark.parametrize("kind", [BanditClient, AsyncBanditClient])
@pytest.mark.parametrize("key", ["secret\n", " secret", "sec ret", "schlüssel", ""])
def test_a_key_that_cannot_be_sent_is_refused_and_not_printed(kind, key):
    with pytest.raises(ValueError, match="api_key") as error:
        kind("http://127.0.0.1:9", api_key=key)
    assert not key.strip() or key.strip() not in str(error.value)


@pytest.mark.parametrize("name", ["fallback:1", "fallback:offer", "fallback:"])
def test_an_id_of_the_callers_own_is_no_fallback(script, name):
    script.then(200, {"status": "applied", "train_due": False})
    with BanditClient(script.url, trust_env=False) as client:
        assert client.reward(name, 1.0).status == "applied"
    assert script.sent()["decision_id"] == name


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_named_with_the_way_around_it(script, monkeypatch, proxy):
    script.then(200, {"status": "applied", "train_due": False})
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(ValueError, match=r"proxies of the environment.*trust_env=False"):
        BanditClient(script.url)
    with BanditClient(script.url, trust_env=False) as client:
        assert client.reward("d", 1.0).status == "applied"
