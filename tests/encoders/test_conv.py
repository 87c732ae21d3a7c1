"""The ConvNet moves its images in training, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bandexa_core.encoders.torch.conv import ConvEncoder


def _image_seen(encoder: ConvEncoder, images: torch.Tensor) -> torch.Tensor:
    """Return what the first convolution receives."""
    seen: list[torch.Tensor] = []
    hook = encoder.image[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        encoder(images, torch.zeros((len(images), 0)))
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("shape", [(16, 16), (3, 16, 20)])
def test_training_moves_each_image_as_a_whole_by_at_most_two_pixels(shape):
    torch.manual_seed(1)
    encoder = ConvEncoder(shape, 0).train()
    images = torch.zeros((400, *shape))
    images[..., 7, 9] = torch.arange(1.0, 401.0).reshape(-1, *[1] * (len(shape) - 2))
    seen = _image_seen(encoder, images)
    assert seen.shape[-2:] == shape[-2:]
    moves = set()
    for number, image in enumerate(seen):
        for channel in image:
            ((row, column),) = channel.nonzero().tolist()
            assert channel[row, column] == number + 1
        moves.add((row - 7, column - 9))
    assert moves == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}


def test_what_leaves_the_image_does_not_come_back_on_the_other_side():
    torch.manual_seed(2)
    images = torch.zeros((200, 16, 16))
    images[:, 0, :] = 1.0
    seen = _image_seen(ConvEncoder((16, 16), 0).train(), images)
    assert seen[:, 0, 3:].sum() == 0.0
    assert {float(image.sum()) for image in seen} == {0.0, 14.0, 15.0, 16.0}


@pytest.mark.parametrize("params", [{}, {"shift": 0}])
def test_images_that_are_served_stay_where_they_are(params):
    images = torch.rand((5, 16, 16))
    encoder = ConvEncoder((16, 16), 0, **params).train(bool(params))
    assert torch.equal(_image_seen(encoder, images)[:, 0], images)


def test_small_images_are_moved_less_and_a_wrong_shift_is_named():
    torch.manual_seed(3)
    images = torch.rand((50, 4, 4))
    assert torch.equal(_image_seen(ConvEncoder((4, 4), 0).train(), images)[:, 0], images)
    mistakes: list[Any] = [-1, 5, 1.5, True, "2"]
    for wrong in mistakes:
        with pytest.raises(ValueError, match=r"encoder\.params\.shift"):
            ConvEncoder((16, 16), 0, shift=wrong)
