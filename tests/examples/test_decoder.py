"""The decoder: its steps are a float32 twin's, token by token; its graph runs what its launches run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
import pytest

from cupy_w4a16 import Linear, _compiler, dequantize
from cupy_w4a16.examples.decoder import Block, Decoder, Weights, main, random_weights
from cupy_w4a16.examples.decoder_kernels import CudaKernels, NumpyKernels, Shape, cuda_source

# Sizes that are no multiples of blocks, more positions than the kernels have warps, and numbers that show.
SHAPE = Shape(
    vocabulary=600, hidden=192, heads=6, kv_heads=2, head_size=32, mlp=320, blocks=2, max_tokens=32,
    theta=500.0, epsilon=0.05,
)  # fmt: skip
SHAPES = [SHAPE, Shape(vocabulary=5000, hidden=1100, head_size=128, mlp=2000)]
KERNELS = ["embed", "add_norm", "rotate", "attend", "gate", "choose"]
PROMPT = np.random.default_rng(3).integers(0, SHAPE.vocabulary, 12).tolist()

Rounding = Callable[[Any], Any]


def as_it_is(x: Any) -> Any:
    return x


def twin(weights: Weights, tokens: list[int], rounding: Rounding = as_it_is) -> Any:
    """Logits (tokens, vocabulary) after each token, in float32: the whole sequence at once, without a cache.

    `rounding` gets each number that the decoder rounds to float16.
    """
    s, count = SHAPE, len(tokens)

    def linear(x: Any, layer: Any) -> Any:
        packed = layer.b_packed, layer.scales, layer.zeros, layer.group_size
        return x @ rounding(dequantize(*packed, k=layer.in_features, dtype="float32"))

    def norm(x: Any, weight: Any) -> Any:
        return rounding(weight * x * (s.epsilon + np.square(x).mean(-1, keepdims=True)) ** -0.5)

    def turned(x: Any) -> Any:  # (tokens, heads, head_size), pairs as complex numbers
        half = s.head_size // 2
        speed = s.theta ** (-np.arange(half) / half)
        pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * np.outer(np.arange(count), speed))[:, None]
        return rounding(np.concatenate([pairs.real, pairs.imag], -1).astype(np.float32))

    x = weights.embedding[tokens].astype(np.float32)
    for block in weights.blocks:
        heads = rounding(linear(norm(x, block.attention_norm), block.qkv)).reshape(count, -1, s.head_size)
        query, key, value = np.split(heads, [s.heads, s.heads + s.kv_heads], axis=1)
        query, key = turned(query), turned(key)
        mixed = np.empty_like(query)
        for head, i in itertools.product(range(s.heads), range(count)):
            group = head // (s.heads // s.kv_heads)
            weight = np.exp(key[: i + 1, group] @ query[i, head] / np.sqrt(np.float32(s.head_size)))
            mixed[i, head] = weight @ value[: i + 1, group] / weight.sum()
        x = x + rounding(linear(rounding(mixed).reshape(count, -1), block.attention_out))
        gate, up = np.split(rounding(linear(norm(x, block.mlp_norm), block.gate_up)), 2, axis=1)
        x = x + rounding(linear(rounding(gate / (1 + np.exp(-gate)) * up), block.down))
    return linear(norm(x, weights.norm), weights.head)


def rounding_error(weights: Weights, tokens: list[int]) -> float:
    """The root mean square by which errors of 2^-11 of random sign, wherever float16 rounds, move a logit.

    2^-11 is the most by which a number errs; the root mean square of what roundings do is at most 1 / sqrt(3)
    of that, evenly spread as they are. So is, then, their effect, and 3 times this is five deviations of it.
    """
    rng = np.random.default_rng(0)

    def err(x: Any) -> Any:
        return x * (1 + 2.0**-11 * rng.choice((-1, 1), x.shape)).astype(np.float32)

    exact = twin(weights, tokens)
    error = float(np.sqrt(np.mean([np.square(twin(weights, tokens, err) - exact) for _ in range(3)])))
    assert error < 0.002 * exact.std(), "these weights blow up errors: the bound would mean little"
    return error


def steps(decoder: Decoder, tokens: list[int], eager: bool = False) -> Any:
    """Logits after each of `tokens`, which are all given."""
    decoder.start(tokens)
    logits = []
    for _ in tokens:
        decoder.step(eager)
        with decoder.stream:
            logits.append(cupy.asnumpy(decoder.logits).copy())
    return np.stack(logits)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(SHAPE)


@pytest.fixture(scope="module")
def tokens(weights: Weights) -> list[int]:
    """The prompt and the tokens that the twin chooses, each by a margin that rounding can't take away."""
    tokens = list(PROMPT)
    for _ in range(12):
        tokens.append(int(twin(weights, tokens)[-1].argmax()))
    runner_up, best = np.sort(twin(weights, tokens)[len(PROMPT) - 1 : -1], axis=1)[:, -2:].T
    assert (best - runner_up > 6 * rounding_error(weights, tokens)).all(), "near a tie: take another prompt"
    assert len(set(tokens[len(PROMPT) :])) > 6  # a model that says one word all the time proves little
    return tokens


@pytest.fixture(scope="module")
def decoder(weights: Weights) -> Decoder:
    return Decoder(SHAPE, weights)


def check_logits(logits: Any, weights: Weights, tokens: list[int]) -> None:
    """Near the twin's: each, and closer on average, where an error that is no rounding has no room."""
    error, allowed = np.abs(logits - twin(weights, tokens)), rounding_error(weights, tokens)
    assert error.max() <= 3 * allowed
    assert np.sqrt(np.square(error).mean()) <= allowed / np.sqrt(3)


def test_logits_are_the_float32_twins_token_by_token(
    decoder: Decoder, weights: Weights, tokens: list[int]
) -> None:
    check_logits(steps(decoder, tokens), weights, tokens)


def test_generated_tokens_are_the_float32_twins(decoder: Decoder, tokens: list[int]) -> None:
    assert decoder.generate(PROMPT, len(tokens) - len(PROMPT)) == tokens[len(PROMPT) :]


def test_given_tokens_are_read_and_not_replaced(decoder: Decoder, tokens: list[int]) -> None:
    given = tokens[::-1]
    steps(decoder, given)
    assert decoder.tokens[: len(given)].tolist() == given
    assert decoder.tokens[len(given)] >= 0
    assert (decoder.tokens[len(given) + 1 :] == -1).all()


def test_nothing_is_read_past_the_position(decoder: Decoder, tokens: list[int]) -> None:
    expected = steps(decoder, tokens)
    decoder.cache[...] = np.nan
    np.testing.assert_array_equal(steps(decoder, tokens), expected)


def test_sequence_fills_the_cache_and_no_more(decoder: Decoder) -> None:
    left = SHAPE.max_tokens + 1 - len(PROMPT)  # the last one is chosen, but not read
    assert len(decoder.generate(PROMPT, left)) == left
    with pytest.raises(ValueError, match=r"no step is left of max_tokens, 32"):
        decoder.step()
    with pytest.raises(ValueError, match=r"count is 22: after 12 tokens, 0 to 21 can follow"):
        decoder.generate(PROMPT, left + 1)


@pytest.mark.parametrize("prompt", [[], [0] * 33, [600], [3, -1]])
def test_prompt_that_would_read_elsewhere_is_refused(decoder: Decoder, prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="prompt"):
        decoder.start(prompt)


@pytest.mark.parametrize("sizes", [{"head_size": 48}, {"heads": 8, "kv_heads": 3}])
def test_sizes_the_kernels_do_not_serve_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"head_size|kv_heads"):
        Shape(**sizes)


@pytest.mark.parametrize("name", ["vocabulary", "heads", "kv_heads", "mlp", "epsilon"])
def test_size_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0: it must be above 0"):
        Shape(**{name: 0})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--head-size=48", "head_size is 48: a multiple of 32"),
        ("--tokens=-1", "--tokens is -1: it must be 0"),
    ],
)
def test_mistaken_sizes_end_the_command_with_a_sentence(
    option: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main([option])
    assert f"error: {message}" in capsys.readouterr().err


def test_command_prints_as_many_tokens_as_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cupy.cuda, "is_available", lambda: False)
    main(["--hidden=128", "--mlp=128", "--blocks=1", "--vocabulary=3", "--tokens=5"])
    printed = capsys.readouterr().out
    assert printed.partition("->")[2].partition("\n")[0].count(",") == 4
    assert "numpy: " in printed


@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_kernels_compile(shape: Shape) -> None:
    compiled = _compiler.compile_source(cuda_source(shape), "decoder")
    assert sorted(each.kernel for each in compiled.resources) == sorted(KERNELS)
    assert not [each for each in compiled.resources if each.stack_bytes or each.spill_store_bytes]


# On the GPU.


@pytest.fixture(scope="module")
def on_gpu(weights: Weights) -> Decoder:
    """The same weights, moved: the twin has theirs."""

    def moved(x: Any) -> Any:
        return x.to_device() if isinstance(x, Linear) else cupy.asarray(x)

    blocks = [Block(*map(moved, block)) for block in weights.blocks]
    return Decoder(SHAPE, Weights(moved(weights.embedding), blocks, moved(weights.norm), moved(weights.head)))


@pytest.mark.gpu
def test_gpu_logits_are_the_float32_twins_token_by_token(
    on_gpu: Decoder, weights: Weights, tokens: list[int]
) -> None:
    check_logits(steps(on_gpu, tokens), weights, tokens)
    assert on_gpu.generate(PROMPT, len(tokens) - len(PROMPT)) == tokens[len(PROMPT) :]


@pytest.mark.gpu
def test_graph_gives_the_bits_of_single_launches(on_gpu: Decoder, tokens: list[int]) -> None:
    by_graph = steps(on_gpu, tokens)
    caches = cupy.asnumpy(on_gpu.cache)
    on_gpu.cache[...] = cupy.nan  # and neither reads past its position
    cupy.cuda.Device().synchronize()
    np.testing.assert_array_equal(steps(on_gpu, tokens, eager=True), by_graph)
    end = len(tokens)
    np.testing.assert_array_equal(cupy.asnumpy(on_gpu.cache)[..., :end, :], caches[..., :end, :])


@pytest.mark.gpu
def test_generation_by_graph_and_by_launches_gives_the_same_tokens(on_gpu: Decoder) -> None:
    count = SHAPE.max_tokens + 1 - len(PROMPT)
    by_graph = on_gpu.generate(PROMPT, count)
    on_gpu.start(PROMPT)
    for _ in range(SHAPE.max_tokens):
        on_gpu.step(eager=True)
    on_gpu.stream.synchronize()
    assert cupy.asnumpy(on_gpu.tokens)[len(PROMPT) :].tolist() == by_graph


@pytest.mark.gpu
def test_a_step_allocates_nothing(on_gpu: Decoder) -> None:
    def refuse(size: int) -> Any:
        raise AssertionError(f"{size} bytes are allocated")

    on_gpu.start(PROMPT)
    with cupy.cuda.using_allocator(refuse):
        on_gpu.step(eager=True)
        on_gpu.step()
    on_gpu.stream.synchronize()


def arguments(name: str, at: int, shape: Shape) -> list[Any]:
    """Random arrays for one of the kernels, at position `at`."""
    s, rng = shape, np.random.default_rng(at)

    def half(*sizes: int) -> Any:
        return rng.standard_normal(sizes).astype(np.float16)

    def single(*sizes: int) -> Any:
        return rng.standard_normal(sizes).astype(np.float32)

    tokens = rng.integers(0, s.vocabulary, s.max_tokens + 1).astype(np.int32)
    tokens[at + 1 :] = -1
    position, cache = np.array([at], np.int32), (s.kv_heads, s.max_tokens, s.head_size)
    return {
        "embed": lambda: [tokens, position, half(s.vocabulary, s.hidden), single(s.hidden), half(s.hidden)],
        "add_norm": lambda: [single(s.hidden), half(s.hidden), single(s.hidden), half(s.hidden)],
        "rotate": lambda: [half(s.qkv), s.turns(), position, half(*cache), half(*cache)],
        "attend": lambda: [
            3 * half(s.qkv), half(*cache), half(*cache), position, half(s.heads * s.head_size),
        ],
        "gate": lambda: [half(2 * s.mlp), half(s.mlp)],
        "choose": lambda: [np.round(single(s.vocabulary)), tokens, position],  # rounded: many are equal
    }[name]()  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", KERNELS)
def test_cuda_kernel_agrees_with_numpy(name: str, shape: Shape) -> None:
    cuda, numpy = CudaKernels(shape), NumpyKernels(shape)
    for at in (0, 1, 7, 8, 30):
        host = arguments(name, at, shape)
        given = [cupy.asarray(x) for x in host]
        getattr(cuda, name)(*given)
        getattr(numpy, name)(*host)
        for got, expected in zip(given, host, strict=True):
            # Rounded to float16 once, which may go either way: a step of 2^-10. Near 0, float32 shows.
            np.testing.assert_allclose(
                got.get().astype(float), expected.astype(float), rtol=2**-10, atol=2**-16
            )
