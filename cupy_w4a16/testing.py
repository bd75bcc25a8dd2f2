"""Random problems for `gemm`, and the check of a result against float64: for our tests and for yours.

Examples
--------
>>> import numpy as np
>>> from cupy_w4a16 import dequantize
>>> from cupy_w4a16.testing import assert_gemm_close, make_problem
>>> problem = make_problem(m=5, n=70, k=200, group_size=64)
>>> a, b_packed, scales, zeros, group_size = problem
>>> w = dequantize(b_packed, scales, zeros, group_size, k=200, dtype="float32")
>>> c = (a.astype(np.float32) @ w).astype(np.float16)  # usually: c = gemm(*problem)
>>> assert_gemm_close(c, *problem)
>>> c[:, [3, 4]] = c[:, [4, 3]]
>>> assert_gemm_close(c, *problem)
Traceback (most recent call last):
...
AssertionError: c is not activation(alpha * (a @ w) + bias): 10 of 350 elements lie ...
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ._arrays import as_arrays, check_library
from ._check_quantized import check_quantized, required
from ._checks import check_activation, checked_alpha
from ._dtypes import HALF_DTYPES, OUT_DTYPES, dtype_of
from ._expected import Expected
from ._gemm_layout import gemm_layout
from ._group_size import check_group_size, group_rows
from ._pack import pack
from ._quantize import as_wider, column_strips
from ._scalars import as_int

TILE = 64

# Float64 numbers in one strip of columns, and rows of a at once: bounds the temporary memory.
_STRIP_NUMBERS = {"numpy": 1 << 21, "cupy": 1 << 25}
_ROWS = 1024
# Lines of an error message.
_LINES = 8


class Problem(NamedTuple):
    """Arguments of `gemm` in its order: `gemm(*problem)`, `assert_gemm_close(c, *problem)`.

    Attributes
    ----------
    a : array (m, k), float16 or bfloat16
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024)
    scales : array (ceil(k / group_size), n), dtype of `a`
    zeros : array like `scales`: uint8, float32 or dtype of `a`; None: all are 8
    group_size : int, a power of two from 32, or -1

    Examples
    --------
    >>> from cupy_w4a16 import gemm
    >>> from cupy_w4a16.testing import make_problem
    >>> gemm(*make_problem(2, 64, 128)).shape
    (2, 64)
    """

    a: Any
    b_packed: Any
    scales: Any
    zeros: Any
    group_size: int


def make_problem(
    m: int,
    n: int,
    k: int,
    group_size: int = 128,
    *,
    dtype: Any = "float16",
    zeros: str | None = None,
    xp: ModuleType = np,
    seed: int = 0,
) -> Problem:
    """A random problem whose results are of size 1; the same numbers each time, on NumPy and CuPy.

    Activations are Gaussian, codes uniform on 0..15, scales of both signs and within a factor of three,
    integer zeros uniform on 0..16 (both ends included) and float zeros uniform between.

    Parameters
    ----------
    m, n, k : int, rows of `a`, output features, reduction; any sizes from 0
    group_size : int, a power of two from 32, or -1
    dtype : dtype of `a`, scales and float zeros: float16 or bfloat16
    zeros : None (symmetric), "integer" (uint8), "float" (of `dtype`) or "float32"
    xp : module, `numpy` or `cupy`: whose arrays are made
    seed : int, of the random numbers

    Returns
    -------
    Problem
        `(a, b_packed, scales, zeros, group_size)`.

    Raises
    ------
    TypeError, ValueError
        An argument is not allowed; the message names it.

    Examples
    --------
    >>> from cupy_w4a16.testing import make_problem
    >>> problem = make_problem(4, 100, 300, group_size=-1, zeros="integer")
    >>> problem.a.shape, problem.b_packed.shape, problem.scales.shape, problem.zeros.dtype.name
    ((4, 300), (2, 3, 1024), (1, 100), 'uint8')
    """
    dtype = dtype_of(dtype, HALF_DTYPES)
    group_size = check_group_size(group_size)
    if zeros not in (None, "integer", "float", "float32"):
        raise ValueError(f"zeros is {zeros!r}; allowed are None, 'integer', 'float' and 'float32'")
    check_library(xp)
    for name, size in (("m", m), ("n", n), ("k", k), ("seed", seed)):
        if as_int(name, size) < 0:
            raise ValueError(f"{name} is {size}: it must be 0 or more")
    rng = np.random.default_rng(seed)
    per_group = (group_rows(k, group_size), n)
    a = rng.standard_normal((m, k), np.float32).astype(dtype)
    q = rng.integers(0, 16, (k, n), dtype=np.uint8)
    scales = rng.uniform(0.5, 1.5, per_group) * rng.choice((-1, 1), per_group) / (6 * math.sqrt(max(k, 1)))
    zero: Any = None
    if zeros == "integer":
        zero = xp.asarray(rng.integers(0, 17, per_group, dtype=np.uint8))
    elif zeros is not None:
        values = rng.uniform(0, 16, per_group).astype(np.float32)
        zero = xp.asarray(values if zeros == "float32" else values.astype(dtype))
    scales = xp.asarray(scales.astype(np.float32).astype(dtype))
    return Problem(xp.asarray(a), pack(xp.asarray(q)), scales, zero, group_size)


def assert_gemm_close(
    c: Any,
    a: Any,
    b_packed: Any,
    scales: Any,
    zeros: Any = None,
    group_size: int | None = None,
    *,
    bias: Any = None,
    alpha: float = 1.0,
    activation: str | None = None,
) -> None:
    """Raise an AssertionError unless `c` is `activation(alpha * (a @ w) + bias)`, as `gemm` promises.

    Two checks against float64; either can fail alone.

    **Each element** lies within a worst-case bound of the product with the *unrounded* weights
    w = (q - zero) * scale. With u half the spacing of `a`'s dtype above 1 (2^-11 for float16, 2^-8 for
    bfloat16), t its smallest number, u' and t' those of `c`'s dtype, S = sum |a| |w| and A = sum |a| over k,
    the bound adds up

    - weights rounded once: u S + t A / 2. (Kernels that scale exact float32 sums do not need it.) With float
      zeros weights may be 2 ulp from that: 5 u S + 5 t A / 2;
    - float32 accumulation: 2^-22 (k + 16) S, where with float zeros S is sum |a| (|q| + |zero|) |scale|, as
      the parts may be summed apart. A step of `wgmma` adds 16 products to the sum, each aligned to the
      largest of the 17 and cut off, 17 x 2^-23 of it at most; the rest is for partial sums that are added
      later;
    - `alpha` and `bias` in float32: 2^-22 (|alpha a @ w| + |bias|);
    - the activation: the above times its steepest slope (1.13), and 2^-20 |x| for evaluating it at x in
      float32;
    - the result rounded once: u' |c| + t' / 2.

    **Each 64 x 64 tile** has a root mean square error below that of errors of *typical* size, so that a fault
    too small for the worst case, a lost row of k for one, is seen where it hits a tile. Here weights are
    taken twice, rounded and unrounded, and the nearer of the two results counts: so the rounding of weights
    needs no allowance, whatever the data. What remains is, with Q = sum a^2 w^2,

    - accumulation: (2^-20 sqrt(k) + 2^-24 k) (|a @ w| + sqrt(Q)), as errors of steps are independent but for
      the shrinking of the sum by cutting off, and partial sums are about as large as that bracket;
    - float zeros only: 4 u sqrt(Q max(1, group / 16) / 3), the 2 ulp spread evenly, taking into account that
      the rows of a group with one code, group / 16 of them, share one error;
    - `alpha`, `bias`, activation and the last rounding as above.

    Where a is not finite, or the weights overflow `a`'s dtype or the sums float32, `c` is not looked at
    beyond infinities and NaNs that float64 has too (with float zeros NaN may stand for an infinity); a result
    that may round beyond its dtype may be infinite.

    Parameters
    ----------
    c : array (..., n), float16, bfloat16 or float32
        The result to check, NumPy or CuPy like the rest.
    a, b_packed, scales, zeros, group_size, bias, alpha, activation : as given to `gemm`

    Raises
    ------
    AssertionError
        `c` has another shape, or a check failed; says where, and by how much.
    TypeError, ValueError
        The other arguments do not fit together.

    Examples
    --------
    >>> from cupy_w4a16 import gemm
    >>> from cupy_w4a16.testing import assert_gemm_close, make_problem
    >>> problem = make_problem(2, 64, 128, zeros="integer")
    >>> assert_gemm_close(gemm(*problem), *problem)
    """
    required(c=c, a=a, b_packed=b_packed, scales=scales)
    xp, (c, a, b_packed, scales, zeros, bias) = as_arrays(
        {"c": c, "a": a, "b_packed": b_packed, "scales": scales, "zeros": zeros, "bias": bias}
    )
    dtype_of(c.dtype, OUT_DTYPES, "the dtype of c")
    alpha = checked_alpha(alpha)
    if activation is not None:
        check_activation(activation)
    # The checks of gemm but those of addresses: any GPU will do here.
    gemm_layout(xp, a, b_packed, scales, zeros, group_size, bias, None, None)
    weight = check_quantized(b_packed, scales, zeros, group_size, a.shape[-1])
    if c.shape != (*a.shape[:-1], weight.n):
        raise AssertionError(f"c has shape {c.shape}; a {a.shape} @ w {(weight.k, weight.n)} has another")
    a = a.reshape(math.prod(a.shape[:-1]), weight.k)
    c = c.reshape(a.shape[0], weight.n)
    report = _Report(c.size)
    for rows in (slice(i, min(i + _ROWS, a.shape[0])) for i in range(0, a.shape[0], _ROWS)):
        per_column = 3 * weight.k + 12 * (rows.stop - rows.start)
        for columns in column_strips(weight.n, per_column, _STRIP_NUMBERS[xp.__name__]):
            part = Expected(xp, a[rows], weight, columns, bias, alpha, activation, c.dtype)
            _compare(xp, as_wider(c[rows, columns], np.float64), part, report, rows.start, columns.start)
    report.raise_if_any()


def _compare(xp: ModuleType, c: Any, expected: Expected, report: _Report, row: int, column: int) -> None:
    """Both checks on the part of c that starts at (row, column)."""
    with np.errstate(all="ignore"):
        exact, worst = expected.exact, expected.worst
        good = xp.abs(c - exact) <= worst
        good |= (c == exact) | (xp.isnan(c) & xp.isnan(exact)) | (xp.isfinite(exact) & ~expected.sure)
        if expected.float_zeros:  # q x infinity - zero x infinity
            good |= xp.isnan(c) & xp.isinf(exact)
        good |= xp.isinf(c) & (c * exact > 0) & (xp.abs(exact) + worst >= expected.largest)
        looked_at = good & expected.sure & xp.isfinite(c)
        allowed, *found = (
            _tile_sums(xp, xp.where(looked_at, errors, 0))
            for errors in (expected.typical, c - exact, c - expected.from_rounded)
        )
    report.add_elements(xp, ~good, c, exact, worst, row, column)
    report.add_tiles(xp, xp.minimum(*found), allowed, c.shape, row, column)


def _tile_sums(xp: ModuleType, errors: Any) -> Any:
    """Sums of squares over tiles of 64 x 64, the last ones short."""
    tiles = tuple(-(-size // TILE) for size in errors.shape)
    whole = xp.zeros((tiles[0] * TILE, tiles[1] * TILE))
    whole[: errors.shape[0], : errors.shape[1]] = errors
    return (whole.reshape(tiles[0], TILE, tiles[1], TILE) ** 2).sum(axis=(1, 3))


class _Report:
    """The faults found, counted, and a line each for the first of every kind and part."""

    def __init__(self, size: int) -> None:
        self.size, self.elements, self.tiles = size, 0, 0
        self.lines: list[str] = []

    def add_elements(
        self, xp: ModuleType, bad: Any, c: Any, exact: Any, bound: Any, row: int, column: int
    ) -> None:
        count = int(bad.sum())
        if count:
            self.elements += count
            i, j = (int(index[0]) for index in xp.nonzero(bad))
            self.lines.append(
                f"c[{row + i}, {column + j}] is {float(c[i, j]):.9g}, float64 has {float(exact[i, j]):.9g}: "
                f"off by {float(abs(c[i, j] - exact[i, j])):.3g}, bound {float(bound[i, j]):.3g}"
            )

    def add_tiles(
        self, xp: ModuleType, found: Any, allowed: Any, shape: tuple[int, int], row: int, column: int
    ) -> None:
        bad = found > allowed
        count = int(bad.sum())
        if count:
            self.tiles += count
            i, j = (int(index[0]) for index in xp.nonzero(bad))
            rows, columns = (min(TILE, size - TILE * at) for size, at in zip(shape, (i, j), strict=True))
            top, left = row + TILE * i, column + TILE * j
            rms = [math.sqrt(float(x[i, j]) / (rows * columns)) for x in (found, allowed)]
            self.lines.append(
                f"c[{top}:{top + rows}, {left}:{left + columns}] is off by {rms[0]:.3g} (root mean square), "
                f"a right result by {rms[1]:.3g} at most"
            )

    def raise_if_any(self) -> None:
        if self.lines:
            raise AssertionError(
                f"c is not activation(alpha * (a @ w) + bias): {self.elements} of {self.size} elements lie "
                f"outside their bound, and {self.tiles} tiles of {TILE} x {TILE} err more than is typical "
                f"without these\n  " + "\n  ".join(self.lines[:_LINES])
            )
