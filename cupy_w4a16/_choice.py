"""Which configuration a call gets that names none: the tuning file's for this GPU, else the heuristic's."""

from __future__ import annotations

from functools import cache

from ._config import GemmConfig, GemmProblem
from ._device import device_name, num_sms
from ._heuristics import fastest_config
from ._tuned import tuned_config


def config_for(problem: GemmProblem, device: int, pdl: bool = False) -> GemmConfig:
    """The configuration for `problem` on GPU number `device`, launched dependent or not."""
    name, sms = _name_and_sms(device)
    return tuned_config(problem, name, sms, pdl) or fastest_config(problem, sms, pdl)


@cache
def _name_and_sms(device: int) -> tuple[str, int]:
    return device_name(device), num_sms(device)
