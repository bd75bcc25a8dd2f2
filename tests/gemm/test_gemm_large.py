"""Arrays past 4 GiB, where an offset of 32 bits would fall back among what comes first."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
from helpers.configs import CONFIGS
from helpers.gpu import POISON

from cupy_w4a16 import GemmConfig, gemm
from cupy_w4a16.testing import assert_gemm_close, make_problem

ONE_OF_EACH_FAMILY = [c for c in CONFIGS if c.name in ("w4a16_sm90_gemm_128", "mma_16x16x128_k2_b2_s2")]
pytestmark = [pytest.mark.gpu, pytest.mark.parametrize("config", ONE_OF_EACH_FAMILY, ids=lambda c: c.name)]

ROWS = 3  # that are not zeros, at each end
FOUR_GIB = 1 << 32


def poisoned(m: int, n: int) -> Any:
    out = cupy.empty((m, n), np.float16)
    out.data.memset_async(POISON, out.nbytes)
    return out


def with_ends(ends: Any, m: int) -> Any:
    """`m` rows on the GPU: the first and the last are those of `ends`, all others zeros."""
    a = cupy.zeros((m, ends.shape[1]), np.float16)
    a[:ROWS].set(ends[:ROWS])
    a[-ROWS:].set(ends[ROWS:])
    return a


@pytest.mark.parametrize(("m", "n", "k"), [(33_000, 65_600, 64), (270_000, 128, 8192)], ids=["out", "a"])
def test_last_rows_of_large_activations_and_results(m: int, n: int, k: int, config: GemmConfig) -> None:
    assert 2 * m * max(n, k) > FOUR_GIB
    ends, b_packed, scales, *_ = make_problem(2 * ROWS, n, k)
    out = poisoned(m, n)
    gemm(with_ends(ends, m), cupy.asarray(b_packed), cupy.asarray(scales), None, 128, out=out, config=config)
    found = np.concatenate([out[:ROWS].get(), out[-ROWS:].get()])
    assert_gemm_close(found, ends, b_packed, scales, None, 128)
    assert not out[m // 2].get().any()


def test_last_columns_of_large_weights(config: GemmConfig) -> None:
    n, k = 69_952, 131_072
    a, codes, last_scales, *_ = make_problem(ROWS, 64, k)
    b_packed = cupy.zeros((n // 64, k // 128, 1024), np.int32)
    assert b_packed.nbytes > FOUR_GIB
    scales = cupy.zeros((k // 128, n), np.float16)
    b_packed[-1].set(codes[0])
    scales[:, -64:] = cupy.asarray(last_scales)
    out = poisoned(ROWS, n)
    gemm(cupy.asarray(a), b_packed, scales, None, 128, out=out, config=config)
    assert_gemm_close(out[:, -64:].get(), a, codes, last_scales, None, 128)
    assert not out[:, :-64].get().any()
