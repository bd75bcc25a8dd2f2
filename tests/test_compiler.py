"""The compiler and its toolchain: what it refuses, and which headers go with the NVRTC that is loaded."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from cupy_w4a16 import _compiler, _paths, _toolchain
from cupy_w4a16._errors import CompileError

COPY = 'extern "C" __global__ void copy(float *out, const float *x) { out[threadIdx.x] = x[threadIdx.x]; }'

# The accumulators are touched while wgmma may still write them: ptxas has to wait in every turn.
SERIALISED = """
extern "C" __global__ void serialised(float *out, unsigned long long a, unsigned long long b) {
  float d[4] = {0, 0, 0, 0};
  for (int i = 0; i < 4; ++i) {
    asm volatile("wgmma.fence.sync.aligned;");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;");
    d[0] += 1.0f;
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;");
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = d[i];
}
"""


def test_cubin_keeps_its_last_byte() -> None:
    cubin = _compiler.compile_source(COPY, "copy").cubin
    assert cubin[:4] == b"\x7fELF"
    programs, sections = struct.unpack_from("<QQ", cubin, 32)
    program_bytes, program_count, section_bytes, section_count = struct.unpack_from("<HHHH", cubin, 54)
    ends = (programs + program_bytes * program_count, sections + section_bytes * section_count)
    assert len(cubin) == max(ends)


def test_cuda_and_cutlass_headers_are_found() -> None:
    source = """
    #include <cuda_bf16.h>
    #include <cuda_fp16.h>
    #include <cuda/std/type_traits>
    #include <cutlass/arch/barrier.h>
    static_assert(cuda::std::is_same_v<half, __half>);
    static_assert(CUDART_VERSION / 1000 == __CUDACC_VER_MAJOR__, "headers of another CUDA than NVRTC");
    """
    assert _compiler.compile_source(source + COPY, "headers").resources[0].kernel == "copy"


def test_registers_and_spills_of_each_kernel_are_read_from_the_log() -> None:
    spilling = """
    extern "C" __global__ void __launch_bounds__(1024, 2) spilling(float *x) {
      float v[64];
      for (int i = 0; i < 64; ++i) v[i] = x[i * 2048 + threadIdx.x];
      __syncthreads();
      for (int i = 0; i < 64; ++i) x[i * 2048 + threadIdx.x] = v[i] * v[63 - i];
    }
    """
    found = {each.kernel: each for each in _compiler.compile_source(COPY + spilling, "two").resources}
    assert set(found) == {"copy", "spilling"}
    assert (found["copy"].stack_bytes, found["copy"].spill_store_bytes, found["copy"].spill_load_bytes) == (
        0,
        0,
        0,
    )
    assert 0 < found["copy"].registers < 32
    assert found["spilling"].registers == 32  # 65536 / 2048 threads
    assert found["spilling"].spill_store_bytes > 0
    assert found["spilling"].spill_load_bytes > 0


def test_frame_of_a_device_function_is_not_taken_for_its_kernels() -> None:
    log = """ptxas info    : Compiling entry function 'k' for 'sm_90a'
ptxas info    : Function properties for k
ptxas         .     8 bytes stack frame, 4 bytes spill stores, 2 bytes spill loads
ptxas info    : Function properties for helper
ptxas         .     96 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
"""
    assert _compiler.parse_resources(log) == (_compiler.Resources("k", 40, 8, 4, 2),)


def test_log_is_text_to_its_end() -> None:
    log = _compiler.compile_source(COPY, "copy").log
    assert log.replace("\n", "").isprintable()


def test_compile_error_carries_the_log() -> None:
    with pytest.raises(CompileError) as caught:
        _compiler.compile_source("#error this is what went wrong\n", "broken")
    assert "this is what went wrong" in caught.value.log
    assert "broken" in str(caught.value)
    assert "this is what went wrong" in str(caught.value)


def test_serialised_wgmma_is_an_error() -> None:
    with pytest.raises(CompileError) as caught:
        _compiler.compile_source(SERIALISED, "serialised")
    assert "C75" in caught.value.log


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("kernels_src", "finds no folder .*cutlass_headers/include: run `python cutlass_headers/vendor.py`"),
        ("cutlass_headers/include", "finds no folder .*kernels_src: install the package again"),
    ],
)
def test_missing_headers_are_a_compile_error_that_says_what_to_run(
    there: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / there).mkdir(parents=True)
    monkeypatch.setattr(_paths, "_PACKAGE", tmp_path / "cupy_w4a16")
    with pytest.raises(CompileError, match=message):
        _compiler.compile_source(COPY, "copy")


# --- which headers ---


def cudart(folder: Path, version: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "cuda_runtime_api.h").write_text(f"/* first */\n#define CUDART_VERSION  {version}\n")
    (folder / "cuda_fp16.h").touch()
    return folder


def cccl(folder: Path, version: int) -> Path:
    (folder / "cuda/std/__cccl").mkdir(parents=True)
    (folder / "cuda/std/cstdint").touch()
    (folder / "cuda/std/__cccl/version.h").write_text(f"#define CCCL_VERSION {version}\n")
    return folder


def old_cccl(folder: Path, thrust_version: int) -> Path:
    (folder / "cuda/std").mkdir(parents=True)
    (folder / "thrust").mkdir()
    (folder / "cuda/std/cstdint").touch()
    (folder / "thrust/version.h").write_text(f"#define THRUST_VERSION {thrust_version}\n")
    return folder


@pytest.fixture
def no_other_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what a test puts on sys.path or into CUDA_HOME can be found."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.setattr(_toolchain, "_DEFAULT_TOOLKITS", str(tmp_path / "no-toolkit"))
    monkeypatch.setattr("cuda.pathfinder.find_nvidia_header_directory", lambda name: None)


def find(nvrtc: tuple[int, int]) -> _toolchain.Toolchain:
    return _toolchain.with_headers(nvrtc, "/lib/libnvrtc.so")


@pytest.mark.usefixtures("no_other_cuda")
def test_headers_follow_the_major_of_the_loaded_nvrtc(tmp_path: Path) -> None:
    cudart(tmp_path / "nvidia/cuda_runtime/include", 12090)
    cccl(tmp_path / "nvidia/cuda_cccl/include", 2008002)
    cudart(tmp_path / "nvidia/cu13/include", 13000)
    cccl(tmp_path / "nvidia/cu13/include/cccl", 3000001)
    twelve, thirteen = find((12, 9)), find((13, 0))
    assert twelve.include_dirs == (
        tmp_path / "nvidia/cuda_cccl/include",
        tmp_path / "nvidia/cuda_runtime/include",
    )
    assert (twelve.cudart_version, twelve.cccl_version) == ((12, 9), (2, 8, 2))
    assert thirteen.include_dirs == (tmp_path / "nvidia/cu13/include/cccl", tmp_path / "nvidia/cu13/include")
    assert (thirteen.cudart_version, thirteen.cccl_version) == ((13, 0), (3, 0, 1))


@pytest.mark.usefixtures("no_other_cuda")
def test_runtime_headers_never_go_with_the_cccl_of_another_cuda(tmp_path: Path) -> None:
    cudart(tmp_path / "nvidia/cuda_runtime/include", 12090)
    cccl(tmp_path / "nvidia/cuda_cccl/include", 3000001)
    with pytest.raises(
        CompileError, match=r"of another CUDA.*CUDA 12\.9, CCCL 3\.0\.1.*pip install"
    ) as caught:
        find((12, 9))
    assert "nvidia-cuda-cccl-cu12" in str(caught.value)


@pytest.mark.usefixtures("no_other_cuda")
@pytest.mark.parametrize(
    ("major", "package"), [(12, "nvidia-cuda-runtime-cu12"), (13, "nvidia-cuda-runtime ")]
)
def test_missing_headers_name_the_packages_to_install(major: int, package: str) -> None:
    with pytest.raises(CompileError) as caught:
        find((major, 0))
    assert package in str(caught.value)


@pytest.mark.usefixtures("no_other_cuda")
def test_toolkit_serves_where_no_wheel_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thirteen = cudart(tmp_path / "toolkit/include", 13010)
    cccl(thirteen / "cccl", 3001000)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert find((13, 1)).include_dirs == (thirteen / "cccl", thirteen)
    # Twelve keeps both in one folder, and before CCCL 2.5 only Thrust's version stood there.
    twelve = cudart(tmp_path / "default-12/include", 12040)
    old_cccl(twelve, 200302)
    monkeypatch.setattr(_toolchain, "_DEFAULT_TOOLKITS", str(tmp_path / "default"))
    assert find((12, 4)).include_dirs == (twelve, twelve)
    assert find((12, 4)).cccl_version == (2, 3, 2)


def test_old_nvrtc_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_toolchain, "load_nvrtc", lambda: ((12, 3), "/lib/libnvrtc.so.12"))
    with pytest.raises(CompileError, match=r"NVRTC 12\.3 .* is too old: 12\.4 or newer.*pip install"):
        _toolchain.toolchain.__wrapped__()


def test_missing_nvrtc_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def unloadable() -> tuple[int, int]:
        raise RuntimeError("libnvrtc.so.12: cannot open shared object file")

    def not_found(name: str) -> object:
        raise OSError(f"no {name}")

    monkeypatch.setattr("cupy.cuda.nvrtc.getVersion", unloadable)
    monkeypatch.setattr("cuda.pathfinder.load_nvidia_dynamic_lib", not_found)
    with pytest.raises(CompileError, match=r"could not be loaded.*pip install"):
        _toolchain.load_nvrtc()


def test_nvrtc_in_a_wheel_is_loaded_for_a_cupy_that_does_not_look_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[str] = []

    def version() -> tuple[int, int]:
        if not loaded:
            raise RuntimeError("CuPy failed to load libnvrtc.so.12")
        return (12, 6)

    monkeypatch.setattr("cupy.cuda.nvrtc.getVersion", version)
    monkeypatch.setattr("cuda.pathfinder.load_nvidia_dynamic_lib", loaded.append)
    assert _toolchain.load_nvrtc()[0] == (12, 6)
    assert loaded == ["nvrtc"]
