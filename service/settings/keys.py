"""API keys: what a key may do, which bandits it reaches, and its limits."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

Scope = Literal["select", "reward", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("select", "reward", "read", "admin")
BanditPattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:*-]{1,128}$")]


class KeySetting(BaseModel):
    """One API key: the name of its holder, its hash and its scopes, and its limits.

    Attributes:
        bandits: The bandits that it reaches: names, in which `*` stands for any characters; None:
            all, and the server as a whole.
        expires: From when on it is refused; None: never.
        rate: The most calls a second over time, the items of a batch counted; None: any number.
        burst: The most calls at once; None: those of two seconds, and 1 at least.
        max_bandits: The most bandits that may be there among those it reaches, for it to create
            another one; None: any number.
        max_actions: The most actions of all of them together, retired ones among them, for it to
            add others; None: any number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    bandits: Annotated[tuple[BanditPattern, ...], Field(min_length=1)] | None = None
    expires: AwareDatetime | None = None
    rate: float | None = Field(None, ge=1e-6, allow_inf_nan=False)
    burst: int | None = Field(None, ge=1, le=1_000_000_000)
    max_bandits: int | None = Field(None, ge=0)
    max_actions: int | None = Field(None, ge=0)

    def reaches(self, bandit: str) -> bool:
        """Whether it may be used for the bandit of a name."""
        return self.bandits is None or any(fnmatchcase(bandit, one) for one in self.bandits)

    @property
    def at_once(self) -> float:
        """The most calls at once of a key with a rate."""
        if self.burst is not None:
            return float(self.burst)
        return max(1.0, 2.0 * (self.rate or 0.0))

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.rate is None:
            raise ValueError("burst: belongs to a rate, and there is none")
        return self

    @field_validator("scopes")
    @classmethod
    def _distinct(cls, scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
        if len(set(scopes)) < len(scopes):
            raise ValueError("a scope is named twice")
        return scopes
