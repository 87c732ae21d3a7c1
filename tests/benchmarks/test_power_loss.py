"""Power loss in its short form, the disk model it rests on, and that it notices what is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.proofs.disk_trace import Disk, build_shim, read_trace, recording, same_tree
from benchmarks.proofs.power_loss import FOREVER, examine, main, record_load, served

pytestmark = pytest.mark.needs("gcc")
WRITER = """
import os, sys
root = sys.argv[1]
os.mkdir(f"{root}/d")
fd = os.open(f"{root}/d/kept", os.O_RDWR | os.O_CREAT)
os.write(fd, b"a" * 2000)
os.fsync(fd)
os.pwrite(fd, b"b" * 2000, 1000)
lost = os.open(f"{root}/d/lost", os.O_RDWR | os.O_CREAT)
os.write(lost, b"c" * 10)
top = os.open(f"{root}/d", os.O_RDONLY)
os.fsync(top)
os.rename(f"{root}/d/lost", f"{root}/d/renamed")
os.ftruncate(fd, 500)
os.unlink(f"{root}/d/kept")
os.fsync(os.open(root, os.O_RDONLY))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def disk(library: Path, tmp_path: Path) -> Disk:
    """What `WRITER` did, up to its end."""
    root, trace = tmp_path / "root", tmp_path / "trace"
    root.mkdir()
    environment = os.environ | recording(library, root, trace)
    subprocess.run([sys.executable, "-c", WRITER, str(root)], check=True, env=environment)
    disk = Disk(root)
    for record in read_trace(trace):
        disk.apply(record)
    disk.lose_power(tmp_path / "all", "everything", np.random.default_rng(0))
    assert same_tree(tmp_path / "all", root, but="-") == []
    return disk


def test_only_what_was_synced_is_sure_to_be_kept(disk, tmp_path):
    disk.lose_power(tmp_path / "left", "nothing", np.random.default_rng(0))
    left = tmp_path / "left" / "d"
    assert sorted(path.name for path in left.iterdir()) == ["kept", "lost"]
    assert (left / "kept").read_bytes() == b"a" * 2000
    assert (left / "lost").read_bytes() == b""


def test_the_rest_is_kept_in_parts_and_torn_at_sectors(disk, tmp_path):
    seen, names = set(), set()
    for number in range(60):
        left = tmp_path / f"left{number}"
        disk.lose_power(left, "torn", np.random.default_rng(number))
        names.add(tuple(sorted(path.name for path in (left / "d").iterdir())))
        for path in (left / "d").glob("kept"):
            content = path.read_bytes()
            assert content[:500] == b"a" * 500, "it was synced"
            seen.add(content)
    assert names == {("kept", "lost"), ("kept", "renamed"), ("renamed",)}
    assert {len(content) for content in seen} >= {500, 2000, 3000}
    sectors = {content[1024:1025] + content[1536:1537] for content in seen}
    assert sectors >= {b"aa", b"bb"}
    assert sectors & {b"ab", b"ba"}


def test_what_was_acknowledged_survives_power_loss(tmp_path):
    report = tmp_path / "power.json"
    arguments = ["--cuts", "4", "--clients", "2", "--rewards", "80", "--serve", "0"]
    assert main([*arguments, "--json", str(report)]) == 0
    results = json.loads(report.read_text())["results"]
    assert results["wrong"] == 0
    assert results["acknowledged_before_a_cut"] > 20


@pytest.mark.slow
def test_an_import_that_power_loss_interrupts_is_whole_and_is_finished(library, tmp_path):
    """Its snapshot is published first, then logged, then gets the place of its log row."""
    made = record_load(tmp_path / "load", library, clients=1, rewards=20)
    assert made.wrong == []
    disk, left = Disk(made.root), [tmp_path]
    for place, record in enumerate(made.records):
        if record.path.endswith("manifest.json.new"):
            left.append(tmp_path / f"left{place}")
            disk.lose_power(left[-1], "everything", np.random.default_rng(0))
            assert examine(left[-1], made, record.time_ns) == []
        disk.apply(record)
    assert len(left) > 3, "it is created, written, synced and renamed"
    assert served(left[-1], made, made.spare[0]) == []


@pytest.mark.slow
def test_a_server_that_does_not_sync_is_found_to_lose_what_it_acknowledged(library, tmp_path):
    """It promises no more: "os" survives a killed process. What is left is whole all the same."""
    made = record_load(tmp_path / "os", library, clients=2, rewards=60, durability="os")
    assert made.wrong == []
    disk = Disk(made.root)
    served = max(at for ledger in made.ledgers for at in ledger.moments.values())
    for record in made.records:
        if record.time_ns <= served:
            disk.apply(record)
    disk.lose_power(tmp_path / "left", "nothing", np.random.default_rng(0))
    wrong = examine(tmp_path / "left", made, FOREVER)
    assert any("lost" in text for text in wrong)
    assert not any(text.startswith("verify") for text in wrong)
