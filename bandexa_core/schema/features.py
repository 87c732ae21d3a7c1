"""Which named features the objects of one side have: declared, typed by themselves, or both."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import msgspec

from bandexa_core.schema.fields import (
    FIELD_TYPES,
    Field,
    ImageField,
    LogRule,
    NumberScale,
    learned_as,
)
from bandexa_core.schema.limits import MAX_FIELDS, MAX_INPUTS, MAX_PATH_BYTES, is_text
from bandexa_core.schema.values import as_text
from bandexa_core.wording import in_words, meant, one_of

AUTO = "auto"
NAMESPACES = "namespaces"
OTHERS = "*"
_PATH_RULE = f"a path must be valid text of at most {MAX_PATH_BYTES} bytes"
UnknownRule = Literal["ignore", "refuse"]
# What types are called elsewhere. A text may be one of few, or words: mostly the former.
_SPOKEN = {
    "str": "category", "string": "category", "enum": "category", "categorical": "category",
    "keyword": "category", "factor": "category", "int": "number", "integer": "number",
    "float": "number", "double": "number", "numeric": "number", "long": "number",
    "decimal": "number", "boolean": "bool", "date": "time", "datetime": "time",
    "timestamp": "time", "set": "categories", "list": "categories", "array": "vector",
    "tags": "categories", "embedding": "vector", "id": "hash", "uuid": "hash", "none": "ignore",
}  # fmt: skip
_CHOICES = {"log": get_args(LogRule), "scale": get_args(NumberScale)}
_NEEDED = re.compile("Object missing required field `(.*)`")
_OPTIONS = {
    attribute.name for kind in FIELD_TYPES.values() for attribute in dataclasses.fields(kind)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """The named features of contexts, or those of actions.

    Attributes:
        fields: The type of each declared field by its path, such as "age" or "user.age".
        auto: Keys that are not declared are fields as well, typed from the values seen.
        namespaces: With `auto`: objects whose values are only ever 1 are sets; see `sets`.
        unknown: Whether keys that are no fields are ignored and counted, or refused.
        strict: Refuse values that would have to be converted, such as "7" for a number.
        learned: The type of each declared field as a model sees it: what is logged as a digest is a
            category, and what is not logged is no input.
        personal: The rule of each field whose values are not stored as they are.

    Raises:
        ValueError: A path, a limit or a combination is wrong; the message names the path.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    fields: Mapping[str, Field] = field(default_factory=dict)
    auto: bool = False
    namespaces: bool = False
    unknown: UnknownRule = "ignore"
    strict: bool = False
    learned: Mapping[str, Field] = field(init=False, repr=False, compare=False)
    personal: Mapping[str, LogRule] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = dict(sorted(self.fields.items()))
        learned = {path: learned_as(declared) for path, declared in ordered.items()}
        personal = {path: each.log for path, each in ordered.items() if each.log != "keep"}
        object.__setattr__(self, "fields", ordered)
        object.__setattr__(self, "learned", learned)
        object.__setattr__(self, "personal", personal)
        if self.unknown not in ("ignore", "refuse"):
            raise ValueError("unknown: must be ignore or refuse")
        if self.auto and self.unknown == "refuse":
            raise ValueError("unknown: no key is unknown where features are auto")
        if self.namespaces and not self.auto:
            raise ValueError("features: objects are sets where features are auto")
        if not self.fields and not self.auto:
            raise ValueError('features: at least one field is needed, or "auto"')
        if len(self.fields) > MAX_FIELDS:
            raise ValueError(f"features: at most {MAX_FIELDS} fields")
        self._check_paths()
        images = [path for path, known in learned.items() if isinstance(known, ImageField)]
        if len(images) > 1:
            raise ValueError(f"{images[1]}: an object has one image at most, {images[0]} here")
        total = sum(declared.most_inputs for declared in learned.values())
        if total > MAX_INPUTS:
            widest = max(learned, key=lambda path: learned[path].most_inputs)
            most = learned[widest].most_inputs
            raise ValueError(
                f"features: up to {total} inputs, {most} of them of {widest}; "
                f"at most {MAX_INPUTS} are possible"
            )

    @property
    def image(self) -> tuple[str, ImageField] | None:
        """The path and the field of the image; None without one."""
        for path, known in self.learned.items():
            if isinstance(known, ImageField):
                return path, known
        return None

    def _check_paths(self) -> None:
        for path in self.fields:
            if not is_text(path, MAX_PATH_BYTES):
                raise ValueError(f"features: {_PATH_RULE}")
            if not all(path.split(".")):
                raise ValueError(f"{path!r}: a path needs a name, and names around each point")
            if path == OTHERS:
                raise ValueError(f"{OTHERS}: stands for all other fields, and cannot be one")
            group = field_around(path, self.fields)
            if group is not None:
                raise ValueError(f"{group}: is a field, and {path} would be a part of it")

    @classmethod
    def from_json(
        cls, value: object, *, unknown: UnknownRule = "ignore", strict: bool = False
    ) -> Features:
        """Return the features that a JSON value declares.

        Args:
            value: "auto", or an object of fields by their paths. A field is an object with its
                type and options, or the name of its type. {"*": "auto"} among them types all other
                keys from the values seen; {"*": "namespaces"} does so, too, and reads objects of
                ones as sets.
            unknown: As the attribute.
            strict: As the attribute.

        Raises:
            ValueError: The value declares no features; the message names the path and option.
        """
        if value == AUTO:
            return cls(auto=True, unknown=unknown, strict=strict)
        if not isinstance(value, Mapping):
            raise ValueError('features: must be "auto" or an object of fields')
        declared = dict(value)
        auto = OTHERS in declared
        rule = declared.pop(OTHERS, None)
        if auto and rule not in (AUTO, NAMESPACES):
            raise ValueError('*: must be "auto" or "namespaces"')
        return cls(
            fields=fields_from_json(declared), auto=auto, namespaces=rule == NAMESPACES,
            unknown=unknown, strict=strict,
        )  # fmt: skip

    def to_json(self) -> Any:
        """Return the JSON value that `from_json` reads; `unknown` and `strict` are beside it."""
        if self.auto and not self.fields and not self.namespaces:
            return AUTO
        rule = NAMESPACES if self.namespaces else AUTO
        value: dict[str, Any] = {OTHERS: rule} if self.auto else {}
        return value | {path: field_to_json(item) for path, item in self.fields.items()}


def field_around(path: str, fields: Container[str]) -> str | None:
    """Return the field that an object with this path is the value of, such as "a" of "a.b.c"."""
    at = path.find(".")
    while at >= 0:
        if path[:at] in fields:
            return path[:at]
        at = path.find(".", at + 1)
    return None


def field_to_json(item: Field) -> dict[str, Any]:
    """Return a field as the JSON object that declares it, every option named."""
    value = {"type": item.type} | dataclasses.asdict(item)
    if value.get("values") is not None:
        value["values"] = list(value["values"])
    if "shape" in value:
        value["shape"] = list(value["shape"])
    return value


def fields_from_json(value: Mapping[Any, object]) -> dict[str, Field]:
    """Return the fields that a JSON object declares by their paths.

    Raises:
        ValueError: One of them is no field, or there are more than 256.
    """
    if len(value) > MAX_FIELDS:
        raise ValueError(f"features: at most {MAX_FIELDS} fields")
    return {path: _field_from_json(path, item) for path, item in value.items()}


def _field_from_json(path: object, value: object) -> Field:
    if not isinstance(path, str) or not is_text(path, MAX_PATH_BYTES):
        raise ValueError(f"features: {_PATH_RULE}")
    options = {"type": value} if isinstance(value, str) else value
    if not isinstance(options, Mapping):
        raise ValueError(f"{path}: must be an object with a type, or the name of a type")
    kind = _kind_of(path, options)
    name = options["type"]
    known = [attribute.name for attribute in dataclasses.fields(kind) if attribute.name != "type"]
    for key in options:
        if key != "type" and key not in known:
            written = _printable(str(key))
            hint = meant(written, known) or f"; it has {', '.join(known)}"
            raise ValueError(f"{path}.{written}: {name} has no such option{hint}")
    plain = dict(options)
    if isinstance(plain.get("values"), list | tuple):  # numbers are read as objects' values are
        plain["values"] = [as_text(item) or item for item in plain["values"]]
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_message(path, str(error))) from None
    except UnicodeEncodeError:
        raise ValueError(f"{path}: an option is no valid text") from None
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None


def _kind_of(path: str, options: Mapping[Any, Any]) -> type[Field]:
    """Return the class of a field by its declaration.

    Raises:
        ValueError: It has no type, or none that exists; the message says what was probably meant.
    """
    name = options.get("type")
    if name is None and options:
        inner = next((key for key in options if isinstance(key, str)), None)
        if inner in _OPTIONS or inner is None:
            raise ValueError(f"{path}.type: is needed; one of {', '.join(FIELD_TYPES)}")
        below = f"{path}.{_printable(inner)}"
        raise ValueError(f"{path}: has no type; a name in another is declared as {below!r}")
    kind = FIELD_TYPES.get(name) if isinstance(name, str) else None
    if kind is not None:
        return kind
    if name == AUTO:
        raise ValueError(
            f'{path}.type: "auto" is for all keys that are not declared: {{"*": "auto"}}'
        )
    hint = meant(_printable(name), tuple(FIELD_TYPES), _SPOKEN) if isinstance(name, str) else ""
    written = "" if not isinstance(name, str) else f", not {_printable(name)[:40]!r}"
    raise ValueError(f"{path}.type: must be one of {', '.join(FIELD_TYPES)}{written}{hint}")


def _message(path: str, what: str) -> str:
    """Return a message of msgspec, or of a field's own check, in our order: first where, then what.

    "Expected `int`, got `str` - at `$.bins`" is "path.bins: must be a whole number, not a text".
    """
    text, _, where = _printable(what).partition(" - at `$")
    place = where.rstrip("`")
    if ": " in text and not place:
        return f"{path}.{text}"
    if needed := _NEEDED.fullmatch(text):
        return f"{path}{place}.{needed[1]}: is needed"
    if text.startswith("Invalid enum value") and place[1:] in _CHOICES:
        written = text.removeprefix("Invalid enum value ").strip("'")
        choices = _CHOICES[place[1:]]
        shown = f"must be {one_of(choices)}, not {written!r}"
        return f"{path}{place}: {shown}{meant(written, choices)}"
    return f"{path}{place}: {in_words(text)}"


def _printable(text: str) -> str:
    """Return a text as an answer can carry it: short, and without lone surrogates."""
    return text[:200].encode("utf-8", "backslashreplace").decode()
