"""The way back from an upgrade: a copy by the new release, which the old one could open."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.fixtures.commands import bandexa
from tests.recovery.saved import quick_or_slow

DATA = Path(__file__).parent / "data"
PAGE = Path(__file__).parents[2] / "docs" / "upgrading.md"
RELEASES = sorted(path.stem for path in DATA.glob("*.json"))


def schema(data_dir: Path) -> tuple[int, list[str]]:
    """Return the version of a database and the definitions of its tables."""
    uri = f"{(data_dir / 'bandexa.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        found = database.execute(
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
        )
        return int(version), [sql for (sql,) in found]


def content(data_dir: Path) -> dict[str, int]:
    """Return how many rows each table has."""
    uri = f"{(data_dir / 'bandexa.db').as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        names = [
            name
            for (name,) in database.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            )
        ]
        return {name: int(database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0])
                for name in names}  # fmt: skip


def test_the_page_has_a_path_from_every_saved_directory() -> None:
    table = re.findall(r"^\| ([\d., ]+) \|", PAGE.read_text(), re.MULTILINE)
    named = {release for row in table for release in row.replace(" ", "").split(",")}
    assert {release.partition("-")[0] for release in RELEASES} == named


@pytest.mark.few(1)
@pytest.mark.parametrize("release", [quick_or_slow(release) for release in RELEASES])
def test_what_was_backed_up_before_the_upgrade_is_restored_in_its_own_format(
    release: str, launch, tmp_path: Path
) -> None:
    origin, before, back = DATA / release, tmp_path / "before", tmp_path / "back"
    assert bandexa("backup", origin, before, "--quiet").returncode == 0
    node = launch("upgraded", origin)  # migrates its copy, where the format is older
    node.stop()
    restored = bandexa("restore", before, back, "--quiet")
    assert restored.returncode == 0, restored.stderr
    assert schema(back) == schema(origin)
    assert content(back) == content(origin)
    again = launch("again", back)  # and the way forward is still open
    again.stop()
    assert schema(again.data_dir)[0] == schema(node.data_dir)[0]
