"""Normalised scales: exact powers of two apart from the natural ones, and products with the same bits."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest
from helpers.cases import Case, valid
from helpers.configs import NORMALISED_CONFIGS
from helpers.fake_driver import FakeDriver, Stream, on_gpu
from helpers.gpu import poisoned

from cupy_w4a16 import GemmConfig, GemmProblem, Linear, compile_kernels, gemm, linear
from cupy_w4a16._kernels import kernel_for, unit_for
from cupy_w4a16._normalised import Normalised, normalised, takes_normalised

UNITS = np.array([2.0**-22, 2.0**-18])  # what a code is worth in even and odd columns
SMALLEST = 2.0**-14  # of float16's normal numbers
TILE = GemmConfig(128, 128)


def natural(rows: int = 16, n: int = 65, seed: int = 0) -> Any:
    """Scales of both signs over seven binades, some of them 0."""
    rng = np.random.default_rng(seed)
    scales = rng.choice([-1, 1], (rows, n)) * 2.0 ** rng.uniform(-9, -2.5, (rows, n))
    scales[rng.random((rows, n)) < 0.1] = 0
    scales[:, 3] = 0
    return scales.astype(np.float16)


def made(scales: Any) -> Normalised:
    result = normalised(scales)
    assert result is not None
    return result


# --- the numbers ---


def test_no_digit_changes() -> None:
    scales = natural()
    result = made(scales)
    by = result.by[:65].astype(np.float64)
    assert (np.log2(by) % 1 == 0).all()
    assert (result.scales.astype(np.float64) * UNITS[np.arange(65) % 2] * by == scales).all()


def test_weights_are_those_of_natural_scales_bit_for_bit() -> None:
    # What the kernel does, in float64 with one rounding a step: -8 s' first, then the fma.
    scales = natural()
    result = made(scales)
    unit = UNITS[np.arange(65) % 2]
    wide = result.scales.astype(np.float64)
    for q in range(16):
        minus_eight = (wide * (-8 * unit)).astype(np.float16)
        assert (minus_eight == wide * (-8 * unit)).all()
        weights = (wide * (q * unit) + minus_eight).astype(np.float16)
        expected = ((q - 8) * scales.astype(np.float32)).astype(np.float16)
        assert (weights.astype(np.float64) * result.by[:65].astype(np.float64) == expected).all()


def test_codes_are_denormals_that_scales_bring_up() -> None:
    for unit, mask in zip(UNITS, (0x3C, 0x3C0), strict=True):
        codes = np.array([q * (mask // 15) for q in range(16)], np.uint16)
        assert (codes & mask == codes).all()
        assert (codes.view(np.float16) == np.arange(16) * unit).all()


@pytest.mark.parametrize(
    "column",
    [
        [2.0**-15, 2.0**-15],  # (q - 8) x s is subnormal for q = 9: rounded more coarsely
        [2.0**14, 2.0**14],  # 8 s overflows
        [1.0, 2.0**-8],  # the smaller one's weights would be subnormal when the larger one's are in range
        [np.inf, 1.0],
        [np.nan, 1.0],
    ],
    ids=["subnormal", "large", "wide", "infinite", "nan"],
)
def test_scales_whose_weights_would_change_are_left_alone(column: list[float]) -> None:
    scales = np.ones((2, 5), np.float16)
    scales[:, 4] = column
    assert normalised(scales) is None


@pytest.mark.parametrize("column", [[SMALLEST, SMALLEST], [2.0**12, 2.0**5], [0, 0], [0, SMALLEST]])
def test_scales_at_the_limits_fit(column: list[float]) -> None:
    scales = np.ones((2, 5), np.float16)
    scales[:, 4] = column
    result = made(scales)
    assert (
        result.scales.astype(np.float64) * UNITS[[0, 1, 0, 1, 0]] * result.by[:5].astype(float) == scales
    ).all()


def test_kernels_read_pairs_of_columns() -> None:
    assert made(natural(n=65)).by.shape == (66,)
    assert made(natural(n=64)).by.shape == (64,)


def test_only_symmetric_float16_weights_scaled_one_by_one_take_them() -> None:
    problem = GemmProblem(256, 512, 512)
    assert takes_normalised(TILE, problem)
    assert not takes_normalised(TILE, GemmProblem(256, 512, 512, dtype="bfloat16"))
    assert not takes_normalised(TILE, GemmProblem(256, 512, 512, zeros="uint8"))
    assert not takes_normalised(GemmConfig(64, 16, scale_on="accumulators"), problem)


# --- what Linear does with them ---

A, B, SCALES, OUT, OTHER_SCALES, BY = (i << 40 for i in range(1, 7))


@pytest.fixture
def driver(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    copy = Normalised(on_gpu((4, 512), "f2", OTHER_SCALES), on_gpu((512,), "i2", BY))
    monkeypatch.setattr(linear, "normalised", lambda scales: copy)
    return driver


def layer(**options: Any) -> Linear:
    return Linear(on_gpu((8, 4, 1024), "i4", B), on_gpu((4, 512), "f2", SCALES), None, 128, k=512, **options)


def call(this: Linear, m: int = 256, **options: Any) -> None:
    this(on_gpu((m, 512), "f2", A), on_gpu((m, 512), "f2", OUT), **options)


def read(driver: FakeDriver) -> tuple[Any, Any, Any]:
    params = driver.last.params
    return params["scales"], params["scales_map"][0], params["normalised_by"]


def test_linear_reads_its_copy(driver: FakeDriver) -> None:
    call(layer())
    assert read(driver) == (OTHER_SCALES, OTHER_SCALES, BY)


def test_linear_reads_natural_scales_where_no_kernel_takes_others(driver: FakeDriver) -> None:
    call(layer(), m=1)
    assert driver.last.params["scales"] == SCALES
    call(layer(), m=16, config=GemmConfig(64, 16, scale_on="accumulators"))
    assert read(driver) == (SCALES, SCALES, None)


def test_gemm_reads_natural_scales(driver: FakeDriver) -> None:
    a, out = on_gpu((256, 512), "f2", A), on_gpu((256, 512), "f2", OUT)
    gemm(a, on_gpu((8, 4, 1024), "i4", B), on_gpu((4, 512), "f2", SCALES), out=out)
    assert read(driver) == (SCALES, SCALES, None)


def test_a_linear_made_in_a_capture_has_no_copy(driver: FakeDriver) -> None:
    before = layer()
    Stream.capturing = True
    call(layer())
    assert read(driver) == (SCALES, SCALES, None)
    call(before)  # one made before needs no call to be warm
    assert read(driver) == (OTHER_SCALES, OTHER_SCALES, BY)


@pytest.mark.parametrize("alpha", [3.4e38, 1.2e-38, 2.0**-100])
def test_alpha_that_a_power_of_two_would_harm_keeps_natural_scales(driver: FakeDriver, alpha: float) -> None:
    call(layer(alpha=alpha))
    assert read(driver) == (SCALES, SCALES, None)


def test_launches_keep_the_copy_alive(driver: FakeDriver) -> None:
    this = layer()
    call(this)
    (launch,) = this._launches.values()
    assert launch.normalised is this._normalised is not None


def test_no_scales_have_no_copy() -> None:
    assert normalised(np.empty((4, 0), np.float16)) is None


# --- on a GPU ---


@pytest.mark.gpu
@pytest.mark.parametrize("n", [64, 65, 1000])
def test_gpu_makes_the_copy_that_numpy_defines(n: int) -> None:
    scales = natural(37, n, seed=n)
    result, expected = made(cupy.asarray(scales)), made(scales)
    assert (result.scales.get().view(np.int16) == expected.scales.view(np.int16)).all()
    assert (result.by.get().view(np.int16) == expected.by.view(np.int16)).all()
    for bad in (2.0**-15, 2.0**14, np.inf, np.nan):
        scales[36, n - 1] = bad
        assert normalised(cupy.asarray(scales)) is None


GROUPS = (128, 64, 32, 256, -1)


def case_of(i: int, config: GemmConfig) -> Case:
    """Ragged: columns without and with aligned rows of scales, tokens past one tile, k in part of a block."""
    plain = Case(config.tile_m * config.cluster_m + 5, (331, 336)[i % 2], 616, config=config, seed=i)
    options = {"alpha": (1.0, -0.5)[i % 2], "activation": (None, "silu")[i % 2], "bias": i % 3 == 0}
    case = plain.with_(group_size=GROUPS[i % 5], float32_out=i % 4 == 1, **options)
    return case if valid([case]) else plain


CASES = [case_of(i, config) for i, config in enumerate(NORMALISED_CONFIGS)]


@pytest.fixture(scope="module")
def compiled() -> None:
    units = {}
    for case in CASES:
        for each in (False, True):
            unit = unit_for(kernel_for(case.config, case.problem, case.activation, each))
            units[unit.name] = unit
    compile_kernels(units.values(), progress=False)


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear_gives_the_bits_of_gemm(case: Case) -> None:
    arguments = case.arguments()
    arguments = arguments._replace(scales=natural(*arguments.scales.shape, seed=case.seed))
    a, b_packed, scales, zeros, bias = (None if x is None else cupy.asarray(x) for x in arguments)
    options = {"bias": bias, "dtype": case.out_dtype, **case.options}
    this = Linear(b_packed, scales, zeros, case.group_size, k=case.k, **options)
    assert this._normalised is not None
    of_linear, of_gemm = (cupy.asarray(poisoned(case)) for _ in range(2))
    this(a, of_linear, case.config)
    gemm(a, b_packed, scales, zeros, case.group_size, out=of_gemm, config=case.config, **options)
    assert of_linear.tobytes() == of_gemm.tobytes()
    case.check(cupy.asnumpy(of_linear), arguments)


@pytest.mark.gpu
def test_scales_that_do_not_fit_give_the_bits_of_gemm_too() -> None:
    case = Case(200, 256, 512, config=TILE)
    arguments = case.arguments()
    arguments.scales[0, 0] = 2.0**-20
    a, b_packed, scales = (cupy.asarray(x) for x in arguments[:3])
    result = Linear(b_packed, scales, k=512)(a, config=TILE)
    assert result.tobytes() == gemm(a, b_packed, scales, config=TILE).tobytes()


@pytest.mark.gpu
def test_captured_linear_gives_the_bits_of_an_eager_one() -> None:
    case = Case(256, 512, 512, config=TILE)
    a, b_packed, scales = (cupy.asarray(x) for x in case.arguments()[:3])
    this = Linear(b_packed, scales, k=512)
    expected = this(a, config=TILE)
    out = cupy.asarray(poisoned(case))
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        this(a, out, TILE)
        graph = stream.end_capture()
        graph.launch()
    stream.synchronize()
    assert out.tobytes() == expected.tobytes()
