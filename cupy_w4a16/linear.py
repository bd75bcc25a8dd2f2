"""`Linear`: one weight, checked once, multiplied many times with the least work on the host."""

from __future__ import annotations

from functools import partial
from typing import Any

import cupy
import numpy as np

from ._bounded import Bounded
from ._check_gpu import check_gpu
from ._check_quantized import ALIGN_BYTES, check_quantized
from ._checks import check_gemm
from ._choice import config_for
from ._config import GemmConfig
from ._config_table import check_config
from ._gemm import gemm
from ._launch import Launch, Plan, finish
from ._pdl import complete_weights, wanted_by_linear
from ._split import column_parts, row_parts

_ARRAY = cupy.ndarray
_get_device = cupy.cuda.runtime.getDevice
_get_stream = cupy.cuda.get_current_stream

#: Shapes, and pairs of addresses, that one Linear remembers (4 and 2 KB each).
_MAX_PLANS, _MAX_LAUNCHES = 64, 64


class Linear:
    """A packed weight with its options: `linear(a)` is `gemm(a, b_packed, scales, zeros, ...)`, at less cost.

    The weight is checked once, here. A call checks `a` and `out` alone, and one whose shapes and addresses
    have been seen before is a look-up and a launch. A `Linear` never changes, threads and streams may share
    it, and it pickles as its arrays and options. It keeps the arrays it is given, without a copy.

    Parameters
    ----------
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024)
        Codes from `quantize` or `pack`: NumPy, CuPy or another library's GPU array; calls take an `a` like it
    scales : array (ceil(k / group_size), n), float16 or bfloat16; `a` must have its dtype
    zeros : array like `scales`: uint8, int8 or int32 from 0 to 16, float32, or its dtype; None: all are 8
    group_size : int, a power of two from 32, or -1 for one group; None reads it off the rows of `scales`
    k : int, rows of the weight; None means whole groups (rows * group_size; with -1, 128 x blocks)
    bias : array (n,), dtype of `scales`
    alpha : float
    activation : None, "gelu" (erf), "gelu_tanh", "silu" or "relu"
    dtype : dtype of results: that of `scales` (default), or float32
    pdl : bool, dependent launch as in `gemm`; None: this version's default, which is not to
        Making, moving or unpickling such a `Linear` waits once for the current stream, so that its weights
        are complete. Don't write to them afterwards without waiting for that too. `CUPY_W4A16_PDL=0`, read
        then, switches it off.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, shape or value; the message names it.
    UnsupportedDeviceError
        The arrays are on a GPU that is not of the Hopper generation.
    W4A16Error
        A CUDA graph is being captured, and dependent launch would have to wait for the weights.

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16 import Linear, quantize
    >>> w = np.eye(256, 192, dtype=np.float16)  # (k, n); PyTorch keeps (n, k): pass w.T
    >>> linear = Linear(*quantize(w), bias=np.ones(192, np.float16), activation="relu")
    >>> linear
    Linear(256 -> 192, group_size=128, bias, activation='relu', float16, numpy)
    >>> linear(np.ones((3, 256), np.float16)).shape
    (3, 192)
    """

    __slots__ = (
        "_arrays", "_device", "_dtype", "_given_dtype", "_given_pdl", "_k_shape",
        "_launches", "_n_shape", "_options", "_pdl", "_plans",
    )  # fmt: skip

    def __init__(
        self,
        b_packed: Any,
        scales: Any,
        zeros: Any = None,
        group_size: int | None = None,
        *,
        k: int | None = None,
        bias: Any = None,
        alpha: float = 1.0,
        activation: str | None = None,
        dtype: Any = None,
        pdl: bool | None = None,
    ) -> None:
        weight = check_quantized(b_packed, scales, zeros, group_size, k)
        on_host = weight.xp is np
        # The rest is checked as gemm checks it, with an a of no rows: its memory is never looked at.
        place = {} if on_host else {"memptr": weight.b_packed.data}
        checked = check_gemm(
            weight.xp.ndarray((0, weight.k), weight.scales.dtype, **place),
            weight.b_packed, weight.scales, weight.zeros, weight.group_size,
            bias=bias, alpha=alpha, activation=activation, dtype=dtype,
        )  # fmt: skip
        self._arrays = (weight.b_packed, weight.scales, weight.zeros, checked.bias)
        self._options = (weight.group_size, checked.alpha, activation)
        self._k_shape, self._n_shape = (weight.k,), (weight.n,)
        self._dtype = checked.out_dtype
        self._given_dtype = None if dtype is None else checked.out_dtype
        self._device = None if on_host else int(weight.b_packed.data.device_id)
        self._given_pdl, self._pdl = pdl, wanted_by_linear(pdl) and not on_host
        self._plans, self._launches = Bounded(_MAX_PLANS), Bounded(_MAX_LAUNCHES)
        if self._pdl:
            complete_weights()

    def __call__(self, a: Any, out: Any = None, config: GemmConfig | None = None) -> Any:
        """`activation(alpha * (a @ w) + bias)`, on CuPy's current stream.

        Parameters
        ----------
        a : array (..., k) of the dtype of `scales`
            As in `gemm`: any strides, read in place where it is aligned.
        out : array (..., n) to write the result to; its rows may be strided
        config : GemmConfig to force; None: the tuning file's, or `choose_config`'s

        Returns
        -------
        array (..., n)
            `out` where it was given.

        Raises
        ------
        TypeError, ValueError, W4A16Error
            As `gemm` does.

        Examples
        --------
        >>> import numpy as np
        >>> from cupy_w4a16 import Linear, quantize
        >>> linear = Linear(*quantize(np.eye(128, 64, dtype=np.float16)))
        >>> linear(np.arange(128, dtype=np.float16))[:3].tolist()
        [0.0, 1.0, 2.0]
        """
        if type(a) is not _ARRAY or self._device is None or (out is not None and type(out) is not _ARRAY):
            return self._by_gemm(a, out, config)
        shape = a.shape
        if out is None:
            if shape[-1:] != self._k_shape:
                return self._by_gemm(a, out, config)
            out = cupy.empty(shape[:-1] + self._n_shape, self._dtype)
        device = _get_device()
        stream = _get_stream(device).ptr
        a_at, out_at = a.data, out.data
        key = (
            a_at.ptr, out_at.ptr, stream, shape, out.shape, a.strides, out.strides, a.dtype, out.dtype,
            device, a_at.device_id, out_at.device_id, config,
        )  # fmt: skip
        launch = self._launches.get(key)
        if launch is None:
            launch = self._prepare(a, out, config, device, stream)
            if launch is None:
                return self._by_gemm(a, out, config)
            self._launches.put(key, launch)
        status = launch()
        if status:
            finish(launch, status)
        return out

    def _prepare(
        self, a: Any, out: Any, config: GemmConfig | None, device: int, stream: int
    ) -> Launch | None:
        """The launch of a call not seen before; None where `a` must be copied first."""
        b_packed, scales, zeros, bias = self._arrays
        key = (a.shape, out.shape, a.strides, out.strides, a.dtype, out.dtype, device, config)
        plan = self._plans.get(key)
        if plan is not None:
            check_gpu(plan.layout, a, b_packed, scales, zeros, bias, out)
            if a.data.ptr % ALIGN_BYTES:
                return None
        else:
            self._check_k(a)
            group_size, alpha, activation = self._options
            arguments = check_gemm(
                a, b_packed, scales, zeros, group_size,
                bias=bias, alpha=alpha, activation=activation, dtype=self._given_dtype, out=out,
            )  # fmt: skip
            if config is not None:
                check_config(config, arguments.problem)
            if not arguments.a_in_place:
                return None
            plan = Plan(arguments, config or config_for(arguments.problem, device), device, self._pdl)
            self._plans.put(key, plan)
        return plan.prepare(a, b_packed, scales, zeros, bias, out, stream)

    def _by_gemm(self, a: Any, out: Any, config: GemmConfig | None) -> Any:
        """A call that is not a usual one: NumPy or foreign arrays, an `a` that must be copied, or wrong."""
        self._check_k(a)
        b_packed, scales, zeros, bias = self._arrays
        group_size, alpha, activation = self._options
        return gemm(
            a, b_packed, scales, zeros, group_size, bias=bias, alpha=alpha, activation=activation,
            dtype=self._given_dtype, out=out, config=config, pdl=self._pdl,
        )  # fmt: skip

    def _check_k(self, a: Any) -> None:
        shape = tuple(getattr(a, "shape", ()))
        if shape and shape[-1:] != self._k_shape:
            raise ValueError(f"a is of shape {shape}: its last axis must be in_features, {self.in_features}")

    in_features = property(lambda self: self._k_shape[0], doc="k, the rows of the weight.")
    out_features = property(lambda self: self._n_shape[0], doc="n, its columns.")
    b_packed = property(lambda self: self._arrays[0], doc="int32 (ceil(n / 64), ceil(k / 128), 1024).")
    scales = property(lambda self: self._arrays[1], doc="(ceil(k / group_size), n).")
    zeros = property(lambda self: self._arrays[2], doc="Like `scales`, or None.")
    bias = property(lambda self: self._arrays[3], doc="(n,), or None.")
    group_size = property(lambda self: self._options[0], doc="A power of two, or -1 for one group of all k.")
    alpha = property(lambda self: self._options[1], doc="A float.")
    activation = property(lambda self: self._options[2], doc="A name, or None.")
    dtype = property(lambda self: self._dtype, doc="The dtype of results.")
    pdl = property(lambda self: self._pdl, doc="Whether its kernels are launched dependent.")
    device = property(lambda self: self._device, doc="The number of the arrays' GPU; None for NumPy arrays.")

    @property
    def nbytes(self) -> int:
        """Bytes of `b_packed`, `scales`, `zeros` and `bias`."""
        return sum(x.nbytes for x in self._arrays if x is not None)

    def __repr__(self) -> str:
        parts = [
            f"{self.in_features} -> {self.out_features}",
            f"group_size={self.group_size}",
            f"zeros={self.zeros.dtype}" if self.zeros is not None else "",
            "bias" if self.bias is not None else "",
            f"alpha={self.alpha}" if self.alpha != 1.0 else "",
            f"activation={self.activation!r}" if self.activation else "",
            f"pdl={self._given_pdl}" if self._given_pdl is not None else "",
            str(self.dtype),
            "numpy" if self._device is None else f"GPU {self._device}",
        ]
        return f"Linear({', '.join(part for part in parts if part)})"

    def __reduce__(self) -> Any:
        given = self._given()
        arrays = [given.pop(name) for name in ("b_packed", "scales")]
        return partial(type(self), **given), tuple(arrays)

    def to_device(self, device: int | None = None) -> Linear:
        """This weight on GPU number `device` (None: the current one); itself where it is there already.

        >>> linear.to_device(1)  # doctest: +SKIP
        Linear(256 -> 192, group_size=128, float16, GPU 1)
        """
        with cupy.cuda.Device(device) as target:
            return self if target.id == self._device else self._moved(cupy.asarray)

    def to_numpy(self) -> Linear:
        """This weight as NumPy arrays; itself where it is that already.

        >>> import numpy as np
        >>> from cupy_w4a16 import Linear, quantize
        >>> linear = Linear(*quantize(np.eye(128, 64, dtype=np.float16)))
        >>> linear.to_numpy() is linear
        True
        """
        if self._device is None:
            return self
        with cupy.cuda.Device(self._device):
            return self._moved(cupy.asnumpy)

    def split_columns(self, parts: Any) -> list[Linear]:
        """This weight cut along n, for tensor parallelism: the parts' results, side by side, are the whole's.

        The parts are views, nothing is packed anew or copied. (A part that is pickled, or moved from NumPy to
        a GPU, goes alone.) Bias, alpha and activation go along, and results are bitwise those of the whole
        weight where the same configuration is run.

        Parameters
        ----------
        parts : int, a number of equal parts; or ints, the columns to cut at, multiples of 64 (of a block)

        Returns
        -------
        list of Linear

        Raises
        ------
        TypeError, ValueError
            A cut is not possible; the message names possible ones nearby.

        Examples
        --------
        >>> import numpy as np
        >>> from cupy_w4a16 import Linear, quantize
        >>> linear = Linear(*quantize(np.eye(128, 200, dtype=np.float16)))
        >>> [part.out_features for part in linear.split_columns([64, 128])]
        [64, 64, 72]
        """
        return [type(self)(**(self._given() | part)) for part in column_parts(self, parts)]

    def split_rows(self, parts: Any) -> list[Linear]:
        """This weight cut along k, for tensor parallelism: the parts' results, for `a[..., i:j]`, add up.

        The parts are views, nothing is packed anew or copied. With one group of all k they share its one row
        of scales. The bias goes with the first part only, alpha with each. Each part's result is rounded by
        itself; `dtype="float32"` keeps the sum as good as the whole.

        Parameters
        ----------
        parts : int, a number of equal parts; or ints, the rows to cut at, multiples of 128 (of a block) and
            of `group_size`

        Returns
        -------
        list of Linear

        Raises
        ------
        TypeError, ValueError
            A cut is not possible; or there is an activation, which belongs after the sum.

        Examples
        --------
        >>> import numpy as np
        >>> from cupy_w4a16 import Linear, quantize
        >>> linear = Linear(*quantize(np.eye(512, 64, dtype=np.float16)))
        >>> [part.in_features for part in linear.split_rows(2)]
        [256, 256]
        """
        if self.activation is not None:
            raise ValueError(
                f"activation is {self.activation!r}, which can't be split along k: it belongs after the sum "
                "of the parts; make the Linear without it, and apply it there"
            )
        return [type(self)(**(self._given() | part)) for part in row_parts(self, parts)]

    def _given(self) -> dict[str, Any]:
        """The arguments that make this Linear again."""
        names = ("b_packed", "scales", "zeros", "bias")
        group_size, alpha, activation = self._options
        return {
            **dict(zip(names, self._arrays, strict=True)),
            "group_size": group_size,
            "k": self.in_features,
            "alpha": alpha,
            "activation": activation,
            "dtype": self._given_dtype,
            "pdl": self._given_pdl,
        }

    def _moved(self, move: Any) -> Linear:
        arrays = {name: move(x) for name, x in self._given().items() if hasattr(x, "shape")}
        return type(self)(**(self._given() | arrays))
