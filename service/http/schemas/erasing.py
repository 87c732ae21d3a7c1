"""Bodies of the calls that erase decisions, and that shrink the database."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from service.http.schemas.common import Body, Id
from service.http.schemas.decide import MAX_BATCH


class EraseRequest(Body):
    """What to erase: all decisions of a unit, or listed ones."""

    unit: Id | None = Field(
        default=None, description="All decisions that were made for this user or session."
    )
    decision_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_BATCH)] | None = None
    bandit: Id | None = Field(default=None, description="Only this bandit's; none: all bandits'.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.unit is None) == (self.decision_ids is None):
            raise ValueError("unit: give either a unit or decision_ids")
        return self


class EraseAnswer(BaseModel):
    """What was erased; it is durable."""

    decisions: int = Field(description="Decisions that were erased by this call.")
    samples: int = Field(
        description="Rows of training samples, whose decisions retention had removed before."
    )
    rebuilt: list[str] = Field(description="Bandits whose models were rebuilt without them.")
    waiting: list[str] = Field(
        description="Bandits whose models cannot be rebuilt now: it is tried again and again."
    )
    remaining: list[str] = Field(
        description="Bandits whose models still contain erased rows, of this erasure or an earlier"
        " one: retention had removed the log that a linear policy's rebuild needs, or a rollback or"
        " an import of an own export had copied them."
    )
    wal_emptied: bool = Field(
        description="Whether the write-ahead log was emptied. A reader may prevent it: call again."
    )


class CompactAnswer(BaseModel):
    """The size of the database file."""

    bytes_before: int
    bytes_after: int
    is_done: bool = Field(
        description="Whether the file has been cut off. A reader may prevent it: call again."
    )
