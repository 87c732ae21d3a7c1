"""The limits of named features. What is beyond them is refused with a message, or not encoded."""

from __future__ import annotations

MAX_FIELDS = 256  # of an object, of a declaration and of an encoding
MAX_INPUTS = 10_000  # columns of an encoding
MAX_NAMES = 3  # nested names: `a.b.c`
MAX_NESTING = MAX_NAMES + 1  # objects and lists in one another: a list may be at `a.b.c`
MAX_PATH_BYTES = 256
MAX_TEXT_BYTES = 1024
MAX_ENTRIES = 100  # of a `categories` value
MAX_ITEMS = 10_000  # of any list
LEAST_INTEGER, MOST_INTEGER = -(1 << 63), (1 << 64) - 1  # what binary formats can hold
# Numbers beyond it are read, but count as missing: squares and differences of others stay finite.
MAX_NUMBER = 1e30
MAX_VALUES = 5_000  # places of a vocabulary
MAX_BUCKETS = 256
MAX_WIDTH = 4_096  # places of a signed hash
MAX_BINS = 64
MAX_PIXELS = 5_000  # of an image field, those of all channels counted


def is_text(value: str, most_bytes: int = MAX_TEXT_BYTES) -> bool:
    """Return whether a text can be written as UTF-8 (no lone surrogate) in `most_bytes` bytes.

    Longer texts are not looked at, so this takes no longer than the limit allows.
    """
    if len(value) > most_bytes:
        return False
    if value.isascii():
        return True
    try:
        return len(value.encode()) <= most_bytes
    except UnicodeEncodeError:
        return False
