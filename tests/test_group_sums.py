"""The sums that searches compare: on NumPy those of float64, on CuPy those of NumPy, but for rounding."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest

from cupy_w4a16._group_sums import P, powers, squares

#: Groups, rows, columns: a single row, a last group that is short, one group for all of k.
SHAPES = [(3, 1, 70), (5, 32, 33), (2, 100, 64), (1, 5000, 3)]
LIBRARIES = [np, pytest.param(cupy, marks=pytest.mark.gpu)]
UNIT = 2.0**-24


def groups(shape: tuple[int, int, int], whole: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, some beyond the codes' ends; scales that float16 holds, of both signs; zeros."""
    rng = np.random.default_rng(0)
    grouped = rng.standard_t(4, shape).astype(np.float32)
    per_group = shape[0], shape[2]
    scale = (rng.uniform(0.2, 0.4, per_group) * rng.choice((-1, 1), per_group)).astype(np.float16)
    zero = rng.uniform(0, 15, per_group)
    return grouped, scale.astype(np.float32), (np.rint(zero) if whole else zero).astype(np.float32)


def on(xp: Any, *arrays: np.ndarray) -> list[Any]:
    return [xp.asarray(x) for x in arrays]


def host(x: Any) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else cupy.asnumpy(x)


@pytest.mark.parametrize("xp", LIBRARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_squares_are_those_of_the_nearest_codes(shape: tuple[int, int, int], xp: Any) -> None:
    grouped, scale, zero = groups(shape, whole=True)
    w, s, z = (x.astype(np.float64) for x in (grouped, scale[:, None], zero[:, None]))
    # The least over all sixteen codes; the nearest one by float32's w / scale is as good but for a near tie.
    errors = [((q - z) * s - w) ** 2 for q in range(16)]
    expected = np.min(errors, axis=0).sum(axis=1)
    found = host(squares(xp, *on(xp, grouped, scale, zero)))
    assert found.dtype == np.float32
    assert found.shape == (shape[0], shape[2])
    # Each of r terms is right to 3 units, the sum of r terms adds r - 1; a near tie is off by 2 units of w.
    slack = 4 * UNIT * abs(w * s).sum(axis=1)
    assert (abs(found - expected) <= (shape[1] + 4) * UNIT * expected + slack).all()


@pytest.mark.parametrize("xp", LIBRARIES)
@pytest.mark.parametrize("shape", SHAPES)
def test_powers_are_those_of_the_nearest_codes(shape: tuple[int, int, int], xp: Any) -> None:
    grouped, scale, zero = groups(shape, whole=False)
    steps, beta = grouped / scale[:, None], 3.3
    norm, excess = (host(x) for x in powers(xp, *on(xp, steps, zero), beta))
    # In float64 from float32's y, so that near ties are the same.
    y = (steps + zero[:, None]).astype(np.float64)
    d = y - np.clip(np.rint(y), 0, 15)
    size = np.maximum(abs(d), 2.0**-60)
    terms = np.minimum(size, size ** (P - 1) / beta)
    # A power is right to some 16 units (CUDA states 4 ulp), P - 1 and 1 / beta to one each, sums to r more.
    allowed = (shape[1] + 32) * UNIT
    np.testing.assert_allclose(norm, (size**P).sum(axis=1), rtol=allowed)
    assert (abs(excess - np.copysign(terms, d).sum(axis=1)) <= allowed * terms.sum(axis=1)).all()


@pytest.mark.parametrize("xp", LIBRARIES)
def test_exact_weights_give_finite_sums(xp: Any) -> None:
    # |0|^(P - 1) is infinite, and infinity times 0 is NaN.
    steps, zero = np.zeros((2, 32, 4), np.float32), np.full((2, 4), 8, np.float32)
    norm, excess = (host(x) for x in powers(xp, *on(xp, steps, zero), 3.0))
    assert (norm < 1e-9).all()
    assert (abs(excess) < 1e-9).all()
    assert (host(squares(xp, *on(xp, steps, np.ones_like(zero), zero))) == 0).all()


@pytest.mark.parametrize("xp", LIBRARIES)
def test_sums_read_any_strides(xp: Any) -> None:
    grouped, scale, zero = groups((4, 32, 40), whole=True)
    first = host(squares(xp, *on(xp, grouped, scale, zero)))
    by_columns = xp.asarray(np.ascontiguousarray(grouped.transpose(2, 0, 1))).transpose(1, 2, 0)
    second = host(squares(xp, by_columns, *on(xp, scale, zero)))
    np.testing.assert_allclose(first, second, rtol=34 * UNIT)
