"""The four hot calls: select, reward and their batches, each from its bytes to its bytes.

They are the only calls that do not pass FastAPI: its middleware, routing and dependencies would
cost more CPU than the decision. The class stands in front of the FastAPI app, on the event loop.
Limits, keys, decoding and errors come from the same modules as for all other routes, and
`openapi` documents these calls from the table below.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bandexa_core.ids import ActionId, DecisionId
from service.http import candidates
from service.http.arrays import decode_array
from service.http.auth import authorize
from service.http.codec import (
    JSON,
    MSGPACK,
    Typed,
    answer_type,
    body_hash,
    bounds_of,
    encode,
    media_type,
)
from service.http.keys import Keys
from service.http.limits import BodyReader, refuse_announced, refuse_compressed
from service.http.problems import problem_of, refusal_of, send_refusal
from service.http.schemas.decide import (
    ActionRef,
    RewardAnswer,
    RewardBatch,
    RewardBatchAnswer,
    RewardItem,
    RewardRequest,
    SelectAnswer,
    SelectBatch,
    SelectBatchAnswer,
    SelectItem,
    SelectRequest,
)
from service.serving.engine import Engine
from service.serving.errors import UnknownAction
from service.serving.select.commands import Decision, SelectCommand
from service.settings import Scope as KeyScope
from service.settings import Settings
from service.store.errors import InvalidRequest, ServiceError
from service.store.records import RewardReport

T = TypeVar("T", bound=msgspec.Struct)
Parsed = Callable[[Engine, Any, str, float], Awaitable[msgspec.Struct]]


# -- select -------------------------------------------------------------------------------------


async def select(
    engine: Engine, body: SelectRequest, encoding: str, arrived: float, *, patient: bool = False
) -> SelectAnswer:
    """Choose an action for a context. Retrying with the same `decision_id` and body is safe.

    Args:
        engine: Decides.
        body: The request.
        encoding: The media type it came in.
        arrived: When its body was complete, by perf_counter.
        patient: Whether it waits for room in the queue of a slow encoder.
    """
    engine.bandit(body.bandit)  # UnknownBandit comes before what is wrong with the context
    try:
        context = decode_array(body.context, packed=encoding == MSGPACK)
    except ValueError as error:
        raise InvalidRequest("context", str(error)) from error
    offered = candidates.resolved(body.candidates)
    own_id = None if body.decision_id is None else DecisionId(body.decision_id)
    command = SelectCommand(
        bandit=body.bandit,
        context=context,
        candidates=offered,
        retrieve=body.retrieve,
        decision_id=own_id,
        num=body.k,
        activate=body.activate,
        body_hash=None if own_id is None else _identity(body, context),
        decode_s=time.perf_counter() - arrived,
        unit=body.unit,
    )
    try:
        return _answer(await engine.selecting.select(command, patient=patient))
    except UnknownAction:
        candidates.check_ids(offered)
        raise


def _identity(body: SelectRequest, context: Any) -> bytes:
    """Return the digest by which a repeated select is recognised."""
    parts = {
        "bandit": body.bandit,
        "context": context,
        "candidates": candidates.hashed(body.candidates),
        "retrieve": body.retrieve,
        "k": body.k,
        "activate": body.activate,
    }
    if body.unit is not None:  # without one, the digest is that of earlier releases
        parts["unit"] = body.unit
    return body_hash(parts)


def _answer(decision: Decision) -> SelectAnswer:
    actions = [ActionRef(chosen.id, chosen.place) for chosen in decision.chosen]
    return SelectAnswer(
        decision_id=decision.decision_id,
        action=actions[0],
        actions=actions if len(actions) > 1 else None,
        score=decision.chosen[0].score,
        propensity=decision.propensity,
        snapshot=decision.snapshot,
        position=decision.position,
    )


async def select_batch(
    engine: Engine, body: SelectBatch, encoding: str, arrived: float
) -> SelectBatchAnswer:
    """Answer up to 1000 selects; each succeeds or fails on its own."""
    share = (time.perf_counter() - arrived) / len(body.items)  # of the time that decoding took

    async def one(raw: msgspec.Raw) -> SelectItem:
        try:
            item = SELECT.decode(raw, encoding, None)
            arrived = time.perf_counter() - share
            return SelectItem(200, await select(engine, item, encoding, arrived, patient=True))
        except ServiceError as error:
            problem = problem_of(error)
            engine.metrics.problem(problem.type)
            return SelectItem(problem.status, error=problem)

    return SelectBatchAnswer(await asyncio.gather(*map(one, body.items)))


# -- reward -------------------------------------------------------------------------------------


async def reward(
    engine: Engine, body: RewardRequest, encoding: str, arrived: float
) -> RewardAnswer:
    """Report how a decision went. Reporting the same value again changes nothing."""
    report = RewardReport(
        decision_id=DecisionId(body.decision_id),
        reward=body.reward,
        reward_id=body.reward_id,
        action=None if body.action is None else ActionId(body.action),
        time=time.time(),
        bandit=body.bandit,
    )
    status, train_due = await engine.rewards.reward(report)
    return RewardAnswer(status, train_due)


async def reward_batch(
    engine: Engine, body: RewardBatch, encoding: str, arrived: float
) -> RewardBatchAnswer:
    """Take up to 1000 rewards; each succeeds or fails on its own."""

    async def one(raw: msgspec.Raw) -> RewardItem:
        try:
            item = REWARD.decode(raw, encoding, None)
            return RewardItem(200, await reward(engine, item, encoding, arrived))
        except ServiceError as error:
            problem = problem_of(error)
            engine.metrics.problem(problem.type)
            return RewardItem(problem.status, error=problem)

    return RewardBatchAnswer(await asyncio.gather(*map(one, body.items)))


# -- from bytes to bytes ------------------------------------------------------------------------

SELECT, REWARD = Typed(SelectRequest), Typed(RewardRequest)


@dataclass(frozen=True, slots=True)
class HotCall:
    """One call: what a key needs, how its body is decoded, what answers it."""

    scope: KeyScope
    request: Typed[Any]
    answer: Parsed
    answer_kind: type[msgspec.Struct]
    problems: tuple[int, ...]


CALLS = {
    "/select": HotCall("select", SELECT, select, SelectAnswer, (404, 409, 413, 415, 422)),
    "/reward": HotCall("reward", REWARD, reward, RewardAnswer, (404, 410, 413, 415, 422)),
    "/select/batch": HotCall(
        "select", Typed(SelectBatch), select_batch, SelectBatchAnswer, (413, 415, 422)
    ),
    "/reward/batch": HotCall(
        "reward", Typed(RewardBatch), reward_batch, RewardBatchAnswer, (413, 415, 422)
    ),
}


class HotCalls:
    """Answers the four hot calls; every other request goes to `app`.

    Args:
        app: The app behind it.
        engine: Decides and learns.
        settings: Limits.
        keys: API keys; without any, every caller may call.
    """

    def __init__(self, app: ASGIApp, engine: Engine, settings: Settings, keys: Keys) -> None:
        self._app = app
        self._engine = engine
        self._settings = settings
        self._keys = keys
        self._bounds = bounds_of(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        call = CALLS.get(scope["path"].rstrip("/")) if scope["type"] == "http" else None
        if call is None:
            await self._app(scope, receive, send)
            return
        try:
            content, encoding = await self._content(call, scope, receive)
        except ClientDisconnect:
            return  # nobody is there to read an answer
        except Exception as error:  # the top of a request
            name = f"{scope['method']} {scope['path']}"
            await send_refusal(refusal_of(error, self._engine.metrics, name), send)
            return
        headers = [
            (b"content-length", b"%d" % len(content)),
            (b"content-type", encoding),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _content(self, call: HotCall, scope: Scope, receive: Receive) -> tuple[bytes, bytes]:
        """Return the answer's bytes and their media type."""
        if scope["method"] != "POST":
            raise HTTPException(405, "Method Not Allowed", {"Allow": "POST"})
        if self._keys:
            authorize(Request(scope), self._keys, call.scope)
        kind, accepted = "", JSON
        for name, value in scope["headers"]:
            if name == b"content-length":
                refuse_announced(value, self._settings.max_body_bytes)
            elif name == b"content-type":
                kind = value.decode("latin-1")
            elif name == b"content-encoding":
                refuse_compressed(value)
            elif name == b"accept":
                accepted = answer_type(value.decode("latin-1"))
        settings, loop = self._settings, self._engine.loop
        reader = BodyReader(receive, settings.max_body_bytes, settings.body_timeout_s, loop)
        raw = await reader.whole()
        arrived = time.perf_counter()
        encoding = media_type(kind)
        body = call.request.decode(raw, encoding, self._bounds)
        answer = await call.answer(self._engine, body, encoding, arrived)
        return encode(answer, accepted), accepted.encode()
