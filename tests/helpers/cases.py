"""Products to test: a problem, its options and the kernel to run it with, as one value that shows itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from cupy_w4a16 import GemmConfig, GemmProblem, choose_config, compile_kernels
from cupy_w4a16._dtypes import FLOAT32, HALF_DTYPES, dtype_of
from cupy_w4a16._kernels import Kernel, kernel_for, unit_for
from cupy_w4a16._validity import is_valid
from cupy_w4a16.testing import assert_gemm_close, make_problem

DTYPES = ("float16", "bfloat16")
ROWS_AT_ONCE = 512
INTEGER_ZEROS = ("uint8", "int8", "int32")
ZEROS = (None, *INTEGER_ZEROS, "float", "float32")


def differences(x: Any, first: int = 0) -> str:
    """Those fields of a dataclass, from the `first` on, that differ from their defaults: a test's id."""
    shown = []
    for each in fields(x)[first:]:
        value = getattr(x, each.name)
        if value != each.default:
            shown.append(each.name if value is True else f"{each.name}={getattr(value, 'name', value)}")
    return "-".join(shown)


class Arguments(NamedTuple):
    """The arrays of one product, on NumPy."""

    a: Any
    b_packed: Any
    scales: Any
    zeros: Any
    bias: Any


@dataclass(frozen=True)
class Case:
    """One product; `zeros` is None, an integer dtype, "float32", or "float" for the dtype of `a`."""

    m: int
    n: int
    k: int
    group_size: int = 128
    dtype: str = "float16"
    zeros: str | None = None
    float32_out: bool = False
    bias: bool = False
    alpha: float = 1.0
    activation: str | None = None
    config: GemmConfig | None = None
    seed: int = 0

    def __str__(self) -> str:
        return "-".join(filter(None, (f"{self.m}x{self.n}x{self.k}", differences(self, 3))))

    @property
    def problem(self) -> GemmProblem:
        zeros = self.dtype if self.zeros == "float" else self.zeros
        out_dtype = "float32" if self.float32_out else self.dtype
        return GemmProblem(self.m, self.n, self.k, self.group_size, self.dtype, zeros, out_dtype)

    @property
    def kernel(self) -> Kernel:
        return kernel_for(self.config or choose_config(self.problem), self.problem, self.activation)

    @cached_property
    def np_dtype(self) -> np.dtype[Any]:
        return dtype_of(self.dtype, HALF_DTYPES)

    @property
    def out_dtype(self) -> np.dtype[Any]:
        return FLOAT32 if self.float32_out else self.np_dtype

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of `gemm` that `assert_gemm_close` has too, but for the bias."""
        return {"alpha": self.alpha, "activation": self.activation}

    def with_(self, **changes: Any) -> Case:
        return replace(self, **changes)

    def arguments(self) -> Arguments:
        """Random arrays; the same each time."""
        integer = self.zeros in INTEGER_ZEROS
        kind = "integer" if integer else self.zeros
        made = make_problem(
            self.m, self.n, self.k, self.group_size, dtype=self.dtype, zeros=kind, seed=self.seed
        )
        zeros = made.zeros.astype(self.zeros) if integer else made.zeros
        bias = None
        if self.bias:
            bias = np.random.default_rng(self.seed + 1).standard_normal(self.n, np.float32)
            bias = bias.astype(self.np_dtype)
        return Arguments(made.a, made.b_packed, made.scales, zeros, bias)

    def check(self, c: Any, arguments: Arguments) -> None:
        """The result against float64, with the documented bounds; many rows in threads, whole tiles each."""
        a, b_packed, scales, zeros, bias = arguments
        assert (c.shape, c.dtype) == ((self.m, self.n), self.out_dtype)

        def check_rows(i: int) -> None:
            rows = slice(i, i + ROWS_AT_ONCE)
            weight = b_packed, scales, zeros, self.group_size
            assert_gemm_close(c[rows], a[rows], *weight, bias=bias, **self.options)

        with ThreadPoolExecutor() as pool:
            list(pool.map(check_rows, range(0, self.m, ROWS_AT_ONCE)))


def valid(cases: Iterable[Case]) -> list[Case]:
    """Those whose configuration can run them."""
    return [case for case in cases if case.config is None or is_valid(case.config, case.problem)]


def wide_scales(case: Case, shape: tuple[int, ...]) -> Any:
    """Scales of both signs, from the smallest (float16: subnormal) to the largest without overflow."""
    rng = np.random.default_rng(case.seed)
    # (q - zero) reaches 8 without zeros and 16 with them; one power of two is left for the rounding up.
    low, high = (-24, 11) if case.dtype == "float16" else (-90, 90)
    if case.zeros is None and case.dtype == "float16":
        high = 12
    sizes = np.exp2(rng.uniform(low, high, shape))
    if case.dtype == "float16" and case.zeros is None and sizes.size:
        sizes.flat[0] = 65504 / 8
    return (sizes * rng.choice((-1, 1), shape)).astype(np.float32).astype(case.np_dtype)


def compile_for(cases: Iterable[Case]) -> None:
    """Fill the cache with what these cases run, in as many processes as there are cores."""
    units = {unit.name: unit for unit in (unit_for(case.kernel) for case in cases)}
    compile_kernels(units.values(), progress=False, workers=len(os.sched_getaffinity(0)))
