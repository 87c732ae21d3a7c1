"""Two servers with the same seed decide alike: with the caller's ids; see docs/bandits.md."""

from __future__ import annotations


def own_ids(node, rig, name: str) -> list[tuple[str, str, float]]:
    """Return ids, actions and scores of selects that give no id."""
    found = []
    for number in range(30):
        body = {"bandit": name, "context": rig.context_of(name, number)}
        chosen = node.call("POST", "/select", body)
        found.append((chosen["decision_id"], chosen["action"]["id"], chosen["score"]))
    return found


def test_the_same_seed_name_calls_and_ids_give_the_same_decisions(launch, rig):
    nodes = [launch(name) for name in ("one", "two")]
    specs = {"linear": rig.linear(), "neural": rig.neural()}
    for name, spec in specs.items():
        for node in nodes:
            node.create(name, spec)
        first, second = (rig.steps(node, name, 0, 50) for node in nodes)
        assert second == first
    # Ids that the server makes are random: other draws from the same posterior.
    one, two = (own_ids(node, rig, "linear") for node in nodes)
    assert not {row[0] for row in one} & {row[0] for row in two}
    assert [row[2] for row in one] != [row[2] for row in two]
    first, second = (rig.steps(node, "linear", 50, 10) for node in nodes)
    assert second == first, "as long as they are not rewarded, they change nothing"
    nodes[0].create("seeded", rig.linear(seed=1))
    nodes[1].create("seeded", rig.linear(seed=2))
    first, second = (rig.steps(node, "seeded", 0, 10) for node in nodes)
    assert [step.score for step in second] != [step.score for step in first]


def test_a_bandit_that_was_created_again_draws_anew(launch, rig):
    node = launch("again")
    node.create("linear", rig.linear())
    first = rig.steps(node, "linear", 0, 10)
    node.call("DELETE", "/bandits/linear")
    node.create("linear", rig.linear())
    second = rig.steps(node, "linear", 0, 10)
    assert [step.score for step in second] != [step.score for step in first]
