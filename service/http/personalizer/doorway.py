"""Personalizer's calls, from their bytes to their bytes, in front of all other calls.

Runs on the event loop; large bodies are decoded in the thread for large bodies. A call checks the
key before it reads a body, and every refusal is in Personalizer's shape.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http import auth
from service.http.codec import JSON, media_type
from service.http.errors import Unauthorized, UnsupportedBody
from service.http.front import Front
from service.http.keys import is_loopback
from service.http.large_bodies import LARGE_BYTES
from service.http.limits import refuse_compressed
from service.http.personalizer import administration, events, ids, multislot, rank
from service.http.personalizer.apprentice import Apprentices
from service.http.personalizer.bodies import (
    Body,
    Decoder,
    MultiSlotRankRequest,
    MultiSlotRewardRequest,
    RankRequest,
    RewardRequest,
    ServiceConfiguration,
)
from service.http.personalizer.configuration import WRONG
from service.http.personalizer.errors import (
    CODES,
    NotOffered,
    Refused,
    body_of,
    send_error,
    shaped,
)
from service.http.personalizer.errors import (
    JSON as ANSWERED,
)
from service.http.personalizer.loops import NEW, Loop, loop_of, new_loop
from service.http.personalizer.paths import Call, call_of, is_personalizer
from service.http.problems import refusal_of
from service.http.quotas import within_quotas
from service.serving import manage, trail
from service.settings import KeySetting, PersonalizerSetting
from service.settings import Scope as KeyScope
from service.store.errors import InvalidRequest

KEY_HEADER = "ocp-apim-subscription-key"
REQUEST_ID = "x-ms-client-request-id"
NOT_USED = b"x-bandexa-not-used"  # what a configuration asks for, and is not there
T = TypeVar("T")
B = TypeVar("B", bound=Body)


class Caller(NamedTuple):
    """Who calls.

    Attributes:
        holder: The key; None: there are no keys.
        bandit: The bandit of the key.
        may_create: Whether its first Rank creates that.
    """

    holder: KeySetting | None
    bandit: str
    may_create: bool

    @property
    def name(self) -> str:
        """The name of the key."""
        return auth.ANONYMOUS if self.holder is None else self.holder.name


class Asked(NamedTuple):
    """A request whose caller may make it: what is called, its body, and the client's id of it."""

    call: Call
    caller: Caller
    request: Request
    raw: bytes
    arrived: float

    @property
    def event(self) -> str:
        """The event that the path names.

        Raises:
            InvalidRequest: It is longer than any.
        """
        event = self.call.event or ""
        if len(event) > ids.MOST:
            raise InvalidRequest("eventId", f"is longer than {ids.MOST} characters")
        return event

    @property
    def request_id(self) -> str | None:
        """The client's id of the request, the same in every try; None without one."""
        return self.request.headers.get(REQUEST_ID) or None


class Answer(NamedTuple):
    """An answer: its status, its body, and headers beside those that every answer has."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Served(NamedTuple):
    """How a call is served: the scope of its key, the code of a wrong request, and by what."""

    scope: KeyScope
    wrong: str
    answer: Callable[[Doorway, Asked], Awaitable[Answer]]


class Doorway:
    """Answers Personalizer's calls; every other request goes to `app`.

    Args:
        app: The app behind it.
        front: Who may call, and how bodies come in.
    """

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self._app = app
        self._front = front
        self.engine = front.engine
        self.settings = front.settings
        self.apprentices = Apprentices()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not is_personalizer(scope):
            await self._app(scope, receive, send)
            return
        wrong = CODES[400]
        try:
            call = call_of(scope)
            served = _SERVED.get(call.name)
            wrong = wrong if served is None else served.wrong
            answer = await self._answer(call, served, scope, receive)
        except ClientDisconnect:
            return  # nobody is there to read an answer
        except Exception as error:  # the top of a request
            await self._refuse(error, wrong, scope, send)
            return
        headers = [(b"content-length", b"%d" % len(answer.body))] if answer.body else []
        if answer.body:
            headers.append((b"content-type", ANSWERED))
        headers += answer.headers
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})

    def ranked_loop(self, asked: Asked) -> Loop:
        """Return the bandit that a Rank asks; where it is missing and may be, what it would be."""
        name = asked.caller.bandit
        is_new = asked.caller.may_create and not self.engine.live.exists(name)
        return new_loop(name) if is_new else loop_of(self.engine, name)

    def charge(self, asked: Asked, slots: int) -> None:
        """Count the slots of a call as the items of a batch."""
        if asked.caller.holder is not None:
            self._front.keys.rates.charge_items(asked.caller.holder, slots)

    async def is_there(self, asked: Asked, loop: Loop) -> bool:
        """Create what a Rank asks, where it is missing: only one without a mistake comes here.

        False: somebody else has created it meanwhile, and perhaps otherwise.
        """
        if loop.exists:
            return True
        engine, by = self.engine, asked.caller.name
        before = trail.snapshot_of(engine, loop.name)
        async with within_quotas(engine, asked.caller.holder, loop.name):
            if not await manage.create_missing(engine, loop.name, NEW):
                return False
        auth.record("administrative call", asked.request, by, "201")
        await trail.note(engine, loop.name, by, "POST /personalizer rank", before, {})
        return True

    async def decoded(self, kind: Decoder[B], asked: Asked, prepare: Callable[[B], T]) -> T:
        """Return what `prepare` makes of the decoded body, in the thread for large ones.

        Raises:
            UnsupportedBody, InvalidRequest, HTTPException: The body is not of this kind.
        """
        if media_type(asked.request.headers.get("content-type", "")) != JSON:
            raise UnsupportedBody(f"send {JSON}")
        raw = asked.raw

        def work() -> T:
            return prepare(kind.decode(raw, self._front.bounds))

        return work() if len(raw) <= LARGE_BYTES else await self._front.large.run(work)

    async def _answer(
        self, call: Call, served: Served | None, scope: Scope, receive: Receive
    ) -> Answer:
        request = Request(scope)
        caller = self._caller(request, "read" if served is None else served.scope)
        if served is None:
            raise NotOffered(f"{scope['method']} {call.path}")
        headers = request.headers
        refuse_compressed(headers.get("content-encoding", "").encode("latin-1"))
        announced = headers.get("content-length", "").encode("latin-1")
        reader = self._front.body(receive, announced)
        try:
            raw = await reader.whole()
            asked = Asked(call, caller, request, raw, time.perf_counter())
            if served.scope != "admin":
                return await served.answer(self, asked)
            return await _recorded(served, self, asked)
        finally:
            reader.release()

    def _caller(self, request: Request, needed: KeyScope) -> Caller:
        """Return who calls.

        Raises:
            Unauthorized, Forbidden: They may not.
        """
        setting: PersonalizerSetting = self.settings.personalizer
        if not self._front.keys:
            may = setting.create and is_loopback(self.settings.host)
            return Caller(None, setting.bandit, may)
        key = request.headers.get(KEY_HEADER, "").strip() or auth.bearer_of(request)
        if key is None:
            auth.record("refused call", request, auth.ANONYMOUS, "no key")
            raise Unauthorized("send an API key, as `Ocp-Apim-Subscription-Key: KEY`")
        holder = auth.holder_of(request, self._front.keys, key)
        auth.check_scope(request, holder, needed)
        may = setting.create and "admin" in holder.scopes
        bandit = setting.keys.get(holder.name, setting.bandit)
        auth.check_reach(holder, bandit)
        return Caller(holder, bandit, may)

    async def _refuse(self, error: Exception, wrong: str, scope: Scope, send: Send) -> None:
        metrics = self.engine.metrics
        if isinstance(error, Refused | NotOffered):
            code = error.code if isinstance(error, Refused) else "OperationNotAllowed"
            status = error.status if isinstance(error, Refused) else 403
            metrics.problem(code)
            await send_error(send, status, code, body_of(code, str(error)))
            return
        refusal = refusal_of(error, metrics, f"{scope['method']} {scope['path'][:200]}")
        status, code, body = shaped(refusal, wrong)
        more = [(k.lower().encode(), v.encode("latin-1")) for k, v in refusal.headers.items()]
        await send_error(send, status, code, body, more)


async def _recorded(served: Served, door: Doorway, asked: Asked) -> Answer:
    """Answer an administrative call; the audit log has what came of it."""
    outcome = ""
    try:
        answer = await served.answer(door, asked)
        outcome = str(answer.status)
        return answer
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        auth.record("administrative call", asked.request, asked.caller.name, outcome)


# -- the calls ----------------------------------------------------------------------------------


async def _rank(door: Doorway, asked: Asked) -> Answer:
    loop, engine = door.ranked_loop(asked), door.engine

    def prepare(body: RankRequest) -> rank.RankCommand:
        return rank.rank_command(loop, body, asked.raw, asked.request_id, asked.arrived)

    command = await door.decoded(_RANK, asked, prepare)
    if not await door.is_there(asked, loop):
        return await _rank(door, asked)
    body = await rank.rank(engine, command)
    if loop.mode == "Apprentice":
        await door.apprentices.decided(engine, command.select)
    return Answer(201, body)


async def _reward(door: Doorway, asked: Asked) -> Answer:
    loop = loop_of(door.engine, asked.caller.bandit)
    value = await door.decoded(_REWARD, asked, lambda body: body.value)
    decision = ids.decision_of(loop.name, asked.event)
    report = events.report_of(door.engine, loop.name, decision, value, asked.request_id)
    await events.reward(door.engine, report)
    door.apprentices.rewarded(door.engine.bandit(loop.name).record.uid, report)
    return Answer(204)


async def _activate(door: Doorway, asked: Asked) -> Answer:
    loop = loop_of(door.engine, asked.caller.bandit)
    await events.activate(door.engine, ids.decision_of(loop.name, asked.event))
    return Answer(204)


async def _rank_slots(door: Doorway, asked: Asked) -> Answer:
    loop, engine = door.ranked_loop(asked), door.engine

    def prepare(body: MultiSlotRankRequest) -> multislot.SlotsCommand:
        return multislot.slots_command(loop, body, asked.raw, asked.request_id, asked.arrived)

    command = await door.decoded(_RANK_SLOTS, asked, prepare)
    if not await door.is_there(asked, loop):
        return await _rank_slots(door, asked)
    door.charge(asked, len(command.selects))
    answer, selects = await multislot.rank_slots(engine, command)
    if loop.mode == "Apprentice":
        for select in selects:
            await door.apprentices.decided(engine, select)
    return Answer(201, answer)


async def _reward_slots(door: Doorway, asked: Asked) -> Answer:
    loop, engine = loop_of(door.engine, asked.caller.bandit), door.engine
    rewards = await door.decoded(_REWARD_SLOTS, asked, lambda body: body.reward)
    door.charge(asked, len(rewards))
    known = await multislot.reward_slots(engine, loop.name, asked.event, rewards, asked.request_id)
    for report in known:
        door.apprentices.rewarded(engine.bandit(loop.name).record.uid, report)
    return Answer(204)


async def _activate_slots(door: Doorway, asked: Asked) -> Answer:
    loop = loop_of(door.engine, asked.caller.bandit)
    await multislot.activate_slots(door.engine, loop.name, asked.event)
    return Answer(204)


async def _get_service(door: Doorway, asked: Asked) -> Answer:
    found = await administration.configuration(
        door.engine, door.settings, door.apprentices, asked.caller.bandit
    )
    return Answer(200, msgspec.json.encode(found))


async def _put_service(door: Doorway, asked: Asked) -> Answer:
    caller = asked.caller
    body = await door.decoded(_SERVICE, asked, lambda body: body)
    ignored = await administration.configure(
        door.engine, door.settings, caller.bandit, body, caller.name,
        needs_retrain=asked.call.generation == "2022",
    )  # fmt: skip
    answer = await _get_service(door, asked)
    headers = ((NOT_USED, ", ".join(ignored).encode()),) if ignored else ()
    return answer._replace(headers=headers)


async def _get_model_properties(door: Doorway, asked: Asked) -> Answer:
    found = await administration.model_properties(door.engine, asked.caller.bandit)
    return Answer(200, msgspec.json.encode(found))


async def _delete_model(door: Doorway, asked: Asked) -> Answer:
    await administration.reset_model(door.engine, asked.caller.bandit, asked.caller.name)
    return Answer(204)


_RANK, _REWARD = Decoder(RankRequest), Decoder(RewardRequest)
_RANK_SLOTS = Decoder(MultiSlotRankRequest)
_REWARD_SLOTS = Decoder(MultiSlotRewardRequest)
_SERVICE = Decoder(ServiceConfiguration)
_SERVED: dict[str, Served] = {
    "rank": Served("select", "InvalidRankRequest", _rank),
    "reward": Served("reward", "InvalidRewardRequest", _reward),
    "activate": Served("reward", "InvalidEventIdToActivate", _activate),
    "multislot_rank": Served("select", "InvalidRankRequest", _rank_slots),
    "multislot_reward": Served("reward", "InvalidRewardRequest", _reward_slots),
    "multislot_activate": Served("reward", "InvalidEventIdToActivate", _activate_slots),
    "get_service": Served("read", CODES[400], _get_service),
    "put_service": Served("admin", WRONG, _put_service),
    "get_model_properties": Served("read", CODES[400], _get_model_properties),
    "delete_model": Served("admin", CODES[400], _delete_model),
}
