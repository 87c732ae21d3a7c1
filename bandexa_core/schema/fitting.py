"""Fits an encoding to the rows of a log: types, vocabularies, scales, and what says nothing.

A pure function of the declaration and of the sequence of objects, in one pass and bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bandexa_core.schema.drift import bins_of
from bandexa_core.schema.encoding import Encoding
from bandexa_core.schema.features import Features
from bandexa_core.schema.fields import (
    BoolField,
    CategoriesField,
    CategoryField,
    Field,
    HashField,
    IgnoredField,
    ImageField,
    NumberField,
    TextField,
    TimeField,
    VectorField,
)
from bandexa_core.schema.fit_numbers import fit_number, fit_time, fit_vector
from bandexa_core.schema.fit_values import vocabulary
from bandexa_core.schema.inference import field_types
from bandexa_core.schema.limits import MAX_FIELDS, MAX_INPUTS, MAX_VALUES
from bandexa_core.schema.objects import JsonObject
from bandexa_core.schema.parts import (
    BoolPart,
    CategoriesPart,
    CategoryPart,
    ConstantPart,
    HashPart,
    ImagePart,
    Part,
    TextPart,
)
from bandexa_core.schema.sampling import SAMPLE_ROWS, Sample, sample_rows
from bandexa_core.schema.sets import gathered, sets_of
from bandexa_core.schema.values import (
    as_image,
    as_number,
    as_text,
    as_texts,
    as_time,
    as_truth,
    as_vector,
)

LEAST_ROWS = 2


def fit(
    features: Features,
    objects: Iterable[JsonObject],
    weights: Iterable[float] | None = None,
    *,
    least_rows: int = LEAST_ROWS,
    most_rows: int = SAMPLE_ROWS,
) -> Encoding:
    """Return the encoding that some rows ask for.

    What never varies has no column: constant fields, missingness that did not occur, parts of a
    vector or time. Such a field is encoded from the next fit after it went live.

    A value has a column of its own from `least_rows` rows on. That is few on purpose: a bandit has
    some hundreds of rows, and to wait for 10 of each value would leave most values to the buckets.
    A value seen once is as good as unseen: nothing says that it comes again. So the buckets learn
    from such values what unseen ones are like.

    Args:
        features: What is declared.
        objects: The objects that a model has learned from, oldest first, one for each row.
        weights: How much each counts for scales and edges; None: all alike. Rows of weight 0 are
            left out.
        least_rows: In how many rows a value, or its absence, must have been seen to have a column.
        most_rows: How many rows are looked at; they are sampled evenly.

    Returns:
        The encoding; that of `Encoding.initial` where there is no row.

    Raises:
        ValueError: A weight is no finite number of 0 or above, or there are more or fewer of them.
    """
    sample = sample_rows(objects, weights, most_rows=most_rows)
    if not sample.rows:
        return Encoding.initial(features)
    known = features.learned
    if features.namespaces:
        sets = sets_of(sample.rows, known)
        sample = replace(sample, rows=tuple(gathered(row, sets) for row in sample.rows))
        pinned = dict(known) | dict.fromkeys(sets[: MAX_FIELDS - len(known)], CategoriesField())
        types = field_types(sample.rows, pinned)
    else:
        types = field_types(sample.rows, known) if features.auto else dict(known)
    parts = [
        _part(path, known, [row.get(path) for row in sample.rows], sample, least_rows, MAX_VALUES)
        for path, known in types.items()
    ]
    if _width(parts) > MAX_INPUTS:
        parts = _within_limit(parts, types, sample, least_rows)
    bins = bins_of(types, sample.rows, sample.weights)
    return Encoding(features, types, sample.num_rows, tuple(parts), bins=bins)


def _within_limit(
    parts: Sequence[Part], types: Mapping[str, Field], sample: Sample, least_rows: int
) -> list[Part]:
    """Return parts of 10,000 columns together: with smaller vocabularies, then with fewer fields.

    The largest vocabularies are cut to one size, and lose their rarest values. If that is not
    enough, the widest fields are left out, but no image.
    """
    sizes = {
        part.path: len(part.values)
        for part in parts
        if isinstance(part, CategoryPart | CategoriesPart) and not _are_declared(types[part.path])
    }
    room = MAX_INPUTS - _width(parts) + sum(sizes.values())
    most = max(sizes.values(), default=1)
    while most > 1 and sum(min(size, most) for size in sizes.values()) > room:
        most -= 1
    cut = list(parts)
    for number, part in enumerate(parts):
        if sizes.get(part.path, 0) > most:
            values = [row.get(part.path) for row in sample.rows]
            cut[number] = _part(part.path, types[part.path], values, sample, least_rows, most)
    total = 0
    widths = [(not isinstance(part, ImagePart), len(part.columns)) for part in cut]
    for number in sorted(range(len(cut)), key=lambda at: (widths[at], at)):
        total += len(cut[number].columns)
        if total > MAX_INPUTS:
            cut[number] = ConstantPart(cut[number].path, False)
    return cut


def _width(parts: Sequence[Part]) -> int:
    return sum(len(part.columns) for part in parts)


def _are_declared(known: Field) -> bool:
    return isinstance(known, CategoryField | CategoriesField) and known.values is not None


def _part(
    path: str,
    known: Field,
    values: Sequence[Any],
    sample: Sample,
    least_rows: int,
    most_values: int,
) -> Part:
    """Return the fitted field of the values of all rows, None where one is absent."""
    read = [_read(known, value) for value in values]
    rows = [number for number, value in enumerate(read) if value is not None]
    missing = len(values) - len(rows) >= least_rows
    if isinstance(known, ImageField):
        return ImagePart(path, missing, known.shape)
    constant = ConstantPart(path, missing and len(rows) >= least_rows)
    if len(rows) < least_rows:
        return constant
    found = [read[number] for number in rows]
    weights_N = sample.weights[rows]
    part: Part | None = None
    if isinstance(known, NumberField):
        part = fit_number(path, known, np.array(found, np.float64), weights_N, missing)
    elif isinstance(known, VectorField):
        part = fit_vector(path, known.size, np.array(found, np.float64), weights_N, missing)
    elif isinstance(known, TimeField):
        part = fit_time(path, found, weights_N, missing)
    elif all(value == found[0] for value in found):
        part = None
    elif isinstance(known, BoolField):
        part = BoolPart(path, missing)
    elif isinstance(known, TextField):
        part = TextPart(path, missing, known.width)
    elif isinstance(known, HashField):
        part = HashPart(path, missing, known.width)
    elif isinstance(known, CategoryField | CategoriesField):
        part = _category(path, known, found, missing, least_rows, most_values)
    return constant if part is None else part


def _category(
    path: str,
    known: CategoryField | CategoriesField,
    found: Sequence[Any],
    missing: bool,
    least_rows: int,
    most_values: int,
) -> Part:
    values = known.values
    if values is None:
        rows = ((text,) for text in found) if isinstance(known, CategoryField) else found
        values = vocabulary(rows, min(known.max_values, most_values), least_rows)
    if isinstance(known, CategoryField):
        return CategoryPart(path, missing, values, known.buckets)
    return CategoriesPart(path, missing, values, known.buckets)


def _read(known: Field, value: Any) -> Any:
    """Return a value as its field reads it; None where it is missing or of a wrong type."""
    if value is None or isinstance(known, IgnoredField):
        return None
    if isinstance(known, VectorField):
        return as_vector(value, known.size)
    if isinstance(known, ImageField):
        return as_image(value, known.shape)
    return _READERS[known.type](value)


_READERS = {
    "bool": as_truth,
    "number": as_number,
    "category": as_text,
    "categories": as_texts,
    "text": as_text,
    "hash": as_text,
    "time": as_time,
}
