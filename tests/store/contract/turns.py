"""Calls a store as a server does: in turns of an event loop, here those of the test."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from service.store.address import PostgresUrl
from service.store.identity import DecisionIds
from service.store.memory.store import MemoryStore
from service.store.postgres.connection import Session
from service.store.postgres.rows import write_rows
from service.store.postgres.store import PostgresStore
from service.store.protocol import EventStore
from service.store.sqlite.rows import read_rows
from service.store.sqlite.store import SqliteStore
from tests.store.conftest import ANSWER_WITHIN_S, Asking

SQLITE, MEMORY, POSTGRES = "sqlite", "memory", "postgres"
KINDS = (SQLITE, MEMORY, POSTGRES)
START = 1000.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Turns(Asking):
    """Opens a store and calls it; answers arrive on this thread.

    Attributes:
        clock: The store's.
        url: The database of a store on PostgreSQL.
    """

    def __init__(
        self, kind: str, folder: Path, clock: Clock | None = None, url: str | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        self.path = folder / "bandexa.db"
        self.url = url
        self.clock = clock or Clock()
        self._asked: list[Future[Any]] = []
        self._gathered: list[Callable[[], None]] = []
        self._delivered: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._open: list[EventStore] = []

    def open(self, ids: DecisionIds | None = None) -> EventStore:
        """Open the store; `ids`: those that one in memory makes, in place of new ones."""
        deliver, gather = self._delivered.put, self._gathered.append
        store: EventStore
        if self.kind == SQLITE:
            store = SqliteStore(self.path, "os", deliver, self.clock, gather)
        elif self.kind == POSTGRES:
            assert self.url is not None
            store = PostgresStore(PostgresUrl(self.url), "os", deliver, self.clock, gather)
        else:
            store = MemoryStore(deliver, gather, self.clock, ids)
        self._open.append(store)
        return store

    def take_ids(self, file: Path) -> None:
        """Make the database one of a store in a file that has just been created: their ids are the
        same."""
        assert self.url is not None
        url = PostgresUrl(self.url)
        write_rows(url, read_rows(file, lambda done, of: None))
        with closing(Session(url, own_loop=True)) as session:
            session.script("DELETE FROM meta WHERE key = 'epoch'")  # no server has opened it yet

    def vacuum(self) -> None:
        """Give the space of removed rows back, where that is not for the store to do."""
        if self.url is not None:
            with closing(Session(PostgresUrl(self.url), own_loop=True)) as session:
                session.script("VACUUM FULL")

    def close(self) -> None:
        for store in self._open:
            store.close()

    def ask(self, append: Callable[..., None], *args: Any) -> Future[Any]:
        """Call an append and return a future of its answer; it is not committed yet."""
        future = super().ask(append, *args)
        self._asked.append(future)
        return future

    def commit(self) -> list[Future[Any]]:
        """Commit together what was asked, and wait for the answers; returns those, as futures."""
        asked, self._asked = self._asked, []
        while not all(future.done() for future in asked):
            gathered = self._gathered[:]
            self._gathered.clear()
            for hand_over in gathered:
                hand_over()
            if not gathered:
                self._delivered.get(timeout=ANSWER_WITHIN_S)()
        return asked

    def call(self, append: Callable[..., None], *args: Any) -> Any:
        """Call an append, commit, and return its answer."""
        future = self.ask(append, *args)
        self.commit()
        return future.result(0)
