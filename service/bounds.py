"""Bounds on what a body holds: how many elements, how deep in each other.

JSON is judged before it is decoded, by its brackets; msgpack, whose decoder neither recurses nor
goes deeper than 1,024, while it is decoded and before anything looks into the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from service.exceptions import InvalidRequest

# Without an ending quote a text reaches to the end, so that no body is searched twice.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKET = bytes(code for code in range(256) if code not in b"[]{}")
_OPENS, _CLOSES = b"[{", b"]}"
_STEP = np.zeros(256, np.int8)
_STEP[list(_OPENS)], _STEP[list(_CLOSES)] = 1, -1
_HOLDERS = frozenset({list, dict})


class Bounds:
    """Judges one body.

    Args:
        max_elements: Numbers, texts, lists and maps, together.
        max_nesting: Lists and maps around each other.
    """

    def __init__(self, max_elements: int, max_nesting: int) -> None:
        self._max_elements = max_elements
        self._max_nesting = max_nesting
        self._elements = 0
        self._containers = 0

    def judge_json(self, raw: bytes) -> None:
        """Judge a JSON text, well formed or not.

        Raises:
            HTTPException: 413: it has too many elements.
            InvalidRequest: It is nested too deeply.
        """
        if len(raw) > self._max_elements:  # an element takes a byte or more
            self._add(sum(raw.count(mark) for mark in (b",", b"[", b"{")))
        if raw.count(b"[") + raw.count(b"{") > self._max_nesting:
            brackets = _TEXT.sub(b"", raw).translate(None, _NO_BRACKET)
            steps = _STEP[np.frombuffer(brackets, np.uint8)]
            if steps.size and int(np.cumsum(steps, dtype=np.int64).max()) > self._max_nesting:
                raise self._too_deep()

    def count(self, value: Any) -> Any:
        """Count a list or map that the msgpack decoder made; returns it."""
        self._containers += 1
        self._add(len(value))
        return value

    def judge_decoded(self, value: Any) -> None:
        """Judge how deep a value is whose lists and maps were counted.

        Raises:
            InvalidRequest: It is nested too deeply.
        """
        if self._containers <= self._max_nesting:
            return
        level, left = [value], self._containers - 1
        for _ in range(self._max_nesting - 1):
            level = [part for found in level for part in _parts(found) if type(part) in _HOLDERS]
            left -= len(level)
            if not left:  # all were seen: what is left to look through are numbers and texts
                return
        raise self._too_deep()

    def _add(self, number: int) -> None:
        self._elements += number
        if self._elements > self._max_elements:
            raise HTTPException(413, f"the body has more than {self._max_elements} elements")

    def _too_deep(self) -> InvalidRequest:
        return InvalidRequest("body", f"is nested more than {self._max_nesting} deep")


def _parts(value: list[Any] | dict[Any, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
