"""The calls of an administrator: service configuration, properties and reset of the model."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Any

from bandexa_core.spec import BanditSpec
from service.http.personalizer.apprentice import Apprentices
from service.http.personalizer.bodies import ServiceConfiguration
from service.http.personalizer.configuration import Held, changed, instant, not_used, shown
from service.http.personalizer.errors import Refused
from service.serving import manage, trail
from service.serving.amending import Selection
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.settings import Settings

log = logging.getLogger(__name__)


async def configuration(
    engine: Engine, settings: Settings, apprentices: Apprentices, name: str
) -> dict[str, Any]:
    """Return the service configuration of a bandit."""
    bandit = engine.bandit(name)
    edited = await asyncio.get_running_loop().run_in_executor(None, _edited, engine, bandit)
    known = apprentices.metrics(bandit.record.uid)
    return shown(_wanted(bandit), Held(settings.max_age_days, edited, known))


async def configure(
    engine: Engine,
    settings: Settings,
    name: str,
    body: ServiceConfiguration,
    by: str,
    *,
    needs_retrain: bool,
) -> list[str]:
    """Change the service configuration; returns the names of what is not used here.

    Raises:
        Refused, InvalidRequest: Nothing was changed.
    """
    bandit = engine.bandit(name)
    spec = changed(_wanted(bandit), body, needs_retrain=needs_retrain)
    before = trail.snapshot_of(engine, name)
    given = [each.name for each in dataclasses.fields(BanditSpec)]
    await manage.put_bandit(engine, name, spec, given)
    await trail.note(engine, name, by, "PUT /personalizer configurations/service", before, {})
    ignored = not_used(body, settings.max_age_days)
    if ignored:
        log.warning("bandit %s: not used of Personalizer's configuration: %s", name,
                    ", ".join(ignored))  # fmt: skip
    return ignored


async def model_properties(engine: Engine, name: str) -> dict[str, str]:
    """Return when the bandit's first model was made, and the served one."""
    bandit = engine.bandit(name)

    def first() -> float:
        versions = bandit.snapshots.versions()
        return bandit.snapshots.manifest(versions[0]).created_at

    created = await asyncio.get_running_loop().run_in_executor(None, first)
    served = max(created, bandit.model.created_at)
    return {"creationTime": instant(created), "lastModifiedTime": instant(served)}


async def reset_model(engine: Engine, name: str, by: str) -> None:
    """Have the bandit forget what it learned: all values so far are void, and stay in the log.

    Raises:
        Refused: A model without them could not be built yet.
    """
    bandit = engine.bandit(name)
    before = trail.snapshot_of(engine, name)
    every = Selection(None, None, None, None)
    found = await engine.amending.void(bandit, every, dry_run=False, wait=True)
    counts = {"values": found.values, "decisions": found.decisions}
    await trail.note(engine, name, by, "DELETE /personalizer model", before, counts)
    if found.pending:
        raise Refused("ModelResetFailed", "the values are void; the model is rebuilt later", 503)


def _wanted(bandit: Bandit) -> BanditSpec:
    """Return the configuration of a bandit, with what is being learned."""
    return bandit.configurations.awaited or bandit.model.spec


def _edited(engine: Engine, bandit: Bandit) -> float:
    """Return when the bandit was changed last, by the audit trail; else when its model was made."""
    with engine.store.history() as history:
        entries = history.audit(bandit.record.name, None, 1)
    return entries[0].time if entries else bandit.model.created_at
