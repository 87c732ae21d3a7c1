"""The settings of scheduled backups."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BackupSetting(BaseModel):
    """Backups that the server makes by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path | None = Field(
        None, description="Folder of the backups, on another disk; none are made without it."
    )
    every_h: float | None = Field(
        None, gt=0.0, le=8760.0, description="Hours between two backups; or `at`."
    )
    at: str | None = Field(
        None,
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
        description='Time of day of a daily backup, in UTC, such as "03:30"; or `every_h`.',
    )
    keep: int = Field(7, ge=1, description="The newest backups that are stored.")
    verify: bool = Field(
        False,
        description="Verify each backup before it counts: that takes a rebuild of the models.",
    )

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.folder is None and (self.every_h is not None or self.at is not None):
            raise ValueError("folder: needed where there is a schedule")
        if self.folder is not None and (self.every_h is None) == (self.at is None):
            raise ValueError("every_h: give either every_h or at")
        return self
