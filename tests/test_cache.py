"""The compile cache: when a key changes, and what happens to entries in races, crashes and broken folders."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from cupy_w4a16 import _cache, _compiler, _key, _toolchain
from cupy_w4a16._errors import CompileError


@dataclasses.dataclass(frozen=True)
class Unit:
    name: str = "copy"
    source: str = 'extern "C" __global__ void copy(float *out) { out[threadIdx.x] = 1.0f; }'


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and headers of this test's own; returns the folder that holds them."""
    for name in ("kernels_src", "cutlass", "cuda"):
        (tmp_path / name).mkdir()
    (tmp_path / "kernels_src/gemm.cuh").write_text("// ours\n")
    (tmp_path / "cutlass/arch").mkdir()
    (tmp_path / "cutlass/arch/barrier.h").write_text("// CUTLASS's\n")
    for name in ("cuda_fp16.h", "cuda_fp16.hpp", "cuda_bf16.h", "cuda_bf16.hpp"):
        (tmp_path / "cuda" / name).write_text(f"// {name}\n")
    monkeypatch.setattr("cupy_w4a16._paths.kernels_src", lambda: tmp_path / "kernels_src")
    monkeypatch.setattr("cupy_w4a16._paths.cutlass_include", lambda: tmp_path / "cutlass")
    set_toolchain(monkeypatch, cudart_include=tmp_path / "cuda")
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_cache, "_private_folders", [])
    return tmp_path


def set_toolchain(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    tools = dataclasses.replace(_key.toolchain(), **changes)
    for module in (_key, _cache):
        monkeypatch.setattr(module, "toolchain", lambda: tools)
    _key.header_digests.cache_clear()


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compiling costs nothing here; the names of what was compiled."""
    names: list[str] = []

    def compile_source(source: str, name: str) -> _compiler.Compiled:
        names.append(name)
        return _compiler.Compiled(f"cubin of {source}".encode(), "Compiling entry function", ("-an-option",))

    monkeypatch.setattr(_compiler, "compile_source", compile_source)
    return names


@pytest.fixture(autouse=True)
def fresh_digests() -> object:
    yield
    _key.header_digests.cache_clear()


# --- one test for each thing that must change the key ---


def key_now(unit: Unit = Unit()) -> str:
    _key.header_digests.cache_clear()
    return _key.unit_key(unit)


def test_same_content_gives_the_same_key() -> None:
    assert key_now() == key_now()


def test_schema_changes_key() -> None:
    one, two = (_key.key("source", ("-o",), (12, 9), {}, schema=schema) for schema in (1, 2))
    assert one != two


def test_source_changes_key() -> None:
    assert key_now() != key_now(Unit(source=Unit().source + "\n"))


def test_options_change_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_now()
    monkeypatch.setattr(_key, "BASE_OPTIONS", (*_compiler.BASE_OPTIONS, "-lineinfo"))
    assert key_now() != before


def test_key_tells_where_one_part_ends_and_the_next_begins() -> None:
    assert _key.key("ab", ("c",), (12, 9), {}) != _key.key("a", ("bc",), (12, 9), {})
    assert _key.key("a", ("b", "c"), (12, 9), {}) != _key.key("a", ("bc",), (12, 9), {})


@pytest.mark.parametrize(
    "change",
    [{"nvrtc_version": (12, 99)}, {"cudart_version": (12, 99)}, {"cccl_version": (2, 99, 0)}],
    ids=lambda change: next(iter(change)),
)
def test_toolchain_version_changes_key(change: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_now()
    set_toolchain(monkeypatch, **change)
    assert key_now() != before


HEADERS = [
    "kernels_src/gemm.cuh",
    "cutlass/arch/barrier.h",
    "cuda/cuda_fp16.h",
    "cuda/cuda_fp16.hpp",
    "cuda/cuda_bf16.h",
    "cuda/cuda_bf16.hpp",
]


@pytest.mark.parametrize("header", HEADERS)
def test_edited_header_changes_key(header: str, folders: Path) -> None:
    before = key_now()
    stamp = (folders / header).stat()
    text = (folders / header).read_text()
    (folders / header).write_text(text.swapcase())  # as long as before, and as old
    os.utime(folders / header, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert key_now() != before
    (folders / header).write_text(text)
    assert key_now() == before


def test_new_and_renamed_headers_change_key(folders: Path) -> None:
    before = key_now()
    (folders / "kernels_src/new.cuh").touch()
    added = key_now()
    (folders / "kernels_src/new.cuh").rename(folders / "kernels_src/renamed.cuh")
    assert len({before, added, key_now()}) == 3


def test_place_of_headers_does_not_change_key(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_now()
    (folders / "kernels_src").rename(folders / "elsewhere")
    monkeypatch.setattr("cupy_w4a16._paths.kernels_src", lambda: folders / "elsewhere")
    assert key_now() == before


# --- entries ---


def test_stored_unit_is_not_compiled_again(compiles: list[str]) -> None:
    first = _cache.load_or_compile(Unit())
    assert _cache.load_or_compile(Unit()) == first == _cache.find(Unit())
    assert compiles == ["copy"]
    assert first.read_bytes() == f"cubin of {Unit().source}".encode()
    assert _key.unit_key(Unit()) in first.name  # CuPy remembers modules by path


def test_entry_keeps_cubin_source_options_and_log(compiles: list[str]) -> None:
    folder = _cache.load_or_compile(Unit()).parent
    assert (folder / "source.cu").read_text() == Unit().source
    assert (folder / "compile.log").read_text() == "Compiling entry function"
    assert "-an-option" in (folder / "entry.json").read_text()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]  # no temporary file is left


def test_real_compile_is_listed_with_its_registers() -> None:
    cubin = _cache.load_or_compile(Unit())
    (entry,) = _cache.entries()
    assert (entry.name, entry.path, entry.size_bytes) == ("copy", cubin, cubin.stat().st_size)
    assert entry.resources[0].kernel == "copy"
    assert entry.nvrtc_version == ".".join(map(str, _toolchain.toolchain().nvrtc_version))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda cubin: os.truncate(cubin, cubin.stat().st_size - 1),
    "emptied": lambda cubin: os.truncate(cubin, 0),
    "flipped": lambda cubin: cubin.write_bytes(bytes([cubin.read_bytes()[0] ^ 1]) + cubin.read_bytes()[1:]),
    "removed": lambda cubin: cubin.unlink(),
    "no-record": lambda cubin: (cubin.parent / "entry.json").unlink(),
    "record-cut": lambda cubin: os.truncate(cubin.parent / "entry.json", 20),
    "record-of-another-kind": lambda cubin: (cubin.parent / "entry.json").write_text("[1, 2]"),
    "record-not-text": lambda cubin: (cubin.parent / "entry.json").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_compiled_again(damage: str, compiles: list[str]) -> None:
    cubin = _cache.load_or_compile(Unit())
    whole = cubin.read_bytes()
    DAMAGE[damage](cubin)
    assert _cache.find(Unit()) is None
    assert _cache.entries() == []
    assert _cache.load_or_compile(Unit()).read_bytes() == whole
    assert compiles == ["copy", "copy"]


def test_source_that_does_not_compile_is_kept_and_not_cached() -> None:
    broken = Unit(source="#error deliberate\n")
    with pytest.raises(CompileError, match="deliberate") as caught:
        _cache.load_or_compile(broken)
    assert caught.value.source_path is not None
    assert Path(caught.value.source_path).read_text() == broken.source
    assert caught.value.source_path in str(caught.value)
    assert "deliberate" in caught.value.log
    assert _cache.find(broken) is None


def test_clear_cache_removes_our_entries_and_nothing_else(compiles: list[str], folders: Path) -> None:
    cubins = [_cache.load_or_compile(Unit(name)) for name in ("one", "two")]
    others = [folders / "cache" / name for name in ("notes.txt", "other-folder/file", "locks/file")]
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.touch()
    assert _cache.clear_cache() == 2
    assert not any(cubin.exists() for cubin in cubins)
    assert all(other.exists() for other in others)
    assert _cache.clear_cache() == 0


def test_clear_cache_of_a_folder_that_is_not_there() -> None:
    assert _cache.clear_cache() == 0


def test_cache_is_bounded_and_loses_its_oldest(compiles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "MAX_ENTRIES", 2)
    for age, name in enumerate(("new", "old", "older", "oldest")):
        cubin = _cache.load_or_compile(Unit(name))
        os.utime(cubin.parent, (1e9 - age, 1e9 - age))
    _cache.load_or_compile(Unit("newest"))
    assert [entry.name for entry in _cache.entries()] == ["new", "newest"]


# --- races ---

COUNTING = """
import os, sys
import filelock
from cupy_w4a16 import _cache, _compiler, _worker
real = _compiler.compile_source
def counting(source, name):
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    return real(source, name)
_compiler.compile_source = counting
print("ready", flush=True)
input()
print(_cache.load_or_compile(_worker.PlainUnit(*sys.argv[2:])))
"""


def environment() -> dict[str, str]:
    places = [str(Path(_cache.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places), "CUPY_W4A16_COMPILE": "lazy"}


def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COUNTING, str(tmp_path / "compiles"), Unit().name, Unit().source]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True)
        for _ in range(4)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:  # all have imported everything: now they race
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    paths = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0] * 4
    assert len(paths) == 1
    assert len((tmp_path / "compiles").read_text().splitlines()) == 1


def test_threads_that_start_together_compile_once(compiles: list[str]) -> None:
    barrier = threading.Barrier(8)
    paths = []

    def load() -> None:
        barrier.wait()
        paths.append(_cache.load_or_compile(Unit()))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8
    assert len(set(paths)) == 1
    assert compiles == ["copy"]


HOLD = """
import sys, filelock
filelock.FileLock(sys.argv[1]).acquire()
print("held", flush=True)
input()
"""


def lock_path() -> Path:
    path = _cache.writable_folder() / _cache._LOCKS / f"copy-{_key.unit_key(Unit())}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_lock_of_a_dead_process_blocks_nobody(compiles: list[str], caplog: pytest.LogCaptureFixture) -> None:
    command = [sys.executable, "-c", HOLD, str(lock_path())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.send_signal(signal.SIGKILL)
    assert _cache.load_or_compile(Unit()).exists()
    assert caplog.text == ""  # it was taken, not waited for in vain


def test_lock_that_is_never_released_is_waited_for_in_bounds(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_cache, "LOCK_TIMEOUT_S", 0.05)
    with filelock.FileLock(lock_path()):
        assert _cache.load_or_compile(Unit()).exists()
    assert "has been locked" in caplog.text
    assert compiles == ["copy"]


def test_file_system_without_locks_compiles_all_the_same(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> None:
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    assert _cache.load_or_compile(Unit()).exists()


# --- folders that can't be written ---


@pytest.fixture
def unwritable(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder below a file: not even root can make it."""
    (folders / "file").touch()
    monkeypatch.setenv("CUPY_W4A16_CACHE_DIR", str(folders / "file/cache"))
    return folders / "file/cache"


def test_unwritable_folder_warns_once_and_carries_on(
    unwritable: Path, compiles: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(RuntimeWarning, match="CUPY_W4A16_CACHE_DIR") as warned:
        paths = [_cache.load_or_compile(Unit(name)) for name in ("one", "two", "one")]
    assert len(warned) == 1
    assert str(unwritable) in str(warned[0].message)
    assert len(caplog.records) == 1
    assert compiles == ["one", "two"]  # the private folder is a cache too
    assert all(path.exists() for path in paths)


@pytest.mark.usefixtures("unwritable", "compiles")
@pytest.mark.filterwarnings("ignore:the kernel cache")
def test_private_folder_outlives_a_forked_child_and_not_us() -> None:
    cubin = _cache.load_or_compile(Unit())
    (folder,) = _cache._private_folders
    _cache._remove_private(folder, os.getpid() + 1)
    assert cubin.exists()
    _cache._remove_private(folder, os.getpid())
    assert not cubin.exists()


def test_full_disk_falls_back_to_the_private_folder(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch, folders: Path
) -> None:
    write = _cache._write

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".cubin" and path.is_relative_to(folders / "cache"):
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(_cache, "_write", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        cubin = _cache.load_or_compile(Unit())
    assert cubin.exists()
    assert _cache.load_or_compile(Unit()) == cubin
    assert compiles == ["copy"]


def test_filled_cache_is_used_where_it_can_only_be_read(
    compiles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cubin = _cache.load_or_compile(Unit())

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkstemp", "TemporaryFile", "mkdtemp"):
        monkeypatch.setattr(f"tempfile.{name}", read_only)
    monkeypatch.setattr(Path, "mkdir", read_only)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _cache.load_or_compile(Unit()) == cubin


def test_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")

    def fails(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="Input/output"):
        _cache._write(folder / "file", b"new")
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_bytes() == b"old"
