"""Reads a file of decisions that were made elsewhere, line by line, whatever its format.

| format | what it is |
|---|---|
| `jsonl`, `parquet` | what `bandexa export` wrote |
| `dsjson` | Vowpal Wabbit's decision service JSON, as `bandexa export` and Personalizer write it |
| `cb` | Vowpal Wabbit's text, `action:cost:probability | features`, also cb_adf |
| `csv` | a table with a head |

A row is the body of `POST /bandits/{name}/log` for one decision. What cannot become one is a row
with a reason, and the next line goes on. Memory is that of a line, and of the names of actions.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Literal, Self, get_args

from service.tools.importing.cb_text import read_cb
from service.tools.importing.dsjson import read_dsjson
from service.tools.importing.found import Action, Found
from service.tools.importing.own import last_actions, read_own
from service.tools.importing.shape import Shape
from service.tools.importing.table import read_csv

Format = Literal["jsonl", "parquet", "dsjson", "cb", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
OWN: tuple[Format, ...] = ("jsonl", "parquet")
_GZIP = b"\x1f\x8b"
_ENDINGS: dict[str, Format] = {"vw": "cb", "txt": "cb", "json": "dsjson"}
_READERS: dict[Format, Callable[[IO[bytes], Shape, list[str]], Iterator[Found]]] = {
    "cb": read_cb, "csv": read_csv,
}  # fmt: skip


class Unreadable(ValueError):
    """A file that cannot be read to its end; the message says why."""


def format_of(file: Path) -> Format | None:
    """Return the format by a file's name; None where it has none."""
    ending = Path(file.name.removesuffix(".gz")).suffix.removeprefix(".")
    return _ENDINGS.get(ending) or next((each for each in FORMATS if each == ending), None)


@dataclass(slots=True)
class Source:
    """A file.

    Attributes:
        file: Where it is.
        kind: Its format.
        shape: That of the bandit.
        names: The names of the actions that `cb` and `dsjson` only number, from 1.
        name: That of the log; ids of rows that have none follow from it.
        apprentice: Whether a dsjson file is of Personalizer's learning mode Apprentice.
    """

    file: Path
    kind: Format
    shape: Shape
    names: list[str]
    name: str
    apprentice: bool = False

    @classmethod
    def of(
        cls,
        file: Path,
        kind: Format,
        spec: Mapping[str, Any],
        names: list[str],
        name: str,
        *,
        apprentice: bool = False,
    ) -> Self:
        """Return a file for a bandit of a configuration."""
        return cls(file, kind, Shape.of(spec), names, name, apprentice)

    @property
    def is_own(self) -> bool:
        """Whether it is an export."""
        return self.kind in OWN

    def header(self) -> dict[str, Any]:
        """Return the first row of an export.

        Raises:
            Unreadable: It is none.
        """
        return next(self._exported())

    def known_actions(self) -> list[Action]:
        """Return the actions that an export has in the end; of other formats none, they name them.

        Raises:
            Unreadable: It cannot be read.
        """
        return last_actions(self._exported()) if self.is_own else []

    def rows(self) -> Iterator[Found]:
        """Yield its rows.

        Raises:
            Unreadable: It cannot be read on.
        """
        if self.is_own:
            yield from read_own(self._exported(), self.shape)
            return
        try:
            with _opened(self.file) as lines:
                for found in self._read(lines):
                    yield self._with_id(found)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
            raise Unreadable(f"{self.file}: {error}") from error

    def _read(self, lines: IO[bytes]) -> Iterator[Found]:
        if self.kind == "dsjson":
            return read_dsjson(lines, self.shape, self.names, apprentice=self.apprentice)
        return _READERS[self.kind](lines, self.shape, self.names)

    def _with_id(self, found: Found) -> Found:
        """Give a row without an id one: its line, and a digest of the log and what stands there.

        So a file that became longer has the same ids, and one with other rows has others.
        """
        if found.item is not None and not found.item.get("id"):
            text = self.name.encode() + b"\0" + found.text
            digest = blake2b(text, digest_size=12).hexdigest()
            found.item["id"] = f"line-{found.line}-{digest}"
        return found

    def _exported(self) -> Iterator[dict[str, Any]]:
        from service.tools.export.files import lines

        try:
            yield from lines(self.file)
        except (ValueError, OSError) as error:
            raise Unreadable(str(error)) from error


def _opened(file: Path) -> IO[bytes]:
    with file.open("rb") as raw:
        is_packed = raw.read(len(_GZIP)) == _GZIP  # whatever its name says
    if is_packed:
        return gzip.open(file, "rb")  # type: ignore[return-value]
    return file.open("rb")
