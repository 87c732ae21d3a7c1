"""How objects are written into rows by their fitted fields.

A plan is made once for an encoding, so that encoding an object is a look-up and a call per key.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Container, Sequence

from bandexa_core.schema.features import field_around
from bandexa_core.schema.limits import MAX_NAMES
from bandexa_core.schema.objects import JsonObject, flatten
from bandexa_core.schema.observed import WRONG, Observed
from bandexa_core.schema.parts import Part, Write
from bandexa_core.schema.sets import gathered


class FieldPlan:
    """Writes objects by the fitted fields of an encoding.

    Args:
        parts: The fitted fields.
        ignored: The paths of what is no input.
        sets: The paths of objects that are sets; see `sets`.

    Attributes:
        empty: The row of an object without any field, as float32 bytes.
    """

    def __init__(
        self, parts: Sequence[Part], ignored: Container[str], sets: Collection[str]
    ) -> None:
        self._ignored = ignored
        self._sets = sets
        self._parts = {part.path: part for part in parts}
        self._writers: dict[str, Write] = {}
        row: list[float] = []
        for part in parts:
            self._writers[part.path] = part.writer(len(row))
            row += part.fill()
        self.empty = array("f", row).tobytes()

    def write(self, value: JsonObject, out: array[float], base: int) -> None:
        """Write an object into the row that starts at `base`."""
        find = self._writers.get
        if self._sets:
            value = gathered(flatten(value), self._sets)
        for name, item in value.items():
            if item is None:
                continue
            if type(item) is dict:
                self._write_inner(item, f"{name}.", out, base, 2)
            elif (write := find(name)) is not None:
                write(item, out, base)

    def _write_inner(
        self, value: JsonObject, prefix: str, out: array[float], base: int, names: int
    ) -> None:
        for name, item in value.items():
            if item is None:
                continue
            path = f"{prefix}{name}"
            if type(item) is dict:
                if names < MAX_NAMES:
                    self._write_inner(item, f"{path}.", out, base, names + 1)
            elif (write := self._writers.get(path)) is not None:
                write(item, out, base)

    def observe(self, value: JsonObject, out: array[float], base: int, observed: Observed) -> None:
        """Write an object, and count what it had."""
        observed.rows += 1
        found = flatten(value)
        if self._sets:
            found = gathered(found, self._sets)
        for path, item in found.items():
            write = self._writers.get(path)
            if write is None:
                if field_around(path, self._ignored) is None:
                    observed.add_unknown(path)
                continue
            seen = write(item, out, base)
            counts = observed.of(path)
            counts.add(seen)
            if seen != WRONG:
                counts.add_hashed(self._parts[path].hashed(item))
