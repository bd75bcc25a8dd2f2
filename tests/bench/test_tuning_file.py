"""The tuning file: whose winners count, and what damage does to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.bench import LARGE, PROBLEM, SMALL

from cupy_w4a16 import _tuned, clear_cache
from cupy_w4a16._config import GemmConfig
from cupy_w4a16._tuned import Winner, load_tuned, store_tuned, tuned_config, tuned_path

H100 = "NVIDIA H100 80GB HBM3", 132


def winner_of(m: int, config: GemmConfig, us: float = 5.0) -> Winner:
    return Winner(replace(PROBLEM, m=m), config, us)


def test_tuning_file_round_trip(cache: Path) -> None:
    assert load_tuned(*H100) == {}
    odd = GemmConfig(256, 64, stages=3, cluster_m=2)
    assert (
        store_tuned(*H100, [winner_of(16, SMALL), winner_of(64, odd)]) == tuned_path() == cache / "tuned.json"
    )
    assert load_tuned(*H100) == {replace(PROBLEM, m=16): SMALL, replace(PROBLEM, m=64): odd}
    store_tuned(*H100, [winner_of(16, LARGE)])  # a later run wins, and leaves the rest
    assert load_tuned(*H100) == {replace(PROBLEM, m=16): LARGE, replace(PROBLEM, m=64): odd}
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["tuned.json"]


def test_winners_of_one_gpu_are_not_used_on_another() -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    store_tuned("NVIDIA H200", 132, [winner_of(16, LARGE)])
    assert load_tuned(*H100)[PROBLEM] == SMALL
    assert load_tuned("NVIDIA H200", 132)[PROBLEM] == LARGE
    assert load_tuned(H100[0], 114) == {}


def test_tokens_between_use_the_next_larger_winner() -> None:
    store_tuned(*H100, [winner_of(16, SMALL), winner_of(64, LARGE), winner_of(100, SMALL)])

    def found(m: int, **changes: Any) -> GemmConfig | None:
        return tuned_config(replace(PROBLEM, m=m, **changes), *H100)

    assert (found(16), found(9), found(8)) == (SMALL, SMALL, None)
    assert (found(33), found(64), found(65)) == (LARGE, LARGE, SMALL)
    assert (found(101), found(17)) == (None, None)
    assert (
        found(16, n=8192),
        found(16, dtype="bfloat16", out_dtype="bfloat16"),
        found(16, zeros="uint8"),
    ) == (None,) * 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"schema": 1, "devi',
        "[]",
        "null",
        '{"schema": 99, "devices": {}}',
        '{"schema": 1}',
        '{"schema": 1, "devices": []}',
        '{"schema": 1, "devices": {"NVIDIA H100 80GB HBM3, 132 SMs": [3]}}',
        b"\xff\xfe\x00",
    ],
)
def test_damaged_tuning_file_warns_once_and_is_replaced(content: str | bytes, cache: Path) -> None:
    cache.mkdir()
    tuned_path().write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(RuntimeWarning, match="tuning file") as warned:
        found = [load_tuned(*H100) for _ in range(3)]
    assert (found, len(warned)) == ([{}] * 3, 1)
    with pytest.warns(RuntimeWarning, match="tuning file"):
        store_tuned(*H100, [winner_of(16, SMALL)])
    assert load_tuned(*H100) == {PROBLEM: SMALL}


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.pop("config"),
        lambda entry: entry["config"].update(warp_size=64),  # of a later version
        lambda entry: entry["problem"].update(sparse=True),
        lambda entry: entry["config"].update(tile_n=7),  # no longer valid
        lambda entry: entry["config"].update(tile_n="128"),
        lambda entry: entry["config"].update(tile_n=[128]),
        lambda entry: entry.update(config=None),
    ],
)
def test_entry_of_another_version_is_left_out(damage: Any) -> None:
    store_tuned(*H100, [winner_of(16, SMALL), winner_of(64, LARGE)])
    content = json.loads(tuned_path().read_text())
    damage(content["devices"][_tuned.device_key(*H100)][0])
    tuned_path().write_text(json.dumps(content))
    _tuned._load.cache_clear()
    with pytest.warns(RuntimeWarning, match="1 entries"):
        assert load_tuned(*H100) == {replace(PROBLEM, m=64): LARGE}


def test_interrupted_store_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    before = tuned_path().read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(_tuned.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        store_tuned(*H100, [winner_of(16, LARGE)])
    assert tuned_path().read_bytes() == before
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["tuned.json"]


def test_clearing_the_cache_keeps_what_was_tuned() -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    clear_cache()
    _tuned._load.cache_clear()
    assert load_tuned(*H100) == {PROBLEM: SMALL}
