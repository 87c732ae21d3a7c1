"""Where log lines go: standard error, without ever waiting for whoever reads it.

A file takes a line at once. A pipe or a terminal takes none while nobody reads it, and a server
that waited for that would answer nothing: there a thread writes, and lines beyond a bound are
dropped, counted, and reported once somebody reads again.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import stat
import threading
from typing import TextIO

MAX_LINES = 10_000  # that wait for a reader
FLUSH_S = 2.0  # how long an exit waits for one
dropped = 0  # lines, in this process


def handler_for(stream: TextIO) -> logging.Handler:
    """Return the handler that writes lines to a stream."""
    try:
        is_file = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # no stream of the operating system: it is in memory
        is_file = True
    return logging.StreamHandler(stream) if is_file else UnreadHandler(stream.fileno())


class UnreadHandler(logging.Handler):
    """Writes lines from a thread; a line that finds no room is dropped.

    Args:
        descriptor: The pipe or terminal.
        max_lines: How many lines wait at most.
    """

    def __init__(self, descriptor: int, max_lines: int = MAX_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(max_lines)
        self._dropped = 0  # lines that are not reported yet
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over; it does not wait."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._drop()
        except Exception:  # a message that cannot be formatted must not fail its caller
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all lines are written, but not long: at an exit."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, FLUSH_S)

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            try:
                self._write(line)
                if num := self._dropped:
                    self._dropped -= num
                    self._write(self.format(_report(num)))
            except OSError:  # the reader is gone
                self._drop()
            finally:
                self._lines.task_done()

    def _write(self, line: str) -> None:
        left = f"{line}\n".encode("utf-8", "backslashreplace")
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # whoever made the pipe set it so
                select.select([], [self._descriptor], [])

    def _drop(self) -> None:
        global dropped
        self._dropped += 1
        dropped += 1


def _report(num: int) -> logging.LogRecord:
    message = "%d log lines were dropped: nobody read standard error"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (num,), None)
