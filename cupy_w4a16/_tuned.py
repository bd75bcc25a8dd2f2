"""The tuning file: what `python -m cupy_w4a16 tune` found fastest on this machine's GPUs.

One JSON file beside the compiled kernels, `tuned.json`:

    {"schema": 2, "devices": {"NVIDIA H100 80GB HBM3, 132 SMs": [
        {"problem": {"m": 16, "n": 4096, "k": 4096, ...}, "config": {"tile_n": 64, ...}, "us": 6.6,
         "pdl": false, ...}]}}

A call that names no configuration looks there first. What is fastest with dependent launch ("pdl") often is
not without it, so a winner is used for launches of its own kind alone. A file that can't be read, or an entry
that this version does not understand, is ignored with one warning: at worst a problem gets the configuration
it would get without.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import _paths
from ._config import GemmConfig, GemmProblem
from ._validity import invalid_reason
from ._write import write_whole

SCHEMA = 2
LOCK_TIMEOUT_S = 10.0

_log = logging.getLogger("cupy_w4a16")
#: Configurations by problem and by whether the launch is dependent.
_Winners = Mapping[tuple[GemmProblem, bool], GemmConfig]
_NOTHING: _Winners = MappingProxyType({})


@dataclass(frozen=True)
class Winner:
    """A config measured as the fastest for a problem, launched dependent (`pdl`) or not.

    `us` is its time in µs; `date` and `version` say when and by what it was found.
    """

    problem: GemmProblem
    config: GemmConfig
    us: float
    pdl: bool = False
    date: str = ""
    version: str = ""


def tuned_path() -> Path:
    """The tuning file's place; it need not exist. `clear_cache` leaves it alone."""
    return _paths.cache_dir() / "tuned.json"


def load_tuned(device_name: str, num_sms: int) -> _Winners:
    """Winners for the GPU of that name and size, by problem and `pdl`; read once a process and file.

    >>> import os
    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, CUPY_W4A16_CACHE_DIR="/nonexistent"):
    ...     dict(load_tuned("NVIDIA H100 80GB HBM3", 132))
    {}
    """
    return _load(tuned_path(), device_key(device_name, num_sms))


def tuned_config(
    problem: GemmProblem, device_name: str, num_sms: int, pdl: bool = False
) -> GemmConfig | None:
    """The winner for `problem`, or for the next larger tuned `m` below twice its own; else None.

    Of winners with the same `pdl` alone.
    """
    winners = load_tuned(device_name, num_sms)
    if (problem, pdl) in winners:
        return winners[problem, pdl]
    near = (
        tuned
        for tuned, its_pdl in winners
        if its_pdl == pdl and problem.m < tuned.m < 2 * problem.m and replace(tuned, m=problem.m) == problem
    )
    nearest = min(near, key=lambda tuned: tuned.m, default=None)
    return None if nearest is None else winners[nearest, pdl]


def store_tuned(device_name: str, num_sms: int, winners: Iterable[Winner]) -> Path:
    """Add `winners` to the file, in place of older ones for the same problem and `pdl`, and return its path.

    Raises OSError.
    """
    import filelock

    path = tuned_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
        devices = _read(path)
        key = device_key(device_name, num_sms)
        added = [asdict(winner) for winner in winners]
        replaced = [(entry["problem"], entry["pdl"]) for entry in added]
        kept = [
            entry
            for entry in devices.get(key, [])
            if (entry.get("problem"), entry.get("pdl")) not in replaced
        ]
        devices[key] = kept + added
        content = {"schema": SCHEMA, "devices": devices}
        write_whole(path, json.dumps(content, indent=1).encode())
    _load.cache_clear()
    return path


def device_key(device_name: str, num_sms: int) -> str:
    """What the file keeps a GPU's winners under: an H100 PCIe, or a slice of one, is another GPU.

    >>> device_key("NVIDIA H100 80GB HBM3", 132)
    'NVIDIA H100 80GB HBM3, 132 SMs'
    """
    return f"{device_name}, {num_sms} SMs"


@lru_cache(maxsize=64)
def _load(path: Path, key: str) -> _Winners:
    if not path.exists():
        return _NOTHING
    found: dict[tuple[GemmProblem, bool], GemmConfig] = {}
    ignored = 0
    for entry in _read(path).get(key, []):
        try:
            problem, config = GemmProblem(**entry["problem"]), GemmConfig(**entry["config"])
            pdl = entry["pdl"]
            usable = type(pdl) is bool and invalid_reason(config, problem) is None
        except (KeyError, TypeError, ValueError):  # fields of another version
            usable = False
        if usable:
            found[problem, pdl] = config
        else:
            ignored += 1
    if ignored:
        _warn(
            f"the tuning file {path} has {ignored} entries that are not of this version, ignored: tune again"
        )
    return MappingProxyType(found)


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The file's devices; empty, with a warning, where it is damaged or of another schema."""
    try:
        content = json.loads(path.read_text())
        devices = content["devices"] if content["schema"] == SCHEMA else None
        if isinstance(devices, dict) and all(
            isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
            for entries in devices.values()
        ):
            return devices
        reason = f"its schema is not {SCHEMA}"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    _warn(f"the tuning file {path} can't be used ({reason}): remove it, or tune again")
    return {}


def _warn(message: str) -> None:
    _log.warning(message)
    warnings.warn(message, RuntimeWarning, stacklevel=2)
