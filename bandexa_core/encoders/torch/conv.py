"""The small convolutional encoder for images: per-action heads, or fused with an action path.

An image may be one of several named fields of a context. Then the rows that come here have its
pixels among other columns, and these have a dense path of their own beside the convolutions.
Legend: N rows, X columns, H units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from bandexa_core.encoders.torch.mlp import check_sizes
from bandexa_core.encoders.torch.module import EncoderModule
from bandexa_core.schema.encoding import ImagePlace


class ConvEncoder(EncoderModule):
    """3x3 convolutions with ReLU and 2x2 max pooling, a dense layer, then F features.

    Images are (H, W) or (C, H, W), uint8 (scaled to 0..1) or floating.

    Args:
        context_shape: (H, W) or (C, H, W).
        action_dim: A; used by `heads="fused"` alone.
        feature_dim: F.
        channels: Output channels of each convolution; each halves the image.
        hidden: Size of the dense layer.
        heads: "per_action": z(x), a posterior per action; "fused": z([h_image; h_action]) with a
            dense path for the action's features (one-hot labels, say) beside the image's.
        shift: In training, each image is moved by up to so many pixels in both directions, from
            which few images gain most. 0: none is; None: 2, or an eighth of a smaller side.
        image: Where the pixels are, of contexts that are rows of columns; no parameter of a
            configuration. None: contexts are images.
    """

    serving_dtype = torch.float32
    least_steps = 100
    standardize = False

    def __init__(
        self,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        feature_dim: int = 64,
        channels: Sequence[int] = (16, 32),
        hidden: int = 128,
        heads: str = "per_action",
        shift: int | None = None,
        image: ImagePlace | None = None,
    ) -> None:
        super().__init__()
        check_sizes("feature_dim", [feature_dim])
        check_sizes("hidden", [hidden])
        check_sizes("channels", channels)
        if heads not in ("per_action", "fused"):
            raise ValueError("encoder.params.heads: must be 'per_action' or 'fused'")
        if image is not None and not isinstance(image, ImagePlace):
            raise ValueError("encoder.params.image: there is no such parameter")
        self._place, num_columns = image, context_shape[0]
        if image is not None:
            context_shape = image.shape
        if len(context_shape) not in (2, 3):
            raise ValueError("context.shape: the conv encoder takes images (H, W) or (C, H, W)")
        if min(context_shape[-2:]) < 2 ** len(channels):
            raise ValueError("encoder.params.channels: too many poolings for images this small")
        side = min(context_shape[-2:])
        self._shift = min(2, side // 8) if shift is None else shift
        is_whole = isinstance(self._shift, int) and not isinstance(self._shift, bool)
        if not is_whole or not 0 <= self._shift <= side // 4:
            raise ValueError(f"encoder.params.shift: must be 0 to {side // 4}, a quarter of a side")
        self.uses_action = heads == "fused"
        if self.uses_action and not action_dim:
            raise ValueError("encoder.params.heads: 'fused' needs actions with features")
        self.output_dim = feature_dim
        self._shape, self._num_columns = context_shape, num_columns
        self._gray = len(context_shape) == 2
        sizes = [1 if self._gray else context_shape[0], *channels]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        height, width = (size >> len(channels) for size in context_shape[-2:])
        flat = channels[-1] * height * width
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU())
        self.action = (
            nn.Sequential(nn.Linear(action_dim, hidden), nn.ReLU()) if self.uses_action else None
        )
        joined = hidden * (1 + self.uses_action + (image is not None))
        self.fuse = nn.Sequential(nn.Linear(joined, feature_dim), nn.ReLU())
        self.fields = (
            None if image is None else nn.Sequential(nn.Linear(num_columns, hidden), nn.ReLU())
        )
        self._action_dim = action_dim

    def input_sides(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """See `EncoderModule.input_sides`; the image's pixels do not come and go."""
        of_actions = {"action.0.weight": [("a", self._action_dim)]} if self.uses_action else {}
        of_fields = {} if self.fields is None else {"fields.0.weight": [("x", self._num_columns)]}
        return of_actions | of_fields

    def _context(self, contexts: Tensor) -> Tensor:
        """Return what is made of contexts, (N, H), or (N, 2H) with fields beside the image."""
        if self._place is None or self.fields is None:
            return self._image(contexts)
        first, size = self._place.first, math.prod(self._shape)
        images = contexts[:, first : first + size]
        x_NX = contexts.to(next(self.fields.parameters()).dtype, copy=True)
        x_NX[:, first : first + size] = 0.0
        shaped = images.reshape(len(images), *self._shape)
        return torch.cat([self._image(shaped), self.fields(x_NX)], dim=1)

    def _image(self, contexts: Tensor) -> Tensor:
        dtype = next(self.fuse.parameters()).dtype
        images = contexts.to(dtype)
        if contexts.dtype == torch.uint8:
            images = images / 255
        images = images.unsqueeze(1) if self._gray else images
        if self.training and self._shift:
            images = _shifted(images, self._shift)
        h_NH: Tensor = self.image(images)
        return h_NH

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        """See `EncoderModule.forward`."""
        return self._fused(self._context(contexts), actions)

    def forward_candidates(self, context: Tensor, actions: Tensor) -> Tensor:
        """See `EncoderModule.forward_candidates`; the image is encoded once."""
        return self._fused(self._context(context[None]).expand(len(actions), -1), actions)

    def _fused(self, h_NH: Tensor, actions: Tensor) -> Tensor:
        if self.action is not None:
            h_NH = torch.cat([h_NH, self.action(actions)], dim=1)
        features: Tensor = self.fuse(h_NH)
        return features


def _shifted(images: Tensor, most: int) -> Tensor:
    """Return images (N, C, H, W), each moved by up to `most` pixels; zeros follow at its edges."""
    num, height, width = len(images), images.shape[2], images.shape[3]
    padded = nn.functional.pad(images, (most, most, most, most))
    rows, columns = torch.randint(0, 2 * most + 1, (2, num, 1)).to(images.device)
    rows = rows + torch.arange(height, device=images.device)
    columns = columns + torch.arange(width, device=images.device)
    numbers = torch.arange(num, device=images.device)[:, None, None]
    return padded[numbers, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
