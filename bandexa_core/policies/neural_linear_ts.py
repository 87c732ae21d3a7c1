"""Neural-Linear Thompson sampling: a learned encoder below a Bayesian linear head.

Riquelme, Tucker & Snoek, "Deep Bayesian Bandits Showdown", ICLR 2018. The encoder is trained
through a reward head of its own (`training.EncoderTrainer`), never through the posterior mean.
The posterior treats the features as known: its uncertainty is that of the last layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandexa_core.encoders.torch.builtin import serving
from bandexa_core.encoders.torch.crosses import CrossesEncoder
from bandexa_core.encoders.torch.fitted import FittedModule, Sample, Side
from bandexa_core.encoders.torch.inheriting import inherit, inherited_state, spread
from bandexa_core.encoders.torch.module import (
    EncoderModule,
    SplitModuleEncoder,
    load_module_tensors,
    module_tensors,
)
from bandexa_core.features.scaling import InputScaling
from bandexa_core.policies.calibration import MOST_ROWS, Calibration, held_out
from bandexa_core.policies.linear_head import LinearHead
from bandexa_core.policies.named_inputs import NamedCross, NamedInputs
from bandexa_core.policies.protocol import RowWeights
from bandexa_core.policies.standardizing import catalogue_scale, drawn_inputs, drawn_rewards, spaced
from bandexa_core.posterior import PosteriorConfig
from bandexa_core.posterior.frame import FIRST_ROWS, Frame, frame_of_first
from bandexa_core.posterior.rows import learnable
from bandexa_core.posterior.tensors import take_prefix
from bandexa_core.replay import RankShare, TrainingRows
from bandexa_core.replay.activations import ActivationCache
from bandexa_core.training.encoder_trainer import EncoderTrainer
from bandexa_core.training.plan import ReportProgress, TrainingRound, no_progress
from bandexa_core.training.ranks import ALONE, Ranks

Resize = Callable[[NamedInputs, int], EncoderModule]


class NeuralLinearTS(LinearHead):
    """A linear head over a learned encoder, which `train` changes.

    Args:
        module: The encoder; this policy owns it.
        config: Prior and noise of the head.
        greedy: Act on the posterior mean instead of a draw.
        action_chunk: Encode at most this many candidates at once (None: all).
        scaling: Standardises inputs before they are encoded; None: they are encoded as they are.
        named: Makes numbers of objects with named features; None: all inputs are numbers.
        resized: Builds the encoder for other sizes of its inputs, with a seed.
    """

    def __init__(
        self,
        module: EncoderModule,
        config: PosteriorConfig,
        *,
        greedy: bool = False,
        action_chunk: int | None = None,
        scaling: InputScaling | None = None,
        named: NamedInputs | None = None,
        resized: Resize | None = None,
    ) -> None:
        super().__init__(
            serving(module), config, greedy=greedy, action_chunk=action_chunk, scaling=scaling,
            named=named,
        )  # fmt: skip
        self.module = module
        self._resized = resized

    @property
    def learns_features(self) -> bool:
        """See `Policy.learns_features`."""
        return True

    @property
    def least_steps(self) -> int:
        """Optimizer steps of a round on little data; see `EncoderModule.least_steps`."""
        return self.module.least_steps

    @property
    def slow_encoder(self) -> SplitModuleEncoder | None:
        """See `Policy.slow_encoder`."""
        if not self.module.slow:
            return None
        assert isinstance(self.encoder, SplitModuleEncoder), "the registry admits no other"
        return self.encoder

    @property
    def crosses(self) -> list[NamedCross] | None:
        """The products of fields in use; None where the encoder chooses none."""
        module = self.module
        if not isinstance(module, CrossesEncoder):
            return None
        named = NamedInputs(None, None) if self.named is None else self.named
        of_x, of_a = named.field_names((len(module.x_field), len(module.a_field)))
        return [
            NamedCross(of_x[each.x], of_a[each.a], each.inputs, each.shared, each.gain)
            for each in module.crosses()
        ]

    def check_training(self, tensors: dict[str, NDArray[Any]], num_actions: int) -> None:
        """See `Policy.check_training`."""
        plan = TrainingRound(
            num_rows=0, actions=np.zeros((0, 0), np.float32), steps=0, batch_size=1, lr=1.0,
            weight_decay=0.0, rebuild_chunk=1, reward_scale=1.0, seed=0,
            num_heads=1 if self.encoder.uses_action else max(1, num_actions),
        )  # fmt: skip
        try:
            EncoderTrainer(self.module, plan).load_tensors(tensors)
        except (RuntimeError, TypeError) as error:
            raise ValueError(str(error)) from error

    def train(
        self,
        replay: TrainingRows,
        trainer_state: dict[str, NDArray[Any]],
        plan: TrainingRound,
        weights: RowWeights | None = None,
        activations: ActivationCache | None = None,
        report: ReportProgress = no_progress,
        ranks: Ranks = ALONE,
    ) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
        """Train the encoder for one round, then rebuild the posterior over the replay.

        Args:
            replay: The rewarded decisions.
            trainer_state: The state that the previous round returned; empty at first.
            plan: How much to train, on which device, with which random numbers.
            weights: Weights of rows after forgetting, by position; None: all rows weigh 1.
            activations: Caches the output of a frozen prefix; None: it is computed each time.
            report: Receives the phase of the round and its done share.
            ranks: The processes that share the round; all call this with the same rows.

        Returns:
            The state for the next round (head and optimizer) and the round's metrics.
        """
        tested: dict[str, float] = {}
        if self.config.calibrated:
            tested = self._calibrate(replay, plan.since, weights)
        if self.scaling is not None:
            self._standardize(replay, plan, weights)
        if self.named is not None and self.named.is_due(plan.num_rows):
            trainer_state = self._encode_anew(replay, plan, weights, trainer_state)
        frame = self._first_frame(replay)
        if isinstance(self.module, FittedModule):
            metrics = self._fit(self.module, replay, plan, weights)
            ranks.align(self.module)
            self._rebuild_shared(replay, plan, weights, report, frame, ranks)
            metrics["calibration"] = self.calibration.factor
            return {}, metrics | tested
        scale = frame.unit if self.config.learns_unit else plan.reward_scale
        decay = plan.weight_decay
        if plan.most_decay is not None and self.module.standardize:
            decay = min(self.calibration.decay * decay, plan.most_decay)
        plan = replace(
            plan, reward_center=frame.center, reward_scale=scale, weight_decay=decay,
            clipped_to=self.config.clipped_to,
        )  # fmt: skip
        trainer = EncoderTrainer(self.module, plan, ranks=ranks)
        trainer.load_tensors(trainer_state)
        metrics = trainer.run(replay, weights, self.inputs, activations, report)
        self.encoder = serving(self.module)
        self._rebuild_shared(replay, plan, weights, report, frame, ranks)
        metrics["calibration"] = self.calibration.factor
        return trainer.tensors(), metrics | tested

    def _rebuild_shared(
        self,
        replay: TrainingRows,
        plan: TrainingRound,
        weights: RowWeights | None,
        report: ReportProgress,
        frame: Frame,
        ranks: Ranks,
    ) -> None:
        """Rebuild the posterior, each rank over its chunks."""
        rows = replay
        if ranks.size > 1:
            rows = RankShare(replay, ranks.rank, ranks.size, plan.batch_size)
        self.rebuild(rows, plan.rebuild_chunk, weights, report, frame, ranks)

    def _fit(
        self,
        module: FittedModule,
        replay: TrainingRows,
        plan: TrainingRound,
        weights: RowWeights | None,
    ) -> dict[str, float]:
        """Fit an encoder to the rows so far where that is due."""
        if not len(replay) or not module.is_due(plan.num_rows):
            return {}
        rows = drawn_rewards(replay, plan.rebuild_chunk, weights, plan.seed)
        x = self.scaled(rows.contexts).reshape(len(rows), -1).astype(np.float64)
        a = self._actions(rows.actions).astype(np.float64)
        named = NamedInputs(None, None) if self.named is None else self.named
        sizes = x.shape[1], a.shape[1]
        (fields_x, fields_a), (names_x, names_a) = named.fields(sizes), named.field_names(sizes)
        sample = Sample(
            Side(x, fields_x, names_x),
            Side(a, fields_a, names_a),
            rewards=self.config.clipped(rows.rewards),
            offered=self._actions(spaced(plan.actions)).astype(np.float64),
            shared=named.shared(),
            num_rows=plan.num_rows,
            seed=plan.seed,
        )
        found = module.fit(sample)
        self.encoder = serving(module)
        return found

    def _calibrate(
        self, replay: TrainingRows, since: int, weights: RowWeights | None
    ) -> dict[str, float]:
        """Test the posterior, with the network as it is, on the rows after position `since`.

        Returns the mean squared error there, as a metric of the round; none without such rows.
        """
        positions = replay.positions()
        num_new = len(positions) - int(np.searchsorted(positions, since, "right"))
        if not (num_new and self.posterior.num_rows):
            return {}
        rows = replay.newest(min(num_new, MOST_ROWS))
        z_ND = self.features(rows.contexts, rows.actions)
        good_N = learnable(z_ND)
        if not good_N.any():
            return {}
        values_N = self.config.clipped(rows.rewards)[good_N]
        found = held_out(self.posterior, z_ND[good_N], rows.slots[good_N], values_N)
        num_rows = len(positions) if weights is None else float(weights(positions).sum())
        self.calibration = self.calibration.tested(found.squares, num_new, num_rows)
        return {"held_out_error": found.error} if math.isfinite(found.error) else {}

    def _first_frame(self, replay: TrainingRows) -> Frame:
        """Return the frame to train in: the trainer has not applied the rows that it trains on."""
        oldest = next(iter(replay.scan(FIRST_ROWS)), None)
        values = () if oldest is None else oldest.rewards
        return frame_of_first(values, self.posterior.frame, self.config)

    def _standardize(
        self, replay: TrainingRows, plan: TrainingRound, weights: RowWeights | None
    ) -> None:
        """Renew the scaling: all of it where that is due, else what no longer suits the rows."""
        scaling = self.scaling
        assert scaling is not None, "nothing is standardised"
        named_actions = self.named is not None and self.named.a is not None
        x, a = None, None if named_actions else catalogue_scale(plan.actions)
        if scaling.scales_contexts or (a is None and not named_actions):
            rows = drawn_inputs(replay, plan.rebuild_chunk, weights, plan.seed)
            if rows is not None:
                x = rows.scale(of_context=True) if scaling.scales_contexts else None
                if a is None and not named_actions:
                    a = rows.scale(of_context=False)
        due = scaling.is_old or self.scaling_due(plan.num_rows)
        self.scaling = scaling.updated(plan.num_rows, x, a) if due else scaling.renewed(x, a)

    def _encode_anew(
        self,
        replay: TrainingRows,
        plan: TrainingRound,
        weights: RowWeights | None,
        trainer_state: dict[str, NDArray[Any]],
    ) -> dict[str, NDArray[Any]]:
        """Fit the encodings of named features to the rows so far; return the state of training."""
        before = self.named
        assert before is not None, "nothing is named"
        rows = drawn_inputs(replay, plan.rebuild_chunk, weights, plan.seed)
        self.named = before.fitted(rows, plan.actions, plan.num_rows)
        old, places = self.module, self.named.places(before)
        self.module = self._of_size(self.named, plan.seed)
        if isinstance(self.module, FittedModule):  # it is fitted anew, to these columns
            return {}
        if rows is not None:
            spread(self.module, self.named.norms(rows))
        inherit(self.module, old, places)
        return inherited_state(trainer_state, self.module, old, places)

    def _of_size(self, named: NamedInputs, seed: int) -> EncoderModule:
        """Return a new encoder for the columns of encodings."""
        assert self._resized is not None, "named features come with what builds their encoder"
        return self._resized(named, seed)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See `Policy.tensors`; the encoder's parameters under "encoder/"."""
        encoder = {f"encoder/{name}": t for name, t in module_tensors(self.module).items()}
        own = self.calibration.tensors() if self.config.calibrated else {}
        if self.named is not None:
            own |= {f"named/{side}": t for side, t in self.named.tensors().items()}
        return encoder | own | super().tensors()

    def load_tensors(self, tensors: dict[str, NDArray[Any]]) -> None:
        """See `Policy.load_tensors`."""
        if self.named is not None:
            self.named = self.named.loaded(take_prefix(tensors, "named/"))
            self.module = self._of_size(self.named, seed=0)
        load_module_tensors(self.module, take_prefix(tensors, "encoder/"))
        self.encoder = serving(self.module)
        super().load_tensors(tensors)
        if self.config.calibrated:
            self.calibration = Calibration.loaded(tensors)
