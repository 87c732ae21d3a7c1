"""The newest groups of all logs, in memory: followers in this process do not read them back.

The writer collects the groups of its transaction and adds them once that is committed. Readers in
the same process read here first. Reading a row back from the database costs more than applying it,
because each commit empties the page cache of every other connection.
"""

from __future__ import annotations

from bandexa_core.ids import LogPosition
from bandexa_core.log.rows import Group

MAX_GROUPS = 1024
MAX_BYTES = 4 << 20  # of contexts and features


class LogTail:
    """Written by the writer thread, read by any thread."""

    def __init__(self) -> None:
        # By bandit and first position, in the order of their commits; with their sizes, and with
        # the hash of the log before them.
        self._groups: dict[tuple[int, int], tuple[Group, int, bytes]] = {}
        self._bytes = 0
        self._uncommitted: list[tuple[int, Group, int, bytes]] = []

    def add(self, bandit: int, group: Group, num_bytes: int, previous: bytes) -> None:
        """Note a group of the running transaction.

        Args:
            bandit: Its log.
            group: The group.
            num_bytes: Of its contexts and features.
            previous: The hash of the log before it.
        """
        self._uncommitted.append((bandit, group, num_bytes, previous))

    def commit(self) -> None:
        """Show the groups of the transaction; the oldest go where it gets full."""
        groups = self._groups
        for bandit, group, num_bytes, previous in self._uncommitted:
            groups[bandit, group.rows[0].position] = group, num_bytes, previous
            self._bytes += num_bytes
            while len(groups) > MAX_GROUPS or self._bytes > MAX_BYTES:
                self._bytes -= groups.pop(next(iter(groups)))[1]
        self._uncommitted.clear()

    def drop(self, bandit: int) -> None:
        """Forget the groups of a bandit, so that they are read from the database."""
        self._uncommitted = [each for each in self._uncommitted if each[0] != bandit]
        for place in [place for place in self._groups if place[0] == bandit]:
            self._bytes -= self._groups.pop(place)[1]

    def clear(self) -> None:
        """Forget all groups, so that they are read from the database."""
        self._uncommitted.clear()
        self._groups = {}
        self._bytes = 0

    def roll_back(self) -> None:
        """Forget the groups of the transaction."""
        self._uncommitted.clear()

    def read(
        self,
        bandit: int,
        after: LogPosition,
        up_to: LogPosition,
        previous: bytes | None = None,
    ) -> list[Group] | None:
        """Return the groups in (after, up_to]; None where one of them is not here.

        `previous`: the hash of the log up to `after`; groups behind another one are not meant.
        """
        found = []
        previous = previous if after else None
        while after < up_to:
            held = self._groups.get((bandit, after + 1))
            if held is None or held[0].position > up_to:
                return None
            group = held[0]
            if previous not in (None, held[2]):
                return None
            previous = group.hash
            found.append(group)
            after = group.position
        return found
