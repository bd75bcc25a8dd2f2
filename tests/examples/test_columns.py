"""Columns of texts: every row gets its own embedding, and its nearest neighbours are the nearest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cupy
import numpy as np
import pytest
from helpers.tiny_encoder import HIDDEN

from cupy_w4a16 import dequantize, quantize
from cupy_w4a16.demo.encoder import Encoder
from cupy_w4a16.demo.linears import Float32Linears
from cupy_w4a16.demo.model_files import Model
from cupy_w4a16.demo.sentences import SENTENCES
from cupy_w4a16.examples import columns
from cupy_w4a16.examples.columns import TextEncoder, main, nearest, strings

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


@pytest.fixture
def no_cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuml", None)


class Column:
    """A cuDF series, as far as is needed: it refuses to be walked through."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def to_arrow(self) -> Any:
        return self

    def to_pylist(self) -> list[Any]:
        return self.rows

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("not iterable: use to_arrow()")


def unit_vectors(count: int, seed: int) -> Any:
    vectors = np.random.default_rng(seed).standard_normal((count, 16), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ranked(vectors: Any, queries: Any, count: int) -> Any:
    return np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :count]


def test_rows_keep_their_order_through_batches_by_length(tiny: Model) -> None:
    encode = TextEncoder(np, tiny)
    alone = np.concatenate([encode([text]) for text in SENTENCES])
    together = encode(SENTENCES, batch_size=5)
    assert (together.shape, together.dtype) == ((len(SENTENCES), HIDDEN), np.float32)
    # Padded batches may round a float16 the other way, 2^-11 of it, some dozen times; other rows are far off.
    np.testing.assert_allclose(together, alone, rtol=0, atol=5e-3)
    assert np.abs(together - np.roll(alone, 1, axis=0)).max(axis=1).min() > 0.05


def test_embeddings_are_the_encoders_with_dequantized_weights(tiny: Model) -> None:
    weights = dict(tiny.weights)
    for name, w in weights.items():
        if w.ndim == 2 and name.startswith("encoder."):
            packed = quantize(w.T, 64, dtype="float16")
            weights[name] = dequantize(*packed, k=w.shape[1], dtype="float32").T
    exact = Encoder(tiny.settings, weights, Float32Linears(weights), np)
    expected = exact(*tiny.tokenize(list(SENTENCES)))
    found = TextEncoder(np, tiny, group_size=64)(SENTENCES)
    # Activations are rounded to float16, by 2^-11 of them at most, some dozen times.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_columns_of_any_library_give_the_same(tiny: Model) -> None:
    encode = TextEncoder(np, tiny)
    texts = list(SENTENCES[:3])
    for column in (tuple(texts), Column(texts), np.array(texts, object), iter(texts)):
        np.testing.assert_array_equal(encode(column), encode(texts))
    assert encode([]).shape == (0, HIDDEN)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (Column(["a", None]), r"texts\[1\] is None"),
        (["a", "b", float("nan")], r"texts\[2\] is nan"),
        ([b"a"], r"texts\[0\] is b'a'"),
        ("a train", "texts is one string, 'a train'"),
    ],
)
def test_row_that_is_no_text_is_named(texts: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        strings(texts)


@pytest.mark.usefixtures("no_cuml")
@pytest.mark.parametrize("count", [1, 1000, 5000])
def test_nearest_are_the_first_of_a_full_sort(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "QUERIES_AT_ONCE", 8)  # 20 queries: three parts, the last one short
    vectors, queries = unit_vectors(5000, 0), unit_vectors(20, 1)
    similarities, rows = nearest(vectors, queries, count)
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    close = {"rtol": 0, "atol": 1e-6}  # sums of 16 float32 products, 1 at most
    np.testing.assert_allclose(similarities, -np.sort(-products, axis=1)[:, :count], **close)
    np.testing.assert_allclose(np.take_along_axis(products, rows, axis=1), similarities, **close)
    assert all(len(set(row)) == count for row in rows.tolist())
    assert nearest(vectors, queries[:0], count)[1].shape == (0, count)


@pytest.mark.usefixtures("no_cuml")
@pytest.mark.parametrize("count", [0, 4])
def test_more_neighbours_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}: of 3 vectors, 1 to 3"):
        nearest(unit_vectors(3, 0), unit_vectors(1, 1), count)


def test_cuml_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class NearestNeighbors:
        def __init__(self, n_neighbors: int, algorithm: str, metric: str) -> None:
            asked.append((n_neighbors, algorithm, metric))

        def fit(self, vectors: Any) -> NearestNeighbors:
            self.vectors = vectors
            return self

        def kneighbors(self, queries: Any) -> tuple[Any, Any]:
            rows = ranked(self.vectors, queries, asked[-1][0])
            return 1 - np.einsum("qk,qck->qc", queries, self.vectors[rows]), rows

    cuml, neighbors = ModuleType("cuml"), ModuleType("cuml.neighbors")
    neighbors.NearestNeighbors = NearestNeighbors
    vectors, queries = unit_vectors(9, 0), unit_vectors(4, 1)
    monkeypatch.setitem(sys.modules, "cuml", None)
    by_product = nearest(vectors, queries, 3)
    monkeypatch.setitem(sys.modules, "cuml", cuml)
    monkeypatch.setitem(sys.modules, "cuml.neighbors", neighbors)
    by_cuml = nearest(vectors, queries, 3)
    assert asked == [(3, "brute", "cosine")]
    np.testing.assert_allclose(by_cuml[0], by_product[0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(by_cuml[1], by_product[1])


@pytest.mark.usefixtures("no_cuml")
def test_command_never_calls_a_text_its_own_neighbour(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cupy.cuda, "is_available", lambda: False)
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(SENTENCES[:4]))
    main([str(file), "--model", str(tiny_folder)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == list(SENTENCES[:4])
    for text, found in zip(lines[::2], lines[1::2], strict=True):
        assert found.split(maxsplit=1)[1] in {*SENTENCES[:4]} - {text}


def test_missing_model_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: the model folder .* has no config\.json"):
        main(["--model", str(tmp_path)])


@pytest.mark.gpu
def test_gpu_gives_numpys_embeddings_and_neighbours(tiny: Model) -> None:
    on_gpu = TextEncoder(cupy, tiny)(SENTENCES, batch_size=5)
    assert isinstance(on_gpu, cupy.ndarray)
    on_cpu = TextEncoder(np, tiny)(SENTENCES, batch_size=5)
    np.testing.assert_allclose(on_gpu.get(), on_cpu, rtol=0, atol=5e-3)
    similarities, rows = nearest(on_gpu, on_gpu, 4)
    assert isinstance(rows, cupy.ndarray)
    products = on_gpu.get() @ on_gpu.get().T
    # cuBLAS may use TF32, or cuML be here: what was found must be as good as the best, to 10 bits.
    best = -np.sort(-products, axis=1)[:, :4]
    np.testing.assert_allclose(np.take_along_axis(products, rows.get(), axis=1), best, rtol=0, atol=4e-3)
    np.testing.assert_allclose(similarities.get(), best, rtol=0, atol=4e-3)
