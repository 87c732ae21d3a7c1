"""From what is asked for to an evaluation: for the command, and for the process of a server's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import get_args

from bandexa_core.encoders import EncoderRegistry
from bandexa_core.evaluation import Method
from bandexa_core.spec import BanditSpec
from service.tools.evaluate.cases import Row
from service.tools.evaluate.learner import Learner
from service.tools.evaluate.policies import Asked, Logging, OneAction, UniformChoice
from service.tools.evaluate.report import Evaluation, evaluate
from service.tools.evaluate.request import Request
from service.tools.evaluate.scoring import Wanted


def evaluated(
    rows: Iterable[Row], request: Request, registry: EncoderRegistry, others: Sequence[Asked] = ()
) -> Evaluation:
    """Evaluate what is asked for on the rows of an export, and other policies after that.

    Raises:
        ValueError: The rows are no export, or the range is none.
        PolicyError: A policy cannot be asked about a case.
    """
    asked: list[Asked] = [Logging(), UniformChoice(), *map(OneAction, request.actions)]
    for name, spec in request.configs.items():
        asked.append(Learner(f"config:{name}", BanditSpec.from_json(spec), registry))
    source = iter(rows)
    header = next(source, {})
    found = wanted(header, request)
    return evaluate(chain([header], source), [*asked, *others], found, request.missing)


def wanted(header: Row, request: Request) -> Wanted:
    """Return what is wanted of a log with this first row.

    Raises:
        ValueError: The range or the method is none.
    """
    low, high = request.low, request.high
    if low is None and high is None:
        low, high = header.get("spec", {}).get("reward_range") or (None, None)
    if request.method is not None and request.method not in get_args(Method):
        known = ", ".join(get_args(Method))
        raise ValueError(f"{request.method} is no method: --method is one of {known}")
    if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
        raise ValueError("--range needs two numbers, the lower one first")
    return Wanted(request.alpha, low, high, request.precision, request.method)
