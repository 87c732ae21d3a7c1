"""The inputs of a policy: contexts and actions, standardised if configured, then encoded.

Holds the frozen encoder and the scaling in front of it; knows no posterior. Single-threaded but
for reading. Legend: N pairs, K candidates, C of them at once, D features, V size of an action part,
A action features, `*X` a context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.fixed import PerActionEncoder
from bandexa_core.encoders.protocol import (
    Encoder,
    FoldingEncoder,
    JointEncoder,
    SplitEncoder,
)
from bandexa_core.features.scaling import InputScaling
from bandexa_core.policies.named_inputs import NamedInputs
from bandexa_core.policies.protocol import Candidates, EncodedContext, InputMaps
from bandexa_core.spec import SelectionSpec

Array64 = NDArray[np.float64]


class EncodedInputs:
    """An encoder and the input scaling in front of it.

    Args:
        encoder: The frozen feature map.
        action_chunk: Encode at most this many candidates at once (None: all).
        scaling: Standardises inputs before they are encoded; None: they are encoded as they are.
        named: Makes numbers of objects with named features; None: all inputs are numbers.

    Attributes:
        splitting, folding, joint: The encoder if it follows that protocol, else None.
    """

    def __init__(
        self,
        encoder: Encoder,
        action_chunk: int | None,
        scaling: InputScaling | None,
        named: NamedInputs | None = None,
    ) -> None:
        self.encoder = encoder
        self.action_chunk = action_chunk
        self.scaling = scaling
        self.named = named

    @property
    def encoder(self) -> Encoder:
        """The frozen feature map."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # Checked once: an isinstance check of a protocol takes 10 us.
        self.splitting = encoder if isinstance(encoder, SplitEncoder) else None
        self.folding = encoder if isinstance(encoder, FoldingEncoder) else None
        self.joint = encoder if isinstance(encoder, JointEncoder) else None

    def configure(self, selection: SelectionSpec) -> None:
        """See `Policy.configure`."""
        self.action_chunk = selection.action_chunk

    def scaled(self, contexts: NDArray[Any]) -> NDArray[Any]:
        """See `Policy.scaled`; this is the first step of every use of a context."""
        if self.named is not None and self.named.x is not None:
            return self.named.contexts(contexts)
        return contexts if self.scaling is None else self.scaling.contexts(contexts)

    @property
    def inputs(self) -> InputMaps:
        """What logged contexts and actions pass before they are encoded."""
        return InputMaps(self.scaled, self._actions)

    def ready(self, context: NDArray[Any] | EncodedContext) -> NDArray[Any] | EncodedContext:
        """Return a context as the encoder takes it; an encoded context is returned unchanged."""
        return context if isinstance(context, EncodedContext) else self.scaled(context)

    def parts(self, encoder: SplitEncoder, candidates: Candidates) -> Array64:
        """Return the candidates' action parts, (K, V)."""
        if candidates.parts is not None:
            return candidates.parts
        return encoder.action_part(self._actions(candidates.features))

    def action_parts(self, features: NDArray[np.float32]) -> NDArray[np.float64] | None:
        """See `Policy.action_parts`."""
        if self.splitting is not None and self.encoder.uses_action:
            return self.splitting.action_part(self._actions(features))
        return None

    def features(self, contexts: NDArray[Any], actions: NDArray[np.float32]) -> Array64:
        """See `Policy.features`."""
        return self.encoder.encode(self.scaled(contexts), self._actions(actions))

    def encoded(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Iterator[Array64]:
        """Yield z of the candidates for a ready context, `action_chunk` at once, (C, D) each."""
        size = self.action_chunk or len(candidates)
        split = self.splitting
        part = None if split is None else context_part(split, context)
        for first in range(0, len(candidates), size):
            piece = slice(first, first + size)
            if split is not None and part is not None and candidates.parts is not None:
                yield split.combine(part, candidates.parts[piece])
            elif split is not None and isinstance(context, EncodedContext):
                features = self._actions(candidates.features[piece])
                yield split.combine(context.part, split.action_part(features))
            else:
                actions = self._actions(candidates.features[piece])
                yield self.encoder.encode_batch(raw(context), actions)

    def shared_features(
        self, context: NDArray[Any] | EncodedContext, candidates: Candidates
    ) -> Array64:
        """Return z(x), (D,), of a ready context under an encoder that ignores the action.

        Raises:
            ValueError: A candidate is not in the catalogue.
        """
        self._check_known(candidates)
        first = candidates.action(0)[None]
        if isinstance(context, EncodedContext):
            assert self.splitting is not None, "only a split encoder encodes contexts beforehand"
            parts_1V = self.splitting.action_part(first)
            return self.splitting.combine(context.part, parts_1V).reshape(-1)
        return self.encoder.encode(context[None], first).reshape(-1)

    def _check_known(self, candidates: Candidates) -> None:
        if not candidates.are_known:
            raise ValueError("candidates: this bandit knows actions by their catalogue id alone")

    def all_shared_features(
        self, contexts: Sequence[NDArray[Any] | EncodedContext], candidates: Candidates
    ) -> Array64:
        """Return `shared_features` of several contexts, (B, D), each bit for bit as alone."""
        if not isinstance(self.encoder, PerActionEncoder):
            return np.stack([self.shared_features(x, candidates) for x in contexts])
        self._check_known(candidates)
        x_BX = np.array([raw(context) for context in contexts])
        return self.encoder.encode(x_BX, candidates.action(0)[None])

    def _actions(self, raw_KA: NDArray[Any]) -> NDArray[Any]:
        if self.named is not None and self.named.a is not None:
            return self.named.actions(raw_KA)
        return raw_KA if self.scaling is None else self.scaling.actions(raw_KA)


def raw(context: NDArray[Any] | EncodedContext) -> NDArray[Any]:
    """Return a context that was not encoded beforehand."""
    assert not isinstance(context, EncodedContext), "only slow encoders encode contexts beforehand"
    return context


def context_part(encoder: SplitEncoder, context: NDArray[Any] | EncodedContext) -> Array64:
    """Return a context's part, (1, V); it is computed unless the context brings it."""
    return context.part if isinstance(context, EncodedContext) else encoder.context_part(context)
