"""The hot calls: select, reward and their batches, each from its bytes to its bytes.

A check of a batch of rewards is here because it has the same body and answer.

They are the only calls that do not pass FastAPI: its middleware, routing and dependencies would
cost more CPU than the decision. The class stands in front of the FastAPI app, on the event loop.
Limits, keys, decoding and errors come from the same modules as for all other routes, and
`openapi` documents these calls from the table below.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bandexa_core.ids import ActionId, DecisionId
from service.http import candidates
from service.http.auth import authorize, check_reach
from service.http.codec import (
    MSGPACK,
    Typed,
    answer_type,
    body_hash,
    encode,
    media_type,
)
from service.http.front import Front
from service.http.inputs import decode_context, outcome_of
from service.http.large_bodies import LARGE_BYTES
from service.http.limits import refuse_compressed
from service.http.problems import problem_of, refusal_of, send_refusal
from service.http.schemas.decide import (
    ActionRef,
    CandidatePropensity,
    Problem,
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
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.serving.errors import UnknownAction
from service.serving.select.commands import CandidateInput, Decision, SelectCommand, place_of
from service.settings import KeySetting
from service.settings import Scope as KeyScope
from service.store.errors import InvalidRequest, ServiceError
from service.store.objects import row_identity
from service.store.records import RewardReport

Body = TypeVar("Body", bound=msgspec.Struct)
Value = TypeVar("Value")
Answer = TypeVar("Answer")
MANY = 1000  # propensities, which are encoded in about a millisecond
MAX_OF_BATCH = 100_000  # propensities of all candidates, in all items of a batch
Holder: TypeAlias = KeySetting | None  # of the key that a call carries; None: there are no keys
AT_ONCE = 50  # items of a batch that begin before other requests go on


# -- select -------------------------------------------------------------------------------------


def select_command(
    engine: Engine, holder: Holder, body: SelectRequest, encoding: str, arrived: float
) -> SelectCommand:
    """Return what a select asks for; in the thread for large bodies where it is one.

    Args:
        engine: Knows the bandits.
        holder: The key of the caller; None: there are no keys.
        body: The request.
        encoding: The media type it came in.
        arrived: When its body was complete, by perf_counter.
    """
    if holder is not None:
        check_reach(holder, body.bandit)
    bandit = engine.bandit(body.bandit)  # UnknownBandit comes before what is wrong in the context
    context = decode_context(bandit, body.context, packed=encoding == MSGPACK)
    offered = None
    if body.candidates is not None:
        offered = candidates.resolved(body.candidates, bandit.actions)
    own_id = None if body.decision_id is None else DecisionId(body.decision_id)
    return SelectCommand(
        bandit=body.bandit,
        context=context,
        candidates=offered,
        retrieve=body.retrieve,
        decision_id=own_id,
        num=body.k,
        activate=body.activate,
        body_hash=None if own_id is None else _identity(bandit, body, context, offered),
        decode_s=time.perf_counter() - arrived,
        unit=body.unit,
        all_propensities=body.all_propensities,
        served=None if body.served is None else ActionId(body.served),
    )


async def select(engine: Engine, command: SelectCommand) -> SelectAnswer:
    """Choose an action for a context. Retrying with the same `decision_id` and body is safe."""
    try:
        decision = await engine.selecting.select(command)
    except UnknownAction:
        candidates.check_ids(command.candidates)
        raise
    return _answered(engine, command, decision)


def _answered(engine: Engine, command: SelectCommand, decision: Decision) -> SelectAnswer:
    found = decision.propensities
    if found is None or not command.all_propensities:  # the bandit's log may want them
        return _answer(command, decision)
    chances = engine.selecting.chances(command, decision)
    return _answer(command, decision, [CandidatePropensity(*each) for each in chances])


def _identity(
    bandit: Bandit, body: SelectRequest, context: NDArray[Any], offered: CandidateInput
) -> bytes:
    """Return the digest by which a repeated select is recognised.

    An object counts by what is logged of it, so that the order of its keys is nothing, and nothing
    is stored of a value that is not to be.
    """
    parts = {
        "bandit": body.bandit,
        "context": context if bandit.contexts is None else row_identity(context),
        "candidates": candidates.hashed(body.candidates, offered),
        "retrieve": body.retrieve,
        "k": body.k,
        "activate": body.activate,
    }
    if body.unit is not None:  # without one, the digest is that of earlier releases
        parts["unit"] = body.unit
    if body.served is not None:
        parts["served"] = body.served
    if body.all_propensities:
        parts["all_propensities"] = True
    return body_hash(parts)


def _answer(
    command: SelectCommand,
    decision: Decision,
    all_propensities: list[CandidatePropensity] | None = None,
) -> SelectAnswer:
    actions = [ActionRef(chosen.id, place_of(command, chosen)) for chosen in decision.chosen]
    return SelectAnswer(
        decision_id=decision.decision_id,
        action=actions[0],
        actions=actions if len(actions) > 1 else None,
        score=decision.chosen[0].score,
        propensity=decision.propensity,
        propensities=_of_places(decision) if len(actions) > 1 else None,
        snapshot=decision.snapshot,
        position=decision.position,
        all_propensities=all_propensities,
        arm=decision.arm,
    )


def _of_places(decision: Decision) -> list[float] | None:
    found = [each.propensity for each in decision.chosen if each.propensity is not None]
    return found if len(found) == len(decision.chosen) else None


def select_commands(
    engine: Engine, holder: Holder, body: SelectBatch, encoding: str, arrived: float
) -> list[SelectCommand | Problem]:
    """Return what each item asks for, or what is wrong with it; see `select_command`."""
    share = (time.perf_counter() - arrived) / len(body.items)  # of the time that decoding took

    def command_of(raw: msgspec.Raw) -> SelectCommand:
        arrived = time.perf_counter() - share
        decoded = SELECT.decode(raw, encoding, None)
        return select_command(engine, holder, decoded, encoding, arrived)

    return [_or_problem(command_of, raw) for raw in body.items]


async def select_batch(
    engine: Engine, commands: list[SelectCommand | Problem]
) -> SelectBatchAnswer:
    """Answer up to 1000 selects; each succeeds or fails on its own."""
    commands = _within(engine, commands)
    wanted = [each for each in commands if not isinstance(each, Problem)]
    decisions = iter(await engine.selecting.select_all(wanted))
    items = []
    for number, command in enumerate(commands, 1):
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
        found = command if isinstance(command, Problem) else next(decisions)
        try:
            if isinstance(command, SelectCommand) and isinstance(found, UnknownAction):
                candidates.check_ids(command.candidates)
            if isinstance(command, SelectCommand) and isinstance(found, Decision):
                items.append(SelectItem(200, _answered(engine, command, found)))
                continue
        except ServiceError as error:
            found = error
        assert not isinstance(found, Decision)
        problem = problem_of(found) if isinstance(found, ServiceError) else found
        engine.metrics.problem(problem.type)
        items.append(SelectItem(problem.status, error=problem))
    return SelectBatchAnswer(items)


def _within(
    engine: Engine, commands: list[SelectCommand | Problem]
) -> list[SelectCommand | Problem]:
    """Return the items, with a problem for those that ask for more propensities than there may be.

    The limit is on the candidates of all items together, in their order.
    """
    num = 0

    def checked(item: SelectCommand | Problem) -> SelectCommand | Problem:
        nonlocal num
        if isinstance(item, Problem) or not item.all_propensities:
            return item
        try:
            wanted = engine.selecting.num_candidates(item)
        except ServiceError as error:
            return problem_of(error)
        if num + wanted <= MAX_OF_BATCH:
            num += wanted
            return item
        text = f"at most {MAX_OF_BATCH} candidates, in all items of a batch that ask for theirs"
        return problem_of(InvalidRequest("all_propensities", text))

    return [checked(item) for item in commands]


def _rows_of_select(answer: SelectAnswer) -> int:
    """Return how many propensities of all candidates an answer has."""
    return 0 if answer.all_propensities is None else len(answer.all_propensities)


def _rows_of_batch(answer: SelectBatchAnswer) -> int:
    return sum(_rows_of_select(item.answer) for item in answer.items if item.answer is not None)


# -- reward -------------------------------------------------------------------------------------


def reward_report(
    engine: Engine, holder: Holder, body: RewardRequest, encoding: str, arrived: float
) -> RewardReport:
    """Return what a reward reports; see `select_command`."""
    return RewardReport(
        decision_id=DecisionId(body.decision_id),
        reward=outcome_of(body.reward, body.metrics),
        reward_id=body.reward_id,
        action=None if body.action is None else ActionId(body.action),
        time=time.time(),
        bandit=body.bandit,
        check=None if holder is None or holder.bandits is None else partial(check_reach, holder),
    )


async def reward(engine: Engine, report: RewardReport) -> RewardAnswer:
    """Report how a decision went. Reporting the same value again changes nothing."""
    status, train_due = await engine.rewards.reward(report)
    return RewardAnswer(status, train_due)


def reward_reports(
    engine: Engine, holder: Holder, body: RewardBatch, encoding: str, arrived: float
) -> list[RewardReport | Problem]:
    """Return what each item reports, or what is wrong with it; see `select_command`."""

    def report_of(raw: msgspec.Raw) -> RewardReport:
        decoded = REWARD.decode(raw, encoding, None)
        return reward_report(engine, holder, decoded, encoding, arrived)

    return [_or_problem(report_of, raw) for raw in body.items]


async def reward_batch(engine: Engine, reports: list[RewardReport | Problem]) -> RewardBatchAnswer:
    """Take up to 1000 rewards; each succeeds or fails on its own."""

    async def one(report: RewardReport | Problem) -> RewardItem:
        try:
            if not isinstance(report, Problem):
                return RewardItem(200, await reward(engine, report))
            problem = report
        except ServiceError as error:
            problem = problem_of(error)
        engine.metrics.problem(problem.type)
        return RewardItem(problem.status, error=problem)

    return RewardBatchAnswer(await _each(one, reports))


async def reward_check(engine: Engine, reports: list[RewardReport | Problem]) -> RewardBatchAnswer:
    """Say what would become of up to 1000 rewards, each by itself; nothing is stored."""

    async def one(report: RewardReport | Problem) -> RewardItem:
        try:
            if not isinstance(report, Problem):
                status = await engine.rewards.check(report)
                return RewardItem(200, RewardAnswer(status, train_due=False))
            problem = report
        except ServiceError as error:
            problem = problem_of(error)
        return RewardItem(problem.status, error=problem)

    return RewardBatchAnswer(await _each(one, reports))


# -- batches ------------------------------------------------------------------------------------


def _or_problem(work: Callable[[msgspec.Raw], Value], raw: msgspec.Raw) -> Value | Problem:
    try:
        return work(raw)
    except ServiceError as error:
        return problem_of(error)


async def _each(
    one: Callable[[Value], Coroutine[Any, Any, Answer]], items: Sequence[Value]
) -> list[Answer]:
    """Answer items side by side; other requests go on after every few that have begun."""
    tasks: list[asyncio.Task[Answer]] = []
    for number, item in enumerate(items, 1):
        tasks.append(asyncio.create_task(one(item)))
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
    return await asyncio.gather(*tasks)


# -- from bytes to bytes ------------------------------------------------------------------------

SELECT, REWARD = Typed(SelectRequest), Typed(RewardRequest)


@dataclass(frozen=True, slots=True)
class HotCall:
    """One call.

    Attributes:
        scope: What a key needs.
        request: Decodes its body.
        prepare: Makes of the body what `answer` takes; decides and changes nothing.
        answer: Answers.
        answer_kind: What the answer is.
        problems: Statuses of its refusals.
        large_bytes: Longer bodies are decoded and prepared in the thread for large bodies.
        num_rows: Returns how many propensities an answer has; with `MANY`, it is encoded there.
    """

    scope: KeyScope
    request: Typed[Any]
    prepare: Callable[[Engine, Holder, Any, str, float], Any]
    answer: Callable[[Engine, Any], Awaitable[msgspec.Struct]]
    answer_kind: type[msgspec.Struct]
    problems: tuple[int, ...]
    large_bytes: int = LARGE_BYTES
    num_rows: Callable[[Any], int] | None = None


LARGE_BATCH_BYTES = 1 << 12  # a batch that names what is wrong with each item takes about 5 ms
CALLS = {
    "/select": HotCall(
        "select", SELECT, select_command, select, SelectAnswer, (404, 409, 413, 415, 422),
        num_rows=_rows_of_select,
    ),
    "/reward": HotCall(
        "reward", REWARD, reward_report, reward, RewardAnswer, (404, 410, 413, 415, 422)
    ),
    "/select/batch": HotCall(
        "select", Typed(SelectBatch), select_commands, select_batch, SelectBatchAnswer,
        (413, 415, 422), LARGE_BATCH_BYTES, _rows_of_batch,
    ),
    "/reward/batch": HotCall(
        "reward", Typed(RewardBatch), reward_reports, reward_batch, RewardBatchAnswer,
        (413, 415, 422), LARGE_BATCH_BYTES,
    ),
    "/reward/check": HotCall(
        "reward", Typed(RewardBatch), reward_reports, reward_check, RewardBatchAnswer,
        (413, 415, 422), LARGE_BATCH_BYTES,
    ),
}  # fmt: skip


class HotCalls:
    """Answers the four hot calls; every other request goes to `app`.

    Args:
        app: The app behind it.
        front: Who may call, and how bodies come in.
    """

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self._app = app
        self._front = front

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request; a plain function, since another coroutine would cost more than it."""
        call = CALLS.get(scope["path"].rstrip("/")) if scope["type"] == "http" else None
        if call is None:
            return self._app(scope, receive, send)
        return self._serve(call, scope, receive, send)

    async def _serve(self, call: HotCall, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            content, encoding = await self._content(call, scope, receive)
        except ClientDisconnect:
            return  # nobody is there to read an answer
        except Exception as error:  # the top of a request
            name = f"{scope['method']} {scope['path']}"
            await send_refusal(refusal_of(error, self._front.engine.metrics, name), send)
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
        front = self._front
        engine, keys = front.engine, front.keys
        holder = authorize(Request(scope), keys, call.scope) if keys else None
        kind = length = accept = b""
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name == b"content-type":
                kind = value
            elif name == b"content-encoding":
                refuse_compressed(value)
            elif name == b"accept":
                accept = accept + b"," + value if accept else value
        accepted = answer_type(accept.decode("latin-1"))
        reader = front.body(receive, length)
        try:
            raw = await reader.whole()
            arrived = time.perf_counter()
            encoding = media_type(kind.decode("latin-1"))
            if len(raw) <= call.large_bytes:
                body = call.request.decode(raw, encoding, front.bounds)
                prepared = call.prepare(engine, holder, body, encoding, arrived)
            else:

                def decoded() -> Any:
                    body = call.request.decode(raw, encoding, front.bounds)
                    return call.prepare(engine, holder, body, encoding, arrived)

                prepared = await front.large.run(decoded)
            if holder is not None and isinstance(prepared, list):  # a batch
                keys.rates.charge_items(holder, len(prepared))
            answer = await call.answer(engine, prepared)
            if call.num_rows is not None and call.num_rows(answer) > MANY:
                content = await front.large.run(lambda: encode(answer, accepted))
                return content, accepted.encode()
            return encode(answer, accepted), accepted.encode()
        finally:
            reader.release()
