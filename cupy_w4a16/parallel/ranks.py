"""How ranks find and speak to each other: NCCL, through `cupyx.distributed`."""

from __future__ import annotations

import contextlib
import os
import warnings
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from .._device import checked_device
from .._errors import W4A16Error
from .shards import check_rank


@dataclass(frozen=True)
class Communicator:
    """What the layers ask of a rank's link to the others; a class of yours with the same names serves too.

    All ranks make the same calls in the same order. Calls go to CuPy's current stream, and return before the
    GPUs have done them; CUDA graphs can capture them. If a rank is lost, the others wait for ever.

    Attributes
    ----------
    rank, size : int, the rank, from 0, and how many there are
    device : int, the rank's GPU; None where arrays are NumPy's
    backend : what sends: a `cupyx.distributed.NCCLBackend`; None for a single rank

    Examples
    --------
    >>> import numpy as np
    >>> from cupy_w4a16.parallel import Communicator
    >>> alone = Communicator(rank=0, size=1, device=None, backend=None)
    >>> alone.all_sum(np.ones(3, np.float32)).tolist()
    [1.0, 1.0, 1.0]
    """

    rank: int
    size: int
    device: int | None
    backend: Any

    def all_sum(self, x: Any) -> Any:
        """`x`, a C-contiguous float32 array, with the sum over the ranks in its place."""
        if self.size > 1 and x.size:
            self.backend.all_reduce(x, x)
        return x

    def all_gather(self, x: Any) -> Any:
        """A new array `(size, *x.shape)` of all ranks' C-contiguous `x`, of one shape and dtype each."""
        if self.size == 1:
            return x[None]
        gathered = cupy.empty((self.size, *x.shape), x.dtype)
        if x.size:
            # As bytes: CuPy has no NCCL type for bfloat16.
            self.backend.all_gather(x.view(np.int8), gathered.view(np.int8), x.nbytes)
        return gathered

    def barrier(self) -> None:
        """Until every rank has called this, and the work before it on their current streams is done."""
        if self.device is None:  # a single rank, whose NumPy has done its work
            return
        self.all_sum(cupy.zeros(1, np.float32))
        cupy.cuda.get_current_stream().synchronize()


def connect(rank: int | None = None, size: int | None = None, device: int | None = None) -> Communicator:
    """This rank's link to the others; all ranks call it, each makes its GPU the current one.

    A rank is a process of its own, started by a launcher (or by hand) that sets `RANK` and `WORLD_SIZE`: in a
    process that ranks shared, memory allocated for one could wait for another's NCCL kernel, which waits for
    the first. Rank 0 listens where `CUPYX_DISTRIBUTED_HOST` and `CUPYX_DISTRIBUTED_PORT` say (127.0.0.1,
    13333) until all are there: give each group a port of its own.
    A single rank needs no NCCL. CuPy 13 can't connect ranks with a new NCCL (its issue 9430), CuPy 14 can.

    Parameters
    ----------
    rank : int from 0; None: that of the environment variable RANK
    size : int, how many ranks there are; None: that of WORLD_SIZE
    device : int, the GPU's number; None: that of LOCAL_RANK, where RANK is read too, else the
        rank, both modulo the number of GPUs

    Returns
    -------
    Communicator

    Raises
    ------
    TypeError, ValueError
        `rank` or `size` is not known, they do not fit together, or there is no such `device`.
    W4A16Error
        There is no GPU, NCCL is not installed, or it could not connect the ranks; the message says why.

    Examples
    --------
    >>> comm = connect()  # doctest: +SKIP
    >>> linear = RowParallel(weight, comm)  # doctest: +SKIP
    """
    reads_local = rank is None  # else LOCAL_RANK may be that of another numbering
    rank, size = check_rank(_given("rank", rank, "RANK"), _given("size", size, "WORLD_SIZE"))
    distributed = _distributed() if size > 1 else None
    device = _gpu_of(rank, device, reads_local)
    cupy.cuda.Device(device).use()
    if distributed is None:
        return Communicator(rank, size, device, None)
    try:
        backend = distributed.init_process_group(size, rank)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        backend.stop()  # rank 0's listening process: NCCL has its own connections now
        return Communicator(rank, size, device, backend)
    # Raised out here, where CuPy's half-made backend is gone, and with it the process that would outlive us.
    raise W4A16Error(
        f"rank {rank} of {size}, on GPU {device}, could not connect to the others ({reason}): start all, "
        "each on a GPU of its own, with the same CUPYX_DISTRIBUTED_HOST and a free CUPYX_DISTRIBUTED_PORT; "
        "NCCL_DEBUG=INFO shows more"
    )


def _gpu_of(rank: int, device: int | None, reads_local: bool) -> int:
    """The number of the rank's GPU: the one given, else by LOCAL_RANK or rank."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise W4A16Error(
            f"rank {rank} finds no GPU ({error}), and each rank needs one; on NumPy there is a single rank: "
            "Communicator(rank=0, size=1, device=None, backend=None)"
        ) from error
    if device is None:
        has_local = reads_local and os.environ.get("LOCAL_RANK")
        return (_given("device", None, "LOCAL_RANK") if has_local else rank) % count
    return checked_device(device, count)


def _given(name: str, value: Any, variable: str) -> Any:
    """An argument, or where it is None the number in an environment variable."""
    if value is not None:
        return value
    text = os.environ.get(variable, "")
    if not text.isdecimal():
        found = f"is {text!r}" if text else "is not set"
        raise ValueError(
            f"{name} is not given and {variable} {found}: pass {name}=, or start the ranks with a launcher "
            "that sets RANK and WORLD_SIZE"
        )
    return int(text)


def _distributed() -> Any:
    """`cupyx.distributed`, NCCL loaded; W4A16Error where there is none."""
    from cuda import pathfinder

    with contextlib.suppress(Exception):  # CuPy looks for itself then, and what it says is shown below
        pathfinder.load_nvidia_dynamic_lib("nccl")  # finds it in places where CuPy does not look
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        from cupy.cuda import nccl
        from cupyx import distributed
    if not nccl.available:
        reason = " ".join(str(said[0].message).split()) if said else "CuPy found no libnccl.so.2"
        raise W4A16Error(
            "several ranks need NCCL: pip install nvidia-nccl-cu12 (for CUDA 13: nvidia-nccl-cu13), then "
            f"start Python anew ({reason})"
        )
    return distributed
