"""What a PUT of a configuration would do: which keys change, and what has to be relearned for them.

Pure, but for the check that the configuration can be built at all.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import BanditUid
from bandexa_core.log.catalogue import Catalogue
from bandexa_core.log.configurations import Configurations, changed_spec
from bandexa_core.model import ServingModel
from bandexa_core.policies.defaults import resolved
from bandexa_core.spec import BanditSpec
from bandexa_core.spec.changes import changeable_part, completed_spec, fixed_part, relearned_part
from service.store.errors import Conflict, InvalidRequest

# Why the log cannot answer for another value, by the key of what it stores.
WHY = {
    "context.shape": "nobody knows which numbers of logged contexts were left out, or came first",
    "context.dtype": "logged contexts have no more digits than this type has",
    "context.features": "logged contexts have either names or places, and not both",
    "action_dim": "logged actions have no other features than these",
    "actions.features": "logged actions have names, or they have none, and not both",
}
WHOLE = ("encoder.params", "context.features", "actions.features", "rewards.learn")


class KeyChange(NamedTuple):
    """A key of the configuration with its value before and after; null where there was none."""

    key: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """What a PUT does.

    Attributes:
        status: Whether the bandit is new, stays as it is, or is changed.
        spec: The whole configuration that is wanted.
        changes: What differs from the served configuration.
        relearned: The keys among these that a model is learned under: it is learned anew from the
            log, and the served model goes on until then.
        row: Whether a row of the log has to say so; it does already where the same is wanted.
        wanted: What that row wants relearned; see `EventStore.append_config`.
        estimated_s: Seconds that learning takes, by earlier rounds; None: nobody knows.
    """

    status: Literal["created", "unchanged", "changed"]
    spec: BanditSpec
    changes: tuple[KeyChange, ...] = ()
    relearned: tuple[str, ...] = ()
    row: bool = False
    wanted: BanditSpec | Literal["nothing"] | None = None
    estimated_s: float | None = None


def planned(
    spec: BanditSpec,
    given: Collection[str],
    served: BanditSpec,
    known: Configurations,
    registry: EncoderRegistry,
) -> Plan:
    """Return the plan of a PUT of `spec` for an existing bandit.

    Args:
        spec: As the request has it. What it leaves out stays as it is wanted, else served.
        given: The keys that the request names.
        served: The served configuration.
        known: The configurations of the bandit.
        registry: Encoders by name.

    Raises:
        InvalidRequest: The configuration makes no sense.
        Conflict: The log cannot answer for it.
    """
    pending = known.pending
    target = known.awaited or served
    try:
        wanted = resolved(completed_spec(spec, 0, target, given), registry.is_learned)
        wanted.check_together()
    except ValueError as error:
        raise InvalidRequest.from_value_error(error, "encoder") from error
    for key, _, _ in differences(fixed_part(served), fixed_part(wanted)):
        raise _refused(key, served, wanted, given)
    if wanted.encoder.name not in registry.names():
        raise InvalidRequest("encoder.name", f"must be one of {', '.join(registry.names())}")
    changes = differences(dataclasses.asdict(served), dataclasses.asdict(wanted))
    relearned = differences(relearned_part(served), relearned_part(wanted))
    what: BanditSpec | Literal["nothing"] | None = None
    if relearned:
        if pending is None or relearned_part(pending.spec) != relearned_part(wanted):
            what = wanted
    elif pending is not None:
        what = "nothing"
    if isinstance(what, BanditSpec) and wanted.mode == "frozen":
        raise InvalidRequest(
            "mode", f"a frozen bandit is not relearned, and {relearned[0].key} needs that"
        )
    row = what is not None or changed_spec(served, changeable_part(wanted)) != served
    keys = tuple(change.key for change in relearned)
    return Plan("changed" if changes or row else "unchanged", wanted, changes, keys, row, what)


def _refused(key: str, served: BanditSpec, wanted: BanditSpec, given: Collection[str]) -> Conflict:
    """Return the refusal of a change that the log cannot answer: both values, and why."""
    before, after = dataclasses.asdict(served), dataclasses.asdict(wanted)
    for part in key.split("."):
        before, after = before[part], after[part]
    left_out = "" if key.split(".")[0] in given else ", which is what leaving it out means"
    return Conflict(
        f"{key}: is {_short(before)} and cannot become {_short(after)} in the life of a bandit"
        f"{left_out}: {WHY[key]}. Put it under another name, or delete the bandit first"
    )


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def check_buildable(spec: BanditSpec, registry: EncoderRegistry) -> None:
    """Build a model of a configuration, and drop it: an encoder's weights may be read for it.

    Raises:
        ValueError: It cannot be built; the message names the field.
    """
    registry.fetch(spec)
    ServingModel(spec, BanditUid("check"), registry, Catalogue.empty(spec.row_layout))


def differences(old: Any, new: Any, key: str = "") -> tuple[KeyChange, ...]:
    """Return the keys whose values differ, by their paths, in order.

    Parameters of an encoder, declarations of features and weights are shown as a whole.
    """
    if isinstance(old, dict) and isinstance(new, dict) and key not in WHOLE:
        found: list[KeyChange] = []
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{key}.{name}" if key else name
            found += differences(old.get(name), new.get(name), path)
        return tuple(found)
    return () if _plain(old) == _plain(new) else (KeyChange(key, _plain(old), _plain(new)),)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def shown(value: Any) -> str:
    """Return a value of the configuration as JSON."""
    return json.dumps(value, default=str)
