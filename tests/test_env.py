"""The environment: our variables, two CuPys at once, and which GPUs NVML says this process would get."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from cupy_w4a16 import _env, _nvml, _toolchain
from cupy_w4a16._errors import CompileError
from cupy_w4a16._nvml import Gpu

A100 = Gpu("NVIDIA A100", "GPU-aaaa1111", (8, 0))
H100 = Gpu("NVIDIA H100", "GPU-bbbb2222", (9, 0), ("MIG-cccc3333", "MIG-dddd4444"))
H200 = Gpu("NVIDIA H200", "GPU-bbbb5555", (9, 0))
PRESENT = [A100, H100, H200]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, PRESENT),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", [A100]),
        ("1,0", [H100, A100]),
        (" 2 , 1", [H200, H100]),
        ("3", []),
        ("1,3,0", [H100]),  # the first that names none ends the list
        ("0,-1,1", [A100]),
        ("1,,0", [H100]),
        ("GPU-bbbb2222", [H100]),
        ("GPU-bbbb22", [H100]),  # a beginning will do
        ("GPU-bbbb", []),  # unless it fits two
        ("GPU-zzzz", []),
        ("MIG-dddd4444", [H100]),
        ("MIG-zzzz", []),
        ("MIG-GPU-bbbb2222/3/0", [H100]),
        ("GPU-aaaa1111,MIG-cccc3333", [A100, H100]),
    ],
)
def test_cuda_visible_devices_means_what_cuda_takes_it_for(chosen: str | None, expected: list[Gpu]) -> None:
    assert _nvml.visible_gpus(PRESENT, chosen) == expected


@pytest.mark.parametrize(
    ("present", "chosen", "expected"),
    [
        ([], None, False),
        ([A100], None, False),
        ([Gpu("NVIDIA B200", "GPU-ffff", (10, 0))], None, False),
        ([Gpu("NVIDIA H100", "GPU-ffff", (9, 0))], None, True),
        ([A100, H100], "0", False),
        ([A100, H100], "1", True),
        ([A100, H100], "", False),
    ],
)
def test_hopper_alone_counts(
    present: list[Gpu], chosen: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_nvml, "gpus", lambda: present)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert _nvml.hopper_visible() is expected


class FakeNvml:
    """NVML on a machine with these GPUs; GPU i has the handle i + 1, its instance j 100 (i + 1) + j."""

    MIG_SLOTS = 7

    def __init__(self, present: list[Gpu], *, init_status: int = 0) -> None:
        self.present = present
        self.init_status = init_status
        self.open = 0

    def nvmlInit_v2(self) -> int:
        self.open += self.init_status == 0
        return self.init_status

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.present)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, handle: ctypes.c_void_p, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = self._gpu(handle).capability
        return 0

    def nvmlDeviceGetMigMode(self, handle: ctypes.c_void_p, current: Any, pending: Any) -> int:
        if self._gpu(handle).capability < (8, 0):
            return 3  # not supported
        current._obj.value = pending._obj.value = bool(self._gpu(handle).mig_uuids)
        return 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: ctypes.c_void_p, count: Any) -> int:
        count._obj.value = self.MIG_SLOTS
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: ctypes.c_void_p, index: int, instance: Any) -> int:
        if index >= len(self._gpu(handle).mig_uuids):
            return 6  # not found: slots may be empty
        instance._obj.value = 100 * (handle.value or 0) + index
        return 0

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, text: Any, size: int) -> int:
        text.value = self._gpu(handle).name.encode()
        return 0

    def nvmlDeviceGetUUID(self, handle: ctypes.c_void_p, text: Any, size: int) -> int:
        number = handle.value or 0
        if number >= 100:
            text.value = self.present[number // 100 - 1].mig_uuids[number % 100].encode()
        else:
            text.value = self._gpu(handle).uuid.encode()
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:
        text.value = b"580.1"
        return 0

    def _gpu(self, handle: ctypes.c_void_p) -> Gpu:
        return self.present[(handle.value or 0) - 1]


def test_gpus_are_read_whole_and_nvml_is_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    t4 = Gpu("Tesla T4", "GPU-eeee", (7, 5))
    nvml = FakeNvml([*PRESENT, t4])
    monkeypatch.setattr(_nvml, "library", lambda: nvml)
    assert _nvml.gpus() == [*PRESENT, t4]
    assert _nvml.driver_version() == "580.1"
    assert nvml.open == 0


def test_driver_that_does_not_answer_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nvml, "library", lambda: FakeNvml([H100], init_status=9))
    assert _nvml.gpus() == []
    assert _nvml.driver_version() is None
    monkeypatch.setattr(_nvml, "library", lambda: None)
    assert _nvml.gpus() == []
    assert _nvml.driver_version() is None


@pytest.mark.gpu
def test_nvml_and_cuda_agree_on_this_machine() -> None:
    import cupy

    assert _nvml.hopper_visible()
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    assert properties["name"].decode() in {gpu.name for gpu in _nvml.gpus()}


@pytest.mark.parametrize(
    ("value", "mode"), [(None, "import"), ("", "import"), ("import", "import"), ("lazy", "lazy")]
)
def test_compile_mode_is_import_unless_asked(
    value: str | None, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUPY_W4A16_COMPILE", raising=False)
    if value is not None:
        monkeypatch.setenv("CUPY_W4A16_COMPILE", value)
    assert _env.compile_mode() == mode


@pytest.mark.parametrize(("value", "allowed"), [(None, True), ("", True), ("1", True), ("0", False)])
def test_dependent_launch_is_allowed_unless_switched_off(
    value: str | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUPY_W4A16_PDL", raising=False)
    if value is not None:
        monkeypatch.setenv("CUPY_W4A16_PDL", value)
    assert _env.pdl_allowed() is allowed


def test_unknown_word_on_dependent_launch_names_variable_value_and_choices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUPY_W4A16_PDL", "off")
    with pytest.raises(ValueError, match=r"CUPY_W4A16_PDL is 'off'.*'1'.*'0'"):
        _env.pdl_allowed()


def test_unknown_compile_mode_names_variable_value_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_COMPILE", "eager")
    with pytest.raises(ValueError, match=r"CUPY_W4A16_COMPILE is 'eager'.*'import'.*'lazy'"):
        _env.compile_mode()


def test_two_cupys_get_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    versions: dict[str, str] = {}
    monkeypatch.setattr(_env, "installed", versions.get)
    versions["cupy-cuda12x"] = "14.2.0"
    assert _env.two_cupys() is None
    versions["cupy-cuda13x"] = "14.1.0"
    sentence = _env.two_cupys()
    assert sentence is not None
    assert "cupy-cuda12x 14.2.0 and cupy-cuda13x 14.1.0" in sentence
    assert "pip uninstall cupy-cuda12x cupy-cuda13x" in sentence
    assert "\n" not in sentence


def test_versions_name_everything_a_report_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("cupy_w4a16", "python", "numpy", "cupy", "ml_dtypes", "NVRTC", "CUDA headers", "CCCL headers")
    assert set(wanted) | {"CUTLASS headers", "driver"} == set(_env.versions())

    def missing() -> object:
        raise CompileError("no NVRTC")

    monkeypatch.setattr(_toolchain, "toolchain", missing)
    assert _env.versions()["NVRTC"] == "no NVRTC"  # info must work where compiling does not
