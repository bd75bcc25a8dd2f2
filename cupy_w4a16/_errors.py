"""The named exceptions; errors in arguments are plain `TypeError` and `ValueError`."""

from __future__ import annotations


class W4A16Error(Exception):
    """Base class of the errors that are this package's own: something failed that no argument explains.

    A bad argument raises `TypeError` (a wrong kind of thing: dtype, array library) or `ValueError`
    (a right kind of thing with a wrong shape, size, place or value) instead.

    >>> issubclass(CompileError, W4A16Error) and issubclass(UnsupportedDeviceError, W4A16Error)
    True
    """


class CompileError(W4A16Error):
    """A kernel could not be compiled; `log` is the compiler's log, `source_path` the text it was given.

    `source_path` is None where the text could not be kept on disk.

    >>> error = CompileError("nvrtc rejected gemm.cuh", log="gemm.cuh(3): error: ...", source_path=None)
    >>> str(error), error.log
    ('nvrtc rejected gemm.cuh', 'gemm.cuh(3): error: ...')
    """

    log: str
    source_path: str | None

    def __init__(self, message: str, log: str = "", source_path: str | None = None) -> None:
        # All three go to Exception: so the error survives pickling, by a user's multiprocessing or Dask say.
        super().__init__(message, log, source_path)
        self.log = log
        self.source_path = source_path

    def __str__(self) -> str:
        return str(self.args[0])


class UnsupportedDeviceError(W4A16Error):
    """No GPU, or one that cannot run the kernels: anything but Hopper (compute capability 9.0).

    The kernels are `sm_90a` code, which earlier and later GPUs lack the instructions for. NumPy arrays are
    multiplied on any machine.

    >>> raise UnsupportedDeviceError("GPU 0 is no Hopper GPU")
    Traceback (most recent call last):
    ...
    cupy_w4a16._errors.UnsupportedDeviceError: GPU 0 is no Hopper GPU
    """
