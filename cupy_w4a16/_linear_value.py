"""What a `Linear` is when it is not called: arrays and options, shown, pickled, moved and cut."""

from __future__ import annotations

from typing import Any, TypeVar

import cupy

from ._device import checked_device, count_devices
from ._split import column_parts, row_parts

_Linear = TypeVar("_Linear", bound="LinearValue")


class LinearValue:
    """The part of `Linear` that multiplies nothing; `Linear` fills the slots, and is made anew from them."""

    __slots__ = (
        "_arrays", "_device", "_dtype", "_given_dtype", "_given_pdl", "_k_shape", "_n_shape", "_options",
        "_pdl", "_perm",
    )  # fmt: skip

    _arrays: tuple[Any, Any, Any, Any]  # b_packed, scales, zeros, bias
    _options: tuple[int, float, str | None]  # group_size, alpha, activation
    _k_shape: tuple[int]
    _n_shape: tuple[int]
    _device: int | None
    _dtype: Any
    _given_dtype: Any
    _given_pdl: bool | None
    _pdl: bool
    _perm: Any

    in_features = property(lambda self: self._k_shape[0], doc="k, the rows of the weight.")
    out_features = property(lambda self: self._n_shape[0], doc="n, its columns.")
    b_packed = property(lambda self: self._arrays[0], doc="int32 (ceil(n / 64), ceil(k / 128), 1024).")
    scales = property(lambda self: self._arrays[1], doc="(ceil(k / group_size), n).")
    zeros = property(lambda self: self._arrays[2], doc="Like `scales`, or None.")
    bias = property(lambda self: self._arrays[3], doc="(n,), or None.")
    perm = property(lambda self: self._perm, doc="int32 (k,): the row of w that each packed row is; or None.")
    group_size = property(lambda self: self._options[0], doc="A power of two, or -1 for one group of all k.")
    alpha = property(lambda self: self._options[1], doc="A float.")
    activation = property(lambda self: self._options[2], doc="A name, or None.")
    dtype = property(lambda self: self._dtype, doc="The dtype of results.")
    pdl = property(lambda self: self._pdl, doc="Whether its kernels are launched dependent.")
    device = property(lambda self: self._device, doc="The number of the arrays' GPU; None for NumPy arrays.")

    @property
    def nbytes(self) -> int:
        """Bytes of `b_packed`, `scales`, `zeros`, `bias` and `perm`."""
        return sum(x.nbytes for x in (*self._arrays, self._perm) if x is not None)

    def __repr__(self) -> str:
        parts = [
            f"{self.in_features} -> {self.out_features}",
            f"group_size={self.group_size}",
            f"zeros={self.zeros.dtype}" if self.zeros is not None else "",
            "bias" if self.bias is not None else "",
            "perm" if self.perm is not None else "",
            f"alpha={self.alpha}" if self.alpha != 1.0 else "",
            f"activation={self.activation!r}" if self.activation else "",
            f"pdl={self._given_pdl}" if self._given_pdl is not None else "",
            str(self.dtype),
            "numpy" if self._device is None else f"GPU {self._device}",
        ]
        return f"Linear({', '.join(part for part in parts if part)})"

    def __reduce__(self) -> Any:
        # All as arguments: copy.deepcopy copies these, and nothing that a callable holds.
        return _made, (type(self), self._given())

    def to_device(self: _Linear, device: int | None = None) -> _Linear:
        """This weight on GPU number `device` (None: the current one); itself where it is there already.

        UnsupportedDeviceError where CUDA can use no GPU, or this one is not of the Hopper generation.

        >>> linear.to_device(1)  # doctest: +SKIP
        Linear(256 -> 192, group_size=128, float16, GPU 1)
        """
        count = count_devices()
        if device is not None:
            device = checked_device(device, count)
        with cupy.cuda.Device(device) as target:
            return self if target.id == self._device else self._moved(cupy.asarray)

    def to_numpy(self: _Linear) -> _Linear:
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

    def split_columns(self: _Linear, parts: Any) -> list[_Linear]:
        """This weight cut along n, for tensor parallelism: the parts' results, side by side, are the whole's.

        The parts are views, nothing is packed anew or copied. (A part that is pickled, or moved from NumPy to
        a GPU, goes alone.) Bias, alpha and activation go along, and on a GPU results are bitwise those of the
        whole weight where the same configuration is run (NumPy's BLAS may add up in another order). Each part
        keeps `perm`, and takes the whole `a`.

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
        return [self._again(**part) for part in column_parts(self, parts)]

    def split_rows(self: _Linear, parts: Any) -> list[_Linear]:
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
            A cut is not possible; or there is an activation, which belongs after the sum, or `perm`, by which
            the activations of neighbouring rows lie all over `a`.

        Examples
        --------
        >>> import numpy as np
        >>> from cupy_w4a16 import Linear, quantize
        >>> linear = Linear(*quantize(np.eye(512, 64, dtype=np.float16)))
        >>> [part.in_features for part in linear.split_rows(2)]
        [256, 256]
        """
        return [self._again(**part) for part in row_parts(self, parts)]

    def _given(self) -> dict[str, Any]:
        """The arguments that make this Linear again."""
        names = ("b_packed", "scales", "zeros", "bias")
        group_size, alpha, activation = self._options
        return {
            **dict(zip(names, self._arrays, strict=True)),
            "perm": self._perm,
            "group_size": group_size,
            "k": self.in_features,
            "alpha": alpha,
            "activation": activation,
            "dtype": self._given_dtype,
            "pdl": self._given_pdl,
        }

    def _moved(self: _Linear, move: Any) -> _Linear:
        names = ("b_packed", "scales", "zeros", "bias", "perm")
        arrays = {name: x for name, x in self._given().items() if name in names and x is not None}
        return self._again(**{name: move(x) for name, x in arrays.items()})

    def _again(self: _Linear, **changed: Any) -> _Linear:
        """One like this, but for these arguments."""
        made: _Linear = _made(type(self), self._given() | changed)
        return made


def _made(kind: Any, given: dict[str, Any]) -> Any:
    return kind(**given)
