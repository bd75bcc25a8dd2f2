"""`convert` and `inspect` of checkpoints: the same bits once packed, and no half file, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import pytest
from helpers import checkpoints as made
from helpers.checkpoints import layer, named, write_folder

from cupy_w4a16 import (
    Linear,
    PermutedWeight,
    _convert,
    _inspect,
    dequantize,
    load,
    load_checkpoint,
    quantize,
    save,
    storage,
)
from cupy_w4a16.__main__ import main
from cupy_w4a16.formats import _safetensors

UP = layer(96, 72, seed=1, act_order=True, bias=True)
PLAIN = {"norm": np.ones(8, np.float16), "ids": np.arange(5, dtype=np.int64)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = {"up": {**made.gptq(UP), "bias": UP.bias}, "down": made.gptq(layer(64, 16))}
    return write_folder(tmp_path / "model", named(parts, PLAIN), made.GPTQ | {"desc_act": True})


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "packed.safetensors"


def same(x: Any, y: Any) -> bool:
    if isinstance(x, Linear):
        mine, theirs = x._given(), y._given()
        return mine.keys() == theirs.keys() and all(same(mine[key], theirs[key]) for key in mine)
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    return bool(x == y)


def test_converted_checkpoint_loads_as_the_same_bits(
    folder: Path, dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(folder), str(dest)]) == 0
    assert capsys.readouterr().out.startswith(f"{dest}: 4 layers and arrays, {dest.stat().st_size:,} bytes")
    wanted = dict(load_checkpoint(folder))
    for found in (dict(load(dest)), dict(load_checkpoint(dest))):
        assert found.keys() == wanted.keys() == {"up", "down", "norm", "ids"}
        assert all(same(found[name], value) for name, value in wanted.items())
    assert wanted["up"].perm is not None
    a = np.random.default_rng(0).standard_normal((3, 96)).astype(np.float16)
    expected = a.astype(np.float64) @ UP.weights + UP.bias
    # Weights and the result are rounded to float16 once, see assert_gemm_close; magnitudes stay below 8.
    bound = 2.0**-11 * (np.abs(a).astype(np.float64) @ np.abs(UP.weights) + 8)
    assert (abs(load(dest)["up"](a) - expected) <= bound).all()


@pytest.mark.parametrize("group_size", [-1, 64, 256])
def test_bare_weight_gets_no_k_that_nobody_gave(group_size: int, tmp_path: Path, dest: Path) -> None:
    # 100 rows: neither blocks of 128 nor groups of 64 or 256 are whole.
    w = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float16)
    weight = quantize(w, group_size)
    values = {"up": weight, "permuted": PermutedWeight(weight, np.arange(100)[::-1].copy())}
    source = tmp_path / "saved.safetensors"
    save(source, values)
    assert main(["convert", str(source), str(dest)]) == 0
    assert dest.read_bytes() == source.read_bytes()
    found = dict(load_checkpoint(dest))
    np.testing.assert_array_equal(dequantize(*found["up"], k=100), dequantize(*weight, k=100))
    permuted, perm = found["permuted"]
    assert Linear(*permuted, perm=perm).in_features == 100


def test_gguf_file_is_converted(tmp_path: Path, dest: Path) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    source = tmp_path / "model.gguf"
    data = made.q4_bytes(layer(64, 40, symmetric=True))
    source.write_bytes(made.gguf_bytes({"blk.0.ffn_up.weight": ("Q4_0", (64, 40), data)}))
    assert main(["convert", str(source), str(dest)]) == 0
    assert same(load(dest)["blk.0.ffn_up"], dict(load_checkpoint(source))["blk.0.ffn_up"])


def test_only_the_named_are_converted(folder: Path, dest: Path) -> None:
    assert main(["convert", str(folder), str(dest), "--names", "do*", "norm"]) == 0
    assert sorted(load(dest)) == ["down", "norm"]


def test_existing_file_is_kept_without_force(
    folder: Path, dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest.write_text("precious")
    assert main(["convert", str(folder), str(dest)]) == 2
    assert capsys.readouterr().err == f"error: {dest} exists: pass --force to replace it\n"
    assert dest.read_text() == "precious"
    assert main(["convert", str(folder), str(dest), "--force"]) == 0
    assert len(load(dest)) == 4


@pytest.mark.parametrize("links", [os.symlink, os.link, None])
def test_model_of_several_files_does_not_lose_one_of_them(
    links: Any, folder: Path, dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    before = shard.read_bytes()
    if links is None:
        dest = shard
    else:
        links(shard, dest)
    files = sorted(folder.parent.rglob("*"))
    for source in (folder, folder / "model.safetensors.index.json"):
        said = f"{dest} is one of the 2 files of {source}, which are no model without it: write"
        assert main(["convert", str(source), str(dest), "--force"]) == 2
        assert said in capsys.readouterr().err
        for names in (None, "down"):
            with pytest.raises(ValueError) as raised:
                save(dest, load_checkpoint(source, names=names))
            assert said in str(raised.value)
    assert shard.read_bytes() == before
    assert sorted(folder.parent.rglob("*")) == files


@pytest.mark.parametrize("as_folder", [True, False])
def test_single_file_may_be_replaced_by_what_it_packs_to(as_folder: bool, tmp_path: Path, dest: Path) -> None:
    folder = write_folder(tmp_path / "model", named({"up": made.gptq(UP)}, PLAIN), made.GPTQ, shards=1)
    file = folder / "model.safetensors"
    source = folder if as_folder else file
    assert main(["convert", str(source), str(dest)]) == 0
    assert main(["convert", str(source), str(file), "--force"]) == 0
    assert file.read_bytes() == dest.read_bytes()
    assert len(dict(load_checkpoint(source))) == 3


def test_single_file_is_not_replaced_by_a_part_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "model", named({"up": made.gptq(UP)}, PLAIN), made.GPTQ, shards=1)
    file = folder / "model.safetensors"
    before = file.read_bytes()
    said = f"{file} is the file that is read, and 2 of its layers and arrays (ids, norm) are left out"
    assert main(["convert", str(folder), str(file), "--force", "--names", "u*"]) == 2
    assert said in capsys.readouterr().err
    part, shortened = load_checkpoint(file, names="up"), load_checkpoint(file)
    shortened.names[:] = ["up"]
    for checkpoint in (part, shortened):
        with pytest.raises(ValueError) as raised:
            save(file, checkpoint)
        assert said in str(raised.value)
    assert file.read_bytes() == before
    save(file, load_checkpoint(file, names="*"))  # nothing is lost
    assert sorted(load(file)) == ["ids", "norm", "up"]


def test_link_to_an_existing_file_needs_force(
    folder: Path, dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = dest.with_name("precious")
    precious.write_text("precious")
    dest.symlink_to(precious)
    assert main(["convert", str(folder), str(dest)]) == 2
    assert capsys.readouterr().err == f"error: {dest} exists: pass --force to replace it\n"
    assert precious.read_text() == "precious"
    assert main(["convert", str(folder), str(dest), "--force"]) == 0
    assert dest.is_symlink()
    assert len(load(precious)) == 4


def test_pipe_is_not_replaced_by_force(folder: Path, dest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(dest)
    assert main(["convert", str(folder), str(dest), "--force"]) == 2
    assert "it is no regular file" in capsys.readouterr().err
    assert dest.is_fifo()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("packed.bin", "end it in .safetensors"),
        ("none/packed.safetensors", "can't be written: make the folder"),
        ("folder.safetensors", "can't be written: it is a folder"),
    ],
)
def test_place_that_cannot_be_written_is_said_before_any_work(
    place: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", str(folder), str(tmp_path / place)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_layer_that_fails_late_leaves_the_old_file_and_no_other(folder: Path, dest: Path) -> None:
    assert main(["convert", str(folder), str(dest)]) == 0
    before = dest.read_bytes()
    parts = {"a": made.gptq(layer(64, 16)), "b": {**made.gptq(layer(64, 16)), "bias": np.ones(3, np.float16)}}
    write_folder(folder, named(parts, {}), made.GPTQ)
    files = sorted(dest.parent.iterdir())
    assert main(["convert", str(folder), str(dest), "--force"]) == 2
    assert dest.read_bytes() == before
    assert sorted(dest.parent.iterdir()) == files


def test_interrupt_leaves_no_file(folder: Path, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Any, metadata: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.SafetensorsWriter, "finish", interrupt)
    assert main(["convert", str(folder), str(dest)]) == 130
    assert list(dest.parent.iterdir()) == [folder]


STOPPED_AMID = """
import runpy, time
from cupy_w4a16.formats._safetensors_writer import SafetensorsWriter

def finish(self, metadata):
    print("all but the header is written", flush=True)
    time.sleep(100)

SafetensorsWriter.finish = finish
runpy.run_module("cupy_w4a16", run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_end_by_a_signal_leaves_no_file(number: signal.Signals, folder: Path, dest: Path) -> None:
    command = [sys.executable, "-c", STOPPED_AMID, "convert", str(folder), str(dest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "all but the header is written\n"
            assert len(list(dest.parent.iterdir())) == 2  # the model, and a file that is not whole
            process.send_signal(number)
            assert process.wait(60) == 128 + number
        finally:
            process.kill()
        assert process.communicate() == ("", "")
    assert list(dest.parent.iterdir()) == [folder]


def test_hang_up_stays_ignored_where_it_was(folder: Path, dest: Path) -> None:
    command = [sys.executable, "-c", STOPPED_AMID, "convert", str(folder), str(dest)]
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command]  # as nohup does
    with subprocess.Popen(ignoring, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "all but the header is written\n"
            process.send_signal(signal.SIGHUP)
            process.terminate()
            assert process.wait(60) == 143
        finally:
            process.kill()


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TypeError("said"), 2),
        (ImportError("said"), 2),
        (cupy.cuda.runtime.CUDARuntimeError(2), 2),
        (MemoryError("said"), 1),
        (cupy.cuda.memory.OutOfMemoryError(5, 3), 1),
    ],
)
def test_what_stops_convert_is_said_in_a_line(
    error: Exception,
    status: int,
    folder: Path,
    dest: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(_convert, "load_checkpoint", fail)
    assert main(["convert", str(folder), str(dest)]) == status
    start, said, line_end = capsys.readouterr().err.partition(str(error))
    assert start == ("error: " if status == 2 else f"error: out of memory while {folder} was converted: ")
    assert (said, line_end) == (str(error), "\n")


def test_tensor_larger_than_memory_is_named(
    folder: Path, dest: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Any, name: str) -> Any:
        raise cupy.cuda.memory.OutOfMemoryError(5, 3)

    monkeypatch.setattr(_safetensors.Safetensors, "read", fail)
    assert main(["convert", str(folder), str(dest)]) == 1
    said = f"error: out of memory while {folder} was converted: {folder}: no memory for 'up': Out of memory"
    assert capsys.readouterr().err.startswith(said)
    assert list(dest.parent.iterdir()) == [folder]


def test_inspect_says_what_does_not_fit_into_memory(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(_inspect, "Safetensors", fail)
    assert main(["inspect", str(folder)]) == 1
    assert capsys.readouterr().err == f"error: out of memory while {folder} was read: \n"


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_name_in_an_error_does_not_command_the_terminal(
    command: str, folder: Path, dest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"norm": "\x1b[2J.safetensors"}}))
    assert main([command, str(folder), *([str(dest)] if command == "convert" else [])]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert r"\x1b[2J.safetensors; download them again" in said


def test_bias_beside_a_tensor_that_is_no_weight_by_name_stays_an_array(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "model.gguf"
    data = made.q4_bytes(layer(64, 40, symmetric=True))
    bias = np.ones(40, np.float32).tobytes()
    path.write_bytes(made.gguf_bytes({"up": ("Q4_0", (64, 40), data), "up.bias": ("F32", (40,), bias)}))
    found = dict(load_checkpoint(path))
    assert found["up"].bias is None
    assert found["up.bias"].tobytes() == bias


def test_part_of_a_split_gguf_file_is_known_by_its_header(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "renamed.gguf"
    whole = made.gguf_bytes({})
    for count in (0, 1, 3):
        pair = len(b"split.count").to_bytes(8, "little") + b"split.count" + b"\2\0\0\0" + bytes([count, 0])
        path.write_bytes(whole[:16] + bytes([2]) + whole[17:].rstrip(b"\0") + pair + bytes(64))
        if count < 2:  # which llama-gguf-split --merge leaves
            assert load_checkpoint(path).names == []
    with pytest.raises(
        ValueError, match=rf"{path} is one of 3 parts of a GGUF model, by its split\.count: join"
    ):
        load_checkpoint(path)
    assert main(["inspect", str(path)]) == 0
    assert "load_checkpoint refuses it: " in capsys.readouterr().out


def test_one_layer_is_in_memory_at_a_time(tmp_path: Path, dest: Path) -> None:
    """The peak of twelve layers is that of one: it does not grow with their number."""
    one = made.gptq(layer(1024, 512, 128))
    peaks = []
    for count in (1, 12):
        path = tmp_path / f"{count}.safetensors"
        path.write_bytes(made.safetensors_bytes(named({f"l{i}": one for i in range(count)}, {})))
        tracemalloc.start()
        save(dest, load_checkpoint(path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    packed_bytes = 1024 * 512 // 2
    assert peaks[1] < peaks[0] + 2 * packed_bytes  # eleven more of these, if they were kept


# ------------------------------------------------------------------------------------ inspect


def test_inspect_shows_a_folder_and_how_it_is_quantized(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:-2]}
    assert set(rows) >= {"up.qweight", "up.bias", "down.scales", "norm", "ids"}
    assert "(12, 72)  I32" in rows["up.qweight"]
    assert lines[-2].startswith("11 tensors in 2 files, not of cupy_w4a16, ")
    assert lines[-1] == (
        "load_checkpoint: 4 layers and arrays; gptq, zero_offset 1, carry False, group_size 32, symmetric "
        "False, by config.json"
    )


def test_inspect_shows_what_load_checkpoint_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(folder, PLAIN, made.GPTQ | {"bits": 3}, 1)
    assert main(["inspect", str(folder / "model.safetensors")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("load_checkpoint refuses it: ")
    assert "bits is 3" in last


def test_inspect_shows_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf", reason="gguf comes with the extra [test]")
    path = tmp_path / "model.gguf"
    data = made.q4_bytes(layer(64, 40, symmetric=True))
    tensors = {"up.weight": ("Q4_0", (64, 40), data), "\x1b[2J": ("F32", (3,), bytes(12))}
    path.write_bytes(made.gguf_bytes(tensors))
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "up.weight  (64, 40)  Q4_0   1,440\n" in printed
    assert "2 tensors, 1,452 bytes\nload_checkpoint: 2 layers and arrays; GGUF\n" in printed


def test_inspect_of_a_damaged_checkpoint_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(folder.glob("*-00002-*")).unlink()
    assert main(["inspect", str(folder)]) == 2
    assert "of which 1 are missing" in capsys.readouterr().err


@pytest.mark.gpu
def test_gpu_converts_to_the_same_file(folder: Path, tmp_path: Path) -> None:
    files = []
    for device in ("numpy", "gpu"):
        path = tmp_path / f"{device}.safetensors"
        assert main(["convert", str(folder), str(path), "--device", device]) == 0
        files.append(path.read_bytes())
    assert files[0] == files[1]
