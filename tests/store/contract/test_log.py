"""The log: positions, groups, hashes, folds and following."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import pytest
from msgspec.structs import replace

from bandexa_core.ids import LogPosition, SnapshotVersion
from bandexa_core.log.forgetting import Forgetting
from bandexa_core.log.rows import CatalogueRow, ConfigRow, ImportRow, LearnRow
from bandexa_core.spec import (
    ForgettingSpec,
    PosteriorSpec,
    RewardSpec,
    SelectionSpec,
    TrainingSpec,
)
from tests.store.contract.readable import FAR, plain
from tests.store.logs import answer_of, change, fill, followed, learn, retired
from tests.store.reporting import first_step, rewards


def test_every_bandit_has_positions_without_gaps_from_one_on(client, store, make):
    first, second = make.bandit(client, store, "one"), make.bandit(client, store, "two")
    for number in range(0, 12, 3):
        learn(client, store, make, first, number, 2)
        client.call(store.append_change, second, change("a0"))
        learn(client, store, make, second, number + 2, 1)
        client.call(store.append_change, first, change("a0"))
    with store.reader() as reader:
        for bandit, head in ((first, 12), (second, 8)):
            assert [row.position for row in followed(reader, bandit)] == list(range(1, head + 1))
            assert reader.head(bandit.key) == head


def test_a_reader_returns_the_rows_that_were_answered(client, store, make):
    bandit = make.bandit(client, store)
    answered = fill(client, store, make, bandit)
    with store.reader() as reader:
        read = followed(reader, bandit)
        assert reader.head(bandit.key) == len(answered) == 9
        assert reader.count_learned(bandit.key, LogPosition(0), FAR) == 5
        assert reader.count_learned(bandit.key, LogPosition(2), LogPosition(7)) == 3
        assert reader.imports(bandit.key) == {4: 6}
        imports = [reader.last_import(bandit.key, LogPosition(n)) for n in (5, 6, 9)]
        assert imports == [0, 6, 6]
    assert [answer_of(row) for row in read] == [plain(row) for row in answered]
    kinds = [CatalogueRow, *[LearnRow] * 3, ConfigRow, ImportRow, *[LearnRow] * 2, CatalogueRow]
    assert [type(row) for row in read] == kinds


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("chunk", [1, 2, 4, 9, 512])
def test_following_in_chunks_equals_following_whole(client, store, make, chunk):
    bandit = make.bandit(client, store)
    fill(client, store, make, bandit)
    with store.reader() as reader:
        whole = [plain(row) for row in followed(reader, bandit)]
        assert [plain(row) for row in followed(reader, bandit, chunk=chunk)] == whole
        for after, up_to in ((0, 0), (0, 4), (3, 7), (8, 9), (9, 40)):
            rows = followed(reader, bandit, after, up_to, chunk)
            assert [plain(row) for row in rows] == whole[after:up_to]


def test_logs_that_differ_anywhere_differ_in_their_hash(client, store, make):
    hashes = []
    for name, value in (("one", 0.5), ("two", 0.25)):
        bandit = make.bandit(client, store, name)
        client.call(store.append_decision, make.decision(bandit, f"{name}-d"))
        client.call(rewards(store), make.report(f"{name}-d", value))
        client.call(store.append_change, bandit, change("a0"))
        with store.reader() as reader:
            assert reader.hash_at(bandit.key, LogPosition(0)) == b""
            assert reader.hash_at(bandit.key, LogPosition(3)) is None
            hashes.append([reader.hash_at(bandit.key, LogPosition(n)) for n in (1, 2)])
    assert len({h for pair in hashes for h in pair}) == 4


def test_the_catalogue_is_the_fold_of_its_rows_at_any_position(client, store, make):
    bandit = make.bandit(client, store)
    client.call(store.append_change, bandit, change("a0", "a1"))
    learn(client, store, make, bandit, 0, 1)
    client.call(store.append_change, bandit, change("a1", "a2", start=10.0))
    client.call(store.append_change, bandit, retired("a0"))
    with store.reader() as reader:
        at = [reader.catalogue_at(bandit, LogPosition(n)) for n in range(5)]
    assert [c.ids for c in at] == [(), ("a0", "a1"), ("a0", "a1"), *[("a0", "a1", "a2")] * 2]
    assert at[1].features.tolist() == [[0, 1], [2, 3]]
    assert at[3].features.tolist() == [[0, 1], [10, 11], [12, 13]]
    assert at[4].features.tolist() == at[3].features.tolist()
    assert at[3].enabled.tolist() == [True, True, True]
    assert at[4].enabled.tolist() == [False, True, True]


def test_the_configuration_is_the_fold_of_its_rows_at_any_position(client, store, make):
    bandit = make.bandit(client, store)
    faster = dataclasses.replace(bandit.spec, training=TrainingSpec(train_every=5))
    warmer = dataclasses.replace(faster, selection=SelectionSpec(warmup_random=9))
    client.call(store.append_config, bandit, faster)
    learn(client, store, make, bandit, 0, 1)
    client.call(store.append_config, bandit, warmer)
    with store.reader() as reader:
        found = [reader.spec_at(bandit, LogPosition(n)) for n in range(4)]
        (record,) = reader.bandits()
    assert found == [bandit.spec, faster, faster, warmer]
    assert record == bandit


def test_a_reward_of_minus_zero_is_stored_as_zero(client, store, make):
    bandit = make.bandit(client, store)
    client.call(store.append_decision, make.decision(bandit, "d0"))
    row = client.call(rewards(store), make.report("d0", -0.0)).row
    assert math.copysign(1.0, row.after) == 1.0


@pytest.mark.few(0, of="postgres")
@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_learn_rows_of_one_commit_are_groups_that_are_read_whole(client, store, make, chunk):
    """Up to 64 rows of a bandit, in order, whatever is appended to other logs in between."""
    one, other = make.bandit(client, store, "one"), make.bandit(client, store, "other")
    made = [make.decision((one, other)[n % 5 == 4], f"d{n}") for n in range(250)]
    for record in made:
        client.call(store.append_decision, record)
    for number, record in enumerate(made):
        bandit = (one, other)[number % 5 == 4]
        client.ask(store.append_step, first_step(bandit, record, number / 7))
    client.ask(store.append_change, one, change("a0"))
    last = make.decision(one, "last")
    client.ask(store.append_decision, last)
    client.ask(store.append_step, first_step(one, last))
    client.commit()
    with store.reader() as reader, store.follower() as follower:
        for bandit, sizes in ((one, [64, 64, 64, 8, 1, 1]), (other, [50])):
            groups = list(reader.follow(bandit, LogPosition(0), FAR, chunk))
            assert [len(group.rows) for group in groups] == sizes
            assert [group.as_block for group in groups] == [size > 1 for size in sizes]
            positions = [row.position for group in groups for row in group.rows]
            assert positions == list(range(1, sum(sizes) + 1))
            ends = list(itertools.accumulate(sizes))
            for position in range(1, len(positions) + 1):
                found = reader.hash_at(bandit.key, LogPosition(position))
                assert (found is not None) == (position in ends), "only a group's end has a hash"
            newest = list(follower.follow(bandit, LogPosition(0), reader.head(bandit.key)))
            assert plain(newest) == plain(groups)
            part = list(reader.follow(bandit, LogPosition(ends[0]), LogPosition(ends[-1]), chunk))
            assert plain(part) == plain(groups[1:])


@pytest.mark.few(0, of="postgres")
def test_what_is_wanted_is_served_from_its_switch_on(client, store, make):
    bandit = make.bandit(client, store)
    wanted = dataclasses.replace(
        bandit.spec, posterior=PosteriorSpec(prior_var=4.0),
        forgetting=ForgettingSpec(half_life=32.0),
    )  # fmt: skip
    learn(client, store, make, bandit, 0, 2)
    change = functools.partial(store.append_config, wanted=wanted)
    row = client.call(change, bandit, bandit.spec)
    learn(client, store, make, bandit, 2, 1)
    switch = client.call(store.append_switch, bandit, row.position, SnapshotVersion(3))
    learn(client, store, make, bandit, 3, 60)
    assert (row.position, switch.position) == (3, 5)
    with store.reader() as reader:
        known = reader.configurations(bandit)
        assert [known.generation(at) for at in (4, 5)] == [0, 3]
        assert reader.configurations(bandit, LogPosition(4)).pending == (3, row.time, wanted)
        assert [reader.spec_at(bandit, LogPosition(at)) for at in (4, 5)] == [bandit.spec, wanted]
        assert reader.spec_at(bandit, LogPosition(4), 3) == wanted
        plain = reader.forgetting_at(bandit, Forgetting(), LogPosition(0), LogPosition(60))
        anew = reader.forgetting_at(bandit, Forgetting(), LogPosition(0), LogPosition(60), 3)
    assert not len(plain.positions)
    assert anew.positions.tolist() == list(range(2, 61))


def test_a_decision_keeps_the_reward_rules_of_its_position(client, store, make):
    bandit = make.bandit(client, store)
    summed = dataclasses.replace(bandit.spec, rewards=RewardSpec(aggregate="sum"))
    before = make.decision(bandit, "before")
    client.call(store.append_decision, before)
    row = client.call(store.append_config, bandit, summed)
    after = replace(make.decision(bandit, "after"), position=row.position)
    client.call(store.append_decision, after)
    found = [client.call(store.find_decision, name).decision for name in ("before", "after")]
    assert [each.rules.aggregate for each in found] == ["first", "sum"]
