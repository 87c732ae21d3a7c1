"""Dense layers computed by numpy, which serve the small networks.

For one decision a small network's arithmetic takes less time than torch needs to call it: in
float64 the layers of `mlp` for 50 candidates take 65 us here and 210 us in torch, whose tanh alone
costs five times numpy's (on a processor with AVX-512). `DenseLayers` is float64 throughout and
equal to torch's up to the rounding of sums; `DenseColumns` is float32 and used for draws only.
Pure values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib import introspect
from numpy.typing import NDArray
from torch import Tensor, nn

Array64 = NDArray[np.float64]
Array32 = NDArray[np.float32]
Array = NDArray[Any]  # of either precision
Step = Callable[[Array], Array]


def _tanh(x: Array) -> Array:
    return np.tanh(x, out=x)


def tanh_by_exp(x: Array32) -> Array32:
    """Tanh x = 1 - 2 / (1 + exp 2x) in place, to 2e-7."""
    with np.errstate(over="ignore"):  # 2 / inf is the right 0
        x *= 2.0
        np.exp(x, out=x)
    x += 1.0
    np.divide(2.0, x, out=x)
    return np.subtract(1.0, x, out=x)


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0, out=x)


def _silu(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp of a large number: x / inf is the right 0
        x /= 1.0 + np.exp(-x)
    return x


IN_PLACE: dict[type[nn.Module], Step] = {
    nn.Tanh: _tanh,
    nn.ReLU: _relu,
    nn.SiLU: _silu,
}


def tanh32(target: str) -> Step:
    """Return the faster tanh for the instruction set `target` that numpy's tanh is built for.

    With AVX-512 numpy's takes a third of the time of `tanh_by_exp`, elsewhere 1.5 times as long.
    """
    return _tanh if target.startswith(("AVX512", "X86_V4")) else tanh_by_exp


def numpy_target() -> str:
    """Return the instruction set of numpy's float32 tanh on this processor."""
    found = introspect.opt_func_info(func_name="^tanh$", signature="float32")
    return str(found.get("tanh", {}).get("ff", {}).get("current", ""))


IN_PLACE32: dict[type[nn.Module], Step] = IN_PLACE | {nn.Tanh: tanh32(numpy_target())}


class DenseLayers:
    """Linear layers, each followed by its activation: a copy of an `nn.Sequential` of them.

    Args:
        layers: `nn.Linear` and the activations of `IN_PLACE`; it may begin with an activation.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        self._steps = _steps(layers, _on_rows, IN_PLACE)

    def __call__(self, h_NX: Array64) -> Array64:
        """Apply them to rows (N, X). Overwrites its argument if an activation comes first."""
        for step in self._steps:
            h_NX = step(h_NX)
        return h_NX


class DenseColumns:
    """The same layers in float32, applied to columns: BLAS takes up to twice as long for rows.

    Args:
        layers: See `DenseLayers`.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        self._steps = _steps(layers, _on_columns, IN_PLACE32)

    def __call__(self, h_BXK: Array32) -> Array32:
        """Apply them to K columns in each of B matrices: one product for each (X, K).

        Overwrites its argument if an activation comes first.
        """
        for step in self._steps:
            h_BXK = step(h_BXK)
        return h_BXK


def _steps(
    layers: nn.Sequential,
    linear: Callable[[nn.Linear], Step],
    activations: dict[type[nn.Module], Step],
) -> list[Step]:
    return [
        linear(layer) if isinstance(layer, nn.Linear) else activations[type(layer)]
        for layer in layers
    ]


def _on_rows(layer: nn.Linear) -> Step:
    weight_XF, bias_F = np.ascontiguousarray(float64_of(layer.weight).T), float64_of(layer.bias)

    def step(h_NX: Array) -> Array:
        h_NF: Array = h_NX @ weight_XF
        h_NF += bias_F
        return h_NF

    return step


def _on_columns(layer: nn.Linear) -> Step:
    weight_FX = float64_of(layer.weight).astype(np.float32)
    bias_F1 = float64_of(layer.bias).astype(np.float32)[:, None]

    def step(h_BXK: Array) -> Array:
        h_BFK: Array = np.matmul(weight_FX, h_BXK)
        h_BFK += bias_F1
        return h_BFK

    return step


def float64_of(parameter: Tensor) -> Array64:
    """Return a copy of a parameter as a float64 array."""
    array: Array64 = parameter.detach().cpu().numpy().astype(np.float64)
    return array


def flat64(contexts: NDArray[Any]) -> Array64:
    """Return contexts (N, *X) as float64 rows (N, prod X), bytes as fractions of 255."""
    rows: Array64 = contexts.reshape(len(contexts), -1).astype(np.float64)
    return rows / 255.0 if contexts.dtype == np.uint8 else rows


def with_constant(features_NF: Array64) -> Array64:
    """Return z: the features and a constant 1, (N, F + 1)."""
    z_ND = np.empty((len(features_NF), features_NF.shape[1] + 1))
    z_ND[:, :-1] = features_NF
    z_ND[:, -1] = 1.0
    return z_ND
