"""Reads decisions and learned values in small pieces, to be counted for the dashboard."""

from __future__ import annotations

from msgspec.structs import replace

from bandexa_core.log.configurations import Configurations
from bandexa_core.log.rows import LearnRow
from service.store.memory.contents import Contents, HeldDecision, is_new_unit
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

    def learned(
        self,
        bandit: int,
        after: int,
        up_to: int,
        most: int,
        *,
        contexts: bool = False,
        shadows: bool = False,
        units: bool = False,
    ) -> list[CountedValue]:
        """See `CountingReader.learned`."""
        with self._reading() as contents:
            found = []
            log = contents.of(bandit).log
            rows = [each for each in log.rows(after, up_to) if not isinstance(each, ChangeRow)]
            for each in rows[:most]:
                row, held, first = each.row, contents.decision(each.key), log.at(each.row.origin)
                value = CountedValue(
                    row.position, row.time, row.before,
                    row.after if isinstance(row, LearnRow) else None, None,
                    None if first is None else first.row.time, place=each.item,
                    origin=row.origin,
                )  # fmt: skip
                if isinstance(row, LearnRow):
                    value = replace(value, metrics=row.metrics, metrics_before=row.metrics_before)
                else:
                    value = replace(value, metrics_before=row.metrics)
                if held is not None:
                    made = held.record
                    value = replace(
                        value,
                        decided=made.time, imported=made.imported is not None,
                        made_at=made.position, arm=made.arm,
                        action=made.chosen[each.item].id, is_first=_is_first(contents, held),
                        context=made.context.tobytes() if contexts else None,
                        propensity=made.propensity, score=made.chosen[each.item].score,
                        explored=made.explored, shadows=made.shadows if shadows else None,
                        is_new_unit=not units or is_new_unit(contents, held),
                    )  # fmt: skip
                found.append(value)
            return found

    def configurations(self, bandit: int) -> Configurations:
        """See `CountingReader.configurations`."""
        with self._reading() as contents:
            return contents.of(bandit).log.configurations(contents.live[bandit].spec)


def _is_first(contents: Contents, held: HeldDecision) -> bool:
    made = held.record
    if made.arm is None or made.unit is None:
        return True
    return not any(
        other.record.unit == made.unit and other.record.arm is not None
        for other in contents.of(made.bandit).in_order()
        if other.record.key < made.key
    )


def _counted(held: HeldDecision) -> CountedRow:
    r = held.record
    actions = tuple(picked.id for picked in r.chosen)
    num_bytes = sum(picked.features.nbytes + len(picked.id) for picked in r.chosen)
    return CountedRow(
        r.key, r.time, actions, num_bytes, r.propensity, r.explored, r.std, r.imported is not None
    )
