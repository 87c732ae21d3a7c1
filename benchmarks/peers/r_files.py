"""Reads data frames of R: a file .rda, and the database of a package that loads its data lazily.

The database is a pair of files. `NAME.rdx` is a compressed list with the offset and the length of
every object in `NAME.rdb`. An object is there as its uncompressed size (4 bytes, big-endian), a
letter for the compression, and the serialised value; R Internals, section "Lazy loading", and R's
`lazyLoadDBfetch`. `rdata` reads the serialisation itself.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import warnings
import zlib
from typing import Any

_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 6}]


def read_rda(content: bytes, name: str) -> dict[str, list[Any]]:
    """Return the columns of the data frame `name` of a file .rda; None is missing.

    Raises:
        KeyError: The file has no such object.
    """
    return _columns(_converted(content)[name])


def read_lazy(index: bytes, database: bytes, name: str) -> dict[str, list[Any]]:
    """Return the columns of the data frame `name` of a lazy-load database; None is missing.

    Raises:
        KeyError: The database has no such object.
    """
    offset, length = (
        int(number) for number in _converted(gzip.decompress(index))["variables"][name]
    )
    return _columns(_converted(unpack(database[offset : offset + length])))


def unpack(stored: bytes) -> bytes:
    """Return the serialised value of one stored object.

    Raises:
        ValueError: Its uncompressed size is not the one that it states.
    """
    size, kind = int.from_bytes(stored[:4], "big"), stored[4:5]
    if kind == b"Z":
        value = lzma.decompress(stored[5:], lzma.FORMAT_RAW, filters=_XZ)
    elif kind == b"2":
        value = bz2.decompress(stored[5:])
    else:
        value = zlib.decompress(stored[4:])
    if len(value) != size:
        raise ValueError(f"an object of R has {len(value)} bytes and states {size}")
    return value


def _columns(frame: Any) -> dict[str, list[Any]]:
    """Return the columns of a data frame of pandas."""
    return {
        str(name): [
            None if missing else value
            for value, missing in zip(frame[name], frame[name].isna(), strict=True)
        ]
        for name in frame.columns
    }


def _converted(content: bytes) -> Any:
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a bare serialised value has no file header
        return rdata.conversion.convert(rdata.parser.parse_data(content))
