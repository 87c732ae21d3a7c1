"""Settings of the bandits' configuration from the command line: `--set training.batch_size=64`.

A key is the path of a field of `bandexa_core.spec.BanditSpec`, which also gives its type and range.
Every setting of a bandit can therefore be given, and none is declared twice. Pure functions; the
specification is imported when the first setting is parsed.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

Overrides = Mapping[str, object]
"""Values by key, such as {"training.batch_size": 64}."""

NO_OVERRIDES: Overrides = types.MappingProxyType({})

# Settings that the simulation determines, and how a user changes them.
_FIXED = {
    "policy": "--policies",
    "seed": "--seeds and --first-seed",
    "training.mode": "--live",
    "context.shape": "the workload",
    "context.dtype": "the workload",
    "action_dim": "the workload",
    **dict.fromkeys(
        (
            f"{side}.{name}"
            for side in ("context", "actions")
            for name in ("features", "unknown", "strict", "max_bytes")
        ),
        "the workload",
    ),
}
_PARAMS = "encoder.params"
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


def parse_overrides(assignments: Sequence[str]) -> dict[str, object]:
    """Return the values of assignments `KEY=VALUE` by key.

    A value is JSON (`64`, `0.5`, `true`, `[64, 64]`, `null`) or plain text.

    Raises:
        ValueError: an assignment has another form or an unknown key, or its value has another type
            or lies outside its range.
    """
    overrides: dict[str, object] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"{assignment!r} is not of the form KEY=VALUE")
        if key in overrides:
            raise ValueError(f"{key} is set twice")
        overrides[key] = _value(key, text)
    if overrides:
        _check_ranges(overrides)
    return overrides


def apply_overrides(spec: dict[str, Any], overrides: Overrides) -> None:
    """Write values into the specification of a bandit, each at the path that its key names."""
    for key, value in overrides.items():
        *sections, name = key.split(".", 2)
        place = spec
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value


def _value(key: str, text: str) -> object:
    if key in _FIXED:
        raise ValueError(f"{key} is set by {_FIXED[key]}")
    known = dict(_settings())
    section, _, name = key.rpartition(".")
    if section == _PARAMS and name:
        known[key] = Any
    if key not in known:
        _refuse_unknown(key, known)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        value = text
    if not _matches(value, known[key]):
        raise ValueError(f"{key} takes {_name_of(known[key])}, not {text!r}")
    return value


def _settings() -> Iterator[tuple[str, Any]]:
    """Yield key and type of every setting of a bandit."""
    from bandexa_core.spec import BanditSpec

    for key, hint in _fields(BanditSpec):
        if not _is_section(hint):
            yield key, hint
            continue
        for name, inner in _fields(hint):
            path = f"{key}.{name}"
            yield (f"{path}.NAME", Any) if path == _PARAMS else (path, inner)


def _fields(spec: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and type of every field of a dataclass."""
    hints = get_type_hints(spec)
    for field in dataclasses.fields(spec):
        yield field.name, hints[field.name]


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _refuse_unknown(key: str, known: Mapping[str, Any]) -> NoReturn:
    """Suggest the key with the same last part, or the most similar one."""
    ending = [one for one in known if one.rpartition(".")[2] == key.rpartition(".")[2]]
    similar = ending or difflib.get_close_matches(key, known, n=1)
    suggestion = f"; did you mean {similar[0]}?" if similar else ""
    raise ValueError(f"{key!r} is not a setting of a bandit{suggestion}")


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not valid JSON")


def _matches(value: object, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_matches(value, member) for member in get_args(hint))
    if get_origin(hint) is tuple:
        members = get_args(hint)
        return (
            isinstance(value, list)
            and len(value) == len(members)
            and all(map(_matches, value, members))
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _name_of(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(map(_name_of, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"[{', '.join(map(_name_of, get_args(hint)))}]"
    return "null" if hint is type(None) else _NAMES[hint]


def _check_ranges(overrides: Overrides) -> None:
    """Build a specification with these values; it refuses values outside their ranges."""
    from bandexa_core.spec import BanditSpec
    from bandexa_core.spec.inputs import ContextSpec

    body: dict[str, Any] = {}
    apply_overrides(body, overrides)
    for key, section in _fields(BanditSpec):
        if key in body and _is_section(section):
            try:
                body[key] = section(**body[key])
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{key}.{error}") from error
    BanditSpec(policy="linear_ts", context=ContextSpec(shape=(1,)), **body)
