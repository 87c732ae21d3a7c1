"""The settings of the doorway for clients of Azure Personalizer."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

BanditName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]


class PersonalizerSetting(BaseModel):
    """The doorway for clients of Azure Personalizer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(False, description="Serve Personalizer's calls under /personalizer.")
    create: bool = Field(
        False,
        description="The first Rank creates its bandit where it is missing: without keys on"
        " loopback alone, with keys for those of the scope admin.",
    )
    bandit: BanditName = Field(
        "default", description="The bandit of callers whose key has none in `keys`."
    )
    keys: dict[str, BanditName] = Field(
        default_factory=dict,
        description="The bandit of each API key, by the key's name: one of `keys` of the server.",
    )
