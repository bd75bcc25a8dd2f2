"""`save` and `load`: the same weights come back, damaged or foreign files are named, no half file stays."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupy_w4a16 import (
    PACKED_LAYOUT_VERSION,
    Linear,
    PermutedWeight,
    QuantizedWeight,
    dequantize,
    load,
    pack,
    quantize,
    save,
    storage,
)
from cupy_w4a16.__main__ import main
from cupy_w4a16.formats import _safetensors
from cupy_w4a16.storage import Weights

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
K, N = 200, 70


def weight(group_size: int = 32, symmetric: bool = True, dtype: Any = np.float16) -> QuantizedWeight:
    w = np.random.default_rng(0).standard_normal((K, N)).astype(np.float32)
    return quantize(w, group_size, symmetric=symmetric, dtype=dtype)


def same(x: Any, y: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(x, tuple):
        return type(x) is type(y) and all(same(a, b) for a, b in zip(x, y, strict=True))
    if isinstance(x, Linear):
        given, found = x._given(), y._given()
        return given.keys() == found.keys() and all(same(given[key], found[key]) for key in given)
    return type(x) is type(y) and x == y


def linear(**options: Any) -> Linear:
    return Linear(*weight(), k=K, **options)


FLOAT_ZEROS = QuantizedWeight(*weight()[:2], np.full((7, N), 7.5, np.float32), 32)
WEIGHTS: dict[str, Callable[[], Any]] = {
    "symmetric": weight,
    "integer-zeros": lambda: weight(symmetric=False),
    "float-zeros": lambda: FLOAT_ZEROS,
    "one-group": lambda: weight(-1),
    "bfloat16": lambda: weight(64, dtype=BFLOAT16),
    "wide-groups-of-a-short-k": lambda: weight(256),
    "permuted": lambda: PermutedWeight(weight(), np.arange(K)[::-1].copy()),
    "linear": linear,
    "linear-options": lambda: linear(
        bias=np.ones(N, np.float16), alpha=0.1, activation="gelu_tanh", dtype="float32", pdl=False
    ),
    "linear-bfloat16": lambda: Linear(
        *weight(dtype=BFLOAT16), k=K, bias=np.ones(N, BFLOAT16), dtype=BFLOAT16
    ),
    "empty": lambda: QuantizedWeight(
        pack(np.zeros((32, 0), np.uint8)), np.zeros((1, 0), np.float16), None, 32
    ),
    "cut": lambda: linear().split_columns([64])[0],
    "cut-along-k": lambda: linear().split_rows([128])[1],
}
PLAIN = {
    "bool": np.array([True, False]), "bfloat16": np.arange(3).astype(BFLOAT16), "scalar": np.array(3.0),
    "int64": np.arange(4), "empty": np.zeros((0, 5), np.float32),
    "strided": np.arange(12).reshape(3, 4)[:, ::2],
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    save(path, {"up": weight(symmetric=False), "down": linear(), "norm": np.ones(N, np.float16)})
    return path


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weight_comes_back_bit_for_bit(kind: str, path: Path) -> None:
    value = WEIGHTS[kind]()
    save(path, {"w": value})
    assert same(load(path)["w"], value)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_array_comes_back_bit_for_bit(kind: str, path: Path) -> None:
    save(path, {"x": PLAIN[kind]})
    assert same(load(path)["x"], np.ascontiguousarray(PLAIN[kind]).reshape(PLAIN[kind].shape))


def test_names_may_hold_dots_and_lie_inside_each_other(path: Path) -> None:
    values = {
        "a": weight(), "a.b": weight(64), "a.b.c": np.ones(3), "a.zeros": np.ones(4),
        "a.b_packed.x": weight(-1), "a.scales.bias": np.ones(5), "é \n": np.zeros(2),
    }  # fmt: skip
    save(path, values)
    found = load(path)
    assert set(found) == set(values)
    assert len(found) == len(values)
    assert "a.scales" not in found
    assert all(same(found[name], value) for name, value in values.items())


def test_nothing_is_read_that_was_not_asked_for(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = _safetensors.Safetensors.read
    monkeypatch.setattr(
        _safetensors.Safetensors, "read", lambda self, name: read.append(name) or whole(self, name)
    )
    weights = load(saved)
    assert sorted(weights) == ["down", "norm", "up"]
    assert "up" in weights
    assert weights.options("up") == {"kind": "weight", "group_size": 32}
    assert weights.parts("up")["scales"].shape == (7, N)
    assert read == []
    _ = weights["up"]
    assert sorted(read) == ["up.b_packed", "up.scales", "up.zeros"]


def test_the_safetensors_package_reads_the_same(saved: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors comes with the extra [test]")
    theirs = numpy.load_file(saved)
    up = load(saved)["up"]
    assert same(theirs["up.b_packed"], up.b_packed)
    assert same(theirs["up.zeros"], up.zeros)
    assert theirs.keys() == {*(f"up.{key}" for key in ("b_packed", "scales", "zeros")), "norm"} | {
        f"down.{key}" for key in ("b_packed", "scales")
    }


def test_tensors_start_at_multiples_of_their_itemsize(path: Path) -> None:
    save(path, {"odd": np.zeros(3, np.uint8), "w": weight(), "x": np.zeros(1, np.float64)})
    file = _safetensors.Safetensors(path)
    for entry in file.entries.values():
        assert entry.begin % {"F64": 8, "I32": 4, "F16": 2, "U8": 1}[entry.dtype] == 0


def test_pairs_are_written_as_they_come(path: Path) -> None:
    alive: list[weakref.ref[Any]] = []

    def pairs() -> Iterator[tuple[str, Any]]:
        for i in range(4):
            array = np.full(1 << 10, i, np.float32)
            assert sum(each() is not None for each in alive) <= 1  # the one that save still holds
            alive.append(weakref.ref(array))
            yield f"x{i}", array

    save(path, pairs())
    assert [int(x[0]) for x in load(path).values()] == [0, 1, 2, 3]


def test_header_that_finds_no_room_gets_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"n" * 1000: weight(), "m" * 3000: np.arange(5)}
    save(path, values)
    with_room = header_of(path.read_bytes())
    monkeypatch.setattr(storage, "_HEADER_BYTES", 8)
    save(path, values)
    assert header_of(path.read_bytes()) == with_room
    assert list(path.parent.iterdir()) == [path]
    found = load(path)
    assert all(same(found[name], value) for name, value in values.items())


def test_full_disk_while_the_header_finds_room_leaves_no_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "_HEADER_BYTES", 8)
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"n" * 1000: weight()})
    assert list(path.parent.iterdir()) == []


def test_file_of_the_safetensors_package_is_shown_but_not_loaded(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors comes with the extra [test]")
    numpy.save_file({"x": np.arange(6, dtype=np.int16).reshape(2, 3)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"save\(\) did not write"):
        load(path)
    assert _safetensors.Safetensors(path).read("x").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "x     (2, 3)  I16       12\n" in printed
    assert "1 tensors, not of cupy_w4a16, 12 bytes" in printed


# Saving what can't be saved


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ({"up": weight(), "up.scales": np.ones(3)}, ValueError, "'up' and 'up.scales' both need"),
        ({"up.scales": np.ones(3), "up": weight()}, ValueError, "'up.scales' and 'up' both need"),
        ({3: np.ones(3)}, TypeError, "the name 3"),
        ([("up", np.ones(3)), ("up", weight())], ValueError, "two weights have the name 'up'"),
        ([("up", weight()), ("up.scales", np.ones(3))], ValueError, "'up' and 'up.scales' both need"),
        (["up"], TypeError, "weights yields a str: pass a mapping, or pairs"),
        ({"__metadata__": np.ones(3)}, ValueError, "__metadata__"),
        ({"\ud800": np.ones(3)}, ValueError, "rename it"),
        ({"up": "text"}, TypeError, "'up' is a str"),
        (weight(), TypeError, "weights is a cupy_w4a16.QuantizedWeight: pass a mapping"),
        (5, TypeError, "weights is a int: pass a mapping"),
        ({"up": np.ones(3, object)}, TypeError, "up is object"),
        ({"up": np.ones(3, np.complex64)}, TypeError, "up is complex64"),
        ({"up": weight()._replace(scales=np.ones((3, 3), np.float16))}, ValueError, "weight 'up': scales"),
        ({"up": weight()._replace(group_size=64)}, ValueError, "weight 'up': group_size is 64"),
    ],
)
def test_what_cannot_be_saved_leaves_no_file(
    weights: Any, error: type[Exception], said: str, path: Path
) -> None:
    with pytest.raises(error) as raised:
        save(path, weights)
    assert said in str(raised.value)
    assert list(path.parent.iterdir()) == []


def test_library_that_is_none_is_refused(saved: Path) -> None:
    with pytest.raises(TypeError, match=r"xp is 'cupy': pass the module numpy or cupy"):
        load(saved, xp="cupy")


def test_failed_write_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(saved, {"x": np.ones(3)})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("place", ["missing/model.safetensors", "file/model.safetensors", "folder"])
def test_place_that_cannot_be_written_is_an_os_error(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=place.split("/")[0]):
        save(tmp_path / place, {"x": np.ones(3)})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_folder_without_write_permission_is_an_os_error(saved: Path) -> None:
    saved.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            save(saved, {"x": np.ones(3)})
    finally:
        saved.parent.chmod(0o700)


# Files that are not whole, or something else


def header_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def file_of(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def everything(path: Path) -> dict[str, Any]:
    return dict(load(path))


def test_file_cut_anywhere_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    header, body = header_of(whole)
    start = len(whole) - len(body)
    ends = {start + at for one in header.values() if "data_offsets" in one for at in one["data_offsets"]}
    cuts = (
        {0, 1, 7, 8, 9, start // 2, start - 1, start, start + 1, len(whole) - 1}
        | ends
        | {e - 1 for e in ends}
    )
    for length in sorted(cuts - {len(whole)}):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
            load(saved)
    saved.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="longer"):
        load(saved)


def test_file_that_shrinks_or_changes_after_its_header_was_read_is_noticed(saved: Path) -> None:
    weights = load(saved)
    os.truncate(saved, saved.stat().st_size - 100)
    with pytest.raises(ValueError, match="changed"):
        _ = weights["up"]


@pytest.mark.parametrize("version", ["0", str(PACKED_LAYOUT_VERSION + 1), "1.0", "", None])
def test_other_layout_version_is_refused(version: str | None, saved: Path) -> None:
    header, body = header_of(saved.read_bytes())
    header["__metadata__"]["packed_layout_version"] = version
    if version is None:
        del header["__metadata__"]["packed_layout_version"]
    saved.write_bytes(file_of(header, body))
    with pytest.raises(ValueError, match=f"packed layout version {version}, this package reads"):
        load(saved)


def test_pickle_is_refused_without_being_run(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.parent / "trapped"),)

    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"w": Trap()}, protocol=protocol))
        with pytest.raises(ValueError, match="a pickle, which runs code"):
            load(path)
    np.savez(path.open("wb"), x=np.ones(3))
    with pytest.raises(ValueError, match="a zip archive"):
        load(path)
    path.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ValueError, match="open_gguf"):
        load(path)
    assert not (path.parent / "trapped").exists()


ONE = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
ABSURD = {
    "length-past-the-end": (1 << 62).to_bytes(8, "little") + b"{}",
    "length-over-the-limit": (_safetensors.MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}",
    "no-json": file_of(b"{nothing", b""),
    "no-object": file_of([], b""),
    "no-utf-8": file_of(b'{"\xff": 1}', b""),
    "nested": file_of(b"[" * 200_000, b""),
    "long-number": file_of(b'{"x": ' + b"1" * 10_000 + b"}", b""),
    "twice": file_of(b'{"x": %s, "x": %s}' % ((json.dumps(ONE).encode(),) * 2), bytes(4)),
    "metadata-no-texts": file_of({"__metadata__": {"a": 1}}, b""),
    "no-entry": file_of({"x": 3}, b""),
    "no-dtype": file_of({"x": {**ONE, "dtype": 1}}, bytes(4)),
    "terabytes": file_of({"x": {**ONE, "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}, bytes(4)),
    "shape-too-large": file_of({"x": {**ONE, "shape": [1 << 62, 1 << 62]}}, bytes(4)),
    "shape-negative": file_of({"x": {**ONE, "shape": [-2, -2]}}, bytes(4)),
    "shape-a-float": file_of({"x": {**ONE, "shape": [4.0]}}, bytes(4)),
    "shape-a-bool": file_of({"x": {**ONE, "shape": [4, True]}}, bytes(4)),
    "backwards": file_of({"x": {**ONE, "data_offsets": [4, 0]}}, bytes(4)),
    "before-the-start": file_of({"x": {**ONE, "data_offsets": [-4, 0]}}, bytes(4)),
    "three-offsets": file_of({"x": {**ONE, "data_offsets": [0, 4, 4]}}, bytes(4)),
    "gap": file_of({"x": {**ONE, "data_offsets": [4, 8]}}, bytes(8)),
    "overlap": file_of({"x": ONE, "y": {**ONE, "data_offsets": [2, 6]}}, bytes(6)),
}


@pytest.mark.parametrize("kind", ABSURD)
def test_absurd_header_is_refused(kind: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(ABSURD[kind])
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file: ."):
        load(path)
    assert main(["inspect", str(path)]) == 2
    assert "error: " in capsys.readouterr().err


def edited(saved: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    header, body = header_of(saved.read_bytes())
    described = json.loads(header["__metadata__"]["weights"])
    change(header, described)
    header["__metadata__"]["weights"] = json.dumps(described)
    saved.write_bytes(file_of(header, body))


@pytest.mark.parametrize(
    "change",
    [
        lambda header, described: described["up"]["arrays"].remove("scales"),
        lambda header, described: header["up.scales"].update(dtype="BF16", shape=[N, 7]),
        lambda header, described: header["up.b_packed"].update(dtype="F32"),
        lambda header, described: described["up"].update(group_size=64),
        lambda header, described: described["up"].update(group_size="32"),
        lambda header, described: described["up"].update(group_size=None),
        lambda header, described: described["up"].update(surprise=1),
        lambda header, described: described["up"].pop("group_size"),
        lambda header, described: described["up"].update(kind="permuted"),
    ],
)
def test_arrays_that_make_no_weight_are_refused_at_look_up(change: Any, saved: Path) -> None:
    edited(saved, change)
    weights = load(saved)
    assert same(weights["norm"], np.ones(N, np.float16))
    with pytest.raises(ValueError, match="weight 'up' is damaged"):
        _ = weights["up"]


@pytest.mark.parametrize(
    "change",
    [
        lambda header, described: described["up"].update(kind="os.system"),
        lambda header, described: described["up"].pop("kind"),
        lambda header, described: described.update(up=[]),
        lambda header, described: described.update(norm={"kind": "weight"}),
        lambda header, described: described.update(norm={"kind": "weight", "arrays": []}),
        lambda header, described: described["up"].update(arrays=3),
        lambda header, described: described["up"].update(arrays=[3]),
        lambda header, described: header.update({"up.other": header.pop("up.scales")}),
        lambda header, described: header.update({"other": header.pop("up.scales")}),
    ],
)
def test_metadata_that_describe_no_weights_are_refused(change: Any, saved: Path) -> None:
    edited(saved, change)
    with pytest.raises(ValueError, match=str(saved)):
        load(saved)


MADE: dict[str, bytes] = {}


def small_file(folder: Path) -> bytes:
    if not MADE:
        save(folder / "small.safetensors", {"w": linear(), "x": np.ones(2, BFLOAT16)})
        # Without the spaces that fill the header up, so that damage hits what matters.
        MADE["data"] = file_of(*header_of((folder / "small.safetensors").read_bytes()))
    return MADE["data"]


def visit(path: Path) -> None:
    try:
        for value in everything(path).values():
            assert isinstance(value, (np.ndarray, Linear, QuantizedWeight, PermutedWeight))
    except ValueError as error:
        told = str(path) in str(error)
    else:
        told = True
    assert told
    assert main(["inspect", str(path)]) in (0, 2)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_header_bytes_give_weights_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    damaged = bytearray(small_file(folder))
    header_end = 8 + int.from_bytes(damaged[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header_end - 1))
        damaged[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789"[]{},:-.e'))
    path = folder / "damaged.safetensors"
    path.write_bytes(damaged)
    visit(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["U8", "F4", "I32", "", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
OPTIONS = st.dictionaries(
    st.sampled_from(["kind", "group_size", "k", "alpha", "dtype", "activation", "pdl"]), JSON
)


@settings(deadline=None, max_examples=200)
@given(JSON, OPTIONS, st.sampled_from(["w", "w.scales", "w.zeros", "x"]))
def test_drawn_headers_give_weights_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, entry: Any, options: Any, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    header, body = header_of(small_file(folder))
    described = json.loads(header["__metadata__"]["weights"])
    described["w"] |= options
    header["__metadata__"]["weights"] = json.dumps(described)
    path = folder / "drawn.safetensors"
    path.write_bytes(file_of(header, body))
    visit(path)
    header[name] = entry
    path.write_bytes(file_of(header, body))
    visit(path)


# inspect


def test_inspect_shows_shapes_groups_dtypes_and_bytes(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(saved)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["name", "shape", "group", "size", "dtypes", "bytes"]
    rows = {line.split()[0]: line for line in printed[1:-1]}
    packed = 2 * 2 * 4096
    assert "k <= 256, n 70  32 " in rows["up"]
    assert "scales F16, zeros U8" in rows["up"]
    assert rows["up"].endswith(f"{packed + 7 * N * 3:,}")
    assert "k 200, n 70" in rows["down"]
    assert rows["norm"].endswith(f"{2 * N}")
    total = 2 * packed + 7 * N * 5 + 2 * N
    assert printed[-1] == f"3 weights, packed layout {PACKED_LAYOUT_VERSION}, {total:,} bytes"


def test_inspect_quotes_names_that_would_command_a_terminal(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(path, {"\x1b[2J": np.ones(2)})
    assert main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert r"'\x1b[2J'" in printed


def test_inspect_of_a_missing_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err


@pytest.mark.gpu
def test_gpu_weights_are_saved_and_loaded(path: Path) -> None:
    import cupy

    value = linear(bias=np.ones(N, np.float16))
    save(path, {"w": value.to_device(), "x": cupy.ones(3)})
    assert same(load(path)["w"], value)
    weights = Weights(path, cupy)
    assert same(weights["w"].to_numpy(), value)
    assert isinstance(weights["x"], cupy.ndarray)
    w = cupy.asnumpy(
        dequantize(*(weights["w"]._given()[key] for key in ("b_packed", "scales")), None, 32, k=K)
    )
    assert same(w, dequantize(*weight(), k=K))


def test_a_folder_is_told_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="load_checkpoint reads model folders"):
        load(tmp_path)
