"""The ids of decisions: keys in order of time, and texts that nobody else can make."""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandexa_core.ids import BanditUid, DecisionId, DecisionKey
from service.store import identity
from service.store.identity import (
    MAX_BANDITS,
    TICKS_PER_S,
    TIME_BITS,
    DecisionIds,
    bandit_of,
    first_key,
    is_server_form,
    pack_own_id,
    place_of,
    unpack_own_id,
)

SECRET = bytes(range(16))
IDS = DecisionIds("0", SECRET)
NS_PER_S = 1_000_000_000
NOW_NS = 1_800_000_000 * NS_PER_S
TICK_NS = NS_PER_S // TICKS_PER_S + 1
LAST_NS = ((1 << TIME_BITS) - 1) * NS_PER_S // TICKS_PER_S
KEYS = st.integers(0, (1 << 63) - 1).map(DecisionKey)
CELLS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8)
SECRETS = st.binary(min_size=16, max_size=16)


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS

    def time_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(identity, "time", clock)
    return clock


# -- keys -------------------------------------------------------------------------------------


def test_a_key_is_the_bandit_and_the_time(clock: Clock) -> None:
    key = DecisionIds("0", SECRET).new_key(7)
    assert bandit_of(key) == 7
    assert place_of(key) == NOW_NS // NS_PER_S * TICKS_PER_S
    assert first_key(7) + place_of(key) == key


def test_keys_follow_each_other_in_time(clock: Clock) -> None:
    ids = DecisionIds("0", SECRET)
    keys = []
    for _ in range(1000):
        keys.append(ids.new_key(3))
        clock.now_ns += TICK_NS
    places = [place_of(key) for key in keys]
    assert all(before < after for before, after in itertools.pairwise(places))
    elapsed = (places[-1] - places[0]) / TICKS_PER_S
    assert elapsed == pytest.approx(999 * TICK_NS / NS_PER_S, abs=2 / TICKS_PER_S)


def test_a_hundred_thousand_keys_of_one_tick_are_ordered_and_unique(clock: Clock) -> None:
    ids = DecisionIds("0", SECRET)
    keys = [ids.new_key(3) for _ in range(100_000)]
    assert keys == list(range(keys[0], keys[0] + 100_000))
    clock.now_ns += NS_PER_S  # they have run ahead of the clock by more than that
    assert ids.new_key(3) == keys[-1] + 1
    clock.now_ns += 100 * NS_PER_S
    assert place_of(ids.new_key(3)) == clock.now_ns // NS_PER_S * TICKS_PER_S


@given(steps_ns=st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=50))
def test_keys_only_grow_whatever_the_clock_does(steps_ns: list[int]) -> None:
    clock, ids = Clock(), DecisionIds("0", SECRET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "time", clock)
        keys = [ids.new_key(3)]
        for step_ns in steps_ns:
            clock.now_ns += step_ns
            keys.append(ids.new_key(3))
    assert all(before < after for before, after in itertools.pairwise(keys))
    assert {bandit_of(key) for key in keys} == {3}


def test_a_clock_that_was_set_back_before_a_restart_does_not_repeat_a_stored_key(
    clock: Clock,
) -> None:
    before = DecisionIds("0", SECRET)
    stored = [before.new_key(3) for _ in range(10)]
    clock.now_ns -= 3600 * NS_PER_S
    after = DecisionIds("0", SECRET)
    after.seen(stored[-1])
    after.seen(stored[0])  # an older one does not set it back
    assert [after.new_key(3) for _ in range(3)] == [stored[-1] + n for n in (1, 2, 3)]


def test_the_keys_of_a_bandit_lie_together(clock: Clock) -> None:
    """However much faster than the clock one bandit's are made, another's are not moved."""
    ids = DecisionIds("0", SECRET)
    bandits = [0, 1, 2, MAX_BANDITS - 1]
    for _ in range(100):
        ids.new_key(1)
    keys = [ids.new_key(bandit) for bandit in bandits]
    assert keys == sorted(keys)
    assert [bandit_of(key) for key in keys] == bandits
    assert len({place_of(key) for key in keys}) == 2
    for bandit, key in zip(bandits, keys, strict=True):
        assert first_key(bandit) <= key < first_key(bandit + 1)


@pytest.mark.parametrize("bandit", [0, 1, MAX_BANDITS - 1])
def test_keys_and_places_fit_until_the_year_2106(clock: Clock, bandit: int) -> None:
    """A key fits a 64-bit integer with a sign, as SQLite has; a place fits a float64 exactly."""
    clock.now_ns = LAST_NS - NS_PER_S
    key = DecisionIds("0", SECRET).new_key(bandit)
    assert 1 << 45 > place_of(key) > (1 << 45) - 2 * TICKS_PER_S
    assert clock.now_ns > 4_291_747_200 * NS_PER_S  # 2106-01-01
    assert 0 <= key < 1 << 63
    assert bandit_of(key) == bandit
    for place in (place_of(key), (1 << TIME_BITS) - 1):
        assert int(float(place)) == place
        assert float(place) - float(place - 1) == 1.0


# -- texts ------------------------------------------------------------------------------------


@given(key=KEYS, cell=CELLS, secret=SECRETS)
def test_a_text_is_that_of_one_key(key: DecisionKey, cell: str, secret: bytes) -> None:
    ids = DecisionIds(cell, secret)
    text = ids.text(key)
    assert is_server_form(text)
    assert text.startswith(f"{cell}.")
    assert ids.key(text) == key
    assert ids.text(key) == text
    assert DecisionIds(cell, secret).key(text) == key
    assert ids.place(text) == ("key", key)
    assert ids.name(key, None) == text


@given(key=KEYS, data=st.data())
def test_a_text_with_any_changed_character_is_not_accepted(
    key: DecisionKey, data: st.DataObject
) -> None:
    text = IDS.text(key)
    for at, character in enumerate(text):
        other = data.draw(st.characters(exclude_characters=character))
        assert IDS.key(DecisionId(text[:at] + other + text[at + 1 :])) is None


def test_no_other_character_is_accepted_anywhere() -> None:
    """Every character of the form, and the same in capitals."""
    text = IDS.text(DecisionIds("0", SECRET).new_key(3))
    for at, character in enumerate(text):
        for other in set(string.ascii_letters + string.digits + ". -\n") - {character}:
            assert IDS.key(DecisionId(text[:at] + other + text[at + 1 :])) is None, (at, other)


def test_a_text_with_a_character_more_or_less_is_not_accepted() -> None:
    text = IDS.text(DecisionKey(first_key(3) + 5))
    for at in range(len(text)):
        assert IDS.key(DecisionId(text[:at] + text[at + 1 :])) is None
        for more in "0a.":
            assert IDS.key(DecisionId(text[:at] + more + text[at:])) is None
    for wrong in (f"{text}\n", f" {text}", "", "0."):
        assert IDS.key(DecisionId(wrong)) is None


@given(key=KEYS, secrets=st.lists(SECRETS, min_size=2, max_size=2, unique=True))
def test_another_secret_does_not_accept_it(key: DecisionKey, secrets: list[bytes]) -> None:
    made, other = (DecisionIds("0", secret) for secret in secrets)
    assert other.key(made.text(key)) is None
    assert other.place(made.text(key)) == ("own_id", made.text(key))


@given(key=KEYS, cells=st.lists(CELLS, min_size=2, max_size=2, unique=True))
def test_another_cell_does_not_accept_it(key: DecisionKey, cells: list[str]) -> None:
    made, other = (DecisionIds(cell, SECRET) for cell in cells)
    assert other.key(made.text(key)) is None


def test_the_hash_of_one_key_tells_nothing_about_the_next() -> None:
    """Of 48 bits each differs between neighbours in half of 2,000 cases; 6 standard errors: 134."""
    hashes = [int(IDS.text(DecisionKey(first_key(3) + n))[-12:], 16) for n in range(2001)]
    assert len(set(hashes)) == 2001
    moved = [a ^ b for a, b in itertools.pairwise(hashes)]
    for bit in range(48):
        assert abs(sum(number >> bit & 1 for number in moved) - 1000) < 134


@pytest.mark.parametrize(
    ("text", "is_form"),
    [
        ("0." + "a" * 28, True), ("eu1." + "0" * 28, True), ("abcdefgh." + "9" * 28, True),
        ("." + "a" * 28, False), ("abcdefghi." + "a" * 28, False), ("0." + "a" * 27, False),
        ("0." + "a" * 29, False), ("0." + "A" * 28, False), ("0." + "g" * 28, False),
        ("E." + "a" * 28, False), ("0-" + "a" * 28, False), ("0." + "a" * 28 + "\n", False),
        ("0.\u0661" + "a" * 27, False), ("a" * 32, False), ("d-1", False), ("", False),
    ],
)  # fmt: skip
def test_what_has_the_form_of_a_server_made_id(text: str, is_form: bool) -> None:
    """A caller's id must not have it, whether or not the hash is right."""
    assert is_server_form(text) == is_form


# -- callers' ids -----------------------------------------------------------------------------


@given(
    text=st.text(min_size=1)
    | st.text(string.hexdigits, min_size=30, max_size=34)
    | st.uuids().map(lambda uuid: uuid.hex)
)
def test_a_callers_id_is_stored_and_found_as_it_is(text: str) -> None:
    own = DecisionId(text)
    stored = pack_own_id(own)
    assert unpack_own_id(stored) == own
    assert IDS.name(DecisionKey(5), stored) == own
    assert IDS.key(own) is None
    assert IDS.place(own) == ("own_id", stored)


def test_a_callers_uuid_takes_16_bytes() -> None:
    uuid = DecisionId("0189f7a2b4c57d10a5f3e2d1c0b9a877")
    assert pack_own_id(uuid) == bytes.fromhex(uuid)
    for text in (uuid.upper(), uuid[:-1], uuid + "0", f"{uuid}\n", "plain"):
        assert pack_own_id(DecisionId(text)) == text


def test_the_age_of_a_decision_is_in_its_key_but_for_those_of_an_older_format() -> None:
    before = identity.key_at(3, 1.7e9)
    assert identity.time_of(before) == 1.7e9
    assert identity.is_older(identity.key_at(3, 1.6e9), 9e9, before), "dated by a wrong clock"
    assert not identity.is_older(identity.key_at(3, 1.8e9), 0.0, before)
    migrated = DecisionKey(identity.first_key(3) + 17)
    assert identity.is_older(migrated, 1.6e9, before)
    assert not identity.is_older(migrated, 1.8e9, before)
    assert identity.made_at(migrated, 1.8e9) == 1.8e9


def test_each_bandit_of_a_store_has_a_salt_of_its_own_that_lasts():
    ids, again, other = (DecisionIds("0", bytes([n] * 16)) for n in (1, 1, 2))
    salt = ids.salt(BanditUid("a"))
    assert again.salt(BanditUid("a")) == salt
    assert len({salt, ids.salt(BanditUid("b")), other.salt(BanditUid("a"))}) == 3
