"""The audit trail: what a call changed of a bandit, as it is stored.

Runs on the event loop. An entry is stored after its change: one that is missing after a crash is in
the log of the bandit all the same, without the key.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import msgspec

from bandexa_core.log.configurations import changed_spec
from bandexa_core.spec.changes import changeable_part
from service.serving.engine import Engine
from service.serving.errors import BanditFailed
from service.serving.planning import differences
from service.store.records import AuditEntry

MAX_BYTES = 1 << 16  # of the changes of one entry


def snapshot_of(engine: Engine, name: str) -> dict[str, Any]:
    """Return what an entry compares: configuration, snapshot, log position; nothing without one."""
    try:
        bandit = engine.live.get(name)
    except BanditFailed:
        return {}
    if bandit is None:
        return {}
    model, pending = bandit.model, bandit.configurations.pending
    spec = model.spec
    if pending is not None:  # what holds at once is in the served one
        spec = changed_spec(pending.spec, changeable_part(spec))
    challengers = {
        name: {"differs": each.given, "promotion": msgspec.to_builtins(each.rule)}
        for name, each in bandit.challengers.items()
    }
    return {
        "spec": dataclasses.asdict(spec), "challengers": challengers, "snapshot": model.version,
        "position": model.position, "num_actions": len(model.catalogue.enabled_slots),
    }  # fmt: skip


async def note(
    engine: Engine,
    name: str,
    by: str,
    what: str,
    before: dict[str, Any],
    answer: dict[str, Any],
) -> None:
    """Store that a call changed a bandit; one that changed nothing is not stored.

    Args:
        engine: The live bandits.
        name: The bandit.
        by: Who called.
        what: The call.
        before: What `snapshot_of` returned before it.
        answer: What else it did, by its answer.
    """
    after = snapshot_of(engine, name)
    found = [
        {"key": each.key, "old": each.old, "new": each.new} for each in differences(before, after)
    ]
    found += [{"key": f"answer.{key}", "old": None, "new": new} for key, new in answer.items()]
    if not found:
        return
    text = json.dumps(found, default=str)
    if len(text) > MAX_BYTES:
        short = [{"key": each["key"], "old": "...", "new": "..."} for each in found]
        text = json.dumps(short[:100])
    entry = AuditEntry(time.time(), name, by, what, text)
    await engine.commit(engine.store.append_audit, entry)
