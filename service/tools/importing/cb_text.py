"""Reads Vowpal Wabbit's text of contextual bandits.

Of fixed actions a line is a decision: `2:-1:0.4 | age:0.3 mobile`, the action's number, its cost
and its probability, and the features of the context; more numbers say what else could be chosen.
With features of actions (cb_adf) a decision is a block of lines: `shared | ...` with the context,
then a line for each action, of which the chosen one begins with `0:cost:probability`, then an empty
line. A feature without a value is 1; a namespace is an object around its features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from service.tools.importing.found import Action, Found, offered
from service.tools.importing.shape import Shape, Unfit, finite

Row = dict[str, Any]
MOST_LINES = 100_000  # of a block


class _Line(NamedTuple):
    """A line: its labels, its tag, its features."""

    labels: list[str]
    tag: str
    features: Row


class _Label(NamedTuple):
    """The label of a chosen action."""

    number: str
    cost: float
    probability: float


def read_cb(lines: IO[bytes], shape: Shape, names: list[str]) -> Iterator[Found]:
    """Yield the decisions of a file."""
    block: list[str] = []
    number = 0
    for number, raw in enumerate(lines, 1):
        text = raw.decode().strip()
        starts = text.startswith("shared")
        if block and (not text or starts or len(block) == MOST_LINES):
            yield _found(number - 1, block, shape, names)
            block = []
        if not text:
            continue
        if block or starts or _is_of_block(text):
            block.append(text)
        else:
            yield _found(number, [text], shape, names)
    if block:
        yield _found(number, block, shape, names)


def _is_of_block(text: str) -> bool:
    """Whether a line without a shared one before it is an action of a block."""
    head = text.partition("|")[0].split()
    return not head or head[0].startswith(("0:", "'"))


def _found(line: int, block: list[str], shape: Shape, names: list[str]) -> Found:
    text = "\n".join(block).encode()
    try:
        parsed = [_parsed(each) for each in block]
        shared = parsed[0].labels[:1] == ["shared"]
        if shared or len(parsed) > 1 or _is_of_block(block[0]):
            context = parsed[0].features if shared else {}
            item, actions = _of_block(context, parsed[shared:], shape, names)
        else:
            item, actions = _of_line(parsed[0], shape, names)
    except Unfit as error:
        return Found(line, reason=str(error))
    return Found(line, item, text=text, actions=actions)


def _of_line(line: _Line, shape: Shape, names: list[str]) -> tuple[Row, tuple[Action, ...]]:
    labels = [(each, _label(each)) for each in line.labels]
    chosen = next((label for _, label in labels if label is not None), None)
    if chosen is None:
        raise Unfit("has no label action:cost:probability")
    ids = [_name(each.partition(":")[0], names) for each, _ in labels]
    action = _name(chosen.number, names)
    item = {"context": shape.context(line.features), "action": action, **_outcome(chosen)}
    if len(ids) == 1:  # all actions could be chosen
        return item, (Action(action, None),)
    if len(set(ids)) < len(ids):
        raise Unfit("an action is offered twice")
    return item | {"candidates": ids}, tuple(Action(name, None) for name in ids)


def _of_block(
    context: Row, lines: list[_Line], shape: Shape, names: list[str]
) -> tuple[Row, tuple[Action, ...]]:
    if not lines:
        raise Unfit("offers no actions")
    ids = [line.tag or _name(str(place), names) for place, line in enumerate(lines, 1)]
    if len(set(ids)) < len(ids):
        raise Unfit("an action is offered twice")
    found = [_label(line.labels[0]) if line.labels else None for line in lines]
    place = next((place for place, label in enumerate(found) if label is not None), None)
    if place is None:
        raise Unfit("no action of the block has a label 0:cost:probability")
    label = found[place]
    assert label is not None
    candidates, actions = offered(
        ids, [shape.features(line.features) for line in lines], shape.has_action_features
    )
    item = {
        "context": shape.context(context), "candidates": candidates, "action": ids[place],
        **_outcome(label),
    }  # fmt: skip
    return item, actions


def _outcome(label: _Label) -> Row:
    return {"value": -label.cost + 0.0, "propensity": label.probability}


def _name(number: str, names: list[str]) -> str:
    place = int(number) - 1 if number.isascii() and number.isdigit() else -1
    return names[place] if 0 <= place < len(names) else number


def _label(text: str) -> _Label | None:
    """Return the label of a chosen action; None: it has no cost."""
    parts = text.split(":")
    if len(parts) < 2:
        return None
    if len(parts) != 3:
        raise Unfit(f"{text!r} is no label action:cost:probability")
    probability = finite(parts[2], "probability")
    if not 0.0 < probability <= 1.0:
        raise Unfit(f"probability: {parts[2]} is none")
    return _Label(parts[0], finite(parts[1], "cost"), probability)


def _parsed(text: str) -> _Line:
    head, bar, rest = text.partition("|")
    if not bar:
        raise Unfit("has no features: the bar is missing")
    labels, tag = head.split(), ""
    if labels and labels[-1].startswith("'"):
        tag = labels.pop()[1:]
    elif labels and not head[-1].isspace():  # a tag touches the bar
        tag = labels.pop()
    features: Row = {}
    for space in rest.split("|"):
        _add_space(features, space)
    return _Line(labels, tag, features)


def _add_space(features: Row, text: str) -> None:
    """Add a namespace, ` a b:2` or `name:weight a b:2`."""
    words = text.split()
    weight, into = 1.0, features
    if words and text[:1] != " ":
        name, _, given = words.pop(0).partition(":")
        weight = finite(given, f"the weight of {name}") if given else 1.0
        into = features.setdefault(name, {})
        if not isinstance(into, dict):
            raise Unfit(f"{name!r} is a feature and a namespace")
    for word in words:
        name, _, given = word.partition(":")
        if not name:
            raise Unfit(f"{word!r} is a feature without a name")
        into[name] = weight * (finite(given, name) if given else 1.0)
