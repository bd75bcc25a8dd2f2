"""The occupancy query."""

from __future__ import annotations

import cupy

from . import _device
from ._check_config import check_config, check_problem
from ._config import GemmConfig, GemmProblem
from ._kernels import Kernel, kernel_for
from ._load import load


def occupancy(config: GemmConfig, problem: GemmProblem | None = None) -> int:
    """CTAs of a kernel that one multiprocessor of the current GPU holds at once, as the CUDA driver says.

    Parameters
    ----------
    config : GemmConfig
    problem : GemmProblem
        Its dtypes, zeros and group size name the kernel, its sizes play no part. None: float16, symmetric,
        groups of 128.

    Returns
    -------
    int
        1 or more.

    Raises
    ------
    TypeError, ValueError
        `problem` is no `GemmProblem`, or one of its fields is not as `GemmProblem` says; `config` is none, or
        can't run such a problem.
    UnsupportedDeviceError
        There is no GPU that CUDA can use, or the current one is not of the Hopper generation.
    CompileError
        The kernel is not in the cache and does not compile.

    Examples
    --------
    >>> from cupy_w4a16 import GemmConfig, occupancy
    >>> occupancy(GemmConfig(64, 128, schedule="pingpong"))  # doctest: +SKIP
    1
    """
    if problem is None:
        problem = GemmProblem(1, 64, 128)
    problem = check_problem(problem)
    check_config(config, problem, "a GemmConfig")
    _device.count_devices()
    _device.check_hopper(_device.current_device())
    return resident_ctas(kernel_for(config, problem))


def resident_ctas(kernel: Kernel) -> int:
    """The same of one kernel; its registers may allow more than its configuration asks for."""
    device = _device.current_device()
    loaded = load(kernel, device)
    cupy.cuda.Device(device).use()  # gives this thread a context, should it have none
    ask = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
    return int(ask(loaded.function, loaded.threads, loaded.smem_bytes))
