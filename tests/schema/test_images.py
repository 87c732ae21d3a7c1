"""An image beside other fields: what is accepted, and where its pixels are in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandexa_core.schema import Encoding, Features, accept, check, fit
from bandexa_core.schema.encoding import ImagePlace

DECLARED = Features.from_json(
    {"age": "number", "photo": {"type": "image", "shape": [2, 3]}, "site": "category"}
)
COLOURS = Features.from_json({"photo": {"type": "image", "shape": [3, 1, 2]}})
PIXELS = [[0, 51, 255], [1, 2, 3]]


def _visit(number: int, photo: Any = PIXELS) -> dict[str, Any]:
    return {"age": 20 + number, "photo": photo, "site": ("a", "b")[number % 2]}


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("x", "context.photo: 'x' is no list of 2 entries"),
        ([[1, 2, 3]], "context.photo: 1 entries, but 2 are declared"),
        ([[1, 2, 3], [1, 2]], "context.photo[1]: 2 entries, but 3 are declared"),
        ([[1, 2, 3], 7], "context.photo[1]: 7 is no list of 3 entries"),
        ([[1, 2, 3], [1, 256, 3]], "context.photo[1][1]: 256 is no whole number from 0 to 255"),
        ([[1, 2, -1], [1, 2, 3]], "context.photo[0][2]: -1 is no whole number"),
        ([[1, 2, 0.5], [1, 2, 3]], "context.photo[0][2]: 0.5 is no whole number"),
        ([[1, 2, True], [1, 2, 3]], "context.photo[0][2]: true is no whole number"),
        ([[1, 2, "3"], [1, 2, 3]], "context.photo[0][2]: '3' is no whole number"),
    ],
)
def test_what_is_no_image_is_named_with_its_place(photo: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^context") as caught:
        check(DECLARED, {"photo": photo}, "context")
    assert str(caught.value).startswith(message)


def test_the_log_has_it_as_it_was_sent() -> None:
    assert accept(DECLARED, {"photo": PIXELS}, "context") == b'{"photo":[[0,51,255],[1,2,3]]}'
    check(COLOURS, {"photo": [[[1, 2]], [[3, 4]], [[5, 6.0]]]}, "context")


def test_the_declared_bytes_are_enough_for_every_image() -> None:
    for declared in (DECLARED, COLOURS):
        assert declared.image is not None
        path, known = declared.image
        white: Any = 255
        for size in reversed(known.shape):
            white = [white] * size
        data = accept(declared, {path: white}, "context")
        assert len(data) <= known.most_bytes + len(f'{{"{path}":}}')


def test_pixels_are_inputs_before_and_after_the_first_fit() -> None:
    first = Encoding.initial(DECLARED)
    assert first.image == ImagePlace(64, (2, 3))
    assert first.width == 64 + 6
    fitted = fit(DECLARED, [_visit(number) for number in range(20)])
    assert fitted.image is not None
    scaled = np.array(PIXELS, np.float32).reshape(-1) / np.float32(255)
    for encoding in (first, fitted, Encoding.from_bytes(fitted.to_bytes())):
        assert encoding.image is not None
        row = encoding.encode([_visit(0)])[0]
        begin = encoding.image.first
        assert row[begin : begin + 6] == pytest.approx(scaled)
        names = encoding.columns[begin : begin + 6]
        assert names == tuple(f"photo[{place}]" for place in range(6))
    places = fitted.places_in(first)
    begin = fitted.image.first
    assert places[begin : begin + 6].tolist() == list(range(64, 70))


def test_without_its_image_an_object_has_black_pixels_and_says_so() -> None:
    visits = [_visit(number, PIXELS if number % 3 else None) for number in range(30)]
    encoding = fit(DECLARED, visits)
    assert encoding.image is not None
    row = encoding.encode([_visit(0, None)])[0]
    begin = encoding.image.first
    assert encoding.columns[begin + 6] == "photo?missing"
    assert row[begin : begin + 7].tolist() == [0.0] * 6 + [1.0]
    assert encoding.encode([_visit(0)])[0][begin + 6] == 0.0


def test_an_image_that_never_came_has_its_columns() -> None:
    encoding = fit(DECLARED, [{"age": number} for number in range(20)])
    assert encoding.image is not None
    assert encoding.encode([{"age": 3}]).shape[1] == encoding.width >= 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"p": {"type": "image"}}, "p"),
        ({"p": {"type": "image", "shape": [3]}}, "p.shape: must be height and width"),
        ({"p": {"type": "image", "shape": [0, 3]}}, "p.shape: must be height and width"),
        ({"p": {"type": "image", "shape": [100, 51]}}, "p.shape: at most 5000 numbers"),
        (
            {name: {"type": "image", "shape": [2, 2]} for name in "pq"},
            "q: an object has one image at most",
        ),
    ],
)
def test_a_wrong_declaration_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Features.from_json(fields)
