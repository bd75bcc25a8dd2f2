"""The arguments that make a weight: `b_packed`, `scales`, `zeros`, `group_size`, and `k`."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from . import _device
from ._arrays import as_arrays
from ._dtypes import FLOAT32, HALF_DTYPES, INTEGER_DTYPES
from ._foreign_layouts import advice
from ._group_size import checked_group_size, whole_groups
from ._pack import BLOCK_BYTES, BLOCK_K, BLOCK_N, BLOCK_WORDS
from ._scalars import as_int

_INT32 = np.dtype(np.int32)
#: `dtype.name` takes NumPy 2 us each time.
_INTEGER_NAMES = {dtype: dtype.name for dtype in INTEGER_DTYPES}
_HALF_NAMES = {dtype: dtype.name for dtype in HALF_DTYPES}
#: Integer zero points go from 0 to this.
MAX_ZERO = 16
#: What the copy engine wants of addresses and strides.
ALIGN_BYTES = 16


class QuantizedArguments(NamedTuple):
    """A checked weight: w (k, n) = (q - zero) * scale, as arrays of `xp` that can be read in place.

    `group_size` is -1 or a power of two; `zeros_dtype` is None (symmetric) or the name of their dtype. The
    `*_row_bytes` are the bytes from one row of blocks, scales or zeros to the next (0 without zeros); rows
    are dense.
    """

    xp: ModuleType
    b_packed: Any
    scales: Any
    zeros: Any
    n: int
    k: int
    group_size: int
    zeros_dtype: str | None
    b_row_bytes: int
    scales_row_bytes: int
    zeros_row_bytes: int


def check_quantized(
    b_packed: Any, scales: Any, zeros: Any = None, group_size: int | None = None, k: int | None = None
) -> QuantizedArguments:
    """Check the arguments of `dequantize` and `Linear`; any GPU will do, as long as it is the current one.

    `k=None` means whole groups: rows of `scales` x `group_size`, or 128 x blocks where one group covers all.
    """
    required(b_packed=b_packed, scales=scales)
    xp, (b_packed, scales, zeros) = as_arrays({"b_packed": b_packed, "scales": scales, "zeros": zeros})
    if k is not None:
        k = as_int("k", k)
        if k < 0:
            raise ValueError(f"k is {k}: pass the rows of the weight, 0 or more, or None for whole groups")
    sizes = check_weight(xp, b_packed, scales, zeros, group_size, k)
    if xp is not np:
        _device.check_current_device(
            _device.current_device(), {"b_packed": b_packed, "scales": scales, "zeros": zeros}
        )
        check_alignment(b_packed=b_packed, scales=scales, zeros=zeros)
    return QuantizedArguments(xp, b_packed, scales, zeros, *sizes)


def check_weight(
    xp: ModuleType, b_packed: Any, scales: Any, zeros: Any, group_size: Any, k: int | None, a: Any = None
) -> tuple[int, int, int, str | None, int, int, int]:
    """The checks of shapes, strides and dtypes; `a`, where given, is what k and the dtype come from.

    What is found is returned in the order of `QuantizedArguments`, from `n` on. Arrays that are plainly
    C-contiguous are told by one comparison, the others are looked at more closely.
    """
    b_shape = b_packed.shape
    s_shape = scales.shape
    dtype = b_packed.dtype
    if (dtype is not _INT32 and dtype != _INT32) or len(b_shape) != 3 or b_shape[2] != BLOCK_WORDS:
        _not_our_layout(b_packed, s_shape, k)
    if len(s_shape) != 2:
        _scales_not_2d(s_shape)
    dtype = scales.dtype
    if (dtype not in HALF_DTYPES) if a is None else (dtype is not a.dtype and dtype != a.dtype):
        wrong_dtype("scales", scales, xp, a)
    rows, n = s_shape
    blocks_n, blocks_k, _ = b_shape
    if -(-n // BLOCK_N) != blocks_n:
        _wrong_n(b_shape, s_shape)
    if k is None:
        k, group_size = whole_groups(s_shape, b_shape, group_size)
    else:
        if -(-k // BLOCK_K) != blocks_k:
            _wrong_k(k, b_shape, s_shape, a)
        group_size = checked_group_size(group_size, k, rows, s_shape)
    b_row_bytes = BLOCK_BYTES * blocks_k
    if b_packed.strides != (b_row_bytes, BLOCK_BYTES, 4):
        b_row_bytes = _block_row_bytes(b_packed, blocks_n, blocks_k)
    scales_row_bytes = 2 * n
    if scales.strides != (scales_row_bytes, 2):
        scales_row_bytes = _dense_row_bytes("scales", scales, rows, n, xp)
    if zeros is None:
        return n, k, group_size, None, b_row_bytes, scales_row_bytes, 0
    zeros_dtype = _zeros_dtype(zeros, s_shape, dtype, xp)
    zeros_row_bytes = _dense_row_bytes("zeros", zeros, rows, n, xp)
    return n, k, group_size, zeros_dtype, b_row_bytes, scales_row_bytes, zeros_row_bytes


def required(**arguments: Any) -> None:
    """TypeError for an argument that is None and must not be."""
    for name, x in arguments.items():
        if x is None:
            raise TypeError(f"{name} is None: an array is needed (only zeros, bias and out may be left out)")


def wrong_dtype(name: str, x: Any, xp: ModuleType, a: Any = None) -> NoReturn:
    """TypeError with the `.astype` to write: to the dtype of `a`, or to either of the two allowed ones."""
    homes = {"float16": xp.__name__, "bfloat16": "ml_dtypes"}
    spelled = {dtype: f"{name}.astype({homes[dtype.name]}.{dtype.name})" for dtype in HALF_DTYPES}
    if a is not None:
        raise TypeError(
            f"{name} is {x.dtype}, but a is {a.dtype}: they must have one dtype, nothing is cast silently; "
            f"pass {spelled[a.dtype]}"
        )
    either = " or ".join(spelled.values())
    raise TypeError(f"{name} is {x.dtype}: allowed are float16 and bfloat16; pass {either}")


def check_alignment(**arrays: Any) -> None:
    """ValueError naming a GPU array that a kernel can't load from where it lies (at an odd offset, say)."""
    for name, x in arrays.items():
        if x is not None and x.size:
            align = ALIGN_BYTES if name == "b_packed" else x.dtype.itemsize
            if x.data.ptr % align:
                raise ValueError(
                    f"{name} starts at address {x.data.ptr:#x} with strides {x.strides}: a GPU reads {name} "
                    f"from multiples of {align} bytes only; pass {name}.copy(), or cut it elsewhere"
                )


def _not_our_layout(b_packed: Any, s_shape: tuple[int, ...], k: int | None) -> NoReturn:
    n = s_shape[1] if len(s_shape) == 2 else None
    error = ValueError if b_packed.dtype == _INT32 else TypeError
    raise error(
        f"b_packed is {b_packed.dtype} of shape {tuple(b_packed.shape)}, which is not the packed layout, "
        f"int32 of shape (ceil(n / 64), ceil(k / 128), 1024); {advice(b_packed, k, n)}"
    )


def _scales_not_2d(s_shape: tuple[int, ...]) -> NoReturn:
    hint = "reshape it"
    if len(s_shape) == 1:
        hint = "for one scale a column (group_size=-1), pass scales[None, :]"
    raise ValueError(f"scales is of shape {s_shape}: it must be 2-D, (ceil(k / group_size), n); {hint}")


def _wrong_n(b_shape: tuple[int, ...], s_shape: tuple[int, ...]) -> NoReturn:
    low, high = BLOCK_N * (b_shape[0] - 1) + 1 if b_shape[0] else 0, BLOCK_N * b_shape[0]
    hint = "cut both at the same columns, b_packed[i:j] with scales[:, 64 * i : 64 * j]"
    if low <= s_shape[0] <= high:
        hint = "scales looks transposed, (n, rows): pass the contiguous transpose, scales.T.copy()"
    raise ValueError(
        f"scales of shape {s_shape} has n = {s_shape[1]} columns, but b_packed of shape {b_shape} has "
        f"{b_shape[0]} blocks of 64 columns, which is for n from {low} to {high}: {hint}"
    )


def _wrong_k(k: int, b_shape: tuple[int, ...], s_shape: tuple[int, ...], a: Any) -> NoReturn:
    source = f"k={k} was given" if a is None else f"a of shape {tuple(a.shape)} has k = {k} (its last axis)"
    blocks = b_shape[1]
    low, high = BLOCK_K * (blocks - 1) + 1 if blocks else 0, BLOCK_K * blocks
    raise ValueError(
        f"{source}, but b_packed of shape {b_shape} has {blocks} blocks of 128 k, which is for k from {low} "
        f"to {high} (scales of shape {s_shape} has {s_shape[0]} rows): all three must come from one weight "
        "(k, n); a weight kept as (n, k) is to be quantized as w.T"
    )


def _zeros_dtype(zeros: Any, s_shape: tuple[int, ...], dtype: Any, xp: ModuleType) -> str:
    if zeros.shape != s_shape:
        hint = "one zero for every scale"
        if zeros.dtype.itemsize == 4 and zeros.ndim == 2 and zeros.shape[1] * 8 == s_shape[1]:
            hint = "it looks like packed qzeros, eight an integer: read the weight with from_gptq or from_awq"
        raise ValueError(f"zeros is of shape {zeros.shape}, scales of {s_shape}: they must agree; {hint}")
    name = _INTEGER_NAMES.get(zeros.dtype)
    if name is not None:
        # Looking at values on the GPU would wait for it; there, values past 16 are the caller's to avoid.
        if xp is np and zeros.size and (zeros.min() < 0 or zeros.max() > MAX_ZERO):
            at = tuple(int(i) for i in np.argwhere((zeros < 0) | (zeros > MAX_ZERO))[0])
            raise ValueError(
                f"zeros holds {zeros[at]} at {list(at)}: integer zeros go from 0 to {MAX_ZERO}; "
                f"for other zero points pass zeros.astype(scales.dtype)"
            )
        return name
    if zeros.dtype == FLOAT32:
        return FLOAT32.name
    if zeros.dtype != dtype:
        raise TypeError(
            f"zeros is {zeros.dtype}: allowed are uint8, int8, int32, float32 and {dtype}, which scales is; "
            f"pass zeros.astype({xp.__name__}.uint8) for whole numbers, else zeros.astype(scales.dtype)"
        )
    return _HALF_NAMES[dtype]


def _block_row_bytes(b_packed: Any, blocks_n: int, blocks_k: int) -> int:
    """Bytes from one row of blocks to the next: those of a dense row, or more where k was cut."""
    dense = BLOCK_BYTES * blocks_k
    if not blocks_n or not blocks_k:
        return dense
    row, block, word = b_packed.strides
    if blocks_n == 1:
        row = dense
    if word == 4 and (block == BLOCK_BYTES or blocks_k == 1) and row >= dense and not row % ALIGN_BYTES:
        return int(row)
    raise ValueError(
        f"b_packed of shape {b_packed.shape} has strides {b_packed.strides}: its blocks must be dense, and a "
        "row of them too, as in b_packed[i:j] and b_packed[:, i:j] of a C-contiguous array; pass "
        "b_packed.copy()"
    )


def _dense_row_bytes(name: str, x: Any, rows: int, n: int, xp: ModuleType) -> int:
    """Bytes from one row of `scales` or `zeros` to the next: of a dense row, or more for cut columns."""
    itemsize = x.dtype.itemsize
    row, column = x.strides
    dense = n * itemsize
    if rows <= 1:
        row = dense
    if not rows or not n:
        return dense
    if (column == itemsize or n == 1) and row >= dense and not row % itemsize:
        return int(row)
    raise ValueError(
        f"{name} of shape {x.shape} has strides {x.strides}: its rows must be dense, as in a C-contiguous "
        f"array or {name}[:, i:j] of one; pass {xp.__name__}.ascontiguousarray({name})"
    )
