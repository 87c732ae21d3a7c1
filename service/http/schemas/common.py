"""What the pydantic bodies share: ids, arrays, and strictness."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    WithJsonSchema,
)

from service.http.arrays import ARRAY_SCHEMA, convert_array, is_envelope
from service.http.schemas.decide import ID_PATTERN

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


def _features(value: Any) -> Any:
    """Return the features of an action: an object as it is, else an array."""
    return value if isinstance(value, dict) and not is_envelope(value) else convert_array(value)


Features = Annotated[Any, BeforeValidator(_features), WithJsonSchema(ARRAY_SCHEMA)]


class Body(BaseModel):
    """Base of request bodies: unknown keys are refused, and "1" or true where a number belongs."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, strict=True)
