"""The hash: the same everywhere, unbiased, and even."""

from __future__ import annotations

import numpy as np

from bandexa_core.schema import hashing, words
from bandexa_core.schema.hashing import hash64, place


def test_the_hash_is_the_same_on_every_machine():
    """Snapshots rely on it: another hash would be another encoding."""
    assert hash64("country", "DE") == 16564066848154970459
    assert hash64("country", "DE" * 100) == hashing._digest("country", "DE" * 100)


def test_a_path_is_told_apart_from_what_is_at_it():
    assert hash64("a", "bc") != hash64("ab", "c")
    assert hash64("q", "\ud800") != hash64("q", "\udfff")  # no text of a log, but no error either


def test_hashed_inner_products_are_unbiased():
    """Weinberger et al. 2009: expectation <x, y>, variance as in Lemma 2; each path is a new hash.

    x and y have 20 terms each, 5 of them common: <x, y> = 5, and the variance is the sum over
    i != j of x_i^2 y_j^2 + x_i y_i x_j y_j over the width, (395 + 20) / 64.
    """
    num, width, variance = 2000, 64, 415.0 / 64.0
    x, y = [f"t{n}" for n in range(20)], [f"t{n}" for n in range(15, 35)]
    products = np.empty(num)
    for number in range(num):
        rows = np.zeros((2, width))
        for row, names in zip(rows, (x, y), strict=True):
            for name in names:
                at, sign = place(f"path {number}", name, width)
                row[at] += sign
        products[number] = rows[0] @ rows[1]
    assert abs(products.mean() - 5.0) < 5.0 * (variance / num) ** 0.5
    assert 0.8 < products.var() / variance < 1.25


def test_similar_ids_spread_evenly_over_places_and_signs():
    """Chi square of 128 cells by 64,000 ids: 127 +- 16."""
    counts = np.zeros((64, 2))
    for number in range(64_000):
        at, sign = place("user.id", f"user-{number:06d}", 64)
        counts[at, int(sign > 0)] += 1
    expected = 500.0
    assert abs(((counts - expected) ** 2 / expected).sum() - 127.0) < 5.0 * 16.0


def test_the_caches_are_bounded():
    for cached in (hashing._cached, words._cached):
        assert cached.cache_info().maxsize is not None


def test_terms_are_lower_cased_words_and_pairs():
    assert words.terms("Red, red SHOES!") == ["red", "red", "shoes", "red red", "red shoes"]
    assert words.terms("...") == []


def test_a_hashed_text_has_length_1():
    for text in ("one", "red running shoes for men", "a a a b " * 40):
        found = dict(words.hashed_terms("query", text, 64))
        assert abs(sum(amount**2 for amount in found.values()) - 1.0) < 1e-12
    assert not words.hashed_terms("query", "...", 64)


def test_a_hashed_text_is_the_sum_of_its_terms():
    text = "red red shoes"
    expected = np.zeros(64)
    for term in words.terms(text):
        at, sign = place("query", term, 64)
        expected[at] += sign
    found = np.zeros(64)
    for at, amount in words.hashed_terms("query", text, 64):
        found[at] = amount
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-12)
