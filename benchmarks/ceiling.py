"""The two ceilings: servers that do nothing but HTTP, on the uvicorn settings of `bandexa serve`.

`fastapi` decodes and validates the requests and serialises the answers as a FastAPI application
does, with request and response models; what `bandexa serve` costs beyond it is deciding, storing
and learning. `asgi` reads the body and sends constant bytes; what is beyond it is all that
happens above uvicorn. The models are this file's own, so that the ceilings stay as they are when
the service changes. It takes the options of `bandexa serve`, of which it needs host and port.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]


def _nested_lists(value: Any) -> Any:
    """Accept any array, as the service does before it knows the bandit's shape."""
    if not isinstance(value, list):
        raise ValueError("nested lists of numbers")
    return value


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SelectRequest(_Body):
    """A select, as it is sent."""

    bandit: Id = "default"
    context: Annotated[Any, BeforeValidator(_nested_lists)]
    candidates: list[Id] | None = Field(None, min_length=1)
    retrieve: int | None = Field(None, ge=1)
    decision_id: Id | None = None
    k: int = Field(1, ge=1, le=1000)
    activate: bool = True


class ActionRef(BaseModel):
    """An action."""

    id: str
    index: int


class SelectAnswer(BaseModel):
    """A decision."""

    decision_id: str
    action: ActionRef
    actions: list[ActionRef] | None
    score: float
    propensity: float | None
    snapshot: int
    position: int


class RewardRequest(_Body):
    """A reward, as it is sent."""

    decision_id: Id
    reward: float = Field(allow_inf_nan=False)
    reward_id: Id | None = None
    action: Id | None = None


class RewardAnswer(BaseModel):
    """What happened to a reward."""

    status: str
    train_due: bool


class SelectBatch(_Body):
    """A batch of selects, as it is sent."""

    items: list[SelectRequest]


class SelectItem(BaseModel):
    """One answer of a batch."""

    code: int
    answer: SelectAnswer | None = None
    error: str | None = None


class SelectBatchAnswer(BaseModel):
    """The answers of a batch."""

    items: list[SelectItem]


def _decision() -> SelectAnswer:
    return SelectAnswer(
        decision_id="0123456789abcdef0123456789abcdef", action=ActionRef(id="a17", index=17),
        actions=None, score=0.3141592653589793, propensity=0.484575, snapshot=1, position=1234,
    )  # fmt: skip


fastapi = FastAPI()


@fastapi.post("/select")
async def select(body: SelectRequest) -> SelectAnswer:
    """Answer as a select is answered, without deciding."""
    return _decision()


@fastapi.post("/select/batch")
async def select_batch(body: SelectBatch) -> SelectBatchAnswer:
    """Answer as a batch is answered, without deciding."""
    return SelectBatchAnswer(items=[SelectItem(code=200, answer=_decision()) for _ in body.items])


@fastapi.post("/reward")
async def reward(body: RewardRequest) -> RewardAnswer:
    """Answer as a reward is answered, without learning."""
    return RewardAnswer(status="applied", train_due=False)


_BATCH = 100
_ANSWERS = {
    "/select": _decision(),
    "/select/batch": SelectBatchAnswer(items=[SelectItem(code=200, answer=_decision())] * _BATCH),
    "/reward": RewardAnswer(status="applied", train_due=False),
}
_BYTES = {path: answer.model_dump_json().encode() for path, answer in _ANSWERS.items()}
_HEADS = {
    path: {
        "type": "http.response.start", "status": 200,
        "headers": [
            (b"content-type", b"application/json"), (b"content-length", b"%d" % len(content)),
        ],
    }
    for path, content in _BYTES.items()
}  # fmt: skip


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and answer with the bytes that belong to the path."""
    while (await receive()).get("more_body"):
        pass
    await send(_HEADS[scope["path"]])
    await send({"type": "http.response.body", "body": _BYTES[scope["path"]]})


def main() -> None:
    """Serve one of the ceilings until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ceiling", choices=("fastapi", "asgi"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given, _ = parser.parse_known_args()
    listener = socket.create_server((given.host, given.port))
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        fastapi if given.ceiling == "fastapi" else asgi, loop="uvloop", http="httptools",
        lifespan="off", log_config=None, access_log=False,
    )  # fmt: skip
    line = {"event": "listening", "url": f"http://{host}:{port}", "pid": os.getpid()}
    print(json.dumps(line), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
