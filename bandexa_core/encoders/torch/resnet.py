"""A ResNet beside an action path: z = fuse([backbone(image); action_dense(action)]).

The networks of He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, in
torchvision's form without the classifier. Most of the backbone is frozen. Images are sent and
stored unprepared; this module prepares them in batches, on the device. Runs in the serving process
and in the trainer; its frozen part never changes and is never stored.

Legend: N rows, U = 512 or 2048 image features, H hidden, S side of a prepared image.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bandexa_core.encoders.torch.mlp import check_sizes
from bandexa_core.encoders.torch.module import PrefixModule
from bandexa_core.encoders.torch.torchvision_compat import import_torchvision
from bandexa_core.encoders.torch.weights import NONE, named_weights

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALL_SIDE, SMALL_SIZE, LARGE_SIZE = 64, 64, 224
SIZES = (32, 1024)
# Pixels that pass the backbone at once without gradients: a rebuild reads thousands of images.
PIXELS_AT_ONCE = {"cpu": 1 << 19, "cuda": 1 << 23}
_INIT_SEED = 0


class ResNetEncoder(PrefixModule):
    """A mostly frozen residual network, a dense path for the action, and a dense layer on both.

    Contexts are images: uint8 (H, W) or (H, W, 3), resized and normalised here as ImageNet's; or
    floating (3, H, W), prepared already and taken as they are.

    Batch norm uses its running statistics, in trainable stages too, unless everything is trained. A
    batch of replay rows is small and far from independent, so its statistics are noise, and the
    features of an image must not depend on the other rows of its batch.

    Args:
        architecture: One of `ARCHITECTURES`.
        context_shape: Shape of an image.
        action_dim: A; 0 means that actions have no features.
        context_dtype: "uint8" or a floating dtype.
        weights: "none" (random, but equal for all bandits, so that their snapshots are
            compatible), "imagenet", or the name of a registered file.
        trainable: "layer4", "none", "all", or prefixes of the backbone's module names.
        feature_dim: F.
        hidden: H, the size of the action path and of the layer that fuses.
        heads: "fused": one posterior on z(x, a); "per_action": z(x), a posterior per action. None:
            "fused" where actions have features.
        image_size: S. None: 64 for images of sides up to 64, else 224.
    """

    serving_dtype = torch.float32
    least_steps = 100
    standardize = False
    slow = True
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        architecture: str,
        context_shape: tuple[int, ...],
        action_dim: int,
        *,
        context_dtype: str = "uint8",
        weights: str = NONE,
        trainable: str | Sequence[str] = "layer4",
        feature_dim: int = 64,
        hidden: int = 128,
        heads: str | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self._architecture = architecture
        self._prepared = _check_context(context_shape, context_dtype)
        self._size = _image_size(image_size, context_shape, self._prepared)
        check_sizes("feature_dim", [feature_dim])
        check_sizes("hidden", [hidden])
        if not isinstance(weights, str) or not weights:
            raise ValueError("encoder.params.weights: a name is needed")
        self._weights = weights
        heads = heads if heads is not None else "fused" if action_dim else "per_action"
        if heads not in ("per_action", "fused"):
            raise ValueError("encoder.params.heads: must be 'per_action' or 'fused'")
        self.uses_action = heads == "fused"
        if self.uses_action and not action_dim:
            raise ValueError("encoder.params.heads: 'fused' needs actions with features")
        self.output_dim = feature_dim

        self.backbone, size = _backbone(architecture)
        self._trains_all = trainable == "all"
        names = _trainable_names(self.backbone, trainable)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name in names)
        self._trainable = frozenset(f"backbone.{name}" for name in names)
        self._frozen_stages = _count_frozen(self.backbone)
        self.action_dense = (
            nn.Sequential(nn.Linear(action_dim, hidden), nn.ReLU()) if self.uses_action else None
        )
        joined = size + hidden if self.uses_action else size
        self.fuse = nn.Sequential(
            nn.Linear(joined, hidden), nn.ReLU(), nn.Linear(hidden, feature_dim), nn.ReLU()
        )
        for name, values in (("_mean", IMAGENET_MEAN), ("_std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self._action_dim = action_dim

    def input_sides(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """See `EncoderModule.input_sides`; the image's pixels do not come and go."""
        return {"action_dense.0.weight": [("a", self._action_dim)]} if self.uses_action else {}

    # -- weights ------------------------------------------------------------------------------

    def load_base(self, files: Mapping[str, Path]) -> None:
        """See `EncoderModule.load_base`: before it, the backbone has shapes but no numbers."""
        if self._weights == NONE:
            state = _random_weights(self.backbone)
        else:
            state = named_weights(self._weights, files, self._architecture)
            state = {name: t for name, t in state.items() if not name.startswith("fc.")}
        try:
            self.backbone.load_state_dict(state, assign=True)
        except RuntimeError as error:
            reason = str(error).split("\n\t")[1].strip() if "\n\t" in str(error) else str(error)
            raise ValueError(
                f"encoder.params.weights: {self._weights!r} is not of a {self._architecture}: "
                f"{reason[:200]}"
            ) from error

    def stored_names(self) -> frozenset[str]:
        """See `EncoderModule.stored_names`: all names but those of the frozen backbone."""
        names = frozenset(self.state_dict())
        if self._trains_all:
            return names
        return frozenset(n for n in names if not n.startswith("backbone.")) | self._trainable

    def train(self, mode: bool = True) -> ResNetEncoder:
        """See `nn.Module.train`; the class describes the backbone's batch norm."""
        super().train(mode)
        if not self._trains_all:
            self.backbone.eval()
        return self

    # -- parts --------------------------------------------------------------------------------

    def frozen_key(self) -> str:
        """See `PrefixModule.frozen_key`."""
        prepared = (self._architecture, self._prepared, self._size, self._frozen_stages)
        return hashlib.sha256((self.base_hash or b"") + repr(prepared).encode()).hexdigest()

    @torch.no_grad()
    def frozen_activations(self, contexts: Tensor) -> Tensor:
        """See `PrefixModule.frozen_activations`: the output of the frozen whole stages."""
        stages = _stages(self.backbone)[: self._frozen_stages]
        pieces = torch.split(contexts, self._at_once(contexts.device))
        return torch.cat([_through(stages, self._prepare(piece)) for piece in pieces])

    def context_part_from(self, activations: Tensor) -> Tensor:
        """See `PrefixModule.context_part_from`: the image's features, (N, U)."""
        return _through(_stages(self.backbone)[self._frozen_stages :], activations)

    def context_part(self, contexts: Tensor) -> Tensor:
        """See `SplitModule.context_part`: the image's features, (N, U)."""
        if torch.is_grad_enabled():  # trained batch norm also needs the whole batch
            return super().context_part(contexts)
        pieces = torch.split(contexts, self._at_once(contexts.device))
        return torch.cat([super(ResNetEncoder, self).context_part(piece) for piece in pieces])

    def action_part(self, actions: Tensor) -> Tensor:
        """See `SplitModule.action_part`: the actions' features, (K, H); none without a path."""
        if self.action_dense is None:
            return actions.new_zeros((len(actions), 0))
        features: Tensor = self.action_dense(actions)
        return features

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """See `SplitModule.combine`."""
        images = context_parts.expand(len(action_parts), -1)
        features: Tensor = self.fuse(torch.cat([images, action_parts], dim=1))
        return features

    def _at_once(self, device: torch.device) -> int:
        pixels = PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"])
        return max(1, pixels // (self._size[0] * self._size[1]))

    def _prepare(self, contexts: Tensor) -> Tensor:
        """Stored images -> the backbone's input, (N, 3, S, S)."""
        images = contexts.to(self._mean.dtype)
        if contexts.dtype == torch.uint8:
            images = images / 255
        if self._prepared:
            return images
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        if len(images) and images.shape[2:] != self._size:
            images = nn.functional.interpolate(
                images, self._size, mode="bilinear", antialias=True, align_corners=False
            )
        elif not len(images):
            images = images.new_zeros((0, 1, *self._size))
        return (images - self._mean) / self._std  # one grey channel becomes three here


Stage = Callable[[Tensor], Tensor]


def _check_context(shape: tuple[int, ...], dtype: str) -> bool:
    """Return whether images are prepared; refuse shapes that are not images (ValueError)."""
    grey, colour = len(shape) == 2, len(shape) == 3 and shape[2] == 3
    prepared = len(shape) == 3 and shape[0] == 3
    if dtype == "uint8" and not (grey or colour):
        raise ValueError("context.shape: uint8 images are (H, W) or (H, W, 3)")
    if dtype != "uint8" and not prepared:
        if grey or colour:
            raise ValueError(
                "context.dtype: images (H, W) and (H, W, 3) are uint8; floating ones come prepared,"
                " as (3, H, W)"
            )
        raise ValueError("context.shape: prepared images are (3, H, W)")
    return dtype != "uint8"


def _image_size(size: object, shape: tuple[int, ...], prepared: bool) -> tuple[int, int]:
    """Return height and width of the backbone's input."""
    if size is not None:
        if not isinstance(size, int) or isinstance(size, bool):
            raise ValueError("encoder.params.image_size: a whole number is needed")
        if not SIZES[0] <= size <= SIZES[1]:
            raise ValueError(f"encoder.params.image_size: must be {SIZES[0]} to {SIZES[1]}")
    if prepared:
        if size is not None and shape[1:] != (size, size):
            raise ValueError("encoder.params.image_size: prepared images are taken as they are")
        return shape[1], shape[2]
    if size is None:
        size = SMALL_SIZE if max(shape[:2]) <= SMALL_SIDE else LARGE_SIZE
    return size, size


def _backbone(architecture: str) -> tuple[nn.Module, int]:
    """Return torchvision's network without its classifier, as shapes alone, and its U."""
    try:
        import_torchvision()
    except ImportError as error:
        raise ValueError(f"encoder.name: {error}") from error
    models = importlib.import_module("torchvision.models")
    with torch.device("meta"):
        model: nn.Module = models.get_model(architecture)
    classifier = model.get_submodule("fc")
    assert isinstance(classifier, nn.Linear)
    model.register_module("fc", nn.Identity())
    return model, classifier.in_features


def _stages(backbone: nn.Module) -> list[Stage]:
    """Return the stages of an image's way, in order: torchvision's forward, cut into stages."""
    part = backbone.get_submodule
    conv, norm, relu, pool = (part(name) for name in ("conv1", "bn1", "relu", "maxpool"))
    average = part("avgpool")
    layers: list[Stage] = [part(f"layer{number}") for number in range(1, 5)]
    return [lambda x: pool(relu(norm(conv(x)))), *layers, lambda x: average(x).flatten(1)]


def _through(stages: Sequence[Stage], x: Tensor) -> Tensor:
    for stage in stages:
        x = stage(x)
    return x


def _trainable_names(backbone: nn.Module, trainable: object) -> frozenset[str]:
    """Return the names of the backbone's trainable parameters (ValueError)."""
    names = [name for name, _ in backbone.named_parameters()]
    if trainable == "all":
        return frozenset(names)
    if trainable == "none":
        return frozenset()
    prefixes = ["layer4"] if trainable == "layer4" else trainable
    if not isinstance(prefixes, list | tuple) or not prefixes:
        raise ValueError(
            "encoder.params.trainable: must be 'layer4', 'none', 'all' or a list of module names"
        )
    found: set[str] = set()
    for prefix in prefixes:
        under = [name for name in names if f"{name}.".startswith(f"{prefix}.")]
        if not under:
            raise ValueError(f"encoder.params.trainable: the backbone has no module {prefix!r}")
        found |= set(under)
    return frozenset(found)


def _count_frozen(backbone: nn.Module) -> int:
    """Return the number of stages before the first trainable one."""
    trainable = [name for name, p in backbone.named_parameters() if p.requires_grad]
    firsts = {name.partition(".")[0] for name in trainable}
    if firsts & {"conv1", "bn1"}:
        return 0
    numbers = [int(first.removeprefix("layer")) for first in firsts]
    return min(numbers, default=len(_stages(backbone)))


def _random_weights(backbone: nn.Module) -> dict[str, Tensor]:
    """Return random weights: He et al. (2015) for convolutions, plain batch norm elsewhere.

    Uniform, so that every machine draws the same bits. The last scale of each residual branch is
    reduced: without statistics of the data, batch norm would let activations double in every block.
    """
    generator = torch.Generator().manual_seed(_INIT_SEED)
    blocks = [m for m in backbone.modules() if hasattr(m, "downsample")]
    last_norms = {id(getattr(block, "bn3", None) or block.bn2) for block in blocks}
    state: dict[str, Tensor] = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            bound = math.sqrt(6 / fan_out)
            drawn = torch.rand(module.weight.shape, generator=generator)
            state[f"{name}.weight"] = drawn * (2 * bound) - bound
        elif isinstance(module, nn.BatchNorm2d):
            scale = len(blocks) ** -0.5 if id(module) in last_norms else 1.0
            size = module.num_features
            state[f"{name}.weight"] = torch.full((size,), scale)
            state[f"{name}.bias"] = torch.zeros(size)
            state[f"{name}.running_mean"] = torch.zeros(size)
            state[f"{name}.running_var"] = torch.ones(size)
            state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    return state
