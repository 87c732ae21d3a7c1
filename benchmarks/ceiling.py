"""The ceiling: a server that does nothing but HTTP, with the models of the real one.

FastAPI decodes and validates the same requests and serialises the same answers, on the same kind of
server process (one uvicorn worker, uvloop, httptools, no access log). What lies between it and
`bandexa serve` is all that deciding, keeping and learning costs. It takes the options of
`bandexa serve`, so that `simulators.private_server` can start it, and keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from service.http.schemas import ActionRef, RewardAnswer, RewardRequest, SelectAnswer, SelectRequest

app = FastAPI()


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    """Answer that it is ready."""
    return {"status": "ready"}


@app.post("/select")
async def select(body: SelectRequest) -> SelectAnswer:
    """Answer as a select is answered, without deciding."""
    return SelectAnswer(
        decision_id="0123456789abcdef0123456789abcdef",
        action=ActionRef(id="a17", index=17),
        actions=None,
        score=0.3141592653589793,
        propensity=0.484575,
        snapshot=1,
        position=1234,
    )


@app.post("/reward")
async def reward(body: RewardRequest) -> RewardAnswer:
    """Answer as a reward is answered, without learning."""
    return RewardAnswer(status="applied", train_due=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(prog="benchmarks.ceiling", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given, _ = parser.parse_known_args(argv)
    listener = socket.create_server((given.host, given.port))
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_config=None, access_log=False)
    line = {"event": "listening", "url": f"http://{host}:{port}", "pid": os.getpid()}
    print(json.dumps(line), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
