"""Small products over all configurations and options, for NVIDIA's compute-sanitizer.

    python tests/helpers/sanitize.py --compile
    compute-sanitizer --tool memcheck --error-exitcode 1 python tests/helpers/sanitize.py

and so for initcheck, synccheck and, with --every-lane in both lines, racecheck, which without it reports
reads whose end another lane of the warp has announced (racecheck.py has the smallest case). The first line
fills the kernel cache, so that the tool watches nothing but the products. Each array is an allocation of its
own, without CuPy's pool, so that memcheck knows its end to the byte; results are checked too, on the host, so
that no other kernel runs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("CUPY_W4A16_COMPILE", "lazy")
    sys.path[:0] = [str(Path(__file__).resolve().parents[folder]) for folder in (1, 2)]

import cupy

from cupy_w4a16 import Linear, _cache, _compiler, _key, compile_kernels, gemm
from cupy_w4a16._config import NAMED_CONFIGS
from cupy_w4a16._kernels import kernel_for, unit_for
from cupy_w4a16._normalised import takes_normalised
from helpers.cases import Case
from helpers.configs import NORMALISED_CONFIGS, SHARING_CONFIGS, paired_kernels

EVERY_LANE = "-DW4A16_EVERY_LANE_ARRIVES"


def cases() -> list[Case]:
    """Every kernel with two ragged tiles of weights and of tokens; and CTAs that take several tiles."""
    found = []
    for i, case in enumerate(paired_kernels()):
        config = case.config
        assert config is not None
        n = config.cluster_tile_n + (40, 35)[i % 2]  # aligned for bulk copies and TMA stores, or not
        m = config.tile_m * config.cluster_m + 3
        # Enough k that every contributor uses stages again. Rows of a are multiples of 16 bytes: nothing is
        # copied, which would be CuPy's kernel.
        found.append(case.with_(m=m, n=n, k=2216, bias=i % 2 == 0, seed=i))
    found += [Case(c.tile_m + 3, c.tile_n + 40, 1096, config=c) for c in NORMALISED_CONFIGS[::4]]
    # The second pair has part of its shared block; every CTA takes all k.
    sharing = [c for c in SHARING_CONFIGS if c in NORMALISED_CONFIGS]
    found += [
        Case(c.tile_m // 2 + 3, 3 * c.tile_n - (8, 3)[i % 2], 2216, config=c) for i, c in enumerate(sharing)
    ]
    found += [Case(3, 135 * c.tile_n - 8, 136, config=c) for c in NAMED_CONFIGS.values()]
    return found


def run(case: Case) -> None:
    arguments = case.arguments()
    a, b_packed, scales, zeros, bias = (None if x is None else cupy.asarray(x) for x in arguments)
    # Filled beforehand (NaN): initcheck takes no notice of what the copy engine stores.
    out = cupy.empty((case.m, case.n), case.out_dtype)
    out.data.memset(0xFF, out.nbytes)
    gemm(
        a, b_packed, scales, zeros, case.group_size,
        bias=bias, out=out, config=case.config, **case.options,
    )  # fmt: skip
    case.check(cupy.asnumpy(out), arguments)
    if takes_normalised(case.config, case.problem):
        again = cupy.empty_like(out)
        again.data.memset(0xFF, again.nbytes)
        options = {"k": case.k, "bias": bias, "dtype": case.out_dtype, **case.options}
        Linear(b_packed, scales, zeros, case.group_size, **options)(a, again, case.config)
        assert again.tobytes() == out.tobytes()


def fill_cache(chosen: list[Case], every_lane: bool) -> None:
    """Compile what `run` needs."""
    normalised = [case for case in chosen if takes_normalised(case.config, case.problem)]
    kernels = [case.kernel for case in chosen]
    kernels += [kernel_for(case.config, case.problem, case.activation, True) for case in normalised]
    units = {unit.name: unit for unit in map(unit_for, kernels)}.values()
    if every_lane:  # in processes of this file, whose options differ; NVRTC compiles one at a time in each
        every_lane_arrives()
        missing = [unit for unit in units if _cache.find(unit) is None]
        if missing:
            with ProcessPoolExecutor(initializer=every_lane_arrives) as pool:
                list(pool.map(_cache.load_or_compile, missing))
    else:
        compile_kernels(units, progress=False)


def every_lane_arrives() -> None:
    """From now on this process compiles, and looks for, kernels in which every lane says that it has read."""
    options = _key.BASE_OPTIONS
    if EVERY_LANE not in options:
        _compiler.BASE_OPTIONS = _key.BASE_OPTIONS = (*options, EVERY_LANE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--compile", action="store_true", help="only fill the kernel cache; needs no GPU")
    parser.add_argument(
        "--every-lane", action="store_true", help="kernels for racecheck: every lane says that it has read"
    )
    parser.add_argument("--match", default="", help="only products whose name holds this")
    options = parser.parse_args()
    chosen = [case for case in cases() if options.match in str(case)]
    fill_cache(chosen, options.every_lane)
    if options.compile:
        print(f"{len(chosen)} products have their kernels in the cache")
        return
    cupy.cuda.set_allocator(None)
    started = time.perf_counter()
    for case in chosen:
        print(case, flush=True)  # a report of the tool stands below the product it is about
        run(case)
    print(f"{len(chosen)} products, all right, in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
