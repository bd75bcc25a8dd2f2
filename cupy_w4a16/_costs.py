"""What configurations cost: the only file with tuned numbers, for the model in `_heuristics`.

Fitted by least squares of the relative error (`bench --fit` on what `bench --all-configs --csv` writes) to
sweeps of one H100 80GB HBM3 of 132 SMs, through `Linear`, float16, cold weights, CUDA graphs; apart for
launches that depend on nothing and for dependent ones, where one CTA an SM gains, as the next kernel's CTAs
find room beside it.

Up to 32 tokens (2026-11-22, without rests), for groups of 128 symmetric and with uint8 zeros, and groups of
32. Shapes (n, k): (4096, 4096), (6144, 4096), (4096, 14336), (8192, 8192), (28672, 4096), (10240, 8192),
(57344, 8192), (8192, 28672), with m = 1, 2, 4, 8, 16, 32; (1024, 8192), (12288, 4096), (18944, 3584),
(3584, 18944), (2560, 9728) with m = 1, 4, 16, 32; symmetric also (13824, 5120), (5120, 13824), (3072, 3072)
and m = 12, 24. The choices take 1.002 to 1.005 times as long as the best of the 70 configurations swept
(geometric mean), at worst 1.04, symmetric and dependent 1.10. Fitted without the shape that is asked for:
1.006 to 1.011, dependent 1.016 to 1.019, where (1024, 8192) is furthest off: 1.3.

From 33 tokens on (2026-11-22, rests from 64 on; symmetric groups of 128, which serve for all): the first
seven of these shapes and (13824, 5120), (5120, 5120), (11008, 4096), (7168, 2048), (5120, 13824), m = 48
... 8192, without a term for the fullest SM. There the choices took 1.005 times as long as the best, at ten
shapes that were not fitted 1.002 from m = 128 on, at worst 1.03.

On an H200, whose memory is faster, `tune` found better ones of ten at 8192x8192 only: 1.07 at m = 1 (mma
32x2, two CTAs an SM), 1.04 at m = 16 (64x16, k split, two CTAs an SM).

Swept and dropped, with their best showing against what is here. Up to 32 tokens: mma 16x2 of two
warpgroups, one stage, four CTAs an SM (0.96 in groups of 32, otherwise the kernel of three CTAs), 64x32
with scaled sums and two CTAs an SM (0.97), mma 32x16 of four warpgroups, one stage (0.98), 128x32 with
scaled sums and two CTAs an SM (0.98), 96x16 (0.985), 128x16 with k split (0.99), 96x32 (1.01). Above:
clusters of 2x1, 1x2 and 2x2 that share operands (1.02), 128x128 pingpong (1.02), 64x256 pingpong (1.02),
128x256 (1.01), 192x192 (1.02), 256x96 (1.09), 256x64 with k split (1.16), 224x64 with a shared block
(1.02).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ._config import NAMED_CONFIGS, GemmConfig, GemmProblem


class Cost(NamedTuple):
    """The model's numbers for one configuration: how many of its CTAs an SM holds, and microseconds."""

    resident: int
    fixed_us: float
    wave_us: float
    block_us: float
    million_us: float
    fullest_us: float = 0.0


Table = dict[GemmConfig, Cost]


def _mma(tile_n: int, tile_m: int, warpgroups: int, ctas_per_sm: int, stages: int) -> GemmConfig:
    return _sums(
        tile_n, tile_m, family="mma", split_k_warpgroups=warpgroups, ctas_per_sm=ctas_per_sm, stages=stages
    )


def _sums(tile_n: int, tile_m: int, **fields: Any) -> GemmConfig:
    return GemmConfig(tile_n, tile_m, scale_on="accumulators", **fields)


SYMMETRIC: Table = {
    _mma(16, 2, 1, 3, 1): Cost(10, 1.404, 1.273, 0.1798, 0.1106, 13.06),
    _mma(16, 2, 1, 4, 2): Cost(7, 2.074, 0, 0.1275, 0.1212, 11.54),
    _mma(16, 2, 2, 2, 2): Cost(3, 1.725, 0.5448, 0.1393, 0.126, 10.46),
    _mma(16, 2, 2, 3, 1): Cost(4, 1.409, 0.7626, 0.1884, 0.1209, 9.967),
    _mma(16, 2, 4, 2, 1): Cost(2, 1.494, 0.9617, 0.1814, 0.08791, 14.43),
    _mma(16, 4, 1, 3, 1): Cost(9, 2.04, 0.195, 0.1824, 0.09848, 14.58),
    _mma(16, 4, 1, 4, 2): Cost(7, 1.512, 0.8247, 0.131, 0.1204, 12.26),
    _mma(16, 4, 2, 3, 1): Cost(4, 1.416, 0.7394, 0.1858, 0.1074, 13.18),
    _mma(16, 4, 4, 2, 1): Cost(2, 1.363, 1.384, 0.1109, 0.06192, 19.22),
    _mma(16, 8, 2, 2, 2): Cost(3, 2.036, 0.1953, 0.06921, 0.09019, 21.7),
    _mma(16, 8, 4, 2, 1): Cost(2, 1.332, 1.442, 0.0809, 0.0264, 25.32),
    _mma(32, 8, 2, 2, 2): Cost(2, 1.764, 0.4954, 0.1637, 0.1054, 14.88),
    _mma(32, 8, 2, 3, 1): Cost(3, 1.777, 0.3851, 0.2397, 0.0942, 14.74),
    _mma(32, 8, 4, 1, 2): Cost(1, 1.415, 1.216, 0.3639, 0.0393, 0),
    _mma(16, 16, 2, 2, 2): Cost(2, 1.451, 1.546, 0.08435, 0.06434, 30.93),
    _mma(32, 16, 2, 1, 2): Cost(1, 1.095, 1.39, 0.1848, 0, 20.74),
    _mma(32, 16, 4, 1, 2): Cost(1, 1.23, 1.819, 0.3867, 0, 13.05),
    _sums(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.5431, 3.271, 0.2102, 0.05829, 17),
    _sums(128, 16, ctas_per_sm=2): Cost(2, 2.29, 2.922, 0, 0.09196, 18.82),
    _sums(160, 16, split_k_cluster=2): Cost(1, 0, 8.756, 0, 0.09765, 18.86),
    _sums(192, 16, split_k_cluster=2): Cost(1, 0.3185, 5.357, 0.2456, 0.09139, 13.36),
    _sums(224, 16, warpgroups_n=4, split_k_cluster=2): Cost(1, 2.731, 0, 0, 0.1341, 15.75),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.2564, 3.82, 0.2073, 0.02035, 19.91),
    GemmConfig(128, 32, ctas_per_sm=2): Cost(2, 0, 4.829, 0.1956, 0.07531, 19.51),
    _sums(160, 32, split_k_cluster=2): Cost(1, 0.0734, 7.933, 0, 0.1135, 21.99),
    GemmConfig(192, 32, split_k_cluster=2): Cost(1, 0.3259, 6.448, 0.1651, 0.09426, 17.01),
    _sums(224, 32, warpgroups_n=4, split_k_cluster=2): Cost(1, 1.436, 4.846, 0, 0.119, 20.17),
}

SYMMETRIC_DEPENDENT: Table = {
    _mma(16, 2, 1, 4, 2): Cost(7, 1.389, 0, 0.2745, 0, 7.983),
    _mma(16, 2, 2, 2, 2): Cost(3, 0.6002, 0.5661, 0.2349, 0, 7.616),
    _mma(32, 2, 2, 2, 2): Cost(2, 0.4022, 0.5857, 0.2708, 0.09746, 4.211),
    _mma(32, 2, 2, 3, 1): Cost(3, 0.7041, 0.635, 0.4083, 0.08573, 0),
    _mma(32, 2, 4, 1, 2): Cost(1, 0.3117, 0.9105, 0.3136, 0.0776, 0),
    _mma(16, 4, 1, 4, 2): Cost(7, 1.672, 0, 0.2829, 0, 7.446),
    _mma(16, 4, 2, 2, 2): Cost(3, 0.6042, 0.2459, 0.2285, 0.06262, 9.845),
    _mma(32, 4, 2, 2, 2): Cost(2, 0.5158, 0.5679, 0.2944, 0.0849, 2.111),
    _mma(32, 4, 2, 3, 1): Cost(3, 0.8434, 0.2929, 0.4429, 0.07828, 0),
    _mma(32, 4, 4, 1, 2): Cost(1, 0.2844, 1.016, 0.3283, 0.06593, 0),
    _mma(32, 8, 2, 2, 2): Cost(2, 0.9256, 0.2668, 0.3105, 0.08346, 0),
    _mma(32, 8, 4, 1, 2): Cost(1, 0.2959, 1.194, 0.3354, 0.06652, 0),
    _mma(32, 16, 2, 1, 2): Cost(1, 0.1108, 1.558, 0.1458, 0, 24.56),
    _mma(32, 16, 4, 1, 2): Cost(1, 0.1897, 1.695, 0.3888, 0.04591, 11.54),
    _sums(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.1624, 1.68, 0.3542, 0.03835, 1.364),
    _sums(160, 16, split_k_cluster=2): Cost(1, 0, 6.327, 0, 0.1062, 18.23),
    _sums(192, 16, split_k_cluster=2): Cost(1, 0, 4.009, 0.2171, 0.1091, 13.31),
    _sums(256, 16, warpgroups_n=4): Cost(1, 0, 6.108, 0, 0.1077, 16.07),
    GemmConfig(64, 32, split_k_cluster=2): Cost(1, 0.07076, 2.887, 0.1288, 0, 25.45),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.08978, 2.373, 0.3087, 0.09607, 8.014),
    _sums(160, 32, split_k_cluster=2): Cost(1, 0, 0, 0, 0.1437, 21.17),
    GemmConfig(192, 32, split_k_cluster=2): Cost(1, 0, 4.933, 0.1589, 0.117, 16.08),
    GemmConfig(256, 32, warpgroups_n=4): Cost(1, 0, 0, 0.07777, 0.1168, 17.64),
}

WITH_ZEROS: Table = {
    _mma(16, 2, 1, 3, 1): Cost(9, 1.312, 1.812, 0.1753, 0.1414, 6.072),
    _mma(16, 2, 1, 4, 2): Cost(6, 2.032, 0.5939, 0.1295, 0.1052, 13.34),
    _mma(16, 2, 2, 2, 2): Cost(3, 1.932, 0.493, 0.1477, 0.1242, 10.41),
    _mma(16, 2, 2, 3, 1): Cost(4, 1.756, 0.6475, 0.1895, 0.1183, 10.31),
    _mma(16, 2, 2, 4, 2): Cost(4, 1.98, 0.5093, 0.1513, 0.118, 12.64),
    _mma(16, 2, 4, 2, 1): Cost(2, 1.633, 1.199, 0.1419, 0.08303, 16.67),
    _mma(16, 4, 1, 3, 1): Cost(9, 1.748, 1.131, 0.1768, 0.1243, 11.16),
    _mma(16, 4, 2, 3, 1): Cost(4, 1.775, 0.6849, 0.1817, 0.1071, 13.72),
    _mma(16, 4, 4, 2, 1): Cost(2, 1.476, 1.471, 0.1132, 0.02153, 21.27),
    _mma(32, 4, 2, 3, 1): Cost(3, 1.576, 1.576, 0.2306, 0.1039, 13.41),
    _mma(32, 4, 4, 1, 2): Cost(1, 2.074, 1.463, 0.2783, 0.1106, 0),
    _mma(16, 8, 2, 3, 1): Cost(4, 2.101, 0.05849, 0.1448, 0.1896, 0.5817),
    _mma(16, 8, 4, 2, 1): Cost(2, 1.442, 1.22, 0.1407, 0.1964, 0.1296),
    _mma(32, 8, 2, 2, 2): Cost(2, 2.085, 0.9379, 0.1689, 0.1026, 14.92),
    _mma(32, 8, 2, 3, 1): Cost(3, 2.533, 0, 0.2323, 0.1083, 13.95),
    _mma(32, 8, 4, 1, 2): Cost(1, 2.26, 1.331, 0.3366, 0, 9.196),
    _mma(16, 16, 2, 2, 2): Cost(2, 1.687, 1.561, 0.07703, 0, 34.39),
    _mma(32, 16, 4, 1, 2): Cost(1, 1.86, 1.908, 0.418, 0, 9.981),
    _sums(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.8498, 3.119, 0.2299, 0, 18.56),
    _sums(160, 16, split_k_cluster=2): Cost(1, 0.4977, 8.256, 0, 0.102, 19.75),
    _sums(192, 16, split_k_cluster=2): Cost(1, 0.7383, 6.192, 0.1446, 0.1085, 15.75),
    _sums(224, 16, warpgroups_n=4, split_k_cluster=2): Cost(1, 2.405, 0, 0, 0.1317, 17.22),
    _sums(64, 32, split_k_cluster=2): Cost(1, 1.096, 3.703, 0.05704, 0, 33.56),
    _sums(128, 32, split_k_cluster=2): Cost(1, 0.9467, 3.917, 0.2018, 0, 21.81),
    _sums(160, 32, split_k_cluster=2): Cost(1, 1.131, 5.921, 0.03666, 0.1041, 22.27),
    _sums(192, 32, split_k_cluster=2): Cost(1, 1.516, 6.576, 0.07378, 0.1091, 19.64),
    _sums(224, 32, warpgroups_n=4, split_k_cluster=2): Cost(1, 3.168, 0, 0, 0.1118, 19.42),
}

WITH_ZEROS_DEPENDENT: Table = {
    _mma(16, 2, 1, 3, 1): Cost(9, 3.239, 0, 0.3405, 0, 0),
    _mma(16, 2, 2, 2, 2): Cost(3, 0.7848, 0.6734, 0.2448, 0, 0),
    _mma(16, 2, 2, 4, 2): Cost(4, 1.803, 0, 0.2505, 0, 14.24),
    _mma(16, 2, 4, 2, 1): Cost(2, 0.8283, 0.6313, 0.3093, 0.02648, 9.277),
    _mma(32, 2, 2, 2, 2): Cost(2, 0.3392, 0.5121, 0.2897, 0.02592, 11.74),
    _mma(32, 2, 2, 3, 1): Cost(3, 0.577, 0.5416, 0.4445, 0.08056, 0),
    _mma(32, 2, 4, 1, 2): Cost(1, 0.6023, 0.9233, 0.3055, 0.08532, 1e-05),
    _mma(16, 4, 1, 3, 1): Cost(9, 3.813, 0, 0.3413, 0, 0),
    _mma(16, 4, 2, 2, 2): Cost(2, 0.7349, 0.5608, 0.1986, 0, 0),
    _mma(32, 4, 2, 2, 2): Cost(2, 0.5401, 0.4184, 0.3241, 0.05135, 6.139),
    _mma(32, 4, 2, 3, 1): Cost(3, 0.6022, 0.1257, 0.4534, 0.09104, 0),
    _mma(32, 4, 4, 1, 2): Cost(1, 0.7084, 1.136, 0.3016, 0.09012, 0),
    _mma(32, 8, 2, 2, 2): Cost(2, 0.7708, 0.4462, 0.3223, 0.07837, 0),
    _mma(32, 8, 4, 1, 2): Cost(1, 0.631, 1.527, 0.27, 0.1138, 0),
    _mma(32, 16, 2, 1, 2): Cost(1, 0.2987, 1.777, 0.1289, 0, 26.31),
    _mma(32, 16, 4, 1, 2): Cost(1, 0.7504, 2.386, 0.2026, 0.1255, 19.22),
    _sums(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.1744, 1.666, 0.3634, 0.04461, 0),
    _sums(128, 16, ctas_per_sm=2): Cost(2, 0, 0, 0.6277, 0.06034, 8.606),
    _sums(160, 16, split_k_cluster=2): Cost(1, 0, 4.406, 0.1092, 0.09422, 18.74),
    _sums(192, 16, split_k_cluster=2): Cost(1, 0, 5.427, 0.06362, 0.1267, 15.96),
    _sums(224, 16, warpgroups_n=4, split_k_cluster=2): Cost(1, 0.9618, 0, 0, 0.1227, 17.32),
    _sums(64, 32, split_k_cluster=2): Cost(1, 0.1423, 3.152, 0.1141, 0, 30.42),
    _sums(128, 32, split_k_cluster=2): Cost(1, 0, 2.841, 0.2828, 0, 18.46),
    _sums(160, 32, split_k_cluster=2): Cost(1, 0, 2.55, 0.1591, 0.1035, 21.48),
    _sums(192, 32, split_k_cluster=2): Cost(1, 0, 6.608, 0.02489, 0.1191, 19.92),
    _sums(224, 32, warpgroups_n=4, split_k_cluster=2): Cost(1, 1.378, 0, 0, 0.1117, 19.76),
}

GROUPS_OF_32: Table = {
    _mma(16, 2, 1, 3, 1): Cost(7, 0.3704, 2.877, 0.1595, 0.03923, 18.72),
    _mma(16, 2, 1, 4, 2): Cost(5, 1.201, 1.708, 0.1228, 0.09882, 14.84),
    _mma(16, 2, 2, 3, 1): Cost(3, 1.455, 0.9835, 0.1806, 0.1123, 12.68),
    _mma(16, 2, 4, 2, 1): Cost(2, 1.3, 1.356, 0.1908, 0.09006, 16.51),
    _mma(32, 2, 2, 2, 2): Cost(2, 1.577, 1.908, 0.1528, 0.1207, 13.57),
    _mma(16, 4, 1, 3, 1): Cost(7, 0.5873, 2.659, 0.1593, 0, 19.83),
    _mma(16, 4, 1, 4, 2): Cost(5, 1.333, 1.623, 0.1204, 0.08705, 16.97),
    _mma(16, 4, 2, 3, 1): Cost(3, 1.542, 0.9589, 0.1734, 0.1037, 15.03),
    _mma(16, 4, 4, 2, 1): Cost(2, 1.444, 1.464, 0.1341, 0.05203, 21.09),
    _mma(32, 4, 2, 2, 2): Cost(2, 1.448, 2.118, 0.1592, 0.1212, 13.32),
    _mma(32, 4, 4, 1, 2): Cost(1, 2.24, 2.074, 0.1002, 0.1455, 13.4),
    _mma(16, 8, 2, 3, 1): Cost(3, 1.91, 0.781, 0.147, 0.1785, 4.23),
    _mma(16, 8, 4, 2, 1): Cost(2, 1.52, 1.508, 0.09944, 0.2115, 0.5203),
    _mma(32, 8, 2, 2, 2): Cost(2, 1.733, 1.759, 0.1565, 0.1143, 15.26),
    _mma(32, 8, 2, 3, 1): Cost(3, 1.956, 1.332, 0.2216, 0.1266, 13.27),
    _mma(32, 8, 4, 1, 2): Cost(1, 2.09, 1.627, 0.266, 0.0696, 15.14),
    _mma(16, 16, 2, 2, 2): Cost(2, 1.955, 1.65, 0.05342, 0.08404, 36),
    GemmConfig(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(2, 1.022, 3.567, 0.2006, 0, 21.17),
    GemmConfig(160, 16, split_k_cluster=2): Cost(1, 1.313, 6.732, 0.03358, 0.09742, 23.52),
    GemmConfig(192, 16, split_k_cluster=2): Cost(1, 1.327, 6.121, 0.1313, 0.1288, 15.47),
    GemmConfig(224, 16, warpgroups_n=4, split_k_cluster=2): Cost(1, 3.33, 0, 0, 0.1265, 19.93),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.8222, 3.979, 0.192, 0, 22.29),
    GemmConfig(160, 32, split_k_cluster=2): Cost(1, 1.325, 7.564, 0.00229, 0.09692, 25.3),
    GemmConfig(192, 32, split_k_cluster=2): Cost(1, 1.536, 6.995, 0.06647, 0.1238, 18.01),
    GemmConfig(224, 32, warpgroups_n=4, split_k_cluster=2): Cost(1, 3.243, 0, 0, 0.1122, 22.43),
}

GROUPS_OF_32_DEPENDENT: Table = {
    _mma(16, 2, 1, 3, 1): Cost(7, 0.8373, 0.09607, 0.2831, 0, 13.42),
    _mma(16, 2, 1, 4, 2): Cost(5, 1.117, 0.2908, 0.209, 0, 11.29),
    _mma(16, 2, 2, 2, 2): Cost(2, 0.4528, 0.6852, 0.2008, 0, 0),
    _mma(16, 2, 2, 3, 1): Cost(3, 0.476, 0.792, 0.2837, 0, 0),
    _mma(32, 2, 2, 2, 2): Cost(2, 0.1947, 0.8156, 0.2783, 0.08147, 11.88),
    _mma(32, 2, 2, 3, 1): Cost(3, 0.08232, 1.086, 0.4456, 0.106, 0),
    _mma(32, 2, 4, 1, 2): Cost(1, 0.501, 1.046, 0.3143, 0.09852, 2e-05),
    _mma(16, 4, 1, 3, 1): Cost(7, 0.7453, 0, 0.3045, 0, 12.23),
    _mma(16, 4, 1, 4, 2): Cost(5, 1.45, 0, 0.2218, 0, 10.38),
    _mma(16, 4, 2, 3, 1): Cost(3, 0.8692, 0.6587, 0.2861, 0, 1.522),
    _mma(16, 4, 4, 2, 1): Cost(2, 0.9034, 0.5268, 0.3527, 0, 10.76),
    _mma(32, 4, 2, 2, 2): Cost(2, 0.1703, 0.6761, 0.3143, 0.0448, 12.39),
    _mma(32, 4, 2, 3, 1): Cost(3, 0.01413, 0.7868, 0.4827, 0.09793, 0.0003),
    _mma(32, 4, 4, 1, 2): Cost(1, 0.8767, 1.074, 0.2999, 0.1106, 0),
    _mma(16, 8, 2, 2, 2): Cost(2, 0.6081, 0.8908, 0.1315, 0.1702, 0.2486),
    _mma(32, 8, 2, 2, 2): Cost(2, 0.7799, 0.4888, 0.3107, 0.1126, 0),
    _mma(32, 8, 4, 1, 2): Cost(1, 0.6762, 1.528, 0.252, 0.126, 8.174),
    _mma(32, 16, 2, 1, 2): Cost(1, 0.3093, 1.879, 0.1292, 0, 27.85),
    GemmConfig(64, 16, split_k_cluster=2): Cost(1, 0.3918, 2.668, 0.1292, 0.02519, 25.53),
    GemmConfig(64, 16, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.3961, 1.871, 0.309, 0.1156, 0),
    GemmConfig(160, 16, split_k_cluster=2): Cost(1, 0.6144, 6.024, 0, 0.09582, 23.01),
    GemmConfig(192, 16, split_k_cluster=2): Cost(1, 0, 5.041, 0.1237, 0.1283, 15.93),
    GemmConfig(256, 16, warpgroups_n=4): Cost(1, 0.6708, 2.929, 0, 0.1205, 16.95),
    GemmConfig(64, 32, split_k_cluster=2): Cost(1, 0.3204, 2.952, 0.1338, 0, 26.05),
    GemmConfig(64, 32, split_k_cluster=2, ctas_per_sm=2): Cost(2, 0.3128, 2.485, 0.3008, 0.1295, 0),
    GemmConfig(160, 32, split_k_cluster=2): Cost(1, 0, 7.873, 0, 0.09344, 25.17),
    GemmConfig(192, 32, split_k_cluster=2): Cost(1, 0, 6.023, 0.1071, 0.1241, 17.8),
    GemmConfig(256, 32, warpgroups_n=4): Cost(1, 1.315, 0, 0, 0.1127, 18.44),
}

MANY_TOKENS: Table = {
    GemmConfig(64, 64, split_k_warpgroups=2, split_k_cluster=2): Cost(1, 0.1645, 3.245, 0.5344, 0),
    GemmConfig(128, 64, split_k_cluster=2): Cost(1, 0.2056, 3.7, 0.4739, 0),
    GemmConfig(192, 64, split_k_cluster=2): Cost(1, 0, 4.695, 0.6651, 0),
    GemmConfig(256, 64, warpgroups_n=4): Cost(1, 0.625, 0.8431, 0.8762, 0.0898),
    GemmConfig(64, 128, split_k_cluster=2): Cost(1, 0, 3.104, 0.3955, 0),
    GemmConfig(128, 128, split_k_cluster=2): Cost(1, 0, 4.107, 0.6873, 0.07448),
    GemmConfig(192, 128, split_k_cluster=2): Cost(1, 0, 4.887, 1.023, 0.09329),
    GemmConfig(224, 128, split_k_cluster=2): Cost(1, 0, 2.624, 1.271, 0.1146),
    NAMED_CONFIGS["w4a16_sm90_gemm_64"]: Cost(1, 1.026, 0.7074, 0.3975, 0),
    GemmConfig(128, 192): Cost(1, 0, 1.338, 1.093, 0),
    NAMED_CONFIGS["w4a16_sm90_gemm_128"]: Cost(1, 0.01042, 1.667, 0.7201, 0.06359),
    GemmConfig(192, 128): Cost(1, 0, 1.722, 1.082, 0.1544),
    GemmConfig(256, 128): Cost(1, 0, 2.028, 1.438, 0.0762),
}

MANY_TOKENS_DEPENDENT: Table = {
    GemmConfig(64, 64, split_k_warpgroups=2, split_k_cluster=2): Cost(1, 0, 2.421, 0.5479, 0),
    GemmConfig(128, 64, split_k_cluster=2): Cost(1, 0, 2.674, 0.4616, 0.04881),
    GemmConfig(192, 64, split_k_cluster=2): Cost(1, 0, 3.023, 0.668, 0),
    GemmConfig(256, 64, warpgroups_n=4): Cost(1, 1.488, 0.6375, 0.8198, 0.08783),
    GemmConfig(64, 128, split_k_cluster=2): Cost(1, 0, 2.388, 0.3937, 0),
    GemmConfig(128, 128, split_k_cluster=2): Cost(1, 0, 2.983, 0.6898, 0.06491),
    GemmConfig(160, 128, split_k_cluster=2): Cost(1, 0.03464, 2.856, 0.9063, 0.09369),
    GemmConfig(192, 128, split_k_cluster=2): Cost(1, 0, 3.743, 1.013, 0.0742),
    GemmConfig(224, 128, split_k_cluster=2): Cost(1, 0.2562, 2.993, 1.189, 0.08112),
    NAMED_CONFIGS["w4a16_sm90_gemm_64"]: Cost(1, 0.9804, 0.4371, 0.3831, 0.02531),
    NAMED_CONFIGS["w4a16_sm90_gemm_128"]: Cost(1, 0.9436, 0.9881, 0.686, 0.06418),
    GemmConfig(128, 192): Cost(1, 1.559, 0.7764, 1.016, 0),
    GemmConfig(192, 128): Cost(1, 1.201, 1.843, 1.003, 0.1237),
    GemmConfig(256, 128): Cost(1, 2.367, 1.336, 1.333, 0.05275),
}


def _bfloat16(symmetric: Table, with_zeros: Table) -> Table:
    """Costs for bfloat16: mma tiles have no zeros to mind, wgmma tiles no normalised scales to gain from."""
    few = {config: cost for config, cost in symmetric.items() if config.family == "mma"}
    return few | {config: cost for config, cost in with_zeros.items() if config.family == "wgmma"}


_TABLES = {
    pdl: [few | many for few in (symmetric, with_zeros, _bfloat16(symmetric, with_zeros), groups_of_32)]
    for pdl, symmetric, with_zeros, groups_of_32, many in (
        (False, SYMMETRIC, WITH_ZEROS, GROUPS_OF_32, MANY_TOKENS),
        (True, SYMMETRIC_DEPENDENT, WITH_ZEROS_DEPENDENT, GROUPS_OF_32_DEPENDENT, MANY_TOKENS_DEPENDENT),
    )
}

CONFIGS = tuple(dict.fromkeys(config for kinds in _TABLES.values() for costs in kinds for config in costs))


def tables(problem: GemmProblem, pdl: bool) -> Sequence[Mapping[GemmConfig, Cost]]:
    """Costs by configuration for launches of that kind: first what was measured for such a problem."""
    kinds = _TABLES[pdl]
    if problem.group_size == 32:
        own = 3
    elif problem.zeros is not None:
        own = 1
    else:
        own = 2 if problem.dtype == "bfloat16" else 0
    return kinds[own], *kinds
