"""The types of named features: frozen values, checked when they are created, stored as JSON.

Plain dataclasses as in `bandexa_core.spec`, and for the same reasons: the core needs no validation
library, the service may let pydantic build them, and the docstrings appear in the API docs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from bandexa_core.schema.limits import (
    MAX_BINS,
    MAX_BUCKETS,
    MAX_INPUTS,
    MAX_PIXELS,
    MAX_VALUES,
    MAX_WIDTH,
    is_text,
)

LogRule = Literal["keep", "hash", "drop"]
NumberScale = Literal["auto", "linear", "log", "quantile"]
AUTO_BINS = 8
MAX_LEVELS = 12  # values of a number that are distinguished one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class _Logged:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    log: LogRule = "keep"

    def __post_init__(self) -> None:
        self._check_log()

    def _check_log(self) -> None:
        if self.log not in get_args(LogRule):
            raise ValueError(f"log: must be {_listed(LogRule)}")

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BoolField(_Logged):
    """True or false: one input of 1 or 0.

    Attributes:
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["bool"] = "bool"

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding."""
        return 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberField(_Logged):
    """A number: centred and scaled robustly, and bounded, so that no single value owns a model.

    Attributes:
        scale: "linear" takes it as it is, "log" by orders of magnitude (asinh), "quantile" by the
            share of values that are below it; "auto" chooses linear or log by the values seen.
        bins: Pieces of a piecewise-linear encoding beside the scaled value, so that a linear model
            learns curves; 0: none; None: chosen by the values seen where scale is "auto", else 0.
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["number"] = "number"
    scale: NumberScale = "auto"
    bins: int | None = None

    def __post_init__(self) -> None:
        self._check_log()
        if self.scale not in get_args(NumberScale):
            raise ValueError(f"scale: must be {_listed(NumberScale)}")
        if self.bins is not None and not 0 <= self.bins <= MAX_BINS:
            raise ValueError(f"bins: must be 0 to {MAX_BINS}")

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding: value, bins and missing."""
        return 2 + (MAX_LEVELS if self.bins is None else self.bins)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vocabulary(_Logged):
    values: tuple[str, ...] | None = None
    max_values: int = 200
    buckets: int = 4

    def __post_init__(self) -> None:
        self._check_log()
        if not 1 <= self.max_values <= MAX_VALUES:
            raise ValueError(f"max_values: must be 1 to {MAX_VALUES}")
        if not 0 <= self.buckets <= MAX_BUCKETS:
            raise ValueError(f"buckets: must be 0 to {MAX_BUCKETS}")
        if self.values is None:
            return
        if self.log == "hash":
            raise ValueError("values: are learned where log is hash, as the model sees digests")
        if not 1 <= len(self.values) <= MAX_VALUES:
            raise ValueError(
                f"values: must have 1 to {MAX_VALUES} entries, and has {len(self.values)}; the type"
                " hash takes any number of values, and values left out are learned"
            )
        for place, value in enumerate(self.values):
            if not is_text(value):
                raise ValueError(f"values[{place}]: must be valid text of at most 1 KiB")
        if len(set(self.values)) < len(self.values):
            raise ValueError("values: each may be given once")

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding: values, buckets and missing."""
        num = self.max_values if self.values is None else len(self.values)
        return num + self.buckets + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryField(_Vocabulary):
    """One of several values: an input for each known one, of 1 or 0.

    Attributes:
        values: The known values; None: learned, the most frequent first.
        max_values: How many values are learned at most.
        buckets: Inputs that all other values share, by a hash.
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["category"] = "category"


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoriesField(_Vocabulary):
    """Several values at once, such as tags: the sum of their inputs over the root of their number.

    Attributes:
        values: The known values; None: learned, the most frequent first.
        max_values: How many values are learned at most.
        buckets: Inputs that all other values share, by a hash.
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["categories"] = "categories"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hashed(_Logged):
    width: int = 64

    def __post_init__(self) -> None:
        self._check_log()
        if not 1 <= self.width <= MAX_WIDTH:
            raise ValueError(f"width: must be 1 to {MAX_WIDTH}")

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding: places and missing."""
        return self.width + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TextField(_Hashed):
    """Free text: its words and pairs of neighbouring words, hashed into places; of length 1.

    Attributes:
        width: The number of places.
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class HashField(_Hashed):
    """An id with many values, such as a user's: 1 or -1 at one place, by a hash.

    Attributes:
        width: The number of places; many ids share one.
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["hash"] = "hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeField(_Logged):
    """A time, as ISO 8601 text or Unix seconds: where in the day and in the week, and how long ago.

    Day and week are those of the clock that the text was written by: its hours count as they
    stand. Without an offset, and for Unix seconds, that is UTC.

    Attributes:
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["time"] = "time"

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding."""
        return 7


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorField(_Logged):
    """A list of numbers of one size, such as an embedding: each is scaled as a number.

    Attributes:
        size: How many numbers.
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["vector"] = "vector"
    size: int

    def __post_init__(self) -> None:
        self._check_log()
        if not 1 <= self.size < MAX_INPUTS:
            raise ValueError(f"size: must be 1 to {MAX_INPUTS - 1}")

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding: numbers and missing."""
        return self.size + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageField(_Logged):
    """A small image beside other fields of a context: rows of whole numbers from 0 to 255.

    The encoder `conv` has convolutions over it, and takes the other fields beside them.

    Attributes:
        shape: Height and width, or channels, height and width: how the lists are nested.
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["image"] = "image"
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        self._check_log()
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise ValueError("shape: must be height and width, or channels, height and width")
        if math.prod(self.shape) > MAX_PIXELS:
            raise ValueError(f"shape: at most {MAX_PIXELS} numbers; context.shape takes more")

    @property
    def most_inputs(self) -> int:
        """The most columns that the field takes in an encoding: pixels and missing."""
        return math.prod(self.shape) + 1

    @property
    def most_bytes(self) -> int:
        """The most bytes that such an image takes as JSON."""
        lists = 1 + sum(math.prod(self.shape[:level]) for level in range(1, len(self.shape)))
        return 4 * math.prod(self.shape) + 2 * lists


@dataclass(frozen=True, slots=True, kw_only=True)
class IgnoredField(_Logged):
    """A known key that is no input, whatever its value.

    Attributes:
        log: "keep" the value; "hash": the log has a digest, which is learned as a category; "drop":
            it is stored nowhere, and is no input.
    """

    type: Literal["ignore"] = "ignore"


Field = (
    BoolField
    | NumberField
    | CategoryField
    | CategoriesField
    | TextField
    | HashField
    | TimeField
    | VectorField
    | ImageField
    | IgnoredField
)
FIELD_TYPES: dict[str, type[Field]] = {
    "bool": BoolField,
    "number": NumberField,
    "category": CategoryField,
    "categories": CategoriesField,
    "text": TextField,
    "time": TimeField,
    "vector": VectorField,
    "image": ImageField,
    "hash": HashField,
    "ignore": IgnoredField,
}


def learned_as(known: Field) -> Field:
    """Return a field as a model sees it: a digest is a category, and nothing is no input."""
    if known.log == "keep":
        return known
    if known.log == "drop":
        return IgnoredField(log="drop")
    if isinstance(known, CategoryField | CategoriesField | HashField | IgnoredField):
        return known
    return CategoryField(log="hash")


def _listed(literal: Any) -> str:
    names = get_args(literal)
    return f"{', '.join(names[:-1])} or {names[-1]}"
