"""A problem and a configuration, as public functions are given them: what can't be one is named."""

from __future__ import annotations

from typing import Any

from ._config import GemmConfig, GemmProblem
from ._dtypes import FLOAT32, HALF_DTYPES, INTEGER_DTYPES
from ._group_size import check_group_size
from ._scalars import as_int
from ._validity import invalid_reason


def check_problem(problem: Any) -> None:
    """TypeError or ValueError unless `problem` is one that `gemm` can have, whichever half `out_dtype` is."""
    if not isinstance(problem, GemmProblem):
        raise TypeError(f"problem is a {type(problem).__name__}: pass a GemmProblem(m, n, k, ...)")
    for name in ("m", "n", "k"):
        if (size := as_int(name, getattr(problem, name))) < 0:
            raise ValueError(f"{name} is {size}: sizes of a product are 0 or more")
    check_group_size(problem.group_size)
    halves, wide = [half.name for half in HALF_DTYPES], FLOAT32.name
    _check_name("dtype", problem.dtype, halves)
    integers = [integer.name for integer in INTEGER_DTYPES]
    _check_name("zeros", problem.zeros, [None, *integers, wide, problem.dtype])
    _check_name("out_dtype", problem.out_dtype, [*halves, wide])  # halves are of one size


def _check_name(field: str, value: Any, allowed: list[str | None]) -> None:
    # A NumPy dtype equals its name, but is not found where that is looked up.
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise TypeError(f"{field} is {value!r}: pass one of {', '.join(map(repr, allowed))}")


def check_config(config: Any, problem: GemmProblem) -> None:
    """TypeError or ValueError unless `config` is one that can run `problem`, a checked one."""
    if not isinstance(config, GemmConfig):
        raise TypeError(
            f"config is a {type(config).__name__}: pass a GemmConfig, or None for the heuristic's choice"
        )
    if reason := invalid_reason(config, problem):
        raise ValueError(f"config {config} can't run this problem: {reason}")
