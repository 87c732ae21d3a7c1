"""Named features: plain JSON objects in, rows of float32 out.

`Features` declare fields, or let them type themselves; `accept` checks the object of a request and
returns the bytes that a log stores of it; `fit` learns an `Encoding` from the objects of a log, and
`Encoding.encode` makes rows. Values and pure functions, without clock, file or network; they may be
used from any thread.
"""

from bandexa_core.schema.checking import accept, check
from bandexa_core.schema.encoding import Encoding
from bandexa_core.schema.features import Features
from bandexa_core.schema.fields import (
    BoolField,
    CategoriesField,
    CategoryField,
    Field,
    HashField,
    IgnoredField,
    ImageField,
    NumberField,
    TextField,
    TimeField,
    VectorField,
)
from bandexa_core.schema.fitting import fit
from bandexa_core.schema.objects import JsonObject, from_bytes, to_bytes
from bandexa_core.schema.observed import FieldCounts, Observed

__all__ = [
    "BoolField",
    "CategoriesField",
    "CategoryField",
    "Encoding",
    "Features",
    "Field",
    "FieldCounts",
    "HashField",
    "IgnoredField",
    "ImageField",
    "JsonObject",
    "NumberField",
    "Observed",
    "TextField",
    "TimeField",
    "VectorField",
    "accept",
    "check",
    "fit",
    "from_bytes",
    "to_bytes",
]
