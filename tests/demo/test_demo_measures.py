"""The demo's numbers: what 4 bits cost in meaning and take in memory, by every method, the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from cupy_w4a16.demo.linears import Method
from cupy_w4a16.demo.measure import Comparison, measure, ranking
from cupy_w4a16.demo.methods import compare_methods
from cupy_w4a16.demo.model_files import Model
from cupy_w4a16.demo.sentences import CALIBRATION, SENTENCES
from cupy_w4a16.demo.truth import Truth

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def real_comparison(real: Model) -> Comparison:
    return measure(real, list(SENTENCES), Method(), np)


def test_four_bits_keep_what_the_sentences_mean(real_comparison: Comparison) -> None:
    result = real_comparison
    # Measured with round-to-nearest in groups of 128: cosine 0.948 and more, 0.955 of rank correlation.
    assert result.cosine.min() > 0.93
    assert result.rank_correlation > 0.93
    assert result.same_nearest == len(SENTENCES)


def test_searched_scales_bring_the_encoder_nearer(real: Model, real_comparison: Comparison) -> None:
    # Measured: mean cosine 0.965 by least squares, 0.954 by round to nearest.
    result = measure(real, list(SENTENCES), Method(name="mse"), np)
    assert result.cosine.mean() > real_comparison.cosine.mean() + 0.005
    assert result.bytes_4bit == real_comparison.bytes_4bit


def test_activations_bring_the_encoder_nearer(real: Model, real_comparison: Comparison) -> None:
    # Measured: mean cosine 0.970 with scales found on other sentences, 0.954 without.
    result = measure(real, list(SENTENCES), Method(awq=True), np)
    assert result.cosine.mean() > real_comparison.cosine.mean() + 0.01
    # Beside the weights, a float16 for every input feature.
    assert result.bytes_4bit - real_comparison.bytes_4bit == 2 * 6 * (5 * 384 + 1536)


def test_accuracy_is_not_measured_on_what_calibrates() -> None:
    assert len(set(CALIBRATION)) == len(CALIBRATION) >= 20
    assert not set(CALIBRATION) & set(SENTENCES)


def test_padding_does_not_calibrate(tiny: Model) -> None:
    truth = Truth(tiny, tiny.weights, [SENTENCES[0], "Lentils."], np)
    found = truth.activations()
    assert set(found) == set(truth.names)
    for name, x in found.items():
        np.testing.assert_array_equal(x, np.concatenate([truth.inputs[name][0], truth.inputs[name][1, :4]]))


def test_table_of_methods_has_the_numbers_of_the_report(tiny: Model) -> None:
    chosen = [Method(64), Method(64, "mse", symmetric=False), Method(64, awq=True)]
    for row in compare_methods(tiny, list(SENTENCES), chosen, np):
        alone = measure(tiny, list(SENTENCES), row.method, np)
        np.testing.assert_array_equal(row.cosine, alone.cosine)
        np.testing.assert_array_equal(row.linear_error, alone.linear_error.ravel())
        assert row.nbytes == alone.bytes_4bit


def test_float_zeros_are_counted_as_memory(tiny: Model) -> None:
    nearest, float_zeros = (
        measure(tiny, list(SENTENCES[:3]), Method(64, method, symmetric=method == "rtn"), np)
        for method in ("rtn", "hqq")
    )
    assert float_zeros.bytes_4bit - nearest.bytes_4bit == 2 * nearest.linear_weights // 64


def test_every_layer_errs_as_four_bits_do(real_comparison: Comparison) -> None:
    # Sixteen levels between a group's extremes err by some 10 % of a weight's deviation. None of the
    # 36 products may be near exact (not quantized) or far beyond (wrong weights).
    assert real_comparison.linear_error.shape == (6, 6)
    assert real_comparison.linear_error.min() > 0.01
    assert real_comparison.linear_error.max() < 0.2
    assert (real_comparison.hidden_error[1:] > real_comparison.hidden_error[:-1]).all()


def test_weight_memory_counts_codes_and_scales(real_comparison: Comparison) -> None:
    # Per layer 4 matrices of 384 x 384 and 2 of 384 x 1536: whole blocks of 64 x 128, so no padding.
    weights = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert real_comparison.linear_weights == weights
    assert real_comparison.bytes_4bit == weights // 2 + 2 * weights // 128


def test_two_runs_give_the_same_bits(tiny: Model) -> None:
    first, second = (measure(tiny, list(SENTENCES), Method(64), np) for _ in range(2))
    for name in ("cosine", "similarity", "similarity_4bit", "linear_error", "hidden_error"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_ranking_leaves_out_the_sentence_itself_and_breaks_ties_by_number() -> None:
    similarity = np.array(
        [[1.0, 0.2, 0.9, 0.2], [0.2, 1.0, -0.9, -1.0], [0.9, -0.9, 1.0, 0.1], [0.2, -1.0, 0.1, 1.0]]
    )
    assert ranking(similarity).tolist() == [[2, 1, 3], [0, 2, 3], [0, 3, 1], [0, 2, 1]]


@pytest.mark.gpu
def test_gpu_agrees_with_numpy(tiny: Model) -> None:
    import cupy

    on_gpu, on_cpu = (measure(tiny, list(SENTENCES), Method(), xp) for xp in (cupy, np))
    np.testing.assert_allclose(on_gpu.similarity, on_cpu.similarity, rtol=0, atol=1e-5)
    # The two may round a float16 result differently, 2^-11 of it, some dozen times on the way.
    np.testing.assert_allclose(on_gpu.similarity_4bit, on_cpu.similarity_4bit, rtol=0, atol=5e-3)
    np.testing.assert_allclose(on_gpu.linear_error, on_cpu.linear_error, rtol=0.02)
