"""Encoders by name: the built-in ones, and those that a server's configuration registers.

Importing torch takes seconds and hundreds of megabytes. The registry does so only when a learned
encoder is built or registered, so a process that serves fixed maps alone never imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bandexa_core.encoders.fixed import (
    BilinearEncoder,
    ConcatEncoder,
    FixedEncoder,
    InteractionsEncoder,
    PerActionEncoder,
)
from bandexa_core.schema.encoding import ImagePlace
from bandexa_core.spec import BanditSpec

if TYPE_CHECKING:
    from bandexa_core.encoders.torch.module import EncoderModule

FIXED: Mapping[str, type[ConcatEncoder | PerActionEncoder]] = {
    "concat": ConcatEncoder,
    "interactions": InteractionsEncoder,
    "bilinear": BilinearEncoder,
    "per_action": PerActionEncoder,
}
# The names of `torch.builtin.LEARNED`.
LEARNED_NAMES = (
    "mlp", "two_tower", "kernel", "crosses", "conv",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
)  # fmt: skip


class EncoderRegistry:
    """Names to encoder classes.

    Args:
        extra: The operator's own classes, "package.module:Class" by name.
        weights: The operator's weight files by name (see `EncoderModule.load_base`).
        torch_threads: Threads that torch uses in this process, None for torch's own choice.
        downloads: Whether `module` downloads weights that are not here. False: only `fetch` does,
            and no other bandit waits for a download.

    Raises:
        ValueError: A class cannot be imported or a file cannot be read; the message names it.
    """

    def __init__(
        self,
        extra: Mapping[str, str] | None = None,
        weights: Mapping[str, str | Path] | None = None,
        *,
        torch_threads: int | None = None,
        downloads: bool = True,
    ) -> None:
        self._downloads = downloads
        self._torch_threads = torch_threads
        self._weights = {name: Path(path) for name, path in (weights or {}).items()}
        if self._weights:
            from bandexa_core.encoders.torch.weights import check_files

            check_files(self._weights)
        self._own: dict[str, type[EncoderModule]] = {}
        for name, path in (extra or {}).items():
            if name in FIXED or name in LEARNED_NAMES:
                raise ValueError(f"encoders.{name}: the name belongs to a built-in encoder")
            from bandexa_core.encoders.torch.builtin import import_class

            self._own[name] = import_class(name, path)

    def names(self) -> list[str]:
        """Return every name, sorted."""
        return sorted([*FIXED, *LEARNED_NAMES, *self._own])

    def is_learned(self, name: str) -> bool:
        """Whether the encoder has parameters to train."""
        return name in LEARNED_NAMES or name in self._own

    def fixed(self, spec: BanditSpec) -> FixedEncoder:
        """Build a fixed map.

        Raises:
            ValueError: Unknown name or parameters; the message names the field.
        """
        cls = FIXED.get(spec.encoder.name)
        if cls is None:
            raise ValueError(f"encoder.name: must be one of {', '.join(self.names())}")
        if spec.encoder.params:
            raise ValueError(f"encoder.params: the {spec.encoder.name} map takes none")
        return cls(spec.context.stored_shape, spec.action_dim)

    def fetch(self, spec: BanditSpec) -> None:
        """Download the weights that a bandit's encoder needs, if they are not here yet.

        Raises:
            ValueError: They could not be downloaded in time.
        """
        if self._needs_imagenet(spec):
            from bandexa_core.encoders.torch.weights import imagenet_file

            imagenet_file(spec.encoder.name)

    def _needs_imagenet(self, spec: BanditSpec) -> bool:
        name = spec.encoder.name
        is_resnet = name.startswith("resnet") and name in LEARNED_NAMES
        return is_resnet and spec.encoder.params.get("weights") == "imagenet"

    def module(
        self,
        spec: BanditSpec,
        seed: int,
        sizes: tuple[tuple[int, ...], int] | None = None,
        image: ImagePlace | None = None,
    ) -> EncoderModule:
        """Build a learned encoder with its initial parameters drawn from `seed`.

        `sizes`: The shape of contexts and the size of actions where features are named, as they are
        encoded. `image`: where the pixels of an encoded context are, if it has an image.

        Raises:
            ValueError: Unknown name or parameters; the message names the field.
        """
        name = spec.encoder.name
        if not self.is_learned(name):
            raise ValueError(f"encoder.name: must be one of {', '.join(self.names())}")
        import torch

        from bandexa_core.encoders.torch.builtin import LEARNED, build

        if self._torch_threads is not None and torch.get_num_threads() != self._torch_threads:
            torch.set_num_threads(self._torch_threads)
        if not self._downloads and self._needs_imagenet(spec):
            from bandexa_core.encoders.torch.weights import imagenet_place

            path = imagenet_place(name)[1]
            if not path.exists():
                raise ValueError(f"encoder.params.weights: {path} is not here yet")
        module = build(self._own.get(name) or LEARNED[name], spec, seed, sizes, image)
        module.load_base(self._weights)
        return module
