"""Reads a data directory's log beside a running server or without one, for `bandexa export`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.store.errors import StoreError
from service.store.opening import as_current, open_history, open_reader
from service.store.placing import existing_store
from service.tools.export.rows import LogRows


class NoSuchBandit(StoreError):
    """The data directory has no such bandit."""


@contextmanager
def log_of(
    data_dir: Path, bandit: str, after: int = 0, store: str | None = None
) -> Iterator[LogRows]:
    """Open the log of a bandit; `store`: the setting of that name, if it is given.

    Raises:
        NoSuchBandit: There is none.
        StoreError: The directory cannot be read.
    """
    with (
        as_current(existing_store(data_dir, store)) as current,
        open_reader(current) as reader,
        open_history(current) as history,
    ):
        record = next((found for found in reader.bandits() if found.name == bandit), None)
        if record is None:
            raise NoSuchBandit(f"{data_dir} has no bandit {bandit!r}")
        yield LogRows(reader, history, record, after=after)
