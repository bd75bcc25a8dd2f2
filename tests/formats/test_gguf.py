"""GGUF tensors: codes, scales and zeros against blocks built here in plain loops; and damaged files."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import Linear, _quantize, dequantize, from_gguf, open_gguf, unpack

K, N = 160, 70  # five groups: not whole blocks of ours in either direction
TYPES = {"Q4_0": 2, "Q4_1": 3}
U = 2.0**-24  # half a unit in float32's last place
STRING, ARRAY, UINT32 = 8, 9, 4


def encoded(q: np.ndarray, d: np.ndarray, m: np.ndarray | None) -> bytes:
    """Blocks by the format's definition: a row of the file is a column n here."""
    parts = []
    for column in range(q.shape[1]):
        for group in range(q.shape[0] // 32):
            parts.append(struct.pack("<e", d[group, column]))
            if m is not None:
                parts.append(struct.pack("<e", m[group, column]))
            codes = [int(q[32 * group + i, column]) for i in range(32)]
            parts.append(bytes(codes[i] | codes[i + 16] << 4 for i in range(16)))
    return b"".join(parts)


def defined(q: np.ndarray, d: np.ndarray, m: np.ndarray | None) -> np.ndarray:
    """The format's weights in float64, which holds a code times a float16 plus a float16 exactly."""
    d = np.repeat(d.astype(np.float64), 32, axis=0)
    if m is None:
        return (q - 8.0) * d
    return q * d + np.repeat(m.astype(np.float64), 32, axis=0)


def drawn(
    kind: str, seed: int = 0, k: int = K, n: int = N
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 16, (k, n))
    d = (rng.standard_normal((k // 32, n)) * 0.01).astype(np.float16)
    m = (rng.standard_normal((k // 32, n)) * 0.1).astype(np.float16)
    return q, d, m if kind == "Q4_1" else None


def raw(q: np.ndarray, d: np.ndarray, m: np.ndarray | None) -> np.ndarray:
    return np.frombuffer(encoded(q, d, m), np.uint8)


@pytest.mark.parametrize("kind", ["Q4_0", 2])
def test_q4_0_is_exact(kind: Any) -> None:
    q, d, _ = drawn("Q4_0")
    weight = from_gguf(raw(q, d, None), kind, (K, N))
    assert weight.zeros is None
    assert weight.group_size == 32
    assert np.array_equal(unpack(weight.b_packed, K, N), q)
    assert weight.scales.dtype == np.float16
    assert np.array_equal(weight.scales, d)
    assert np.array_equal(dequantize(*weight, dtype=np.float32), defined(q, d, None))


def test_q4_1_is_within_three_roundings() -> None:
    q, d, m = drawn("Q4_1")
    assert m is not None
    weight = from_gguf(raw(q, d, m), "Q4_1", (K, N))
    assert np.array_equal(unpack(weight.b_packed, K, N), q)
    assert np.array_equal(weight.scales, d)
    assert weight.zeros.dtype == np.float32
    exact = defined(q, d, m)
    error = abs(dequantize(*weight, dtype=np.float32) - exact)
    bound = U * (np.repeat(abs(m.astype(np.float64)), 32, axis=0) + 2 * abs(exact)) * (1 + 4 * U)
    assert (error <= bound).all()


def test_q4_1_whose_minimum_is_whole_steps_is_exact() -> None:
    q, d, _ = drawn("Q4_1")
    d = np.ldexp(1.0, np.random.default_rng(2).integers(-14, 2, d.shape)).astype(np.float16)
    m = (-d * np.random.default_rng(3).integers(0, 16, d.shape)).astype(np.float16)
    weight = from_gguf(raw(q, d, m), "Q4_1", (K, N))
    assert np.array_equal(dequantize(*weight, dtype=np.float32), defined(q, d, m))


@pytest.mark.parametrize("m", [0.0, -0.0, 0.25, -3.0, 65504.0, 2.0**-24])
def test_q4_1_without_steps_is_its_minimum(m: float) -> None:
    q = np.arange(32).reshape(32, 1) % 16
    weight = from_gguf(raw(q, np.zeros((1, 1)), np.full((1, 1), m)), "Q4_1", (32, 1))
    assert np.isfinite(weight.zeros).all()
    assert (dequantize(*weight, dtype=np.float32) == np.float32(m)).all()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("d", "m"), [(2.0**-24, 1.0), (2.0**-24, -0.00391), (2.0**-14, 4.0), (0.5, 60000.0)])
def test_q4_1_zero_that_float16_cannot_subtract_becomes_a_constant_block(
    d: float, m: float, sign: int
) -> None:
    q = np.arange(32).reshape(32, 1) % 16
    half_d, half_m = np.full((1, 1), sign * d, np.float16), np.full((1, 1), m, np.float16)
    weight = from_gguf(raw(q, half_d, half_m), "Q4_1", (32, 1))
    assert (unpack(weight.b_packed, 32, 1) == 0).all()
    assert np.isfinite(weight.zeros.astype(np.float16)).all()
    ours = dequantize(*weight)
    # Both are rounded to float16, from values less than half a unit in its last place apart.
    wanted = defined(q, half_d, half_m).astype(np.float16)
    ulp = np.spacing(np.maximum(abs(ours), abs(wanted)).astype(np.float16))
    assert (abs(ours.astype(np.float64) - wanted) <= ulp).all()


@pytest.mark.parametrize("kind", TYPES)
def test_long_weights_are_read_in_strips(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, d, m = drawn(kind, n=200)
    whole = from_gguf(raw(q, d, m), kind, (K, 200))
    monkeypatch.setitem(_quantize.STRIP_WEIGHTS, "numpy", 1)
    for x, y in zip(whole, from_gguf(raw(q, d, m), kind, (K, 200)), strict=True):
        assert np.array_equal(x, y)


@pytest.mark.parametrize("shape", [(0, 3), (32, 0), (0, 0)])
def test_empty_tensor_is_an_empty_weight(shape: tuple[int, int]) -> None:
    weight = from_gguf(np.zeros(0, np.uint8), "Q4_1", shape)
    assert weight.scales.shape == weight.zeros.shape == (shape[0] // 32, shape[1])
    assert unpack(weight.b_packed, *shape).shape == shape


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TYPES)
def test_gpu_reader_gives_the_same_bits(kind: str) -> None:
    import cupy

    data = raw(*drawn(kind))
    for ours, theirs in zip(
        from_gguf(cupy.asarray(data), kind, (K, N)), from_gguf(data, kind, (K, N)), strict=True
    ):
        assert ours == theirs if isinstance(theirs, (int, type(None))) else np.array_equal(ours.get(), theirs)


@pytest.mark.parametrize("kind", TYPES)
def test_what_the_gguf_package_packs_and_dequantizes_is_the_same(kind: str) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    number = gguf.GGMLQuantizationType[kind]
    w = np.random.default_rng(4).standard_normal((N, K)).astype(np.float32)
    w[3, 32:64] = 0.5  # a block without steps
    data = gguf.quants.quantize(w, number)
    theirs = gguf.quants.dequantize(data, number)
    ours = dequantize(*from_gguf(data, number, (K, N)), dtype=np.float32).T
    largest = abs(w).max()  # no minimum and no weight is larger, so three roundings are at most these
    assert abs(ours - theirs).max() <= (0 if kind == "Q4_0" else 4 * U * largest)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((b"", "Q4_0", (32, 1)), TypeError, "not an array"),
        ((np.zeros(18, np.int8), "Q4_0", (32, 1)), TypeError, "uint8"),
        ((np.zeros(18, np.uint8), None, (32, 1)), TypeError, "tensor_type is None"),
        ((np.zeros(18, np.uint8), "Q4_0", None), TypeError, "shape is None"),
        ((np.zeros(18, np.uint8), "Q4_K", (32, 1)), ValueError, "type Q4_K"),
        ((np.zeros(18, np.uint8), "Q4_1", (32, 1)), ValueError, "takes 20 bytes, but there are 18"),
        ((np.zeros(18, np.uint8), "Q4_0", (1, 32)), ValueError, "no multiple of 32"),
        ((np.zeros(18, np.uint8), "Q4_0", (32, 1, 1)), ValueError, "stacked experts"),
        ((np.full(18, 0x7C, np.uint8), "Q4_0", (32, 1)), ValueError, "infinite or NaN"),
        ((np.zeros(18, np.uint8), "Q4_0", (32.7, 1)), TypeError, "shape[0] is 32.7: it must be an integer"),
        ((np.zeros(18, np.uint8), "Q4_0", 5), TypeError, "shape is 5: pass (k, n), two integers"),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        from_gguf(*arguments)
    assert said in str(raised.value)


# Files


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf_file(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], version: int = 3) -> bytes:
    """A file by the format's definition: keys of every shape, then tensors, each at multiples of 32 bytes."""
    pairs = [
        text("general.architecture") + struct.pack("<I", STRING) + text("llama"),
        text("general.alignment") + struct.pack("<II", UINT32, 32),
        text("tokens") + struct.pack("<IIQ", ARRAY, STRING, 2) + text("a") + text("b"),
        text("ids") + struct.pack("<IIQ3I", ARRAY, UINT32, 3, 1, 2, 3),
    ]
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    body = b""
    for name, (kind, shape, data) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", {"F32": 0, **TYPES}[kind], len(body))
        body += data + bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + body


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "model.gguf"
    small = {kind: encoded(*drawn(kind, k=64, n=3)) for kind in TYPES}
    tensors = {f"blk.{kind}": (kind, (64, 3), data) for kind, data in small.items()}
    path.write_bytes(gguf_file({"norm": ("F32", (64,), bytes(256)), **tensors}))
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_tensor_of_a_file_is_read_as_its_bytes_are(kind: str, model: Path) -> None:
    tensors = open_gguf(model)
    assert list(tensors) == ["norm", "blk.Q4_0", "blk.Q4_1"]
    weight = from_gguf(tensors[f"blk.{kind}"])
    assert np.array_equal(unpack(weight.b_packed, 64, 3), drawn(kind, k=64, n=3)[0])
    assert (Linear(*weight).in_features, Linear(*weight).out_features) == (64, 3)


def test_file_of_the_gguf_package_is_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "theirs.gguf"
    w = np.random.default_rng(5).standard_normal((N, K)).astype(np.float32)
    data = gguf.quants.quantize(w, gguf.GGMLQuantizationType.Q4_0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a", "b"])
    writer.add_tensor("up", data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = dequantize(*from_gguf(open_gguf(path)["up"]), dtype=np.float32).T
    assert np.array_equal(ours, gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q4_0))


def test_unquantized_tensor_is_refused_by_name(model: Path) -> None:
    with pytest.raises(ValueError, match="tensor 'norm' is of type F32"):
        from_gguf(open_gguf(model)["norm"])


@pytest.mark.parametrize("path", [None, b"model.gguf", 3])
def test_path_that_names_no_file_is_named(path: Any) -> None:
    with pytest.raises(TypeError, match=r"path is .*: pass the name of a file"):
        open_gguf(path)


def test_missing_package_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"pip install gguf .*\[formats\]"):
        open_gguf(model)


def test_file_cut_anywhere_is_refused(model: Path, tmp_path: Path) -> None:
    whole = model.read_bytes()
    cut = tmp_path / "cut.gguf"
    last = whole.rstrip(b"\0")  # past this there is only padding
    for length in [*range(0, len(last) - 1, 7), len(last) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError) as raised:
            open_gguf(cut)
        assert str(cut) in str(raised.value)


COUNT = struct.pack("<Q", 1 << 60)


@pytest.mark.parametrize(
    "start",
    [
        b"GGUF" + struct.pack("<I", 3) + COUNT + struct.pack("<Q", 0),
        b"GGUF" + struct.pack("<IQ", 3, 0) + COUNT,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + COUNT,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("key") + struct.pack("<II", ARRAY, UINT32) + COUNT,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("key") + struct.pack("<II", ARRAY, STRING) + COUNT,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("key") + struct.pack("<II", ARRAY, ARRAY) + COUNT,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("key") + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<I", 1 << 31),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<I", 2) + COUNT + COUNT,
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"\x80\x04\x95" + bytes(40),
    ],
)
def test_absurd_header_is_refused_at_once(start: bytes, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "absurd.gguf"
    path.write_bytes(start + bytes(64))
    with pytest.raises(ValueError) as raised:
        open_gguf(path)
    assert str(path) in str(raised.value)


def test_tensor_named_twice_is_refused(model: Path) -> None:
    model.write_bytes(model.read_bytes().replace(b"blk.Q4_1", b"blk.Q4_0"))
    with pytest.raises(ValueError, match=r"blk\.Q4_0"):
        open_gguf(model)


# Where tensors lie


def placed(
    path: Path, places: dict[str, tuple[int, tuple[int, ...], int]], alignment: tuple[int, int] | None = None
) -> Path:
    """A file with 4096 bytes of data and tensors by name: type, shape, and the place that it claims."""
    pairs = [] if alignment is None else [text("general.alignment") + struct.pack("<II", *alignment)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(places), len(pairs)) + b"".join(pairs)
    for name, (kind, shape, begin) in places.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", kind, begin)
    path.write_bytes(head + bytes(-len(head) % (64 if alignment else 32)) + bytes(4096))
    return path


W = (TYPES["Q4_0"], (64, 40), 0)  # 1440 bytes
Q6_K, UNKNOWN = 14, 99


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"w": (*W[:2], 4)}, "tensor 'w' begins at byte 4 of the data, no multiple of 32"),
        (
            {"w": (*W[:2], 2**64 - 32)},
            "tensor 'w' lies at bytes 18446744073709551584 to .*, where there are 4096",
        ),
        ({"w": (*W[:2], 2688)}, "tensor 'w' lies at bytes 2688 to 4128 of the data, where there are 4096"),
        ({"w": (UNKNOWN, (64, 40), 4128)}, "tensor 'w' lies at bytes 4128 to 4128"),
        ({"w": W, "v": W}, "tensor 'w' begins at byte 0 of the data, inside tensor 'v'"),
        ({"w": W, "v": (0, (4,), 1408)}, "tensor 'v' begins at byte 1408 of the data, inside tensor 'w'"),
        ({"q": (Q6_K, (256, 4), 32), "w": (*W[:2], 864)}, "tensor 'w' .*, inside tensor 'q'"),  # 840 bytes
    ],
)
def test_tensor_at_a_place_that_is_not_its_own_is_refused(places: Any, said: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = placed(tmp_path / "places.gguf", places)
    with pytest.raises(ValueError, match=rf"{path} is damaged or truncated: {said}.*; download"):
        open_gguf(path)


def test_places_follow_the_alignment_of_the_file(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    places = {"w": W, "none": (0, (0,), 1472), "v": (*W[:2], 1472), "last": (0, (280,), 2944)}
    assert list(open_gguf(placed(tmp_path / "32.gguf", places))) == list(places)  # 1472 is 46 * 32
    path = placed(tmp_path / "64.gguf", {"w": W, "v": (*W[:2], 1536)}, (UINT32, 64))
    assert open_gguf(path)["v"].data_offset == path.stat().st_size - 4096 + 1536
    with pytest.raises(ValueError, match="'v' begins at byte 1504 of the data, no multiple of 64"):
        open_gguf(placed(path, {"v": (*W[:2], 1504)}, (UINT32, 64)))
    for alignment, said in (
        ((UINT32, 0), "is 0, no power"),
        ((UINT32, 96), "is 96, no"),
        ((5, 32), "is of type 5"),
    ):
        with pytest.raises(ValueError, match=rf"{path} is damaged: its general\.alignment {said}"):
            open_gguf(placed(path, {"w": W}, alignment))


SMALL = gguf_file({"w": ("Q4_1", (32, 2), encoded(*drawn("Q4_1", k=32, n=2)))})


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_give_a_weight_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    damaged = bytearray(SMALL)
    for at, byte in changes:
        damaged[at] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged)
    # Any other exception, and a message that does not say what is damaged, fails the test.
    try:
        tensors = open_gguf(path)
    except ValueError as error:
        told = str(path) in str(error)
    else:
        told = all(weight_or_its_name(tensor) for tensor in tensors.values())
    assert told


def weight_or_its_name(tensor: Any) -> bool:
    try:
        weight = from_gguf(tensor)
    except ValueError as error:
        return f"tensor {tensor.name!r}" in str(error)
    k, n = (int(size) for size in tensor.shape)
    return bool(weight.scales.shape == (math.ceil(k / 32), n))
