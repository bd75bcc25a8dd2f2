"""`Linear`: one weight, checked once, multiplied many times with the least work on the host."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._bounded import Bounded
from ._check_config import check_config
from ._check_gpu import check_gpu
from ._check_quantized import ALIGN_BYTES, check_quantized
from ._checks import GemmArguments, check_gemm
from ._choice import config_for
from ._config import GemmConfig, GemmProblem
from ._gather import checked_perm, gathered
from ._gemm import gemm
from ._group_size import group_rows
from ._launch import Launch, Plan, finish
from ._linear_value import LinearValue
from ._load import is_capturing
from ._normalised import Normalised, alpha_fits, is_symmetric_float16, normalised, takes_normalised
from ._pack import BLOCK_K
from ._pdl import complete_weights, wanted_by_linear
from ._workspace import workspace_bytes

_ARRAY = cupy.ndarray
_get_device = cupy.cuda.runtime.getDevice
_get_stream = cupy.cuda.get_current_stream

#: Shapes, and pairs of addresses, that one Linear remembers (4 and 2 KB each).
_MAX_PLANS, _MAX_LAUNCHES = 64, 64


class Linear(LinearValue):
    """A packed weight with its options: `linear(a)` is `gemm(a, b_packed, scales, zeros, ...)`, at less cost.

    The weight is checked once, here. A call checks `a` and `out` alone, and one whose shapes and addresses
    have been seen before is a look-up and a launch. A `Linear` never changes, threads and streams may share
    it, and it pickles as its arrays and options. It keeps the arrays it is given, and on the GPU, beside
    float16 scales of symmetric weights, a private copy for a shorter dequantization (2 bytes a scale, 2 a
    column; the results' bits are the same). So don't write to them: make a new one. Keep it as long as its
    launches are in flight and graphs that captured them are replayed.

    Parameters
    ----------
    b_packed : int32 array (ceil(n / 64), ceil(k / 128), 1024)
        Codes from `quantize` or `pack`: NumPy, CuPy or another library's GPU array; calls take an `a` like it
    scales : array (ceil(k / group_size), n), float16 or bfloat16; `a` must have its dtype
    zeros : array like `scales`: uint8, int8 or int32 from 0 to 16, float32, or its dtype; None: all are 8
    group_size : int, a power of two from 32, or -1 for one group; None reads it off the rows of `scales`
    k : int, rows of the weight; None means whole groups (rows * group_size; with -1, 128 x blocks), or as
        many as `perm` has
    bias : array (n,), dtype of `scales`
    alpha : float
    activation : None, "gelu" (erf), "gelu_tanh", "silu" or "relu"
    dtype : dtype of results: that of `scales` (default), or float32
    perm : integers (k,), 0 to k - 1 once each; None: rows are packed in their own order
        Packed row i is row `perm[i]` of w (act-order); kept as int32. `Linear(*weight, perm=perm)` takes what
        `from_gptq` gives. On the GPU a kernel copies `a[..., perm]`, m x k x 2 bytes of CuPy's pool, on the
        current stream. In a graph capture, where memory may be allocated in CuPy's default mode, the Linear
        keeps the copy, for the graph, as long as it lives.
    pdl : bool, dependent launch as in `gemm`; None: yes, but for a `Linear` made during graph capture
        Making, moving or unpickling such a `Linear` waits once for the current stream, so that its weights
        are complete. `CUPY_W4A16_PDL=0`, read then, switches it off.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, shape or value; the message names it.
    UnsupportedDeviceError
        The arrays are on a GPU that is not of the Hopper generation.
    W4A16Error
        A CUDA graph is being captured, and the weights would have to be waited for (`pdl=True`), or `perm`
        to be looked at.

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

    __slots__ = ("_captured", "_direct", "_launches", "_normalised", "_ordered", "_plans")

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
        perm: Any = None,
        pdl: bool | None = None,
    ) -> None:
        if k is None and perm is not None:
            k = _k_of(perm, b_packed)
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
        self._perm = None if perm is None else checked_perm(perm, weight.b_packed, weight.k)
        self._device = None if on_host else int(weight.b_packed.data.device_id)
        self._given_pdl, self._pdl = pdl, wanted_by_linear(pdl, not on_host)
        # With perm, a Linear without it multiplies the activations that have been gathered.
        self._direct = perm is None and not on_host
        self._captured: list[Any] = []
        self._ordered = None if perm is None else self._again(perm=None)
        self._normalised = self._private_copy(checked.problem, checked.alpha) if self._direct else None
        self._plans, self._launches = Bounded(_MAX_PLANS), Bounded(_MAX_LAUNCHES)
        if self._pdl:
            complete_weights()

    def __call__(self, a: Any, out: Any = None, config: GemmConfig | None = None) -> Any:
        """`activation(alpha * (a @ w) + bias)`, on CuPy's current stream.

        Parameters
        ----------
        a : array (..., k) of the dtype of `scales`
            As in `gemm`: any strides, read in place where it is aligned. A copy that is made in a graph
            capture is kept as those of `perm` are.
        out : array (..., n) to write the result to; its rows may be strided
        config : GemmConfig to force; None: `choose_config`'s for this problem, GPU and launch, dependent or
            not

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
        if type(a) is not _ARRAY or not self._direct or (out is not None and type(out) is not _ARRAY):
            return self._by_gemm(a, out, config)
        shape = a.shape
        if out is None:
            if shape[-1:] != self._k_shape:
                return self._by_gemm(a, out, config)
            out = cupy.empty(shape[:-1] + self._n_shape, self._dtype)
        device = _get_device()
        stream = _get_stream(device).ptr
        a_at, out_at = a.data, out.data
        key: Any = (
            a_at.ptr, out_at.ptr, stream, shape, out.shape, a.strides, out.strides, a.dtype, out.dtype,
            device, a_at.device_id, out_at.device_id, config,
        )  # fmt: skip
        try:
            launch = self._launches.get(key)
        except TypeError:  # config can't be hashed: the checks will say what is wrong with it
            launch = key = None
        if launch is None:
            launch = self._prepare(a, out, config, device, stream) if key else None
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
            arguments = self._checked(a, out, config)
            if not arguments.a_in_place:
                return None
            config = config or config_for(arguments.problem, device, self._pdl)
            private = self._normalised if takes_normalised(config, arguments.problem) else None
            plan = Plan(arguments, config, device, self._pdl, private)
            self._plans.put(key, plan)
        return plan.prepare(a, b_packed, scales, zeros, bias, out, stream)

    def _private_copy(self, problem: GemmProblem, alpha: float) -> Normalised | None:
        """Scales for the shorter dequantization; None where there is none, or nothing can be waited for."""
        fits = is_symmetric_float16(problem) and alpha_fits(alpha)
        return normalised(self.scales) if fits and not is_capturing() else None

    def _by_gemm(self, a: Any, out: Any, config: GemmConfig | None) -> Any:
        """A call that is not a usual one: NumPy or foreign arrays, an `a` that must be copied, or wrong."""
        if self._ordered is not None:
            return self._permuted(self._ordered, a, out, config)
        self._check_k(a)
        workspace = self._kept_workspace(a, out, config) if self._direct and is_capturing() else None
        b_packed, scales, zeros, bias = self._arrays
        group_size, alpha, activation = self._options
        return gemm(
            a, b_packed, scales, zeros, group_size, bias=bias, alpha=alpha, activation=activation,
            dtype=self._given_dtype, out=out, config=config, workspace=workspace, pdl=self._pdl,
        )  # fmt: skip

    def _kept_workspace(self, a: Any, out: Any, config: GemmConfig | None) -> Any:
        """Room for a copy of `a`, which a captured graph uses at each replay; None where none is made."""
        arguments = self._checked(a, out, config)
        if arguments.a_in_place:
            return None
        workspace = cupy.empty(workspace_bytes(arguments.problem), np.uint8)
        self._captured.append(workspace)
        return workspace

    def _permuted(self, ordered: Linear, a: Any, out: Any, config: GemmConfig | None) -> Any:
        """The product of `a[..., perm]`. All is checked before it is gathered."""
        arguments = self._checked(a, out, config)
        xp, problem, out_dtype = arguments.xp, arguments.problem, arguments.out_dtype
        target = arguments.out
        if target is None:
            target = xp.empty((*arguments.lead_shape, problem.n), out_dtype)
        rows = arguments.a.reshape(problem.m, problem.k)
        copy = gathered(xp, rows, self._perm)
        if xp is np:
            target[...] = ordered(copy, None, config).reshape(target.shape)
        else:
            if is_capturing():
                self._captured += rows, copy
            strides = (arguments.out_row_bytes, out_dtype.itemsize)
            ordered(copy, cupy.ndarray((problem.m, problem.n), out_dtype, target.data, strides), config)
        return target if out is None else out

    def _checked(self, a: Any, out: Any, config: GemmConfig | None) -> GemmArguments:
        """The arguments of `gemm` that a call of this weight stands for."""
        self._check_k(a)
        b_packed, scales, zeros, bias = self._arrays
        group_size, alpha, activation = self._options
        arguments = check_gemm(
            a, b_packed, scales, zeros, group_size,
            bias=bias, alpha=alpha, activation=activation, dtype=self._given_dtype, out=out,
        )  # fmt: skip
        if config is not None:
            check_config(config, arguments.problem)
        return arguments

    def _check_k(self, a: Any) -> None:
        shape = tuple(getattr(a, "shape", ()))
        if shape and shape[-1:] != self._k_shape:
            raise ValueError(
                f"a is of shape {shape}: its last axis must be in_features, {self.in_features}"
                f"{self._hint_for(shape[-1])}"
            )

    def _hint_for(self, k: int) -> str:
        """What to do where the weight may have `k` rows, but in_features is whole groups, as without `k=`."""
        rows, blocks = self.scales.shape[0], self.b_packed.shape[1]
        whole = BLOCK_K * blocks if self.group_size == -1 else rows * self.group_size
        fits = -(-k // BLOCK_K) == blocks and group_rows(k, self.group_size) == rows
        if self.perm is None and self.in_features == whole and fits:
            return f", as without k= it is whole groups; for a weight of {k} rows make the Linear with k={k}"
        return ""


def _k_of(perm: Any, b_packed: Any) -> int | None:
    """The length of `perm` where `b_packed` may have as many rows; else the checks say what is wrong."""
    sizes: tuple[int, ...] = getattr(perm, "shape", ())
    blocks: tuple[int, ...] = getattr(b_packed, "shape", ())
    fits = len(sizes) == 1 and len(blocks) == 3 and -(-sizes[0] // BLOCK_K) == blocks[1]
    return int(sizes[0]) if fits else None
