"""How far a start has come, and whether it should go on.

A server answers health checks while it recovers: the event loop reads the share of rows that is
done, and may give the start up. The thread that recovers counts rows and heeds that after every
group of rows. Plain attributes are enough: each is written by one of the two.
"""

from __future__ import annotations

from bandexa_core.log.rows import Group


class StartGivenUp(Exception):
    """The server has to end before it has recovered; nothing was accepted, so nothing is lost."""


class StartProgress:
    """The share of the log's rows that recovery has applied, over all bandits."""

    def __init__(self) -> None:
        self._num_rows: int | None = None
        self._num_done = 0
        self._given_up = False
        self._stands_by_s: float | None = None

    def __str__(self) -> str:
        if self._stands_by_s is not None:
            return f"standby for {self._stands_by_s:.0f} s: another server has the database"
        if self._num_rows is None:
            return "opening the database"
        share = min(self._num_done / self._num_rows, 1.0) if self._num_rows else 1.0
        return f"recovering {int(100 * share)} %"

    def stand_by(self, waited_s: float | None) -> None:
        """Note for how long another server has had the database; None: it has ended."""
        self._stands_by_s = waited_s

    def expect(self, num_rows: int) -> None:
        """Note how many rows there are to apply."""
        self._num_rows = num_rows

    def applied(self, group: Group) -> None:
        """Count the rows of a group.

        Raises:
            StartGivenUp: The server has to end.
        """
        self._num_done += len(group.rows)
        self.heed()

    def skip_to(self, num_done: int) -> None:
        """Correct the count: a bandit is done, whether its rows could be applied or not."""
        self._num_done = num_done

    def heed(self) -> None:
        """Return where the start should go on.

        Raises:
            StartGivenUp: The server has to end.
        """
        if self._given_up:
            raise StartGivenUp

    def give_up(self) -> None:
        """Let the start end at its next step; from any thread."""
        self._given_up = True
