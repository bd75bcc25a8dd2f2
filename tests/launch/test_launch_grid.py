"""The grid is whole clusters that fit, of CTAs that share blocks too; attributes say who depends on whom."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.fake_calls import arrays
from helpers.fake_driver import CLUSTER, DEPENDENT, FakeDriver

from cupy_w4a16 import GemmConfig, GemmProblem, gemm
from cupy_w4a16._launch import grid_size

PAIR = GemmConfig(224, 128, split_k_cluster=2)


def test_grid_is_whole_clusters_that_fit(driver: FakeDriver) -> None:
    config = GemmConfig(128, 128, cluster_n=2)
    gemm(**arrays(), config=config)
    assert driver.last.grid == (4, 1, 1)  # 512 columns are 2 tiles of two CTAs
    assert driver.last.attributes == ((4, (2, 1, 1)),)
    assert driver.last.block == (config.threads, 1, 1)
    gemm(**arrays(m=1 << 14), config=config)
    assert driver.last.grid == (132, 1, 1)


def test_launch_without_clusters_has_no_attributes(driver: FakeDriver) -> None:
    gemm(**arrays(), config=GemmConfig(128, 64))
    assert driver.last.attributes == ()


@pytest.mark.parametrize("cluster", [{}, {"cluster_n": 2}, {"cluster_n": 2, "cluster_m": 2}])
@pytest.mark.parametrize("pdl", [False, True])
def test_attributes_say_clusters_and_dependence(
    driver: FakeDriver, cluster: dict[str, Any], pdl: bool
) -> None:
    config = GemmConfig(128, 128, **cluster)
    gemm(**arrays(), config=config, pdl=pdl)
    expected = [(CLUSTER, (config.cluster_size, 1, 1))] if cluster else []
    assert driver.last.attributes == (*expected, *[(DEPENDENT, (1,))] * pdl)


def test_environment_switches_dependence_off(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPY_W4A16_PDL", "0")
    for _ in range(2):
        gemm(**arrays(), pdl=True, config=GemmConfig(128, 64))
        assert driver.last.attributes == ()


@pytest.mark.parametrize(
    ("config", "max_clusters", "expected"),
    [
        (GemmConfig(128, 128), 132, 132),  # persistent
        (GemmConfig(128, 128), 10_000, 64 * 32),
        (GemmConfig(128, 128, cluster_n=2, cluster_m=2), 33, 132),
        (GemmConfig(64, 64, split_k_cluster=2), 66, 2 * 128 * 64),  # a cluster for every tile
    ],
)
def test_grid_size(config: GemmConfig, max_clusters: int, expected: int) -> None:
    assert grid_size(config, GemmProblem(4096, 8192, 4096), max_clusters) == expected


@pytest.mark.parametrize(("n", "tiles"), [(1, 1), (193, 1), (448, 1), (449, 2)])
def test_pairs_of_ctas_that_share_a_block_fill_the_grid(driver: FakeDriver, n: int, tiles: int) -> None:
    gemm(**arrays(n=n, m=200), config=PAIR)
    assert driver.last.grid == (tiles * 2 * 2, 1, 1)  # 200 tokens are two tiles, of two CTAs each
    assert driver.last.attributes == ((CLUSTER, (2, 1, 1)),)


def test_stages_of_half_a_block_more_bring_scales_of_whole_blocks(driver: FakeDriver) -> None:
    gemm(**arrays(n=448), config=PAIR)
    assert driver.last.params["scales_map"][5:7] == (256, 1)
