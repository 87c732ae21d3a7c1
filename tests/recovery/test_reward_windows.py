"""Windows, sums and activations in a server that is killed."""

from __future__ import annotations

import time

from service.store.sql.codec import unpack_items

DEFAULT = {"aggregate": "sum", "reward_window_s": 4.0, "default_reward": 0.5}
AGED = {"reward_window_s": 600.0, "default_reward": 0.5, "maturity": 4.0}


def test_what_was_open_is_closed_after_a_kill_and_not_before_its_time(launch, rig):
    node = launch("windows")
    node.create("summed", rig.linear(rewards=DEFAULT))
    for number in range(4):
        body = {"bandit": "summed", "context": rig.context_of("summed", number)}
        node.call("POST", "/select", body | {"decision_id": f"w{number}", "activate": number < 3})
    node.create("aged", rig.linear(rewards=AGED))
    body = {"bandit": "aged", "context": rig.context_of("aged", 0), "decision_id": "m0"}
    node.call("POST", "/select", body)
    for part in range(2):
        body = {"decision_id": "w0", "reward": 0.25, "reward_id": f"r{part}"}
        node.call("POST", "/reward", body)
    node.call("POST", "/reward", {"decision_id": "w3", "reward": 0.25, "reward_id": "r0"})
    answered = time.monotonic()
    rig.poll(
        lambda: rig.query(node, "SELECT 1 FROM meta WHERE key = 'windows_looked'"),
        "a check of the windows",
    )
    node.kill()
    watched = time.monotonic() - answered
    deadline = time.monotonic() + 4.5  # longer than the window: away is not watched
    rig.poll(lambda: time.monotonic() > deadline, "the window's length to pass")
    node.start()
    restarted = time.monotonic()
    again = {"decision_id": "w0", "reward": 0.25, "reward_id": "r1"}
    assert node.call("POST", "/reward", again)["status"] == "duplicate"
    more = {"decision_id": "w0", "reward": 0.5, "reward_id": "r2"}
    assert node.call("POST", "/reward", more)["status"] == "aggregated"
    rig.poll(lambda: node.state("summed")["num_learned"] == 3, "the default rewards")
    rig.poll(lambda: node.state("aged")["num_learned"] == 1, "the decision to be mature")
    assert watched + time.monotonic() - restarted > 3.0
    ledger = rig.query(
        node, "SELECT own_id, l.closed, items FROM ledger AS l"
        " LEFT JOIN decisions AS d ON d.key = l.key WHERE own_id LIKE 'w%' ORDER BY own_id",
    )  # fmt: skip
    values = {name: unpack_items(items)[0].state.value for name, _, items in ledger}
    assert values == {"w0": 1.0, "w1": 0.5, "w2": 0.5, "w3": None}
    assert None not in {closed for _, closed, _ in ledger}
    assert rig.query(node, "SELECT count(*) FROM windows") == [(1,)], "that of m0"
    assert rig.query(node, "SELECT * FROM maturing") == []
    assert node.call("POST", "/activate", {"decision_id": "w3"}) == {"status": "late"}
    before = node.score("summed")
    node.kill()
    node.start()
    after = node.score("summed")
    assert [part.tolist() for part in after] == [part.tolist() for part in before]
    corrected = node.call("POST", "/reward", {"decision_id": "m0", "reward": 1.0})
    assert corrected["status"] == "applied"
    explained = node.call("GET", "/bandits/aged/decisions/m0")["chosen"][0]["learned"]
    assert [(row["before"], row["after"]) for row in explained] == [(None, 0.5), (0.5, 1.0)]
    assert node.stop() == 0
