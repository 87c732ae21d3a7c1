"""Plays scenes with the Python client, blocking or asynchronous."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, cast

from bandexa_client import (
    AsyncBanditClient,
    BanditClient,
    BanditError,
    PreconditionFailed,
    Retry,
    RewardQueue,
    RewardReport,
    SelectRequest,
    ServiceUnavailable,
    Undelivered,
)
from bandexa_client.reward_queue import QueueClosed, QueueFull
from tests.client.scripted import Driven
from tests.conformance.scenes import Outcome, Scene

LISTED: dict[str, Callable[..., Any]] = {"requests": SelectRequest, "reports": RewardReport}


class PythonDriver:
    """Plays one scene.

    Args:
        client: A client of either kind, whose calls return their results.
    """

    def __init__(self, client: BanditClient) -> None:
        self._client = client
        self._kept: dict[str, Any] = {"nan": float("nan")}
        self._number = 0
        self._queue: RewardQueue | None = None
        self._refused: list[str] = []

    def step(self, step: Mapping[str, Any], number: int) -> Outcome:
        """Make one call and return what came of it."""
        self._number = number
        try:
            named = self._meant(step.get("with", {}))
        except KeyError as error:
            return {"failed": {"kind": "unplayed", "lacks": str(error)}}
        try:
            found = self._call(step["call"], named)
        except BanditError as error:
            return {"failed": failed(error)}
        except Undelivered as error:
            left = [report.decision_id for report in error.reports]
            return {"failed": {"kind": "Undelivered", "num": len(left), "decisions": left}}
        except (QueueFull, QueueClosed) as error:
            return {"failed": {"kind": type(error).__name__}}
        except (ValueError, TypeError):
            return {"failed": {"kind": "argument"}}
        kept = found if isinstance(found, bytes) else as_json(found)
        if "as" in step:
            self._kept[step["as"]] = kept
            self._kept[f"{step['as']}{number}"] = kept
        return {"gave": as_json(found)}

    def close(self) -> None:
        """Close the queue of a scene that failed."""
        if self._queue is not None:
            try:
                self._queue.close(0.0)
            except Undelivered:
                self._queue = None

    def _call(self, name: str, named: dict[str, Any]) -> Any:
        if name.startswith("queue."):
            return self._queue_call(name.removeprefix("queue."), named)
        for key, kind in LISTED.items():
            if key in named:
                named[key] = [kind(**each) for each in named[key]]
        return getattr(self._client, name)(**named)

    def _queue_call(self, name: str, named: dict[str, Any]) -> Any:
        if name == "open":
            self._queue = RewardQueue(
                self._client, **named,
                on_rejected=lambda report, _: self._refused.append(report.decision_id),
            )  # fmt: skip
            return None
        queue = self._queue
        assert queue is not None
        if name == "counts":
            return {
                "delivered": queue.num_delivered, "rejected": queue.num_rejected,
                "fallback": queue.num_fallback, "waiting": queue.num_waiting,
                "refused": self._refused,
            }  # fmt: skip
        return getattr(queue, name)(**named)

    def _meant(self, value: Any) -> Any:
        """Return an argument with what its names stand for."""
        if isinstance(value, dict):
            return {key: self._meant(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._meant(each) for each in value]
        if not (isinstance(value, str) and value.startswith("$")):
            return value
        name, *fields = value[1:].replace("#i", str(self._number)).split(".")
        found = self._kept[name]
        for field in fields:
            found = found[int(field)] if isinstance(found, list) else found[field]
        return found


def failed(error: BanditError) -> dict[str, Any]:
    """Return an error as scenes describe it."""
    found: dict[str, Any] = {
        "kind": type(error).__name__, "status": error.status, "problem": error.problem,
    }  # fmt: skip
    if isinstance(error, ServiceUnavailable):
        found |= {"timed_out": error.timed_out, "retry_after_s": error.retry_after_s}
    if isinstance(error, PreconditionFailed):
        found["etag"] = error.etag
    return found


def as_json(value: Any) -> Any:
    """Return an answer of the client as JSON."""
    if isinstance(value, BanditError):  # an item of a batch
        return {"failed": failed(value)}
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: as_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return value


def play(scene: Scene, kind: str) -> list[Outcome]:
    """Play a scene with a client; `kind`: sync or async."""
    options = dict(scene.get("client", {}))
    names = ("attempts", "first_wait_s", "max_wait_s")
    waits = {name: options.pop(name) for name in names if name in options}
    given: dict[str, Any] = {"timeout_s": 10.0, "trust_env": False, "retry": Retry(**waits)}
    with ExitStack() as stack:
        if kind == "sync":
            client = stack.enter_context(BanditClient(scene["url"], **(given | options)))
        else:
            runner = stack.enter_context(asyncio.Runner())
            awaited = AsyncBanditClient(scene["url"], **(given | options))
            stack.callback(lambda: runner.run(awaited.close()))
            client = cast(BanditClient, Driven(awaited, runner))
        driver = PythonDriver(client)
        stack.callback(driver.close)
        return [
            driver.step(step, number)
            for step in scene["steps"]
            for number in range(step.get("times", 1))
        ]
