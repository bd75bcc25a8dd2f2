"""The tuning file: whose winners count, and what damage does to it."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.bench import LARGE, PROBLEM, SMALL

from cupy_w4a16 import _tuned, clear_cache
from cupy_w4a16._config import GemmConfig, GemmProblem
from cupy_w4a16._tuned import Winner, load_tuned, store_tuned, tuned_config, tuned_path

H100 = "NVIDIA H100 80GB HBM3", 132


def winner_of(m: int, config: GemmConfig, pdl: bool = False) -> Winner:
    return Winner(replace(PROBLEM, m=m), config, us=5.0, pdl=pdl)


def by_launch(*winners: Winner) -> dict[tuple[GemmProblem, bool], GemmConfig]:
    return {(winner.problem, winner.pdl): winner.config for winner in winners}


def test_tuning_file_round_trip(cache: Path) -> None:
    assert load_tuned(*H100) == {}
    odd = GemmConfig(256, 64, stages=3, cluster_m=2)
    plain, dependent, other = winner_of(16, SMALL), winner_of(16, LARGE, pdl=True), winner_of(64, odd)
    assert store_tuned(*H100, [plain, dependent, other]) == tuned_path() == cache / "tuned.json"
    assert load_tuned(*H100) == by_launch(plain, dependent, other)
    for later in (winner_of(16, odd, pdl=True), winner_of(16, LARGE)):  # wins, and leaves the rest
        expected = load_tuned(*H100) | by_launch(later)
        store_tuned(*H100, [later])
        assert load_tuned(*H100) == expected
        (entries,) = json.loads(tuned_path().read_text())["devices"].values()
        assert len(entries) == 3
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["tuned.json"]


def test_winners_of_one_gpu_are_not_used_on_another() -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    store_tuned("NVIDIA H200", 132, [winner_of(16, LARGE)])
    assert load_tuned(*H100)[PROBLEM, False] == SMALL
    assert load_tuned("NVIDIA H200", 132)[PROBLEM, False] == LARGE
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


def test_winners_of_one_kind_of_launch_say_nothing_about_the_other() -> None:
    # Between two of one kind lies one of the other: neither its own nor a smaller m may find it.
    store_tuned(*H100, [winner_of(16, SMALL), winner_of(24, LARGE, pdl=True), winner_of(30, SMALL)])

    def found(m: int, pdl: bool) -> GemmConfig | None:
        return tuned_config(replace(PROBLEM, m=m), *H100, pdl)

    assert [found(m, pdl=False) for m in (16, 20, 24, 30)] == [SMALL] * 4
    assert [found(m, pdl=True) for m in (12, 16, 20, 24, 30)] == [None, LARGE, LARGE, LARGE, None]


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"schema": 2, "devi',
        "[]",
        "null",
        '{"schema": 99, "devices": {}}',
        '{"schema": 2}',
        '{"schema": 2, "devices": []}',
        '{"schema": 2, "devices": {"NVIDIA H100 80GB HBM3, 132 SMs": [3]}}',
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
    assert load_tuned(*H100) == by_launch(winner_of(16, SMALL))


def test_file_that_does_not_know_kinds_of_launch_is_ignored_with_one_warning() -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    content = json.loads(tuned_path().read_text())
    content["schema"] = 1
    for entry in content["devices"][_tuned.device_key(*H100)]:
        del entry["pdl"]
    tuned_path().write_text(json.dumps(content))
    _tuned._load.cache_clear()
    with pytest.warns(RuntimeWarning, match="its schema is not 2") as warned:
        found = [tuned_config(PROBLEM, *H100, pdl) for pdl in (False, True, False)]
    assert (found, len(warned)) == ([None] * 3, 1)


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
        lambda entry: entry.pop("pdl"),
        lambda entry: entry.update(pdl=1),
    ],
)
def test_entry_of_another_version_is_left_out(damage: Any) -> None:
    store_tuned(*H100, [winner_of(16, SMALL), winner_of(64, LARGE)])
    content = json.loads(tuned_path().read_text())
    damage(content["devices"][_tuned.device_key(*H100)][0])
    tuned_path().write_text(json.dumps(content))
    _tuned._load.cache_clear()
    with pytest.warns(RuntimeWarning, match="1 entries"):
        assert load_tuned(*H100) == by_launch(winner_of(64, LARGE))


def test_interrupted_store_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    before = tuned_path().read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        store_tuned(*H100, [winner_of(16, LARGE)])
    assert tuned_path().read_bytes() == before
    assert sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") == ["tuned.json"]


def test_other_users_of_a_shared_cache_can_read_the_file() -> None:
    path = store_tuned(*H100, [winner_of(16, SMALL)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_clearing_the_cache_keeps_what_was_tuned() -> None:
    store_tuned(*H100, [winner_of(16, SMALL)])
    clear_cache()
    _tuned._load.cache_clear()
    assert load_tuned(*H100) == by_launch(winner_of(16, SMALL))
