"""Lines of Personalizer's joined log: their features, slots, and what its learning modes wrote.

Personalizer wraps what its callers sent: contexts in `FromUrl`, features of actions in `j`, their
ids in `i`, features of slots in `sj`. Such lines become the objects that the doorway for its
clients makes of the same requests, so that what is learned from them is of use there.

In its mode Apprentice a line has what the learner would have chosen, and how well that imitates;
what was shown is the first action, and what it earned is the `_original_label_cost`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bandexa_core.schema.namespaces import ACTION, SLOT, SLOT_FEATURES, WrongFeature, united
from service.tools.importing.shape import Unfit, finite

Row = Mapping[str, Any]
WRAPPED = ("FromUrl", "i", "j")
APPRENTICE = "the learning mode Apprentice: the first action was shown"
_IMITATED = (0.0, -1.0)  # labels of that mode


def is_wrapped(context: Row) -> bool:
    """Whether a context and its actions are as Personalizer writes them."""
    return "FromUrl" in context or any("j" in each for each in _actions(context))


def context_of(context: Row, slot: Row | None = None) -> dict[str, Any]:
    """Return the context of a line, of one of its slots where it has several.

    Raises:
        Unfit: It cannot be read.
    """
    rest = {key: each for key, each in context.items() if key != "FromUrl"}
    found = _united([rest, *_listed(context.get("FromUrl"))], "FromUrl")
    if slot is None:
        return found
    found |= _united(_listed(slot.get("sj")), "sj", SLOT_FEATURES)
    return found | ({SLOT: str(slot["_id"])} if slot.get("_id") else {})


def features_of(action: Row, name: str) -> dict[str, Any]:
    """Return the features of an action, its id among them.

    Raises:
        Unfit: They cannot be read.
    """
    rest = {key: each for key, each in action.items() if key not in ("i", "j", "_tag")}
    return _united([rest, *_listed(action.get("j"))], "j") | {ACTION: name}


class Modes:
    """Says which lines of a file are of the mode Apprentice.

    There a label is -1 where the learner would have chosen the first action, and 0 elsewhere. It
    may be the reward all the same, in whichever mode: such a line is of the mode of the last line
    that tells. Otherwise a loop's failures would count as those of actions that were never shown.

    Args:
        always: All lines are.
    """

    def __init__(self, *, always: bool) -> None:
        self._always = always
        self._last = False

    def is_apprentice(self, row: Row) -> bool:
        """Whether a line, the next one of the file, is of the mode Apprentice."""
        original, label = row.get("_original_label_cost"), row.get("_label_cost")
        if original is None or label is None:
            self._last = False
        else:
            label = finite(label, "_label_cost")
            if finite(original, "_original_label_cost") != label:
                self._last = label in _IMITATED
            elif label != (-1.0 if _intended(row) == 0 else 0.0):
                self._last = False
        return self._always or self._last


def _intended(row: Row) -> int:
    """Return the place of the action that the learner would choose."""
    order = row.get("a")
    return int(order[0]) - 1 if order else int(row.get("_labelIndex", -1))


def _actions(context: Row) -> Sequence[Row]:
    multi = context.get("_multi")
    return [each for each in multi if isinstance(each, dict)] if isinstance(multi, list) else []


def _listed(value: Any) -> list[Row]:
    if value is None:
        return []
    listed = value if isinstance(value, list) else [value]
    return [each for each in listed if isinstance(each, dict)]


def _united(objects: Sequence[Row], field: str, top: str = "") -> dict[str, Any]:
    try:
        return united(objects, field, top)
    except WrongFeature as error:
        raise Unfit(str(error)) from error
