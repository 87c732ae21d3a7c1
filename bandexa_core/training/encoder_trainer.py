"""Trains an encoder through a linear reward head of its own, from replay.

Training through the posterior mean instead costs a third more regret: the mean is stale between
rebuilds and zero at first, so it hardly moves the features. Legend: B batch, F learned features,
H heads (1, or one per action slot).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bandexa_core.encoders import EncoderModule
from bandexa_core.encoders.torch.module import PrefixModule
from bandexa_core.policies.protocol import UNCHANGED, InputMaps, RowWeights
from bandexa_core.replay import RankShare, Rows, TrainingRows, training_batches
from bandexa_core.replay.activations import ActivationCache
from bandexa_core.training.optimizer import AdamW
from bandexa_core.training.plan import ReportProgress, TrainingRound, no_progress
from bandexa_core.training.ranks import ALONE, Ranks

GRADIENT_CLIP = 5.0
FINAL_LR = 0.1  # of the learning rate; it falls linearly within a round, so features settle


class RewardHead(nn.Module):
    """Linear reward heads r = W[h] . f + b[h] for features f."""

    def __init__(self, feature_dim: int, num_heads: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        bound = feature_dim**-0.5
        weight = torch.rand((num_heads, feature_dim), generator=generator) * 2 * bound - bound
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(num_heads))

    def forward(self, features: Tensor, heads: Tensor) -> Tensor:
        """Predict rewards (B,) of features (B, F) with the heads of indexes (B,)."""
        if len(self.weight) == 1:
            return features @ self.weight[0] + self.bias[0]
        return (features * self.weight[heads]).sum(1) + self.bias[heads]


class _Prediction(nn.Module):
    """From inputs to predicted rewards: what is differentiated in a step, as one module."""

    def __init__(
        self,
        encoder: EncoderModule,
        head: RewardHead,
        features: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self._features = features

    def forward(self, inputs: Tensor, actions: Tensor, heads: Tensor, from_prefix: bool) -> Tensor:
        """Predict rewards (B,); `from_prefix`: the inputs are activations of frozen layers."""
        encoder = self.encoder
        if from_prefix:
            assert isinstance(encoder, PrefixModule), "no other has frozen layers"
            features = self._features(encoder.forward_from, inputs, actions)
        else:
            features = self._features(encoder.forward, inputs, actions)
        predicted: Tensor = self.head(features, heads)
        return predicted


def _half_precision(module: EncoderModule, device: str) -> torch.dtype | None:
    """Return the dtype of a module's optimizer steps, None for float32."""
    if not device.startswith("cuda") or module.serving_dtype != torch.float32:
        return None
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def _lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay out a module's convolution weights in place."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


class EncoderTrainer:
    """Moves an encoder by AdamW on squared error; its state carries over between rounds.

    The module is trained in place, in float32, and left on the CPU in eval mode. On CUDA, the
    steps of an encoder that is served in float32 run in half precision and channels last, unless
    `half` is False. With several `ranks`, each takes its share of the rows of every step.
    """

    def __init__(
        self,
        module: EncoderModule,
        plan: TrainingRound,
        *,
        half: bool = True,
        ranks: Ranks = ALONE,
    ) -> None:
        self.plan = plan
        self._ranks = ranks
        self.module = module.to(plan.device)
        self._half = _half_precision(module, plan.device) if half else None
        if self._half is not None:
            _lay_out(self.module, torch.channels_last)
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._half == torch.float16)
        self.head = RewardHead(module.output_dim, plan.num_heads, plan.seed).to(plan.device)
        self._named = [
            *((f"encoder/{n}", p) for n, p in self.module.named_parameters() if p.requires_grad),
            *((f"head/{n}", p) for n, p in self.head.named_parameters()),
        ]
        self.optimizer = AdamW(
            [p for _, p in self._named], lr=plan.lr, weight_decay=plan.weight_decay
        )

    def run(
        self,
        replay: TrainingRows,
        weights: RowWeights | None = None,
        inputs: InputMaps = UNCHANGED,
        activations: ActivationCache | None = None,
        report: ReportProgress = no_progress,
    ) -> dict[str, float]:
        """Take the plan's optimizer steps on rows drawn by their weights (None: uniformly).

        `inputs` make of logged contexts and actions what the encoder takes.
        With `activations`, the frozen layers of a `PrefixModule` are computed once for each row.
        `report` is called after each step.

        Returns:
            The mean loss of the first and of the last tenth, and what was done.
        """
        sums_N = None if weights is None else np.cumsum(weights(replay.positions()))
        ranks, plan = self._ranks, self.plan
        predict: nn.Module = _Prediction(self.module, self.head, self._features)
        rows_of_step, batch_size, share = replay, plan.batch_size, 1.0
        if ranks.size > 1:
            predict = ranks.in_parallel(predict)
            rows_of_step = RankShare(replay, ranks.rank, ranks.size, batch_size)
            batch_size, share = rows_of_step.num_drawn, rows_of_step.weight
        rng = np.random.Generator(np.random.Philox(key=self.plan.seed))
        self.module.train()
        devices = [] if self.plan.device == "cpu" else [self.plan.device]
        with (
            torch.random.fork_rng(devices),  # dropout draws from the round's seed
            training_batches(
                rows_of_step, rng, batch_size, self.plan.steps, sums_N,
                allocate=_pinned if devices else np.empty,
            ) as batches,
        ):  # fmt: skip
            torch.manual_seed((plan.seed + ranks.rank) % 2**63)
            losses = []
            for step, rows in enumerate(batches):
                done = step / self.plan.steps
                self.optimizer.param_groups[0]["lr"] = self.plan.lr * (1 - (1 - FINAL_LR) * done)
                losses.append(self._step(rows, inputs, activations, predict, share))
                report("optimizer", done)
        self.module.eval().to("cpu")
        if self._half is not None:
            _lay_out(self.module, torch.contiguous_format)
        ranks.align(self.module)  # buffers, such as means of batches, are those of each rank
        tenth = max(1, len(losses) // 10)
        curve = torch.stack(losses).cpu()
        if ranks.size > 1:
            curve = torch.from_numpy(ranks.sum(share * curve.double().numpy()))
        metrics = {
            "loss_before": float(curve[:tenth].mean()),
            "loss_after": float(curve[-tenth:].mean()),
            "optimizer_steps": float(self.plan.steps),
            "rows": float(len(replay)),
        }
        # A manifest cannot hold a loss that overflowed.
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _step(
        self,
        rows: Rows,
        inputs: InputMaps,
        activations: ActivationCache | None,
        predict: nn.Module,
        share: float,
    ) -> Tensor:
        """Take a step; `rows` are `share` of its rows. Return their loss."""
        device = self.plan.device
        x_BX, a_BA = inputs.contexts(rows.contexts), inputs.actions(rows.actions)
        actions = torch.from_numpy(a_BA).to(device, torch.float32)
        module = self.module
        from_prefix = False
        if activations is not None and isinstance(module, PrefixModule):
            frozen = activations.get(
                module.frozen_key(),
                rows.positions,
                lambda missing: self._frozen(module, x_BX[missing]),
            )
            x, from_prefix = torch.from_numpy(frozen).to(device, torch.float32), True
        else:
            x = self._contexts(x_BX)
        plan = self.plan
        values = (
            rows.rewards if plan.clipped_to is None else np.clip(rows.rewards, *plan.clipped_to)
        )
        scaled = (values - plan.reward_center) / plan.reward_scale
        rewards = torch.from_numpy(scaled).to(device, torch.float32)
        heads = torch.from_numpy(rows.slots).to(device)
        loss = nn.functional.mse_loss(predict(x, actions, heads, from_prefix), rewards)
        # Gradients are averaged over the ranks; where their shares are equal, nothing is scaled.
        part = loss if share * self._ranks.size == 1.0 else loss * (share * self._ranks.size)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(part))
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_([p for _, p in self._named], GRADIENT_CLIP)
        if torch.isfinite(norm):  # one overflow, of huge inputs, must not make every weight NaN
            self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach()

    def _contexts(self, x_BX: NDArray[Any]) -> Tensor:
        contexts = torch.from_numpy(x_BX).to(self.plan.device)
        return contexts.to(torch.float32) if contexts.is_floating_point() else contexts

    def _frozen(self, module: PrefixModule, x_BX: NDArray[Any]) -> NDArray[np.float16]:
        frozen: NDArray[np.float16] = (
            module.frozen_activations(self._contexts(x_BX)).half().cpu().numpy()
        )
        return frozen

    def _features(
        self, encode: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, actions: Tensor
    ) -> Tensor:
        if self._half is None:
            return encode(inputs, actions)
        if inputs.ndim == 4 and inputs.is_floating_point():
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", self._half):
            features = encode(inputs, actions)
        return features.float()

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return head and optimizer state as named arrays (the encoder is the module's own)."""
        out = {
            f"head/{name}": p.detach().cpu().numpy().copy()
            for name, p in self.head.named_parameters()
        }
        for name, parameter in self._named:
            for key, value in self.optimizer.state.get(parameter, {}).items():
                out[f"optimizer/{key}/{name}"] = value.detach().cpu().numpy().copy()
        return out

    def load_tensors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Load `tensors`; heads of actions added since then start from new weights.

        Raises:
            ValueError: A shape does not fit this encoder.
        """
        for name, parameter in self._named:
            if name.startswith("head/") and name in tensors:
                self._fill(parameter.data, tensors[name], name)
            state = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                stored = tensors.get(f"optimizer/{key}/{name}")
                if stored is None:
                    continue
                like = torch.zeros(()) if key == "step" else torch.zeros_like(parameter)
                self._fill(like, stored, name)
                state[key] = like
            if state:
                self.optimizer.state[parameter] = state

    @staticmethod
    def _fill(target: Tensor, stored: NDArray[Any], name: str) -> None:
        """Copy `stored` into the first rows of `target` (heads grow with the catalogue)."""
        source = torch.from_numpy(np.array(stored)).to(target.device)
        whole = source.shape == target.shape
        rows = source.ndim == target.ndim > 0
        grows = name.startswith("head/") and rows and len(source) <= len(target)
        if not whole and not (grows and source.shape[1:] == target.shape[1:]):
            raise ValueError(f"training state: {name} has shape {tuple(source.shape)}")
        if whole:
            target.copy_(source)
        else:
            target[: len(source)] = source


def _pinned(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return an uninitialised array in page-locked memory, which a GPU reads without a copy."""
    like = torch.from_numpy(np.empty(0, dtype))
    pinned: NDArray[Any] = torch.empty(shape, dtype=like.dtype, pin_memory=True).numpy()
    return pinned
