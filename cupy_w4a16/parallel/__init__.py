"""More than one GPU: linear layers cut over ranks, and batches cut over Dask's workers.

A *rank* is a process with one GPU. Each calls `connect()`, cuts its part out of the same packed weights, and
calls its layers in the same order as the others::

    comm = connect()  # RANK and WORLD_SIZE say which of how many; NCCL is what the GPUs speak
    weights = load("model.safetensors")
    qkv = ColumnParallel(weights["qkv"], comm, fused=(8192, 1024, 1024))
    o = RowParallel(weights["o"], comm)
    c = o(attention(qkv(a)))  # the same c on every rank

`python -m cupy_w4a16.bench.parallel` times a decoder block so.
"""

from __future__ import annotations

from .blocks import map_rows
from .layers import ColumnParallel, RowParallel
from .ranks import Communicator, connect
from .shards import column_shard, row_shard

__all__ = [
    "ColumnParallel",
    "Communicator",
    "RowParallel",
    "column_shard",
    "connect",
    "map_rows",
    "row_shard",
]
