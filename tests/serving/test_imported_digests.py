"""Digests of an export are taken as they are: they are not hashed again."""

from __future__ import annotations

from dataclasses import replace

from bandexa_core.policies.named_inputs import object_of
from bandexa_core.schema.personal import digest
from bandexa_core.spec.inputs import ContextSpec
from service.serving.inputs import NamedSide

SALT = b"salt"
FIELDS = {
    "user": {"type": "category", "log": "hash"},
    "age": {"type": "number", "log": "hash"},
    "phone": {"type": "text", "log": "drop"},
    "device": "category",
}


def test_only_what_is_no_digest_is_hashed() -> None:
    own = NamedSide.of(ContextSpec(features=FIELDS), SALT)
    assert own is not None
    imported = replace(own, takes_digests=True)
    sent = {"user": "anna", "age": 31, "phone": "123", "device": "tv"}
    logged = object_of(own.row(sent, "context"))
    assert logged == {
        "user": digest(SALT, "user", "anna"), "age": digest(SALT, "age", "31"), "device": "tv",
    }  # fmt: skip
    assert object_of(imported.row(logged, "context")) == logged
    # A log whose bandit kept the values as they were is hashed here, as this one declares it.
    assert object_of(imported.row(sent, "context")) == logged
    mixed = object_of(imported.row(logged | {"age": 31}, "context"))
    assert mixed == logged
    assert object_of(own.row({"user": logged["user"]}, "context")) != {"user": logged["user"]}
