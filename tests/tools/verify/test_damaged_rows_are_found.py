"""Each kind of damage to the rows of a database is found, and reported by its kind."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from service.store.hashing import (
    GENESIS_HASH,
    ROW_BY_ROW,
    group_hash,
    leaf_hash,
    row_content,
)
from tests.tools.verify.conftest import Copy

BANDITS = ("linear", "summing", "last", "waiting", "closing")
ROUNDS = 1  # what is damaged here are rows
CHANGES = {"encoder": {"name": "concat", "standardize": False}}  # inputs are not scaled again
Damage = Callable[[Copy], object]
LINEAR = "(SELECT bandit FROM bandits WHERE name = 'linear')"
WAITING = "(SELECT bandit FROM bandits WHERE name = 'waiting')"


def key(decision_id: str) -> str:
    return f"(SELECT key FROM decisions WHERE own_id = '{decision_id}')"


SEVEN, EIGHT = key("linear.7"), key("linear.8")
UNREPORTED = key("linear.900")
ROW_9 = f"bandit = {LINEAR} AND position = 9"  # of linear.7
CHANGED = "linear: log: row 9: its hash is not that of the log up to it"


def sql(*statements: str) -> Damage:
    def run(copy: Copy) -> None:
        for statement in statements:
            copy.execute(statement)

    return run


def item(decision_id: str, **fields: object) -> Damage:
    """Change the item of a ledger row."""
    return lambda copy: copy.change(decision_id, fields)


def state(decision_id: str, **fields: object) -> Damage:
    """Change the sums or the value in the item of a ledger row."""
    return lambda copy: copy.change(decision_id, None, **fields)


def beside(number: float) -> float:
    """Return the next larger float."""
    return math.nextafter(number, math.inf)


REWARDS: dict[str, tuple[Damage, str]] = {
    "its number": (
        sql(f"UPDATE rewards SET reward = reward + 1e-9 WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.7, pick 0: they make",
    ),
    "one of a sum": (
        sql(f"UPDATE rewards SET reward = 5 WHERE key = {key('summing.7')} AND reward_id = 'x'"),
        "summing: rewards: decision summing.7, pick 0: they make",
    ),
    "the newest of several": (
        sql(f"UPDATE rewards SET reward = 5 WHERE key = {key('last.7')} AND seq = 3"),
        "last: rewards: decision last.7, pick 0: they make",
    ),
    "one before an activation": (
        sql(f"UPDATE rewards SET reward = 5 WHERE key = {key('linear.910')}"),
        "linear: ledger: decision linear.910, pick 0: its partial sums are not those",
    ),
    "its status": (
        sql(f"UPDATE rewards SET status = 'late' WHERE key = {SEVEN}"),
        "was learned, but no reward reported it",
    ),
    "an unknown status": (
        sql(f"UPDATE rewards SET status = 'lost' WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.7: unknown status 'lost'",
    ),
    "its pick": (
        sql(f"UPDATE rewards SET item = 3 WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.7: of pick 3, which it has not",
    ),
    "a pick below the first": (
        sql(f"UPDATE rewards SET item = -1 WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.7: of pick -1, which it has not",
    ),
    "its place among those of the decision": (
        sql(f"UPDATE rewards SET seq = 2 WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.7: their numbers are not 1 to 1",
    ),
    "the order of two": (
        sql(
            f"UPDATE rewards SET seq = 9 WHERE key = {key('last.7')} AND seq = 3",
            f"UPDATE rewards SET seq = 3 WHERE key = {key('last.7')} AND seq = 2",
            f"UPDATE rewards SET seq = 2 WHERE key = {key('last.7')} AND seq = 9",
        ),
        "last: rewards: decision last.7, pick 0: they make 0.125, the value learned is 0.25",
    ),
    "one is missing": (
        sql(f"DELETE FROM rewards WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.7: 0 are stored, the ledger counts 1",
    ),
    "one of a sum is missing": (
        sql(f"DELETE FROM rewards WHERE key = {key('summing.7')} AND reward_id = 'y'"),
        "summing: rewards: decision summing.7: 1 are stored, the ledger counts 2",
    ),
    "the rewards of a value": (
        sql(f"DELETE FROM rewards WHERE key = {SEVEN}"),
        "was learned, but no reward reported it",
    ),
    "a second one that counts": (
        sql(
            "INSERT INTO rewards SELECT key, item, 'again', reward, 2, status, time, NULL"
            f" FROM rewards WHERE key = {SEVEN}"
        ),
        "linear: rewards: decision linear.7, pick 0: 2 rewards count, of which one may",
    ),
    "one more that does not count": (
        sql(
            "INSERT INTO rewards SELECT key, item, 'again', reward, 2, 'late', time, NULL"
            f" FROM rewards WHERE key = {SEVEN}"
        ),
        "linear: rewards: decision linear.7: 2 are stored, the ledger counts 1",
    ),
    "one of a decision without a report": (
        sql(f"INSERT INTO rewards VALUES ({UNREPORTED}, 0, '', 0.5, 1, 'applied', 1.0, NULL)"),
        "None: 1 rewards at key",
    ),
    "one without a decision": (
        sql(f"INSERT INTO rewards VALUES ({LINEAR} << 45, 0, '', 0.5, 1, 'applied', 1.0, NULL)"),
        "None: 1 rewards at key",
    ),
    "one of another decision": (
        sql(f"UPDATE rewards SET key = {EIGHT}, seq = 2 WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.8: 2 are stored, the ledger counts 1",
    ),
}  # fmt: skip
LEDGER: dict[str, tuple[Damage, str]] = {
    "a learned value": (
        state("linear.7", value=7.5),
        "linear: ledger: decision linear.7, pick 0: value 7.5, the log says",
    ),
    "the value of a closed window": (
        state("closing.900", value=7.5),
        "closing: rewards: decision closing.900, pick 0: 7.5 was learned, but no reward",
    ),
    "a value that is gone": (
        state("linear.7", value=None),
        "linear: rewards: decision linear.7, pick 0: they count, but nothing was learned from them",
    ),
    "a value that was never learned": (
        state("linear.910", value=0.5),
        "linear: ledger: decision linear.910, pick 0: learned although it was never activated",
    ),
    "a bound": (
        item("last.920", high=2e4),
        "(decision last.920, pick 0): bounds -",
    ),
    "the bounds of a corrected value": (
        item("last.921", low=None, high=None),
        "the ledger says None and None",
    ),
    "bounds where there were none": (
        item("linear.7", low=-1.0, high=1.0),
        "linear: log: row 9 (decision linear.7, pick 0): bounds None and None, the ledger says",
    ),
    "a bound that is no number": (
        item("last.920", high="2"),
        "last: ledger: decision last.920, pick 0: it is not what was written",
    ),
    "partial sums": (
        state("summing.7", partials=(5.0,)),
        "summing: ledger: decision summing.7, pick 0: its partial sums are not those",
    ),
    "partial sums, by the last bit": (
        lambda copy: copy.change("summing.7", partials=(beside(copy.sum_of("summing.7")),)),
        "summing: ledger: decision summing.7, pick 0: its partial sums are not those",
    ),
    "the first reward": (
        state("linear.7", partials=(5.0,)),
        "linear: ledger: decision linear.7, pick 0: its partial sums are not those",
    ),
    "the last reward": (
        state("last.7", partials=(0.125,)),
        "last: ledger: decision last.7, pick 0: its partial sums are not those",
    ),
    "partial sums without a reward": (
        state("closing.900", partials=(5.0,)),
        "closing: ledger: decision closing.900, pick 0: its partial sums are not those",
    ),
    "how many rewards make a value": (
        state("summing.7", num=3),
        "summing: ledger: decision summing.7, pick 0: 2 rewards count, the ledger counts 3",
    ),
    "an origin": (
        item("linear.7", origin=10),
        "linear: ledger: decision linear.7, pick 0: log row 10 is not the first to learn it",
    ),
    "the latest row": (
        item("linear.7", latest=10),
        "linear: ledger: decision linear.7, pick 0: log row 10 is not the latest to learn it",
    ),
    "the latest row of a corrected value": (
        item("last.7", latest=9),
        "last: ledger: decision last.7, pick 0: log row 9 is not the latest to learn it",
    ),
    "rows without a value": (
        item("linear.910", origin=9, latest=9),
        "linear: ledger: decision linear.910, pick 0: learned in row 9, without a value",
    ),
    "how many rewards there are": (
        sql(f"UPDATE ledger SET rewards = rewards + 1 WHERE key = {SEVEN}"),
        "linear: rewards: decision linear.7: 1 are stored, the ledger counts 2",
    ),
    "its version": (
        sql(f"UPDATE ledger SET version = 5 WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7: version 5 after 1 steps",
    ),
    "an activation that is gone": (
        sql(f"UPDATE ledger SET activated = NULL WHERE key = {key('linear.911')}"),
        "linear: ledger: decision linear.911: version 1 after 0 steps",
    ),
    "an activation that was not needed": (
        sql(f"UPDATE ledger SET activated = 1.0 WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7: activated, although it was active from the start",
    ),
    "bytes": (
        sql(f"UPDATE ledger SET items = x'c1' WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7: a ledger row is not what was written",
    ),
    "bytes of another kind": (
        state("linear.7", value="0.5"),
        "linear: ledger: decision linear.7, pick 0: it is not what was written",
    ),
    "another number of picks": (
        sql(f"UPDATE ledger SET items = x'90' WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7: 0 items for 1 chosen actions",
    ),
    "it is missing": (
        sql(f"DELETE FROM ledger WHERE key = {SEVEN}"),
        "linear: log: row 9 (decision linear.7, pick 0): the ledger does not have it",
    ),
    "it is missing beneath a reward": (
        sql(f"DELETE FROM ledger WHERE key = {key('linear.910')}"),
        "None: 1 rewards at key",
    ),
    "it has no decision": (
        sql(
            f"INSERT INTO ledger SELECT {LINEAR} << 45, version, rewards, activated, closed, items,"
            f" matures FROM ledger WHERE key = {SEVEN}"
        ),
        "None: the ledger row at key",
    ),
    "two decisions' are exchanged": (
        sql(
            f"UPDATE ledger SET key = 1 WHERE key = {SEVEN}",
            f"UPDATE ledger SET key = {SEVEN} WHERE key = {EIGHT}",
            f"UPDATE ledger SET key = {EIGHT} WHERE key = 1",
        ),
        "linear: ledger: decision linear.7, pick 0: log row 10 is not the first to learn it",
    ),
    "two of closed windows are exchanged": (
        sql(
            f"UPDATE ledger SET key = 1 WHERE key = {key('closing.900')}",
            f"UPDATE ledger SET key = {key('closing.900')} WHERE key = {key('closing.901')}",
            f"UPDATE ledger SET key = {key('closing.901')} WHERE key = 1",
        ),
        "is not the first to learn it",
    ),
}  # fmt: skip
LOG: dict[str, tuple[Damage, str]] = {
    "a value": (sql(f"UPDATE log SET after = after + 1e-9 WHERE {ROW_9}"), CHANGED),
    "a time": (sql(f"UPDATE log SET time = time + 1 WHERE {ROW_9}"), CHANGED),
    "a decision": (sql(f"UPDATE log SET key = {EIGHT} WHERE {ROW_9}"), CHANGED),
    "a pick": (sql(f"UPDATE log SET item = 1 WHERE {ROW_9}"), CHANGED),
    "a pick below the first": (
        sql(f"UPDATE log SET item = -1 WHERE {ROW_9}"),
        "linear: log: row 9 (decision linear.7, pick -1): the ledger does not have it",
    ),
    "a lower bound": (sql(f"UPDATE log SET low = 0.0 WHERE {ROW_9}"), CHANGED),
    "an upper bound": (sql(f"UPDATE log SET high = 0.0 WHERE {ROW_9}"), CHANGED),
    "a value that is gone": (
        sql(f"UPDATE log SET after = NULL WHERE {ROW_9}"),
        "linear: log: row 9: its value is missing",
    ),
    "a hash": (
        sql(f"UPDATE log SET hash = zeroblob(16) WHERE {ROW_9}"), CHANGED,
    ),
    "a row": (sql(f"DELETE FROM log WHERE {ROW_9}"), "linear: log: row 9 is missing"),
    "several rows": (
        sql(f"DELETE FROM log WHERE bandit = {LINEAR} AND position BETWEEN 9 AND 12"),
        "linear: log: rows 9 to 12 are missing",
    ),
    "the newest row": (
        sql(f"DELETE FROM log WHERE bandit = {LINEAR} AND position = 61"),
        "linear: ledger: decision linear.104, pick 0: log row 61 is not the first to learn it",
    ),
    "an action": (
        sql(
            "UPDATE log SET payload = substr(payload, 1, 20)"
            f" WHERE bandit = {LINEAR} AND position = 1"
        ),
        "linear: log: row 1: its hash is not that of the log up to it",
    ),
    "a row's kind": (
        sql(f"UPDATE log SET kind = 9 WHERE {ROW_9}"), "linear: log: row 9: of unknown kind 9",
    ),
    "a row of another bandit": (
        sql(f"UPDATE log SET bandit = {WAITING}, position = 9999 WHERE {ROW_9}"),
        "row 9999 (decision linear.7, pick 0): its decision is another bandit's",
    ),
}  # fmt: skip
DECISIONS: dict[str, tuple[Damage, str]] = {
    "the propensities of all candidates": (
        sql(f"UPDATE decisions SET propensities = x'00112233' WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7: decision linear.7 is not what was written",
    ),
    "it is missing": (
        sql(f"DELETE FROM decisions WHERE key = {SEVEN}"),
        "pick 0): its decision is missing",
    ),
    "its key": (
        sql(f"UPDATE decisions SET key = {LINEAR} << 45 WHERE own_id = 'linear.7'"),
        "pick 0): its decision is missing",
    ),
    "what it saw": (
        sql("UPDATE decisions SET context = zeroblob(length(context)) WHERE own_id = 'linear.95'"),
        "linear: log: row 52: decision linear.95 is not what was written",
    ),
    "what it chose": (
        sql(f"UPDATE decisions SET chosen = x'90' WHERE key = {SEVEN}"),
        "linear: log: row 9: decision linear.7 is not what was written",
    ),
    "what it chose, before a reward": (
        sql(f"UPDATE decisions SET chosen = x'90' WHERE key = {key('linear.910')}"),
        "linear: ledger: decision linear.910: decision linear.910 is not what was written",
    ),
    "its position": (
        sql(f"UPDATE decisions SET position = 50 WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7, pick 0: learned in row 9, before it was decided",
    ),
    "whether it was active": (
        sql(f"UPDATE decisions SET activated = 0 WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7, pick 0: learned although it was never activated",
    ),
}
WINDOWS: dict[str, tuple[Damage, str]] = {
    "an open one is missing": (
        sql(f"DELETE FROM windows WHERE key = {key('waiting.900')}"),
        "waiting: windows: that of the decision at key",
    ),
    "its decision is missing": (
        sql(f"DELETE FROM decisions WHERE key = {key('waiting.900')}"),
        "has no decision",
    ),
    "a closed one was never closed": (
        sql(f"UPDATE ledger SET closed = NULL WHERE key = {key('closing.900')}"),
        "closing: windows: that of the decision at key",
    ),
    "the ledger row of a closed one is missing": (
        sql(f"DELETE FROM ledger WHERE key = {key('closing.910')}"),
        "closing: windows: that of the decision at key",
    ),
    "an open one was closed": (
        sql(f"UPDATE ledger SET closed = 1.0 WHERE key = {key('waiting.7')}"),
        "is open, and was closed",
    ),
    "a closed one is open": (
        sql(f"INSERT INTO windows VALUES (1.0, {key('closing.900')})"),
        "is open, and was closed",
    ),
    "it was mature where values wait for the close": (
        sql(f"UPDATE ledger SET matures = 1.0 WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7: mature, and its bandit learns rewards as they come",
    ),
    "a closed one is to be mature": (
        sql(f"INSERT INTO maturing VALUES (1.0, {key('closing.900')})"),
        "waits to be mature, in vain",
    ),
    "an open one of a bandit without windows": (
        sql(f"INSERT INTO windows VALUES (1.0, {SEVEN})"),
        "its bandit has none",
    ),
    "a closed one of a bandit without windows": (
        sql(f"UPDATE ledger SET closed = 1.0 WHERE key = {SEVEN}"),
        "linear: ledger: decision linear.7: its window was closed, and its bandit has none",
    ),
}
DAMAGE = {
    f"{table}: {what}": damage
    for table, kinds in {
        "rewards": REWARDS, "ledger": LEDGER, "log": LOG, "decisions": DECISIONS,
        "windows": WINDOWS,
    }.items()
    for what, damage in kinds.items()
}  # fmt: skip


@pytest.mark.few(40)
@pytest.mark.parametrize("what", DAMAGE)
def test_changed_rows_are_found(copy, what):
    damage, expected = DAMAGE[what]
    damage(copy)
    problems = copy.problems()
    assert [text for text in problems if expected in text], problems
    bandit = expected.split(":")[0]
    if bandit in copy.names():
        assert all(text.startswith((f"{bandit}: ", "None: ")) for text in problems), problems


# -- groups of log rows -----------------------------------------------------------------------


def hash_problems(copy: Copy) -> list[str]:
    return [text for text in copy.problems() if "log: " in text and "its hash" in text]


@pytest.mark.few(4)
@pytest.mark.parametrize("change", ["after = after + 1e-9", "time = time + 1", "low = -1e9"])
@pytest.mark.parametrize("place", ["first", "middle", "last but one", "last"])
def test_a_changed_row_of_a_group_is_named(copy, place, change):
    group = copy.group("linear")
    position = {"first": group[0], "middle": group[2], "last but one": group[-2],
                "last": group[-1]}[place]  # fmt: skip
    copy.execute(f"UPDATE log SET {change} WHERE bandit = {LINEAR} AND position = {position}")
    assert hash_problems(copy) == [
        f"linear: log: row {position}: its hash is not that of the log up to it"
    ]


def test_two_exchanged_rows_of_a_group_are_named(copy):
    first, second = copy.group("linear")[1:3]
    of = f"WHERE bandit = {LINEAR} AND position ="
    for position, other in ((first, 0), (second, first), (0, second)):
        copy.execute(f"UPDATE log SET position = {other} {of} {position}")
    assert f"linear: log: row {first}: its hash is not that of the log up to it" in copy.problems()


@pytest.mark.few(2)
@pytest.mark.parametrize(("rule", "found"), [
    (1, "its hash is not that of the log up to it"),
    (3, "its hash is not that of the log up to it"),
    (7, "its group has the unknown rule 7"),
    (1000, "its group has the unknown rule 1000"),
])  # fmt: skip
def test_another_rule_of_a_group_is_found(copy, rule, found):
    last = copy.group("linear")[-1]
    statement = f"UPDATE log SET ends = {rule} WHERE bandit = {LINEAR} AND position = {last}"
    assert copy.execute(f"SELECT ends FROM log WHERE bandit = {LINEAR} AND position = {last}") == [
        (2,)
    ]
    copy.execute(statement)
    problems = copy.problems()
    assert f"linear: log: row {last}: {found}" in problems
    assert all(text.startswith("linear: ") for text in problems)


def test_a_group_that_does_not_end_is_found(copy):
    last = copy.group("linear")[-1]
    copy.execute(f"UPDATE log SET ends = 0 WHERE bandit = {LINEAR} AND position = {last}")
    assert f"linear: log: row {last}: its hash is not that of the log up to it" in copy.problems()


def test_a_group_that_ends_early_is_found(copy):
    inside = copy.group("linear")[1]
    copy.execute(f"UPDATE log SET ends = 2 WHERE bandit = {LINEAR} AND position = {inside}")
    assert f"linear: log: row {inside}: its hash is not that of the log up to it" in copy.problems()


@pytest.mark.parametrize("which", ["the first", "the newest"])
def test_a_group_without_its_last_row_is_found(copy, which):
    group = copy.group("linear")
    if which == "the newest":
        # The only group from here on: what came after it is gone as well.
        copy.execute(f"DELETE FROM log WHERE bandit = {LINEAR} AND position > {group[-1]}")
    copy.execute(f"DELETE FROM log WHERE bandit = {LINEAR} AND position = {group[-1]}")
    problems = copy.problems()
    if which == "the newest":
        span = f"rows {group[0]} to {group[-2]} are in a group without end"
        assert f"linear: log: {span}" in problems
    else:
        assert f"linear: log: row {group[-1]} is missing" in problems


def test_the_rest_of_a_log_with_a_gap_is_still_checked(copy):
    group = copy.group("linear")
    copy.execute(f"DELETE FROM log WHERE bandit = {LINEAR} AND position = {group[1]}")
    changed = group[0], group[2], 60
    for position in changed:
        copy.execute(f"UPDATE log SET time = 1 WHERE bandit = {LINEAR} AND position = {position}")
    problems = copy.problems()
    assert f"linear: log: row {group[1]} is missing" in problems
    assert [text for text in problems if "log: " in text and "its hash" in text] == [
        f"linear: log: row {position}: its hash is not that of the log up to it"
        for position in changed
    ]


def test_the_number_of_damaged_rows_is_that_of_the_findings(copy):
    """A changed row does not make the rows and groups after it look changed."""
    copy.execute(f"UPDATE log SET time = time + 1 WHERE bandit = {LINEAR} AND position % 20 = 9")
    assert hash_problems(copy) == [
        f"linear: log: row {position}: its hash is not that of the log up to it"
        for position in (9, 29, 49)
    ]


@pytest.mark.parametrize("origin", ["its own position", "the first row's"])
def test_a_value_that_was_learned_twice_is_found_under_a_whole_hash_chain(copy, origin):
    bandit = copy.bandit("linear")
    (row,) = copy.execute(
        "SELECT position, hash, time FROM log WHERE bandit = ? ORDER BY position DESC LIMIT 1",
        bandit,
    )
    position, previous, time = row[0] + 1, row[1], row[2]
    first = position if origin == "its own position" else 9
    learned = (copy.key("linear.7"), 0, first, None, 0.5, None, None)
    leaf = leaf_hash((position, 1, time, *learned))
    copy.execute(
        "INSERT INTO log VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?)", bandit, position,
        time, *learned, ROW_BY_ROW, group_hash(previous, ROW_BY_ROW, [leaf]),
    )  # fmt: skip
    problems = copy.problems()
    assert not [text for text in problems if "its hash" in text]
    what = "learned a second time" if origin == "its own position" else "a first value with origin"
    assert [text for text in problems if what in text]


def test_a_recomputed_chain_is_found_by_the_snapshots(copy):
    bandit, previous, leaves = copy.bandit("linear"), GENESIS_HASH, []
    copy.execute("UPDATE log SET after = 0.125 WHERE bandit = ? AND position = 9", bandit)
    copy.execute(f"UPDATE rewards SET reward = 0.125 WHERE key = {SEVEN}")
    copy.change("linear.7", value=0.125, partials=(0.125,))
    rows = copy.execute("SELECT * FROM log WHERE bandit = ? ORDER BY position", bandit)
    for _, position, kind, time, *learned, payload, ends, _ in rows:
        leaf = leaf_hash((position, kind, time, *row_content(kind, learned, payload)))
        leaves.append(leaf)
        if ends:
            leaf = previous = group_hash(previous, ends, leaves)
            leaves = []
        copy.execute(
            "UPDATE log SET hash = ? WHERE bandit = ? AND position = ?", leaf, bandit, position
        )
    problems = copy.problems()
    assert not [text for text in problems if "log: row" in text]
    assert [text for text in problems if "its hash of the log at" in text]
