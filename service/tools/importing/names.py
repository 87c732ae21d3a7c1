"""Names of actions of other logs as ids of actions here."""

from __future__ import annotations

import base64
import re
from hashlib import sha256

from bandexa_core.ids import ActionId

DIGEST = "pz-"  # what ids begin with that stand for another text
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def is_id(text: str) -> bool:
    """Whether a text can be an id, and is none that stands for another text."""
    return _ID.fullmatch(text) is not None and not text.startswith(DIGEST)


def digest(*parts: str) -> str:
    """Return an id that stands for texts: no two stand for the same."""
    joined = b"".join(b"%d:%s" % (len(data), data) for data in map(str.encode, parts))
    return DIGEST + base64.urlsafe_b64encode(sha256(joined).digest()).rstrip(b"=").decode()


def action_of(name: str) -> ActionId:
    """Return the id of an action that any text names."""
    return ActionId(name if is_id(name) else digest("action", name))
