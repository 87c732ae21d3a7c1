"""Rows that wait for a factorisation: in order, swapped over, failing, and given up by callers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, LogPosition
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, LearnRow, LogRow
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from bandexa_core.spec import BanditSpec, ContextSpec, ForgettingSpec
from service.serving.bandit import Bandit
from service.store.records import BanditRecord

UID = BanditUid("uid-1")
SPEC = BanditSpec(
    policy="linear_ts",
    context=ContextSpec(shape=(3,), dtype="float64"),
    action_dim=2,
    forgetting=ForgettingSpec(half_life=64.0),  # a step before every second row
    seed=1,
)
FEATURES = np.array([[1.0, 0.5], [-0.5, 2.0]], np.float32)


def log_rows(num: int) -> list[LogRow]:
    rng = np.random.default_rng(6)
    change = CatalogueChange((ActionId("a"), ActionId("b")), FEATURES, np.ones(2, np.bool_))
    rows: list[LogRow] = [CatalogueRow(LogPosition(1), 0.0, change)]
    for number in range(2, num + 1):
        at, slot = LogPosition(number), number % 2
        rows.append(
            LearnRow(
                at, 0.0, DecisionId(f"d{number}"), at, None, float(rng.normal()),
                rng.normal(size=3), FEATURES[slot], ActionSlot(slot),
            )
        )  # fmt: skip
    return rows


def no_import(version: int) -> Snapshot:
    raise AssertionError(f"no row imports snapshot {version}")


def model_of(rows: list[LogRow]) -> ServingModel:
    model = ServingModel(SPEC, UID, EncoderRegistry(), Catalogue.empty(2))
    for row in rows:
        model.apply(row, no_import)
    return model


def assert_same(found: ServingModel, expected: ServingModel) -> None:
    assert found.position == expected.position
    ours, theirs = found.tensors(), expected.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name], tensor), name


class Gate:
    """Holds a policy's factorisations until it is opened; they run on other threads."""

    def __init__(self, model: ServingModel, failure: Exception | None = None) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.calls = 0
        self._original: Callable[[float], Any] = model.policy.forgotten
        self._failure = failure
        model.policy.forgotten = self._forgotten  # type: ignore[method-assign]

    def _forgotten(self, factor: float) -> Any:
        self.calls += 1
        assert threading.current_thread() is not threading.main_thread()
        self.reached.set()
        assert self.opened.wait(30)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self._original(factor)

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


@pytest.fixture
def bandit(tmp_path: Path) -> Bandit:
    record = BanditRecord(1, UID, "waits", SPEC, 0.0)
    return Bandit(record, model_of(log_rows(3)), SnapshotStore(tmp_path / "snapshots"))


@contextmanager
def opened_at_exit(gate: Gate) -> Iterator[Gate]:
    """Let the thread go whatever happens: the loop waits for it when it closes."""
    try:
        yield gate
    finally:
        gate.opened.set()


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


def test_rows_wait_in_order_while_the_old_model_selects(bandit):
    rows = log_rows(12)

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            for row in rows[3:]:
                bandit.applier.apply(row)
            await gate.until_reached()
            assert bandit.model.position == 3
            picks = [
                model.select(DecisionId("d"), np.ones(3), model.enabled_candidates())
                for model in (bandit.model, model_of(rows[:3]))
            ]
            assert picks[0].scores.tolist() == picks[1].scores.tolist()
            waiting = asyncio.create_task(bandit.applier.applied(LogPosition(12)))
            await asyncio.sleep(0)
            assert not waiting.done()
            gate.opened.set()
            await waiting
            assert gate.calls == 5
        assert_same(bandit.model, model_of(rows))
        await bandit.applier.applied(LogPosition(7))  # long applied: returns at once

    play(scene)


def test_a_row_is_answered_once_it_is_applied_though_others_still_wait(bandit):
    rows = log_rows(9)

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            gate.opened.set()
            for row in rows[3:6]:
                bandit.applier.apply(row)
            await bandit.applier.applied(LogPosition(4))
            gate.opened.clear()
            bandit.applier.apply(rows[6])
            await bandit.applier.applied(LogPosition(5))  # the row at 6 waits for the gate
            assert bandit.model.position == 5
            gate.opened.set()
            await bandit.applier.applied(LogPosition(7))
        assert_same(bandit.model, model_of(rows[:7]))

    play(scene)


def test_a_swap_while_a_row_waits_has_the_successor_forget(bandit):
    """The swapped-in model was loaded at the same position; the factorisation is repeated."""
    rows = log_rows(8)

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            bandit.applier.start_tail()
            successor = model_of(rows[:2])
            old = bandit.model
            for row in rows[3:]:
                bandit.applier.apply(row)
            await gate.until_reached()
            assert bandit.applier.tail_after(successor) == [], "waiting rows are not applied yet"
            successor.apply(rows[2], no_import)
            bandit.applier.swap(successor)
            gate.opened.set()
            await bandit.applier.applied(LogPosition(8))
            assert gate.calls == 1
            assert (old.position, old.frozen) == (3, True)
            assert bandit.model is successor
        assert_same(successor, model_of(rows))

    play(scene)


def test_rows_that_waited_are_in_the_tail_of_a_model_being_loaded(bandit):
    rows = log_rows(8)

    async def scene() -> None:
        bandit.applier.start_tail()
        successor = model_of(rows[:3])
        for row in rows[3:]:
            bandit.applier.apply(row)
        await bandit.applier.applied(LogPosition(8))
        tail = bandit.applier.tail_after(successor)
        assert [row.position for row in tail] == [4, 5, 6, 7, 8]
        for row in tail:
            successor.apply(row, no_import)
        expected = bandit.model
        bandit.applier.swap(successor)
        assert_same(successor, expected)

    play(scene)


def test_a_factorisation_that_fails_is_tried_again_with_the_next_row(bandit, caplog):
    """The rows are committed: their callers are answered, and none of them is lost."""
    rows = log_rows(9)

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model, MemoryError("for once"))) as gate:
            gate.opened.set()
            for row in rows[3:6]:
                bandit.applier.apply(row)
            await asyncio.gather(*(bandit.applier.applied(LogPosition(at)) for at in (4, 5, 6)))
            assert bandit.model.position == 3
            for row in rows[6:]:
                bandit.applier.apply(row)
            await bandit.applier.applied(LogPosition(9))
        assert_same(bandit.model, model_of(rows))

    with caplog.at_level(logging.ERROR):
        play(scene)
    assert [record.getMessage() for record in caplog.records] == ["bandit waits: 3 rows wait"]


def test_a_caller_that_goes_away_leaves_its_row_to_be_applied(bandit):
    rows = log_rows(6)

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            for row in rows[3:]:
                bandit.applier.apply(row)
            await gate.until_reached()
            gone = asyncio.create_task(bandit.applier.applied(LogPosition(4)))
            await asyncio.sleep(0)
            gone.cancel()
            gate.opened.set()
            await bandit.applier.applied(LogPosition(6))
            assert gone.cancelled()
        assert_same(bandit.model, model_of(rows))

    play(scene)


def test_a_loop_that_ends_meanwhile_leaves_the_model_where_it_was(bandit, caplog):
    """As at a shutdown; the rows are in the log, and are applied at the next start."""
    rows = log_rows(6)
    gate = Gate(bandit.model)
    background: list[asyncio.Task[None]] = []

    async def open_when_cancelled() -> None:
        """All tasks are cancelled in one go before any of them runs: no row follows the gate."""
        with opened_at_exit(gate):
            await asyncio.Event().wait()

    async def scene() -> None:
        background.append(asyncio.create_task(open_when_cancelled()))
        for row in rows[3:]:
            bandit.applier.apply(row)
        await gate.until_reached()

    play(scene)
    assert background[0].cancelled()
    assert_same(bandit.model, model_of(rows[:3]))
    assert caplog.records == []
