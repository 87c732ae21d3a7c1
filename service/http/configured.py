"""Bandits in the server's TOML: the start puts each `[bandits.NAME]`, as a PUT would.

Runs on the event loop, once, after recovery. A bandit that exists and is equal stays untouched; a
key that cannot change and differs refuses the start.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from bandexa_core.ids import ActionId
from bandexa_core.spec import BanditSpec
from service.http.arrays import stacked
from service.http.inputs import rows_of
from service.http.problems import invalid_problem
from service.http.schemas.common import Body, Features, Id
from service.serving import manage
from service.serving.bandit import Bandit
from service.serving.engine import Engine
from service.settings import SettingsError
from service.store.errors import InvalidRequest, ServiceError

log = logging.getLogger(__name__)
T = TypeVar("T")
OFFERED = "offered"  # beside the named features of actions: which actions there are


class ActionBody(Body):
    """An action of the catalogue."""

    id: Id
    features: Features | None = None
    enabled: bool = True


_NAME: TypeAdapter[str] = TypeAdapter(Id)
_SPEC = TypeAdapter(BanditSpec)
_ACTIONS: TypeAdapter[list[ActionBody | str]] = TypeAdapter(list[ActionBody | Id])


@dataclass(frozen=True, slots=True)
class ConfiguredBandit:
    """A bandit as the settings describe it."""

    name: str
    spec: BanditSpec
    actions: tuple[ActionBody, ...]


def parse(tables: Mapping[str, Any]) -> list[ConfiguredBandit]:
    """Return the bandits of the settings, checked as far as possible before recovery.

    Raises:
        SettingsError: Names the bandit and the field that is wrong.
    """
    found = []
    for name, table in tables.items():
        where, rest = f"bandits.{name}", dict(table)
        _checked(_NAME, where, name)
        given, listed = rest.get("actions"), f"{where}.actions"
        if isinstance(given, Mapping):
            rest["actions"] = {key: value for key, value in given.items() if key != OFFERED}
            given, listed = given.get(OFFERED, []), f"{listed}.{OFFERED}"
        else:
            rest.pop("actions", None)
        actions = _checked(_ACTIONS, listed, [] if given is None else given, ActionBody)
        spec = _checked(_SPEC, where, rest, BanditSpec)
        bodies = [ActionBody(id=a) if isinstance(a, str) else a for a in actions]
        if len({body.id for body in bodies}) < len(bodies):
            raise SettingsError(f"{listed}: an action is given twice")
        found.append(ConfiguredBandit(name, spec, tuple(bodies)))
    return found


def _checked(kind: TypeAdapter[T], where: str, value: Any, model: Any = None) -> T:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise SettingsError(f"{where}: {invalid_problem(error, model).detail}") from error


async def ensure(engine: Engine, wanted: list[ConfiguredBandit]) -> None:
    """Create or change these bandits.

    Raises:
        SettingsError: One contradicts an existing bandit, or cannot be created.
    """
    for bandit in wanted:
        try:
            live, created = await manage.put_bandit(engine, bandit.name, _operated(engine, bandit))
            await _ensure_actions(engine, live, bandit.actions)
        except ServiceError as error:
            raise SettingsError(f"bandits.{bandit.name}: {error}") from error
        if created:
            log.info("bandit %s: created from the settings", bandit.name)


def _operated(engine: Engine, bandit: ConfiguredBandit) -> BanditSpec:
    """Return the configuration to put: a start does not take back what a guard has done."""
    known = engine.live.get(bandit.name)
    if known is None or known.configurations.trip is None:
        return bandit.spec
    return dataclasses.replace(bandit.spec, mode=None, serve=None)


async def _ensure_actions(engine: Engine, bandit: Bandit, actions: tuple[ActionBody, ...]) -> None:
    """Put the actions that are new or different; equal ones make no log rows."""
    catalogue = bandit.model.catalogue
    given = [body.features is not None for body in actions]
    if any(given) and not all(given):
        raise SettingsError(
            f"bandits.{bandit.record.name}.actions: give features for every action, or for none"
        )
    features = None
    if any(given):
        features = _features(bandit, [body.features for body in actions])
    changed = []
    for number, body in enumerate(actions):
        slot = catalogue.slots.get(ActionId(body.id))
        same = slot is not None and bool(catalogue.enabled[slot]) == body.enabled
        if same and features is not None:
            same = np.array_equal(catalogue.features[slot], features[number])
        if not same:
            changed.append(number)
    if not changed:
        return
    await manage.put_actions(
        engine,
        bandit.record.name,
        tuple(ActionId(actions[number].id) for number in changed),
        None if features is None else features[changed],
        np.array([actions[number].enabled for number in changed], np.bool_),
    )


def _features(bandit: Bandit, given: list[Any]) -> NDArray[Any]:
    if bandit.actions is not None:
        return rows_of(bandit.actions, given, "actions.{}.features")
    try:
        raw = stacked(given)
    except ValueError as error:
        raise InvalidRequest("actions", str(error)) from error
    return bandit.features(raw, len(given), "actions")


def bandit_schema() -> dict[str, Any]:
    """Return the JSON schema of a bandit's table."""
    schema = _SPEC.json_schema()
    actions = _ACTIONS.json_schema()
    definitions = schema.pop("$defs", {}) | actions.pop("$defs", {})
    actions["description"] = "Actions to offer: ids, or tables of id, features and enabled."
    named = dict(definitions["ActionsSpec"])
    named["properties"] = named["properties"] | {OFFERED: actions}
    named["description"] += f" `{OFFERED}`: the actions to offer, as in a list."
    schema["properties"] |= {"actions": {"anyOf": [actions, named]}}
    definitions["ContextSpec"]["anyOf"] = [{"required": ["shape"]}, {"required": ["features"]}]
    del definitions["ActionsSpec"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A bandit",
        "description": "[bandits.NAME] in the server's TOML; the body of PUT /bandits/{name} has"
        " no list of `actions`.",
        **{key: value for key, value in schema.items() if key not in ("title", "description")},
        "$defs": definitions,
    }
