"""The closed table of configurations, TensorRT-LLM's for SM90 and our heuristic's."""

from __future__ import annotations

from ._check_config import check_problem
from ._config import GemmConfig, GemmProblem
from ._costs import CONFIGS
from ._validity import invalid_reason


def _launcher_configs() -> list[GemmConfig]:
    clusters = (1, 1), (2, 1), (1, 2), (2, 2)
    return [
        GemmConfig(
            tile_n,
            tile_m,
            cluster_n=cluster_n,
            cluster_m=cluster_m,
            schedule="pingpong" if tile_n == 64 else "cooperative",
        )
        for tile_n in (64, 128)
        for tile_m in (16, 32, 64, 128, 256)
        for cluster_n, cluster_m in clusters
        if (cluster_n == 1 or tile_n >= 128) and (cluster_m == 1 or tile_m >= 128)
    ]


#: The 21 of TensorRT-LLM's launcher; `configs` says which.
LAUNCHER_CONFIGS = tuple(_launcher_configs())

#: What the heuristic chooses from, beyond those.
EXTRA_CONFIGS = tuple(config for config in CONFIGS if config not in LAUNCHER_CONFIGS)


def configs(problem: GemmProblem) -> list[GemmConfig]:
    """The configurations of the table that can run `problem`; each has a `name`.

    The table is closed: the 21 tiles and clusters that TensorRT-LLM's launcher knows for SM90 (weights x
    tokens x k, k always 128), then our own. The 21 are ten tiles, {64, 128} weights x {16, 32, 64, 128, 256}
    tokens; those of 128 weights again in clusters of 2x1 (two CTAs share activations), five; those of 128
    tokens and more in clusters of 1x2 (two CTAs share weights), four; the two that are both in clusters of
    2x2. Tiles of 64 weights are pingpong, those of 128 cooperative.

    `gemm(..., config=)` forces any of them, or a `GemmConfig` of your own. Outside the default set, a kernel
    is compiled at its first use.

    Parameters
    ----------
    problem : GemmProblem
        Its dtypes, zeros and group size decide; all sizes m, n and k run with every configuration.

    Returns
    -------
    list of GemmConfig

    Raises
    ------
    TypeError, ValueError
        `problem` is no `GemmProblem`, or one of its fields is not as `GemmProblem` says.

    Examples
    --------
    >>> from cupy_w4a16 import GemmProblem, configs
    >>> valid = configs(GemmProblem(m=64, n=4096, k=4096))
    >>> valid[0].name, len(valid) >= 21
    ('64x16x128_1x1_pingpong', True)
    """
    problem = check_problem(problem)
    table = (*LAUNCHER_CONFIGS, *EXTRA_CONFIGS)
    return [config for config in table if invalid_reason(config, problem) is None]
