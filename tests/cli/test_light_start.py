"""A server of linear bandits imports no torch and starts no trainer until a round is due."""

from __future__ import annotations

from pathlib import Path

import pytest

MLP = {"name": "mlp", "params": {"feature_dim": 4, "hidden": [8]}}


def torch_in(pid: int) -> bool:
    """Return whether a process has mapped a shared library of torch."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return any("torch" in Path(line.split()[-1]).name for line in lines if ".so" in line)


def test_a_linear_bandit_needs_neither_torch_nor_a_trainer(start_server, api_of) -> None:
    server = start_server(None, forked=False)
    with server.client() as client:
        api = api_of(client)
        name = api.two_actions(training={"mode": "lockstep"})
        for number in range(40):
            api.teach(name, [number / 40, 1.0], "x", number % 2)
        trainer = api.call("GET", "/readyz")["trainer"]
        assert (trainer["state"], trainer["pid"]) == ("idle", None)
        assert not torch_in(server.pid)
        assert api.train(name)["snapshot"] == 1
        trainer_pid = api.call("GET", "/readyz")["trainer"]["pid"]
        assert not torch_in(trainer_pid)


@pytest.mark.slow
def test_a_network_brings_torch_into_both(start_server, api_of) -> None:
    server = start_server(None, forked=False)
    with server.client() as client:
        api = api_of(client)
        deep = api.two_actions(policy="neural_linear_ts", encoder=MLP)
        assert torch_in(server.pid)
        api.teach(deep, [0.5, 1.0], "x", 1.0)
        api.train(deep)
        assert torch_in(api.call("GET", "/readyz")["trainer"]["pid"])
