"""The values that fields of visits and offers take, and what kind of offer a word or tag is about.

A world uses the first of the kinds and of the countries that it lists. Every word and every tag
belongs to exactly one kind; common words belong to none.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of offer: words that ask for it, the tags of its offers, a usual price."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    price: float


KINDS = {
    "fashion": Kind(
        ("dress", "jacket", "jeans", "shirt", "coat", "scarf"),
        ("outdoor-wear", "denim", "summer"),
        45.0,
    ),
    "sport": Kind(
        ("running", "yoga", "bike", "tennis", "fitness", "swim"),
        ("running", "cycling", "team-sport"),
        60.0,
    ),
    "home": Kind(
        ("lamp", "sofa", "kitchen", "curtain", "pan", "pillow"),
        ("cooking", "bedroom", "light"),
        70.0,
    ),
    "electronics": Kind(
        ("laptop", "phone", "headphones", "camera", "charger", "tv"),
        ("audio", "photo", "computing"),
        160.0,
    ),
    "beauty": Kind(
        ("perfume", "cream", "shampoo", "lipstick", "serum", "soap"),
        ("skin-care", "hair", "natural"),
        25.0,
    ),
    "garden": Kind(
        ("seeds", "mower", "hose", "bench", "soil", "barbecue"),
        ("plants", "terrace", "tools"),
        55.0,
    ),
    "books": Kind(
        ("novel", "atlas", "comic", "cookbook", "thriller", "poems"),
        ("fiction", "travel", "history"),
        18.0,
    ),
    "toys": Kind(
        ("lego", "puzzle", "doll", "train", "blocks", "game"),
        ("board-games", "baby", "building"),
        30.0,
    ),
}

COMMON_WORDS = (
    "cheap", "best", "gift", "sale", "new", "for", "set", "small", "large", "quality", "black",
    "blue", "with", "men", "women",
)  # fmt: skip

DEVICES = ("mobile", "desktop", "tablet")
SOURCES = ("direct", "search", "mail", "social")
"""Where visitors come from; campaigns are further ones that begin later."""
DAYPARTS = ("night", "morning", "midday", "evening")
_FIRST_HOURS = (0, 6, 11, 17)

REGIONS = {
    "west": ("DE", "FR", "GB", "NL", "AT", "BE", "CH", "IE", "LU", "MC", "LI", "IS"),
    "east": ("PL", "CZ", "HU", "RO", "SK", "BG", "UA", "SI", "HR", "RS", "MD", "AL"),
    "south": ("IT", "ES", "PT", "GR", "TR", "MT", "CY", "MA", "TN", "IL", "EG", "JO"),
    "north": ("SE", "DK", "NO", "FI", "LT", "EE", "LV", "FO", "GL", "AX", "SJ", "GG"),
    "overseas": ("US", "CA", "AU", "JP", "BR", "MX", "KR", "NZ", "SG", "ZA", "AR", "CL"),
}
COUNTRIES = tuple(chain.from_iterable(zip(*REGIONS.values(), strict=True)))
"""All countries, of all regions in turns."""

REGION_OF = {country: number for number, row in enumerate(REGIONS.values()) for country in row}
WORD_KIND = {word: kind for kind, row in KINDS.items() for word in row.words}
TAG_KIND = {tag: kind for kind, row in KINDS.items() for tag in row.tags}


def daypart(hour: int) -> int:
    """Return the index of the part of the day that an hour from 0 to 23 is in."""
    return sum(hour >= first for first in _FIRST_HOURS) - 1


def campaign_kind(source: str) -> str | None:
    """Return the kind that a campaign advertises, which its name begins with, or None."""
    kind, dash, _ = source.partition("-")
    return kind if dash and kind in KINDS else None
