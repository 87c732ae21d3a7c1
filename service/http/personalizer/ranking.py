"""The order in which Personalizer lists the actions of a Rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def ranked(
    ids: Sequence[str], excluded: Collection[str], chosen: str, chances: Mapping[str, float]
) -> list[tuple[str, float]]:
    """Return every action once, with its probability: the chosen one first, the likeliest next.

    The learner's order is that of the probabilities, in which the chosen action and the first one
    change places. An excluded action stands where it stood in the request, with probability 0.

    Args:
        ids: All actions, as they were sent.
        excluded: Those that must not be chosen.
        chosen: The one that was.
        chances: The probability of each that was offered.
    """
    offered = [each for each in ids if each not in excluded]
    offered.sort(key=lambda each: -chances[each])
    place = offered.index(chosen)
    offered[0], offered[place] = offered[place], offered[0]
    rest = iter(offered)
    return [(each, 0.0) if each in excluded else _with(next(rest), chances) for each in ids]


def _with(name: str, chances: Mapping[str, float]) -> tuple[str, float]:
    return name, chances[name]
