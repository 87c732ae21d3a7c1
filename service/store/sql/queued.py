"""An operation that waits for the writer of a store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from bandexa_core.errors import BandexaError
from service.store.protocol import Done

log = logging.getLogger(__name__)
Answer = tuple[Done[Any], Any, Exception | None]


class Queued(msgspec.Struct, frozen=True):
    """An operation that waits for the writer.

    Attributes:
        run: Runs it inside the transaction; None where `many` does.
        done: Receives its result or its error.
        durable: Whether its commit is synced, and all before it, at any durability setting.
        undo: Undoes its changes in memory, when its transaction is rolled back.
        many: Runs consecutive operations of this kind at once, given their `item`s; returns a
            result or an error for each.
        item: The argument for `many`.
        in_parts: Whether `item` is a list of what is written each by itself where they fail
            together; the result is then a list as well.
        empties: Whether the write-ahead log is emptied after its commit; its result says if that
            was possible.
    """

    run: Callable[[], Any] | None
    done: Done[Any]
    durable: bool = False
    undo: Callable[[], None] | None = None
    many: Callable[[list[Any]], list[Any]] | None = None
    item: Any = None
    in_parts: bool = False
    empties: bool = False

    @property
    def num(self) -> int:
        """How many operations it stands for."""
        return len(self.item) if self.in_parts else 1


def run_all(group: list[Queued]) -> list[Answer]:
    """Run operations in order; those of a kind that follow each other together."""
    answers: list[Answer] = []
    first = 0
    while first < len(group):
        many, last = group[first].many, first + 1
        if many is None:
            answers.append(_run(group[first]))
        else:
            while last < len(group) and group[last].many == many:
                last += 1
            answers += _run_many(many, group[first:last])
        first = last
    return answers


def _run_many(many: Callable[[list[Any]], list[Any]], group: list[Queued]) -> list[Answer]:
    found = many([queued.item for queued in group])
    return [
        (queued.done, None, result)
        if isinstance(result, BandexaError)
        else (queued.done, result, None)
        for queued, result in zip(group, found, strict=True)
    ]


def _run(queued: Queued) -> Answer:
    assert queued.run is not None
    try:
        return queued.done, queued.run(), None
    except BandexaError as error:
        return queued.done, None, error


def answer_all(answers: list[Answer]) -> None:
    """Call callers back; on the event loop."""
    for done, result, error in answers:
        try:
            done(result, error)
        except Exception:  # the top of the answers' loop: the other callers must get theirs
            log.exception("a callback of the store failed")
