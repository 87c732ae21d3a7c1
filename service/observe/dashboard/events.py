"""What was done to a bandit, for the time axis of its charts: from the audit trail, in few words.

Snapshots that were swapped in by rounds are not among them: the charts have the rounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from service.store.records import AuditEntry

MOST = 200  # entries of the trail that are looked at
SHOWN = 3  # changed keys
LONG = 48  # characters of a value
UNSEEN = ("position", "answer.")  # of a change: numbers that every one has

Kind = Literal["guard", "promotion", "swap", "change"]


class Event(NamedTuple):
    """Something that was done to a bandit.

    Attributes:
        time: When, in seconds since the epoch.
        kind: guard: a guard acted; promotion: of a challenger, by a person or a rule, or its end;
            swap: another model by a roll-back or an import; change: anything else.
        text: A word or two, for a chart.
        detail: Who did what, and what that changed.
    """

    time: float
    kind: Kind
    text: str
    detail: str


def events(entries: Iterable[AuditEntry], start: float, end: float) -> list[Event]:
    """Return what was done to a bandit in a range, oldest first.

    What changed nothing of it, such as an evaluation that was started, is left out.

    `entries`: Of its audit trail, newest first.
    """
    found = []
    for each in entries:
        if start <= each.time < end:
            changes = {one["key"]: one for one in json.loads(each.changes)}
            if any(not key.startswith("answer.") for key in changes):
                found.append(_event(each, changes))
    return found[::-1]


def _event(entry: AuditEntry, changes: dict[str, Any]) -> Event:
    kind, text = _named(entry, changes)
    told = [one for key, one in changes.items() if not key.startswith(UNSEEN)]
    parts = [f"{one['key'].removeprefix('spec.')} {_change(one)}" for one in told[:SHOWN]]
    if len(told) > SHOWN:
        parts.append(f"and {len(told) - SHOWN} more")
    detail = f"{entry.what} by {entry.by}" + (": " if parts else "") + "; ".join(parts)
    return Event(entry.time, kind, text, detail)


def _named(entry: AuditEntry, changes: dict[str, Any]) -> tuple[Kind, str]:
    what = entry.what.split("/")
    if entry.by == "(guard)":
        return "guard", "guard"
    if entry.by == "(rule)":
        name, _, key = next(iter(changes), "..").removeprefix("challengers.").rpartition(".")
        new = changes[f"challengers.{name}.{key}"]["new"] if changes else ""
        if key == "share":
            return "promotion", _promoted(name, float(new))
        return "promotion", f"{name}: {new}"
    if what[-1] == "promote":
        arms = (changes.get("spec.arms") or {}).get("new") or []
        share = next((a["share"] for a in arms if a.get("challenger") == what[-2]), 1.0)
        return "promotion", _promoted(what[-2], share)
    if what[-1] == "demote":
        return "promotion", f"{what[-2]} demoted"
    if what[-1] == "rollback":
        return "swap", "roll back"
    if "snapshot" in changes and what[-1] == "snapshot":
        return "swap", "import"
    return "change", _word(what, changes)


def _promoted(name: str, share: float) -> str:
    return f"{name} promoted" if share >= 1.0 else f"{name} {100.0 * share:.3g} %"


def _word(what: list[str], changes: dict[str, Any]) -> str:
    if "spec" in changes:
        return "created"
    serve, mode = changes.get("spec.serve"), changes.get("spec.mode")
    if serve is not None and serve["new"] is not None:
        return f"serve {serve['new']}"
    if mode is not None:
        return f"mode {mode['new']}"
    for key in changes:
        if key.startswith("spec."):
            return key.removeprefix("spec.")
        if key.startswith("challengers."):
            return f"challenger {key.split('.')[1]}"
    return "actions" if "num_actions" in changes else what[-1]


def _change(one: dict[str, Any]) -> str:
    return f"{_short(one['old'])} \N{RIGHTWARDS ARROW} {_short(one['new'])}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."
