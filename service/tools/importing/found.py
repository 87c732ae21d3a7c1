"""What a line of a file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Action(NamedTuple):
    """An action that a row names; `features`: as the bandit takes them, None: none are known."""

    id: str
    features: Any
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A row, or why a line is none.

    Attributes:
        line: Its (last) line in the file, from 1; in a table its number.
        item: The body of its import; None: it is none.
        reason: Why it is none.
        passed: Whether such a line is expected: it is skipped, and no mistake.
        text: What the line has, for an id.
        actions: The actions that the row needs in the catalogue.
        note: What is lost of the row, if anything.
    """

    line: int
    item: dict[str, Any] | None = None
    reason: str = ""
    passed: bool = False
    text: bytes = b""
    actions: tuple[Action, ...] = ()
    note: str = ""


def offered(
    ids: list[str], features: list[Any] | None, has_features: bool
) -> tuple[list[Any] | None, tuple[Action, ...]]:
    """Return the candidates of a row, and the actions that it needs in the catalogue.

    Candidates bring their features where the bandit's actions have some, and all are known.
    """
    if has_features and features is not None and all(each is not None for each in features):
        inline: list[Mapping[str, Any]] = [
            {"id": name, "features": each} for name, each in zip(ids, features, strict=True)
        ]
        return list(inline), ()
    known = features if features is not None and has_features else [None] * len(ids)
    return list(ids), tuple(Action(name, each) for name, each in zip(ids, known, strict=True))
