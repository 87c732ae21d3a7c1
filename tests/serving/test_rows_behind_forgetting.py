"""Rows that wait for a factorisation: in order, swapped over, failing, and given up by callers."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, LogPosition
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, Group, LearnRow, LogRow, row_by_row
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from bandexa_core.spec import BanditSpec, ContextSpec, ForgettingSpec
from service.observe.counters import Metrics
from service.serving import failed_bandits
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
    model = ServingModel(SPEC, UID, EncoderRegistry(), Catalogue.empty(SPEC.row_layout))
    for row in rows:
        model.apply(row_by_row(row), no_import)
    return model


def assert_same(found: ServingModel, expected: ServingModel) -> None:
    assert found.position == expected.position
    ours, theirs = found.tensors(), expected.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name], tensor), name


def read_log(
    record: BanditRecord, after: int, up_to: int, *, previous: bytes | None
) -> Iterator[Group]:
    yield from map(row_by_row, log_rows(64)[after:up_to])


class Gate:
    """Holds factorisations on other threads until it is opened; those of this one are the test's.

    Each is done on a copy of the policy, so that the gate lies in its class.
    """

    def __init__(self, model: ServingModel, failure: Exception | None = None) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.calls = 0
        self._class = type(model.policy)
        self._original = self._class.forgotten
        self._failure = failure

    def __enter__(self) -> Gate:
        gate = self

        def forgotten(policy: Any, factor: float) -> Any:
            if threading.current_thread() is not threading.main_thread():
                gate.wait()
            return gate._original(policy, factor)

        self._class.forgotten = forgotten  # type: ignore[method-assign,assignment]
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the threads go whatever happens: the loop waits for them when it closes."""
        self.opened.set()
        self._class.forgotten = self._original  # type: ignore[method-assign]

    def wait(self) -> None:
        self.calls += 1
        self.reached.set()
        assert self.opened.wait(30)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


@pytest.fixture
def bandit(tmp_path: Path) -> Bandit:
    record = BanditRecord(1, UID, "waits", SPEC, 0.0)
    failed: list[Bandit] = []
    snapshots = SnapshotStore(tmp_path / "snapshots")
    return Bandit(record, model_of(log_rows(3)), snapshots, read_log, failed.append)


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


def test_rows_wait_in_order_while_the_old_model_selects(bandit):
    rows = log_rows(12)

    async def scene() -> None:
        with Gate(bandit.model) as gate:
            bandit.applier.follow(LogPosition(len(rows)))
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
        with Gate(bandit.model) as gate:
            gate.opened.set()
            bandit.applier.follow(LogPosition(6))
            await bandit.applier.applied(LogPosition(4))
            gate.opened.clear()
            bandit.applier.follow(LogPosition(7))
            await bandit.applier.applied(LogPosition(5))  # the row at 6 waits for the gate
            assert bandit.model.position == 5
            gate.opened.set()
            await bandit.applier.applied(LogPosition(7))
        assert_same(bandit.model, model_of(rows[:7]))

    play(scene)


@pytest.mark.parametrize("failure", [None, AssertionError("the model was replaced")], ids=repr)
def test_a_swap_while_a_row_waits_has_the_successor_forget(bandit, failure):
    """The swapped-in model was loaded at the same position; the factorisation is repeated.

    What the work on the replaced model ends with, such as an error, is of no interest.
    """
    rows = log_rows(8)

    async def scene() -> None:
        with Gate(bandit.model, failure) as gate:
            successor = model_of(rows[:2])
            old = bandit.model
            bandit.applier.follow(LogPosition(len(rows)))
            await gate.until_reached()
            assert bandit.model.position == 3, "waiting rows are not applied yet"
            successor.apply(row_by_row(rows[2]), no_import)
            bandit.applier.swap(successor)
            assert gate.calls == 1
            gate.opened.set()
            assert await bandit.applier.applied(LogPosition(8))
            assert bandit.applier.failure is None
            assert (old.position, old.frozen) == (3, True)
        assert_same(bandit.model, model_of(rows))

    play(scene)


def test_a_factorisation_that_fails_makes_the_bandit_failed_until_another_model_takes_over(
    bandit, caplog
):
    """The rows are committed: their callers are answered, and none of them is lost."""
    rows = log_rows(9)

    async def scene() -> None:
        applier = bandit.applier
        with Gate(bandit.model, MemoryError("for once")) as gate:
            gate.opened.set()
            applier.follow(LogPosition(6))
            found = await asyncio.gather(*(applier.applied(LogPosition(at)) for at in (4, 5, 6)))
            assert found == [False] * 3
            assert (applier.failure.position, bandit.model.position) == (4, 3)
            assert applier.failure.reason == "MemoryError: for once"
            applier.follow(LogPosition(9))
            assert not await applier.applied(LogPosition(9))
            assert (bandit.model.position, applier.rows_waiting) == (3, 6)
            assert_same(bandit.model, model_of(rows[:3]))
            applier.swap(model_of(rows[:6]))
            assert await applier.applied(LogPosition(9))
            assert applier.failure is None
        assert_same(bandit.model, model_of(rows))

    with caplog.at_level(logging.ERROR):
        play(scene)
    (record,) = caplog.records
    assert "has failed at log row 4" in record.getMessage()


def test_one_that_fails_again_in_its_recovery_is_recovered_again(bandit, monkeypatch) -> None:
    """The model is built, and a later row fails as soon as that model is served."""
    monkeypatch.setattr(failed_bandits, "FIRST_BACKOFF_S", 0.01)
    rows = log_rows(9)

    quick = next(n for n in (4, 5) if model_of(rows[:n]).share_before(rows[n]) == 1.0)

    class Store:
        def reader(self) -> io.BytesIO:
            return io.BytesIO()  # it is closed, and nothing else

    class Rebuilding(failed_bandits.Recovery):
        built = 0

        def _spec(self, bandit: Any) -> BanditSpec:
            spec: BanditSpec = bandit.record.spec
            return spec

        def _build(self, bandit: Any) -> ServingModel:
            self.built += 1
            model = model_of(rows[:quick])
            if self.built == 1:

                def fail(*arguments: Any) -> Any:
                    raise MemoryError("again")

                monkeypatch.setattr(model.policy, "features", fail)
            return model

    async def scene() -> None:
        applier = bandit.applier
        with Gate(bandit.model, MemoryError("for once")) as gate:
            gate.opened.set()
            with ThreadPoolExecutor(1) as loader:
                store: Any = Store()
                recovering = Rebuilding(EncoderRegistry(), Metrics(), store, loader, print)
                async with recovering.running():
                    applier._on_failure = lambda: recovering.failed(bandit)
                    applier.follow(LogPosition(9))
                    assert not await applier.applied(LogPosition(9))
                    while bandit.model.position < 9:  # `play` has a deadline
                        await asyncio.sleep(0.01)
        assert recovering.built == 2
        assert_same(bandit.model, model_of(rows))

    play(scene)


def test_callers_of_a_closed_bandit_are_answered_and_its_rows_are_left_alone(bandit):
    rows = log_rows(6)

    async def scene() -> None:
        applier = bandit.applier
        with Gate(bandit.model) as gate:
            applier.follow(LogPosition(6))
            await gate.until_reached()
            waiting = asyncio.create_task(applier.applied(LogPosition(6)))
            await asyncio.sleep(0)
            applier.close()
            assert not await waiting
            gate.opened.set()
            assert not await applier.applied(LogPosition(4))
            assert bandit.model.position == 3
            applier.reopen()
            assert await applier.applied(LogPosition(6))
        assert_same(bandit.model, model_of(rows))

    play(scene)


def test_a_caller_that_goes_away_leaves_its_row_to_be_applied(bandit):
    rows = log_rows(6)

    async def scene() -> None:
        with Gate(bandit.model) as gate:
            bandit.applier.follow(LogPosition(len(rows)))
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
        with gate:
            await asyncio.Event().wait()

    async def scene() -> None:
        background.append(asyncio.create_task(open_when_cancelled()))
        bandit.applier.follow(LogPosition(len(rows)))
        await gate.until_reached()

    play(scene)
    assert background[0].cancelled()
    assert_same(bandit.model, model_of(rows[:3]))
    assert caplog.records == []
