"""Named features: plain JSON objects, the types of their fields, and what a log keeps of them.

`Features` declare fields, or let them type themselves; `accept` checks the object of a request and
returns the bytes that a log keeps of it. Values and pure functions, without clock, file or network;
they may be used from any thread.
"""

from bandexa_core.schema.checking import accept, check
from bandexa_core.schema.features import Features
from bandexa_core.schema.fields import (
    BoolField,
    CategoriesField,
    CategoryField,
    Field,
    HashField,
    IgnoredField,
    NumberField,
    TextField,
    TimeField,
    VectorField,
)
from bandexa_core.schema.objects import JsonObject, from_bytes, to_bytes

__all__ = [
    "BoolField",
    "CategoriesField",
    "CategoryField",
    "Features",
    "Field",
    "HashField",
    "IgnoredField",
    "JsonObject",
    "NumberField",
    "TextField",
    "TimeField",
    "VectorField",
    "accept",
    "check",
    "from_bytes",
    "to_bytes",
]
