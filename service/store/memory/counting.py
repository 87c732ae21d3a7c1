"""Reads decisions and learned values in small pieces, to be counted for the dashboard."""

from __future__ import annotations

from bandexa_core.log.rows import LearnRow
from service.store.memory.contents import HeldDecision
from service.store.memory.log import ChangeRow
from service.store.memory.view import View
from service.store.records import CountedRow, CountedValue, Newest


class MemoryCountingReader(View):
    """See `CountingReader`."""

    def newest(self) -> dict[int, Newest]:
        """See `CountingReader.newest`; another dictionary each time."""
        with self._reading() as contents:
            return {
                key: Newest(
                    record.uid,
                    contents.of(key).log.head,
                    max(contents.of(key).decisions, default=0),
                )
                for key, record in contents.live.items()
            }

    def decisions(self, bandit: int, after: int, most: int, most_bytes: int) -> list[CountedRow]:
        """See `CountingReader.decisions`."""
        with self._reading() as contents:
            found: list[CountedRow] = []
            read = 0
            for held in contents.of(bandit).in_order(after)[:most]:
                if read >= most_bytes:
                    break
                found.append(_counted(held))
                read += found[-1].num_bytes
            return found

    def learned(self, bandit: int, after: int, up_to: int, most: int) -> list[CountedValue]:
        """See `CountingReader.learned`."""
        with self._reading() as contents:
            found = []
            log = contents.of(bandit).log
            rows = [each for each in log.rows(after, up_to) if not isinstance(each, ChangeRow)]
            for each in rows[:most]:
                row, held, first = each.row, contents.decision(each.key), log.at(each.row.origin)
                found.append(
                    CountedValue(
                        row.position, row.time, row.before,
                        row.after if isinstance(row, LearnRow) else None,
                        None if held is None else held.record.time,
                        None if first is None else first.row.time,
                        held is not None and held.record.imported is not None,
                    )
                )  # fmt: skip
            return found


def _counted(held: HeldDecision) -> CountedRow:
    r = held.record
    actions = tuple(picked.id for picked in r.chosen)
    num_bytes = sum(picked.features.nbytes + len(picked.id) for picked in r.chosen)
    return CountedRow(
        r.key, r.time, actions, num_bytes, r.propensity, r.explored, r.std, r.imported is not None
    )
