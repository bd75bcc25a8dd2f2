"""The packed layout: what the documentation says, what pack writes and what unpack reads are one thing."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import _pack
from cupy_w4a16._pack import PACKED_LAYOUT_VERSION, pack, unpack


def random_codes(k: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, (k, n), dtype=np.uint8)


def emulated_lane_elements(tile: int, half: int, step: int, g: int, c: int) -> list[tuple[int, int, int]]:
    """(register, k, column) of a lane's eight A elements in a block, after PTX's figure of the A fragment.

    Element e of a lane sits in row g + 8 (e // 2 odd) and k 2c + e % 2 + 8 (e // 4) of the warp's 16 x 16
    part, in register e // 2, the even element in the low half.
    """
    elements = []
    for e in range(8):
        row = g + (8 if (e // 2) % 2 else 0)
        k = 64 * half + 16 * step + 2 * c + e % 2 + (8 if e >= 4 else 0)
        column = 16 * tile + 2 * (row % 8) + row // 8
        elements.append((e // 2, k, column))
    return elements


def test_words_hold_the_fragments_of_wgmma() -> None:
    words = np.random.default_rng(1).integers(-(2**31), 2**31, (1, 1, 1024), dtype=np.int32)
    q = unpack(words, 128, 64)
    seen = np.zeros((128, 64), int)
    for x in range(1024):
        lane_word, step = divmod(x, 4)
        tile_half, lane = divmod(lane_word, 32)
        (tile, half), (g, c) = divmod(tile_half, 2), divmod(lane, 4)
        word = int(words[0, 0, x]) & 0xFFFFFFFF
        for register, k, column in emulated_lane_elements(tile, half, step, g, c):
            first = 4 * register + 2 + 16 * (k % 2)
            code = sum((word >> (first + bit) % 32 & 1) << bit for bit in range(4))
            assert q[k, column] == code, (x, register, k, column)
            seen[k, column] += 1
    assert (seen == 1).all()


def test_masks_of_the_kernels_find_even_and_odd_k_in_the_two_halves() -> None:
    q = random_codes(128, 64)
    block = pack(q)[0, 0].view(np.uint32)
    tile, half, g, c, step = 2, 1, 5, 3, 1
    w = int(block[((tile * 2 + half) * 32 + 4 * g + c) * 4 + step])
    rotated = (w >> 8 | w << 24) & 0xFFFFFFFF
    found = [w >> 2 & 0x000F000F, w >> 6 & 0x000F000F, rotated >> 2 & 0x000F000F, rotated >> 6 & 0x000F000F]
    k, column = 64 * half + 16 * step + 2 * c, 16 * tile + 2 * g
    at = [(k, column), (k, column + 1), (k + 8, column), (k + 8, column + 1)]
    assert found == [int(q[k, j]) | int(q[k + 1, j]) << 16 for k, j in at]


def test_layout_does_not_change_without_a_new_version() -> None:
    digest = hashlib.sha256(pack(random_codes(300, 200)).tobytes()).hexdigest()
    assert (PACKED_LAYOUT_VERSION, digest[:16]) == (1, "2dd16a4bcbe386ba")


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 300), st.integers(0, 200), st.sampled_from(["uint8", "int8", "int32", "int64"]), st.data()
)
def test_round_trip_of_any_size_dtype_and_strides(k: int, n: int, dtype: str, data: st.DataObject) -> None:
    q = random_codes(k, n, seed=k * 201 + n).astype(dtype)
    how = data.draw(st.sampled_from(["C", "F", "every second", "backwards"]))
    if how == "F":
        q = np.asfortranarray(q)
    elif how == "every second":
        q = np.repeat(np.repeat(q, 2, 0), 2, 1)[::2, ::2]
    elif how == "backwards":
        q = q[::-1, ::-1]
    b_packed = pack(q)
    assert b_packed.shape == (-(-n // 64), -(-k // 128), 1024)
    assert b_packed.dtype == np.int32
    assert b_packed.flags.c_contiguous
    unpacked = unpack(b_packed, k, n)
    assert unpacked.dtype == np.uint8
    np.testing.assert_array_equal(unpacked, q)
    whole = unpack(b_packed, b_packed.shape[1] * 128, b_packed.shape[0] * 64)
    assert (whole[k:] == 8).all()
    assert (whole[:, n:] == 8).all()


def test_slices_of_blocks_are_the_packed_slices() -> None:
    q = random_codes(400, 300)
    b_packed = pack(q)
    np.testing.assert_array_equal(b_packed[1:3], pack(q[:, 64:192]))
    np.testing.assert_array_equal(b_packed[:, 1:3], pack(q[128:384]))
    np.testing.assert_array_equal(unpack(b_packed[:, 1:], 272, 300), q[128:])


def test_strips_of_columns_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    q = random_codes(200, 500)
    whole = pack(q)
    monkeypatch.setitem(_pack._STRIP_CODES, "numpy", 3 * 64 * 256)
    np.testing.assert_array_equal(pack(q), whole)
    np.testing.assert_array_equal(unpack(whole, 200, 500), q)


@pytest.mark.parametrize(
    ("q", "error", "says"),
    [
        (np.full((2, 2), 16, np.uint8), ValueError, "16"),
        (np.array([[3, -1]], np.int8), ValueError, "-1"),
        (np.zeros((2, 2), np.float32), TypeError, "float32"),
        (np.zeros((2, 2), bool), TypeError, "bool"),
        (np.zeros(4, np.uint8), ValueError, "(4,)"),
        ([[1, 2]], TypeError, "list"),
    ],
)
def test_what_is_no_code_is_refused(q: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        pack(q)
    assert "q " in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(("k", "n"), [(129, 64), (128, 65), (0, 64), (-1, 64), (128, 0)])
def test_unpack_refuses_sizes_of_another_number_of_blocks(k: int, n: int) -> None:
    with pytest.raises(ValueError) as caught:
        unpack(pack(random_codes(128, 64)), k, n)
    assert "(1, 1, 1024)" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "size"), [("k", 100.9), ("n", 64.0), ("k", "128"), ("n", None), ("k", True)]
)
def test_unpack_refuses_sizes_that_are_no_integers(name: str, size: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is {size!r}: it must be an integer"):
        unpack(pack(random_codes(128, 64)), **{"k": 128, "n": 64, name: size})


def test_unpack_refuses_another_dtype() -> None:
    with pytest.raises(TypeError) as caught:
        unpack(np.zeros((1, 1, 1024), np.uint32), 128, 64)
    assert "uint32" in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize(("k", "n"), [(128, 64), (300, 130), (4096, 1000)])
def test_cupy_packs_and_unpacks_the_same_bits(k: int, n: int) -> None:
    import cupy

    q = random_codes(k, n)
    b_packed = pack(cupy.asarray(q))
    np.testing.assert_array_equal(cupy.asnumpy(b_packed), pack(q))
    np.testing.assert_array_equal(cupy.asnumpy(unpack(b_packed, k, n)), q)
