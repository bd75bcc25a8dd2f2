"""An `a` that cannot be read in place is copied at each call, into the workspace where there is one."""

from __future__ import annotations

import itertools
from typing import Any

import cupy
import pytest
from helpers.fake_calls import BIAS, OUT, ZEROS, A, K, M, N, activations, arrays, on_a_gpu, result
from helpers.fake_driver import DEPENDENT, FakeDriver, Stream, on_gpu

from cupy_w4a16 import GemmProblem, W4A16Error, _gemm, _workspace, gemm, workspace_bytes

POOL = 7 << 40


@pytest.mark.parametrize(
    "a",
    [
        on_gpu((M, K), "f2", A + 2),
        on_gpu((M, K), "f2", A, strides=(2 * K + 8, 2)),
        on_gpu((M, K), "f2", A, strides=(2, 2 * M)),
        on_gpu((6, 8, K), "f2", A, strides=(2 * K, 12 * K, 2)),
    ],
    ids=["address", "row stride", "columns", "axes"],
)
def test_a_that_cannot_be_read_in_place_is_copied(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, a: Any
) -> None:
    asked = []

    def copy(x: Any, problem: GemmProblem, workspace: Any = None) -> Any:
        asked.append((x.shape, workspace))
        return on_gpu((M, K), "f2", ZEROS)

    monkeypatch.setattr(_gemm, "aligned_copy", copy)
    given = arrays() | {"a": a, "out": on_gpu((*a.shape[:-1], N), "f2", OUT)}
    gemm(**arrays())
    for _ in range(2):
        assert gemm(**given) is given["out"]
        assert driver.last.params["a_tail_map"][0] == ZEROS
        assert (DEPENDENT, (1,)) not in driver.last.attributes
    gemm(**given, pdl=True)
    assert (DEPENDENT, (1,)) in driver.last.attributes
    assert len(asked) == 3  # what stands in a may have changed


def test_copy_is_asked_of_the_workspace(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "current_device", lambda: 0)
    seen = []

    def copy(x: Any, problem: GemmProblem, workspace: Any) -> Any:
        seen.append(workspace)
        return on_gpu((M, K), "f2", ZEROS)

    monkeypatch.setattr(_gemm, "aligned_copy", copy)
    workspace = on_gpu((M * K * 2,), "u1", BIAS)
    gemm(**arrays() | {"a": on_gpu((M, K), "f2", A + 2)}, workspace=workspace)
    assert seen[0] is workspace


def test_nothing_is_copied_for_a_result_of_no_columns(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The workspace of no bytes that is asked for would be written past its end.
    monkeypatch.setattr(_workspace, "current_device", lambda: 0)
    monkeypatch.setattr(_gemm, "aligned_copy", None)
    given = arrays(n=0) | {"a": on_gpu((M, K), "f2", A + 2)}
    for workspace in (None, on_gpu((workspace_bytes(GemmProblem(M, 0, K)),), "u1", BIAS)):
        assert gemm(**given, workspace=workspace) is given["out"]
    assert driver.launches == []


def test_linear_keeps_its_copies_of_a_capture(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    places = itertools.count(POOL, 1 << 36)
    monkeypatch.setattr(cupy, "empty", lambda shape, dtype: on_gpu(shape, dtype, next(places)))
    monkeypatch.setattr(_workspace, "current_device", lambda: 0)
    asked = []

    def copy(x: Any, problem: GemmProblem, workspace: Any = None) -> Any:
        asked.append(workspace)
        return on_gpu((3, 1024), "f2", ZEROS if workspace is None else workspace.data.ptr)

    monkeypatch.setattr(_gemm, "aligned_copy", copy)
    layer, odd, out = on_a_gpu(), activations(at=A + 2), result()
    layer(odd, out)
    assert (asked, layer._captured) == ([None], [])
    Stream.capturing = True
    layer(activations(), out)
    assert layer._captured == []
    for i in range(2):
        layer(odd, out)
        assert asked[-1] is layer._captured[i]
        assert asked[-1].nbytes == workspace_bytes(GemmProblem(3, 512, 1024))
        assert driver.last.params["a"] == POOL + i * (1 << 36)


def test_temporary_copy_inside_a_capture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workspace, "is_capturing", lambda: True)
    with pytest.raises(W4A16Error, match=r"pass an aligned a, or workspace=cupy.empty\(98304, 'uint8'\)"):
        _workspace.aligned_copy(on_gpu((M, K), "f2", A + 2), GemmProblem(M, N, K))
