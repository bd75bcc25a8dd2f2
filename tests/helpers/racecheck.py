"""The smallest case of what racecheck says of the kernels: one lane that arrives at a barrier for its warp.

    compute-sanitizer --tool racecheck python tests/helpers/racecheck.py one
    compute-sanitizer --tool racecheck python tests/helpers/racecheck.py every

Warp 1 reads a buffer in shared memory and arrives at an mbarrier; warp 0 waits there and writes the buffer
anew. In the first case __syncwarp() orders the reads of all lanes before the arrival of lane 0, as kernels do
it (kernels_src/mainloop.cuh, `release`); in the second every lane arrives by itself. Both are right by the
memory model. racecheck (seen with 2025.3.1) counts an arrival for its own thread only: it reports 31 lanes of
the first. With every lane arriving in `release` too, `sanitize.py --every-lane`, it had nothing to say.
"""

from __future__ import annotations

import sys

import cupy

_SOURCE = r"""
extern "C" __global__ void hand_over(const int every, int* out) {
  __shared__ int buffer[32];
  __shared__ unsigned long long barrier;
  const unsigned address = __cvta_generic_to_shared(&barrier);
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < 32) buffer[lane] = lane;
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" : : "r"(address), "r"(every ? 32 : 1) : "memory");
  }
  __syncthreads();
  if (threadIdx.x >= 32) {
    out[lane] = buffer[31 - lane];
    __syncwarp();
    if (every || lane == 0) {
      asm volatile("mbarrier.arrive.shared.b64 _, [%0];" : : "r"(address) : "memory");
    }
  } else {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared.b64 done, [%0], 0;\n"
        "@!done bra again;\n"
        "}"
        : : "r"(address) : "memory");
    buffer[lane] = -1;
  }
}
"""


def main() -> None:
    if sys.argv[1:] not in (["one"], ["every"]):
        raise SystemExit(f"usage: {sys.argv[0]} one|every")
    kernel = cupy.RawKernel(_SOURCE, "hand_over", options=("-std=c++17",))
    out = cupy.empty(32, "int32")
    kernel((1,), (64,), (int(sys.argv[1] == "every"), out))
    assert out.get().tolist() == list(range(31, -1, -1))
    print("the values read were right")


if __name__ == "__main__":
    main()
