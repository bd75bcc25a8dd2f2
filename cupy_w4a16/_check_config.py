"""A problem and a configuration, as public functions are given them: what can't be one is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ._config import GemmConfig, GemmProblem
from ._dtypes import FLOAT32, HALF_DTYPES, INTEGER_DTYPES
from ._group_size import check_group_size
from ._scalars import as_int
from ._validity import invalid_reason


def check_problem(problem: Any) -> GemmProblem:
    """`problem` in plain integers and strings, so that equal ones are alike: NumPy's integers wrap around.

    TypeError or ValueError unless it is one that `gemm` can have, whichever half `out_dtype` is.
    """
    if not isinstance(problem, GemmProblem):
        raise TypeError(f"problem is a {type(problem).__name__}: pass a GemmProblem(m, n, k, ...)")
    plain: dict[str, Any] = {}
    for name in ("m", "n", "k"):
        plain[name] = size = as_int(name, getattr(problem, name))
        if size < 0:
            raise ValueError(f"{name} is {size}: sizes of a product are 0 or more")
    plain["group_size"] = check_group_size(problem.group_size)
    halves, wide = [half.name for half in HALF_DTYPES], FLOAT32.name
    plain["dtype"] = _checked_name("dtype", problem.dtype, halves)
    integers = [integer.name for integer in INTEGER_DTYPES]
    plain["zeros"] = _checked_name("zeros", problem.zeros, [None, *integers, wide, plain["dtype"]])
    plain["out_dtype"] = _checked_name("out_dtype", problem.out_dtype, [*halves, wide])  # halves: one size
    return replace(problem, **plain)


def _checked_name(field: str, value: Any, allowed: list[str | None]) -> str | None:
    # A NumPy dtype equals its name, but is not found where that is looked up.
    if not (value is None or isinstance(value, str)) or value not in allowed:
        raise TypeError(f"{field} is {value!r}: pass one of {', '.join(map(repr, allowed))}")
    return allowed[allowed.index(value)]


def check_config(
    config: Any, problem: GemmProblem, allowed: str = "a GemmConfig, or None for the heuristic's choice"
) -> None:
    """TypeError or ValueError unless `config` is one that can run `problem`, a checked one."""
    if not isinstance(config, GemmConfig):
        raise TypeError(f"config is a {type(config).__name__}: pass {allowed}")
    if reason := invalid_reason(config, problem):
        raise ValueError(f"config {config} can't run this problem: {reason}")
