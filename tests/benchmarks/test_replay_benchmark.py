"""The replay benchmark: a small run, the files it leaves, and a disk too small for it."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from bandexa_core.replay import RowLayout
from benchmarks import replay as bench

WAYS = ("replay", "preadv_1_thread", "preadv_8_threads", "memmap", "torch_shards")


@pytest.fixture
def small(monkeypatch):
    """Rows of 12x12x3 in place of 150 KB, and shards of 100 of them."""
    monkeypatch.setattr(bench, "_SHAPES", ((3, 12, 12), (5, 5)))
    monkeypatch.setattr(bench, "_SHARD_ROWS", 100)


def test_a_small_run_prints_writes_and_leaves_nothing_behind(small, tmp_path, capsys):
    figures = tmp_path / "deep" / "replay.json"
    work = tmp_path / "work"
    work.mkdir()
    arguments = ["--rows", "350", "--quick", "--dir", str(work), "--json", str(figures)]
    assert bench.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "posix_fadvise(DONTNEED)" in printed
    assert "350 rows of 3x12x12 uint8" in printed
    report = json.loads(figures.read_text())
    assert report["name"] == "replay"
    for shape in ("3x12x12", "5x5"):
        for state in ("hot", "cold"):
            for way in WAYS:
                assert report["results"][f"{shape}_{state}_{way}_mb_s"] > 0
            assert report["results"][f"{shape}_{state}_of_preadv"] > 0
    assert list(work.iterdir()) == []


def test_every_way_reads_the_same_rows(small, tmp_path):
    layout = RowLayout((5, 5), "uint8", 0)
    indices = np.sort(np.random.default_rng(0).integers(0, 350, 256))
    with bench._fill(tmp_path, layout, 350) as replay:
        expected = next(replay.scan(350)).contexts[indices]
    memmap = bench._Memmap(tmp_path / "flat.bin", layout, 350)
    np.testing.assert_array_equal(memmap.read(indices), expected)
    shards = bench._TorchShards(tmp_path, layout)
    shards.read(indices)
    np.testing.assert_array_equal(shards._target.numpy(), expected)
    for threads in (1, 8):
        preadv = bench._Preadv(tmp_path / "replay", layout, threads)
        preadv.read(indices)
        preadv.close()
        assert bytes(preadv._target) == expected.tobytes()


def test_too_small_a_disk_is_said_before_anything_is_written(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert bench.main(["--rows", "350", "--dir", str(tmp_path)]) == 1
    assert "GB free" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", ["0", "-3"])
def test_a_number_of_rows_below_one_is_refused(rows):
    with pytest.raises(SystemExit):
        bench.main(["--rows", rows])
