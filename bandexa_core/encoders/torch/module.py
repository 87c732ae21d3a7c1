"""Learned encoders: a torch module that is trained in float32 and served frozen.

A user's encoder is a subclass of `EncoderModule`, registered by name in the server's TOML.
Legend: N rows, K candidates, F learned features, D = F + 1 (the constant 1 is added here).
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bandexa_core.encoders.protocol import Array64, Raw

BASE_HASH = "base/sha256"  # in a snapshot, beside the names of the state dict


class EncoderModule(nn.Module):
    """Base of learned encoders. Subclasses set `output_dim` and write `forward`.

    The constructor of a subclass takes `context_shape`, `action_dim` and the keyword parameters of
    `encoder.params` in the bandit's configuration, and raises ValueError for parameters that it
    does not support. If it has a keyword `context_dtype`, it receives the configured dtype of the
    contexts.

    Attributes:
        output_dim: F, the number of learned features.
        uses_action: False: `forward` ignores the action, and each action has a separate posterior.
        serving_dtype: Precision of served features; torch.float64 repeats to 1e-8 across batch
            sizes, float32 is for convolutions.
        standardize: Whether floating inputs may be standardised; False if their scale has a
            meaning, as in a prepared image.
        least_steps: Optimizer steps of a round on little data; more fit the noise of few rows.
        slow: Whether one context takes longer than about a millisecond. The service then encodes
            in a thread, several contexts at a time. Only a `SplitModule` may be slow.
    """

    output_dim: int
    uses_action: bool = True
    serving_dtype: torch.dtype = torch.float64
    standardize: bool = True
    slow: bool = False
    least_steps: int = 20

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        """Encode N pairs: contexts (N, *X) and actions (N, A) -> (N, F).

        Floating inputs come in the module's dtype, uint8 contexts as uint8.
        """
        raise NotImplementedError  # pragma: no cover - abstract

    def forward_candidates(self, context: Tensor, actions: Tensor) -> Tensor:
        """Encode one context (*X) with K actions (K, A) -> (K, F).

        Override it if the context can be processed once for all actions.
        """
        features: Tensor = self(context.expand(len(actions), *context.shape), actions)
        return features

    def load_base(self, files: Mapping[str, Path]) -> None:
        """Load the weights that this encoder starts from; called once, after construction.

        Args:
            files: The weight files registered with the server, by name.

        Raises:
            ValueError: They are not available, or belong to another architecture.
        """

    def stored_names(self) -> frozenset[str]:
        """Return the names in the state dict that snapshots store: everything that may change.

        The others are the base, which `load_base` (or the constructor) restores.
        """
        return frozenset(self.state_dict())

    def input_sides(self) -> Mapping[str, Sequence[tuple[str, int]]]:
        """Return the parameters whose columns are inputs, by name: the sides in their order.

        A side is "x", the context, or "a", the action, with its number of columns. Where columns of
        named features come and go, those that stay retain their weights; other parameters whose
        shapes depend on the inputs start anew.
        """
        return {}

    @functools.cached_property
    def base_hash(self) -> bytes | None:
        """SHA-256 of the base, None if snapshots store everything; it never changes."""
        stored, state = self.stored_names(), self.state_dict()
        base = sorted(state.keys() - stored)
        if not base:
            return None
        digest = hashlib.sha256()
        for name in base:
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.numpy().reshape(-1).view(np.uint8))
        return digest.digest()


class SplitModule(EncoderModule):
    """A learned encoder with a context part and an action part (cached per action)."""

    def context_part(self, contexts: Tensor) -> Tensor:
        """Contexts (N, *X) -> (N, U)."""
        raise NotImplementedError  # pragma: no cover - abstract

    def action_part(self, actions: Tensor) -> Tensor:
        """Actions (K, A) -> (K, V)."""
        raise NotImplementedError  # pragma: no cover - abstract

    def combine(self, context_parts: Tensor, action_parts: Tensor) -> Tensor:
        """Join parts (N or 1, U) and (N, V) -> (N, F)."""
        raise NotImplementedError  # pragma: no cover - abstract

    def forward(self, contexts: Tensor, actions: Tensor) -> Tensor:
        """See `EncoderModule.forward`."""
        return self.combine(self.context_part(contexts), self.action_part(actions))

    def forward_candidates(self, context: Tensor, actions: Tensor) -> Tensor:
        """See `EncoderModule.forward_candidates`."""
        return self.combine(self.context_part(context[None]), self.action_part(actions))


class PrefixModule(SplitModule):
    """A split module whose context part begins with layers that never change.

    The output of those layers for a context can be computed once and cached:
    `forward(x, a) == forward_from(frozen_activations(x), a)`, in eval mode and in training.
    """

    def frozen_activations(self, contexts: Tensor) -> Tensor:
        """Contexts (N, *X) as they are stored -> (N, *Y), without gradients."""
        raise NotImplementedError  # pragma: no cover - abstract

    def frozen_key(self) -> str:
        """Name the map `frozen_activations`: equal keys mean equal weights and preprocessing."""
        raise NotImplementedError  # pragma: no cover - abstract

    def context_part_from(self, activations: Tensor) -> Tensor:
        """The rest of the context part, (N, *Y) -> (N, U)."""
        raise NotImplementedError  # pragma: no cover - abstract

    def context_part(self, contexts: Tensor) -> Tensor:
        """See `SplitModule.context_part`."""
        return self.context_part_from(self.frozen_activations(contexts))

    def forward_from(self, activations: Tensor, actions: Tensor) -> Tensor:
        """Encode N pairs from cached activations, (N, *Y) and (N, A) -> (N, F)."""
        return self.combine(self.context_part_from(activations), self.action_part(actions))


def flatten(contexts: Tensor, dtype: torch.dtype) -> Tensor:
    """Return contexts (N, *X) as (N, prod X) in `dtype`; uint8 is scaled to 0..1."""
    flat = contexts.flatten(1)
    return flat.to(dtype) / 255 if contexts.dtype == torch.uint8 else flat.to(dtype)


class ModuleEncoder:
    """Serves a copy of a learned encoder: frozen, eval mode, in its serving precision."""

    def __init__(self, module: EncoderModule) -> None:
        self._dtype = module.serving_dtype
        served = copy.deepcopy(module).to(device="cpu", dtype=self._dtype).eval()
        self._module = served.requires_grad_(False)
        self.feature_dim = module.output_dim + 1
        self.uses_action = module.uses_action

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.array(array, copy=None if array.flags.writeable else True))
        return tensor if tensor.dtype == torch.uint8 else tensor.to(self._dtype)

    def _with_constant(self, features: Tensor) -> Array64:
        z_ND = np.empty((len(features), self.feature_dim))
        z_ND[:, :-1] = features.numpy()
        z_ND[:, -1] = 1.0
        return z_ND

    def encode(self, contexts: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode`."""
        with torch.inference_mode():
            return self._with_constant(self._module(self._tensor(contexts), self._tensor(actions)))

    def encode_batch(self, context: Raw, actions: NDArray[np.float32]) -> Array64:
        """See `Encoder.encode_batch`."""
        with torch.inference_mode():
            x, a_KA = self._tensor(context), self._tensor(actions)
            return self._with_constant(self._module.forward_candidates(x, a_KA))


class SplitModuleEncoder(ModuleEncoder):
    """Serves a `SplitModule`, with its action parts cacheable."""

    _module: SplitModule

    def context_part(self, context: Raw) -> Array64:
        """See `SplitEncoder.context_part`."""
        part: Array64 = self.context_parts(context[None])[0]
        return part

    def context_parts(self, contexts: Raw) -> Array64:
        """Return the parts of several contexts, (B, *X) -> (B, U)."""
        with torch.inference_mode():
            parts: Array64 = self._module.context_part(self._tensor(contexts)).numpy()
            return parts.astype(np.float64, copy=False)

    def action_part(self, actions: NDArray[np.float32]) -> Array64:
        """See `SplitEncoder.action_part`."""
        with torch.inference_mode():
            part: Array64 = self._module.action_part(self._tensor(actions)).numpy()
            return part.astype(np.float64, copy=False)

    def combine(self, context_part: Array64, action_parts: Array64) -> Array64:
        """See `SplitEncoder.combine`."""
        with torch.inference_mode():
            u = torch.from_numpy(context_part)[None].to(self._dtype)
            v_KV = self._tensor(action_parts)
            return self._with_constant(self._module.combine(u, v_KV))


def module_tensors(module: EncoderModule) -> dict[str, NDArray[Any]]:
    """Return what a snapshot stores of a module, as numpy arrays by name.

    These are its parameters and buffers without the base, and a hash of the base.
    """
    stored = module.stored_names()
    state = {name: t for name, t in module.state_dict().items() if name in stored}
    tensors = {name: t.detach().cpu().numpy().copy() for name, t in state.items()}
    if module.base_hash is not None:
        tensors[BASE_HASH] = np.frombuffer(module.base_hash, np.uint8)
    return tensors


def load_module_tensors(module: EncoderModule, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Fill a module from `module_tensors`.

    Raises:
        ValueError: A name or shape differs from the module's, or the base does.
    """
    state = {n: torch.from_numpy(np.array(t)) for n, t in tensors.items() if n != BASE_HASH}
    differing = sorted(state.keys() ^ module.stored_names())
    if differing:
        raise ValueError(f"encoder: missing or unknown tensors: {', '.join(differing)}")
    base = tensors[BASE_HASH].tobytes() if BASE_HASH in tensors else None
    if base != module.base_hash:
        raise ValueError("encoder: the base weights changed: these tensors belong to others")
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"encoder: {error}") from error
