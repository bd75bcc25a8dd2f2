"""How ranks find a GPU and each other, and how they are started and timed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from helpers.fake_ranks import on_ranks

from cupy_w4a16 import Linear, W4A16Error
from cupy_w4a16.bench import BenchError
from cupy_w4a16.bench import parallel as bench
from cupy_w4a16.bench import ranks as starting
from cupy_w4a16.bench.ranks import run_ranks
from cupy_w4a16.parallel import Communicator, connect, ranks
from cupy_w4a16.testing import make_problem

# ------------------------------------------------------------------------------------ ranks


@pytest.mark.parametrize(
    ("message", "environment"),
    [
        ("rank is not given and RANK is not set: pass rank=, or start the ranks with a launcher", {}),
        ("RANK is 'one'", {"RANK": "one", "WORLD_SIZE": "2"}),
        ("WORLD_SIZE is not set", {"RANK": "0"}),
        ("rank is 2: of 2 ranks", {"RANK": "2", "WORLD_SIZE": "2"}),
    ],
)
def test_environment_that_names_no_rank(
    message: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        connect()


def test_missing_nccl_is_named_before_a_gpu_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy.cuda.nccl")
    monkeypatch.setattr("cupy.cuda.nccl.available", False)
    monkeypatch.setattr(ranks.cupy.cuda, "Device", None)
    with pytest.raises(W4A16Error, match="several ranks need NCCL: pip install nvidia-nccl-cu12"):
        connect(0, 2)


class Distributed:
    """Stands in for `cupyx.distributed`, without NCCL; `fault` is what connecting raises."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault, self.asked, self.listening = fault, (), True

    def init_process_group(self, size: int, rank: int) -> Any:
        self.asked = size, rank
        if self.fault:
            raise self.fault
        return self

    def stop(self) -> None:
        self.listening = False


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """A CUDA of four GPUs."""
    cuda = mock.Mock()
    cuda.runtime.getDeviceCount.return_value = 4
    monkeypatch.setattr(ranks, "cupy", mock.Mock(cuda=cuda))
    return cuda


@pytest.mark.parametrize(
    ("place", "environment", "rank", "device"),
    [
        ({}, {"RANK": "5", "WORLD_SIZE": "8"}, 5, 1),
        ({}, {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, 5, 2),
        ({"device": 3}, {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, 5, 3),
        # A rank that is given need not be the one that the environment speaks of.
        ({"rank": 1, "size": 8}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, 1, 1),
    ],
)
def test_each_rank_has_a_gpu(
    place: dict[str, int],
    environment: dict[str, str],
    rank: int,
    device: int,
    driver: mock.Mock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed = Distributed()
    monkeypatch.setattr(ranks, "_distributed", lambda: distributed)
    comm = connect(**place)
    assert (comm.rank, comm.size, comm.device, comm.backend) == (rank, 8, device, distributed)
    assert distributed.asked == (8, rank)
    driver.Device.assert_called_once_with(device)
    driver.Device.return_value.use.assert_called_once_with()
    assert not distributed.listening  # else its process would keep this one from ending


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        (4, ValueError, "device is 4: this machine's GPUs go from 0 to 3"),
        (-1, ValueError, "device is -1"),
        ("1", TypeError, "device is '1': it must be an integer"),
    ],
)
def test_gpu_that_is_not_there(device: Any, error: Any, message: str, driver: mock.Mock) -> None:
    with pytest.raises(error, match=message):
        connect(0, 1, device)
    driver.Device.assert_not_called()


def test_rank_without_a_gpu_is_told_what_numpy_takes(driver: mock.Mock) -> None:
    driver.runtime.CUDARuntimeError = ArithmeticError
    driver.runtime.getDeviceCount.side_effect = ArithmeticError("no CUDA-capable device")
    with pytest.raises(W4A16Error, match=r"rank 0 finds no GPU \(no CUDA-capable device\).*Communicator\("):
        connect(0, 1)


def test_failure_to_connect_says_why(driver: mock.Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_distributed", lambda: Distributed(RuntimeError("TCPStore is not available")))
    with pytest.raises(
        W4A16Error, match=r"rank 1 of 2, on GPU 1, could not .*TCPStore is not available"
    ) as found:
        connect(1, 2)
    assert found.value.__context__ is None  # it would keep CuPy's half-made backend, and its process, alive


def test_rank_on_numpy_waits_for_nobody_and_asks_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "cupy", None)
    Communicator(0, 1, None, backend=None).barrier()


def test_nothing_is_not_sent() -> None:
    assert Communicator(0, 2, None, backend=None).all_sum(np.empty((0, 8), np.float32)).shape == (0, 8)


def test_started_ranks_know_their_place() -> None:
    code = "import os; print(*(os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')))"
    assert run_ranks([sys.executable, "-c", code], 2, 30) == "0 2 0\n"


class Held:
    """A pipe that ranks hold open: what they have written, and whether one still lives."""

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe)
        self.heard = b""
        self.reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def is_open(self) -> bool:
        """Read what is there; True while a rank that has opened the pipe lives."""
        try:
            while read := os.read(self.reading, 100):
                self.heard += read
        except BlockingIOError:
            return True
        return False

    def monotonic(self) -> float:
        """Stands in for a clock: any limit is over once both ranks are there."""
        self.is_open()
        return float("inf") if self.heard.count(b"here") == 2 else 0.0


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    held = Held(tmp_path / "pipe")
    yield held
    os.close(held.reading)


HOLD = "file = open('pipe', 'w'); print('here', file=file, flush=True)"
FAIL_WHEN_THE_OTHER_IS_THERE = f"""
if os.environ['RANK'] == '0':
    {HOLD}
    open('go', 'w')
    time.sleep(100)
open('go')
print('lost')
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("rank 1 of 2 ended with status 3(.|\n)*lost", FAIL_WHEN_THE_OTHER_IS_THERE),
        ("out of time, with rank 0, 1 of 2 still running", f"{HOLD}\ntime.sleep(100)"),
    ],
    ids=["failed", "out of time"],
)
def test_no_rank_outlives_a_fault(
    message: str, code: str, held: Held, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(starting, "time", SimpleNamespace(monotonic=held.monotonic, sleep=time.sleep))
    monkeypatch.chdir(tmp_path)
    os.mkfifo("go")
    with pytest.raises(BenchError, match=message):
        run_ranks([sys.executable, "-c", f"import os, sys, time\n{code}"], 2, 60)
    assert not held.is_open()
    assert b"here" in held.heard


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("BenchError('off by 1')", "error: off by 1\n"),
        ("ValueError('unheard of')", "ValueError: unheard of\n"),
    ],
)
def test_rank_that_fails_does_not_wait_for_the_others(raised: str, said: str) -> None:
    # An exit that waits, as that of a process in NCCL does, would run into the limit.
    program = (
        "import atexit, time; from cupy_w4a16.bench import BenchError, ranks\n"
        "atexit.register(time.sleep, 100)\n"
        f"with ranks.ending_at_once(): raise {raised}"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.endswith(said)


def test_no_rank_outlives_who_started_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    rank = (
        f"import time; file = open({str(pipe)!r}, 'w'); print('here', file=file, flush=True); time.sleep(100)"
    )
    starter = (
        "import sys; from cupy_w4a16.bench.ranks import run_ranks\n"
        f"run_ranks([sys.executable, '-c', {rank!r}], 1, 100)"
    )
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with subprocess.Popen([sys.executable, "-c", starter]) as process:
            try:
                assert select.select([reading], [], [], 60)[0]
                assert os.read(reading, 100) == b"here\n"
            finally:
                process.kill()
        assert select.select([reading], [], [], 60)[0]
        assert os.read(reading, 100) == b""  # nobody has it open any more
    finally:
        os.close(reading)


# ------------------------------------------------------------------------------------ the benchmark


def layers_of_a_block() -> tuple[Any, list[Linear]]:
    """Activations of five tokens, and q, k and v in one, o, gate and up in one, down."""
    hidden, kv, inner = 768, 384, 1152
    shapes = ((hidden, hidden + 2 * kv), (hidden, hidden), (hidden, 2 * inner), (inner, hidden))
    problems = [make_problem(5, n, k, seed=i) for i, (k, n) in enumerate(shapes)]
    return problems[0].a, [Linear(*problem[1:]) for problem in problems]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_block_on_ranks_is_the_block_of_one(size: int) -> None:
    a, whole = layers_of_a_block()

    def work(comm: Any) -> Any:
        block = bench.Block(whole, comm, 128)
        return block(a, block.buffers(np, 5)).astype(np.float32)

    (expected,) = on_ranks(1, work)
    for c in on_ranks(size, work):
        error = np.sqrt(np.mean((c - expected) ** 2) / np.mean(expected**2))
        assert error <= bench.ERROR_EPS * np.finfo(np.float16).eps


def test_row_survives_its_way_to_the_table() -> None:
    one, other = bench.Load(75.0, 1980, 512.0), bench.Load(80.0, 1755, 688.5)
    measured = ((1, 180.0, [one], None), (2, 100.0, [one, other], 21.5))
    rows = [bench.Row("H100", gpus, 16, us, us + 9, loads, sums, 3e-4) for gpus, us, loads, sums in measured]
    printed = "NCCL version 2\n" + "\n".join(json.dumps(asdict(row)) for row in rows)
    assert bench.parse_rows(printed) == rows
    lines = [line.split() for line in bench.format_rows(rows).splitlines()]
    assert lines[1] == ["1", "16", "180.0", "189.0", "1.00", "75.0", "-", "3.0e-04"]
    assert lines[2] == ["2", "16", "100.0", "109.0", "1.80", "80.0", "21.5", "3.0e-04"]
    assert bench.format_loads(rows[1]) == [
        "GPU 0: layers of M=16 in 75.0 µs, SM 1980 MHz, 512 W",
        "GPU 1: layers of M=16 in 80.0 µs, SM 1755 MHz, 688 W",
    ]


def test_row_without_graphs_has_no_loads() -> None:
    row = bench.Row("H100", 2, 1, None, 99.0, [], None, 3e-4)
    assert bench.parse_rows(json.dumps(asdict(row))) == [row]
    assert bench.format_rows([row]).splitlines()[1].split() == [
        "2",
        "1",
        "-",
        "99.0",
        "-",
        "-",
        "-",
        "3.0e-04",
    ]


def test_muted_block_runs_the_ranks_own_layers_and_sends_nothing() -> None:
    comm = Communicator(0, 2, None, backend=None)  # which would fail if it were asked
    a, whole = layers_of_a_block()
    block = bench.Block(whole, comm, 128)
    muted = block.muted()
    c = muted(a, to := muted.buffers(np, 5))
    np.testing.assert_array_equal(to.o_total, block.o.linear(to.qkv[:, : block.o.linear.in_features]))
    np.testing.assert_array_equal(c, to.down_total.astype(c.dtype))
    assert muted.qkv is block.qkv
    assert muted.down.linear is block.down.linear
    with pytest.raises(AttributeError, match="all_reduce"):  # the block that was muted still sends
        block(a, to)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--gpus", "0,2", "--gpus is '0,2'"),
        ("--m", "one", "--m is 'one'"),
        ("--group-size", "100", "--group-size: group_size is 100"),
        ("--rounds", "0", "--rounds is 0: it must be above 0"),
    ],
)
def test_mistaken_arguments_are_named_before_a_rank_starts(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(bench, "run_ranks", mock.Mock(side_effect=AssertionError("a rank was started")))
    assert bench.main([option, value]) == 2
    assert message in capsys.readouterr().err
