"""Which configuration a problem gets: the only file with tuned numbers.

First figures, to be replaced by measured ones: the 128-column tile where it fills the GPU, else the 64-column one.
"""

from __future__ import annotations

from ._config import NAMED_CONFIGS, GemmConfig, GemmProblem


def choose_config(problem: GemmProblem, num_sms: int = 132) -> GemmConfig:
    """The configuration for `problem` on a GPU of `num_sms` multiprocessors; a pure function.

    >>> choose_config(GemmProblem(4096, 4096, 4096)).name
    'w4a16_sm90_gemm_128'
    >>> choose_config(GemmProblem(16, 4096, 4096)).name
    'w4a16_sm90_gemm_64'
    """
    large = NAMED_CONFIGS["w4a16_sm90_gemm_128"]
    tiles = -(-problem.n // large.tile_n) * -(-problem.m // large.tile_m)
    return large if tiles > num_sms // 2 else NAMED_CONFIGS["w4a16_sm90_gemm_64"]
