"""Rows whose features a slow encoder computes on a thread: in order, once, over swaps, held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.ids import ActionId, ActionSlot, BanditUid, DecisionId, LogPosition
from bandexa_core.log.catalogue import Catalogue, CatalogueChange
from bandexa_core.log.rows import CatalogueRow, Group, LearnRow, LogRow, learn_rows
from bandexa_core.model import ServingModel
from bandexa_core.snapshots.store import Snapshot, SnapshotStore
from bandexa_core.spec import BanditSpec, ContextSpec, EncoderSpec, ForgettingSpec
from service.serving.bandit import Bandit
from service.store.records import BanditRecord

UID = BanditUid("uid-1")
FEATURES = np.array([[1.0, 0.5], [-0.5, 2.0], [0.0, 1.0]], np.float32)
CHANGES = (1, 24)  # positions of catalogue rows; all others are learned
ENDS = (1, 3, 4, 6, 12, 23, 24, 26, 30, 40, 64)  # of the groups


def spec_of(half_life: float | None = None) -> BanditSpec:
    return BanditSpec(
        policy="neural_linear_ts",
        context=ContextSpec(shape=(3,), dtype="float64"),
        action_dim=2,
        encoder=EncoderSpec(name="slow", params={}),
        forgetting=ForgettingSpec(half_life=half_life),
        seed=1,
    )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> EncoderRegistry:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return EncoderRegistry({"slow": "own_slow_encoder:Slow"})


def log_rows(num: int) -> list[LogRow]:
    rng = np.random.default_rng(6)
    rows: list[LogRow] = []
    for number in range(1, num + 1):
        at, slot = LogPosition(number), number % 2
        if number in CHANGES:
            known = 2 if number == 1 else 3
            names = tuple(ActionId(name) for name in "abc"[:known])
            change = CatalogueChange(names, FEATURES[:known], np.ones(known, np.bool_))
            rows.append(CatalogueRow(at, 0.0, change))
            continue
        corrected = number % 7 == 0
        rows.append(
            LearnRow(
                at, 0.0, DecisionId(f"d{number}"), at, 0.5 if corrected else None,
                float(rng.normal()), rng.normal(size=3), FEATURES[slot], ActionSlot(slot),
            )
        )  # fmt: skip
    return rows


def no_import(version: int) -> Snapshot:
    raise AssertionError(f"no row imports snapshot {version}")


Models = Callable[..., ServingModel]


@pytest.fixture
def model_of(registry: EncoderRegistry) -> Models:
    """Return the model that applies the rows' groups: `model_of(rows, half_life=None)`."""

    def build(rows: list[LogRow], half_life: float | None = None) -> ServingModel:
        spec = spec_of(half_life)
        model = ServingModel(spec, UID, registry, Catalogue.empty(spec.row_layout))
        for group in groups_of(rows):
            model.apply(group, no_import)
        return model

    return build


@pytest.fixture
def bandit_of(model_of: Models, tmp_path: Path) -> Callable[..., Bandit]:
    """Return a bandit that has applied three rows: `bandit_of(half_life=None)`."""

    def build(half_life: float | None = None) -> Bandit:
        record = BanditRecord(1, UID, "slow", spec_of(half_life), 0.0)
        model = model_of(log_rows(3), half_life)
        return Bandit(record, model, SnapshotStore(tmp_path / "snapshots"), read_log, ignore)

    return build


def assert_same(found: ServingModel, expected: ServingModel) -> None:
    """Whoever replays the log does the same arithmetic: equal to the bit."""
    assert found.position == expected.position
    assert found.progress == expected.progress
    ours, theirs = found.tensors(), expected.tensors()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert np.array_equal(ours[name], tensor), name


class Gate:
    """Holds a model's encoding of rows until it is opened, and records what was encoded."""

    def __init__(self, model: ServingModel) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []
        self.returned = 0
        self._original = model.features
        model.features = self._features  # type: ignore[method-assign]

    def _features(self, group: Group) -> NDArray[np.float64] | None:
        if learn_rows(group):
            assert threading.current_thread() is not threading.main_thread()
            self.batches.append([row.position for row in group.rows])
            self.reached.set()
            assert self.opened.wait(30)
        features = self._original(group)
        self.returned += bool(learn_rows(group))
        return features

    async def until_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


def read_log(
    record: BanditRecord, after: int, up_to: int, *, previous: bytes | None
) -> Iterator[Group]:
    yield from groups_of(log_rows(64)[after:up_to])


def groups_of(rows: list[LogRow]) -> list[Group]:
    """Return the rows in the groups that end at `ENDS`, as far as these rows go."""
    groups: list[Group] = []
    waiting: list[LogRow] = []
    for row in rows:
        waiting.append(row)
        if row.position in ENDS:
            groups.append(Group(tuple(waiting), as_block=len(waiting) > 1))
            waiting = []
    assert not waiting, "rows end with a group"
    return groups


def ignore(bandit: Bandit) -> None:
    pass


@contextmanager
def opened_at_exit(gate: Gate) -> Iterator[Gate]:
    """Let the thread go whatever happens: the loop waits for it when it closes."""
    try:
        yield gate
    finally:
        gate.opened.set()


async def turns(num: int) -> None:
    """Let the loop run."""
    for _ in range(num):
        await asyncio.sleep(0)


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


def test_rows_are_encoded_together_and_learned_once_in_order(bandit_of, model_of):
    rows, bandit = log_rows(40), bandit_of()

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            bandit.applier.follow(LogPosition(4))
            await gate.until_reached()
            bandit.applier.follow(LogPosition(len(rows)))
            picks = [
                model.select(DecisionId("d"), np.ones(3), model.enabled_candidates())
                for model in (bandit.model, model_of(rows[:3]))
            ]
            assert picks[0].scores.tolist() == picks[1].scores.tolist()
            assert bandit.model.position == 3
            gate.opened.set()
            await bandit.applier.applied(LogPosition(40))
            assert [len(batch) for batch in gate.batches] == [1, 2, 6, 11, 2, 4, 10]
            encoded = [position for batch in gate.batches for position in batch]
            assert encoded == [at for at in range(4, 41) if at not in CHANGES]
        assert_same(bandit.model, model_of(rows))

    play(scene)


def test_rows_that_also_forget_leave_the_model_whole_while_they_are_encoded(bandit_of, model_of):
    """A select in between draws from its position's model: rows forget and learn in one step."""
    rows, bandit = log_rows(30), bandit_of(64.0)  # a step before every second row

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            gate.opened.set()
            seen = {bandit.model.position: bandit.model.tensors()}
            bandit.applier.follow(LogPosition(len(rows)))
            while bandit.model.position < 30:
                await asyncio.sleep(0)
                position, tensors = bandit.model.position, bandit.model.tensors()
                known = seen.setdefault(position, tensors)
                assert tensors.keys() == known.keys()
                for name, tensor in known.items():
                    assert np.array_equal(tensors[name], tensor), (position, name)
            assert len(seen) > 5
        assert_same(bandit.model, model_of(rows, 64.0))

    play(scene)


def test_a_swap_while_rows_are_encoded_has_the_successor_encode_them(bandit_of, model_of):
    rows, bandit = log_rows(12), bandit_of()

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            old, successor = bandit.model, model_of(rows[:3])
            with opened_at_exit(Gate(successor)) as other:
                other.opened.set()
                bandit.applier.follow(LogPosition(len(rows)))
                await gate.until_reached()
                bandit.applier.swap(successor)
                gate.opened.set()
                await bandit.applier.applied(LogPosition(12))
                assert other.batches == [[4], [5, 6], [*range(7, 13)]]
            assert (old.position, old.frozen) == (3, True)
        assert_same(successor, model_of(rows))

    play(scene)


def test_a_swap_between_rows_encoded_together_has_the_successor_encode_the_rest(
    bandit_of, model_of
):
    rows, bandit = log_rows(12), bandit_of()

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            gate.opened.set()
            bandit.applier.follow(LogPosition(len(rows)))
            await bandit.applier.applied(LogPosition(4))
            at = bandit.model.position
            assert at < 12
            successor = model_of(rows[:at])
            with opened_at_exit(Gate(successor)) as other:
                other.opened.set()
                bandit.applier.swap(successor)
                await bandit.applier.applied(LogPosition(12))
                left = [batch for batch in ([5, 6], [*range(7, 13)]) if batch[0] > at]
                assert other.batches == left
        assert_same(successor, model_of(rows))

    play(scene)


@pytest.mark.parametrize("refused", [False, True])
def test_rows_wait_while_a_coming_model_finishes_its_tail(bandit_of, model_of, refused: bool):
    rows, bandit = log_rows(26), bandit_of()

    async def scene() -> None:
        with opened_at_exit(Gate(bandit.model)) as gate:
            bandit.applier.follow(LogPosition(6))
            await gate.until_reached()
            bandit.applier.hold()
            gate.opened.set()
            bandit.applier.follow(LogPosition(len(rows)))
            waiting = [
                asyncio.create_task(bandit.applier.applied(LogPosition(at))) for at in (5, 24)
            ]
            for _ in range(50):
                await asyncio.sleep(0)
            assert bandit.model.position == 3
            assert not any(task.done() for task in waiting)
            successor = model_of(rows[:3])
            bandit.applier.swap(None if refused else successor)
            await asyncio.gather(*waiting)
            await bandit.applier.applied(LogPosition(26))
            assert (bandit.model is successor) is not refused
        assert_same(bandit.model, model_of(rows))

    play(scene)


def test_a_row_that_comes_while_rows_are_held_waits_though_it_is_quick(bandit_of, model_of):
    rows, bandit = log_rows(24), bandit_of()

    async def scene() -> None:
        bandit.applier.follow(LogPosition(23))
        await bandit.applier.applied(LogPosition(23))
        successor = model_of(rows[:23])
        bandit.applier.hold()
        bandit.applier.follow(LogPosition(24))
        await asyncio.sleep(0)
        assert bandit.model.position == 23
        bandit.applier.swap(successor)
        await bandit.applier.applied(LogPosition(24))
        assert_same(successor, model_of(rows))

    play(scene)


def test_a_coming_model_that_has_all_rows_leaves_none_to_apply(bandit_of, model_of):
    """It was loaded with the rows that waited: they are not looked for a second time."""
    rows, bandit = log_rows(26), bandit_of()

    async def scene() -> None:
        applier = bandit.applier
        with opened_at_exit(Gate(bandit.model)) as gate:
            applier.follow(LogPosition(6))
            await gate.until_reached()
            applier.hold()
            gate.opened.set()
            applier.follow(LogPosition(26))
            while not gate.returned:  # `play` has a deadline
                await asyncio.sleep(0)
            await turns(50)  # what was encoded is given up, and waits
            successor = model_of(rows)
            applier.swap(successor)
            assert await applier.applied(LogPosition(26))
            await turns(50)
            assert applier.failure is None
            assert bandit.model is successor
        assert_same(bandit.model, model_of(rows))

    play(scene)


def test_a_committed_row_that_is_not_in_the_log_makes_the_bandit_failed(bandit_of, model_of):
    bandit = bandit_of()

    async def scene() -> None:
        bandit.applier.read = lambda after, up_to, previous: iter(())
        bandit.applier.follow(LogPosition(4))
        assert not await bandit.applier.applied(LogPosition(4))
        assert bandit.applier.failure.position == 4
        assert "not in the log" in bandit.applier.failure.reason

    play(scene)
