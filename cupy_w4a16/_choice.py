"""Which configuration a call gets that names none: the tuning file's for this GPU, else the heuristic's."""

from __future__ import annotations

from functools import cache

import cupy

from ._config import GemmConfig, GemmProblem
from ._heuristics import fastest_config
from ._tuned import tuned_config


def config_for(problem: GemmProblem, device: int, pdl: bool = False) -> GemmConfig:
    """The configuration for `problem` on GPU number `device`, launched dependent or not."""
    name, num_sms = _name_and_sms(device)
    return tuned_config(problem, name, num_sms, pdl) or fastest_config(problem, num_sms, pdl)


@cache
def _name_and_sms(device: int) -> tuple[str, int]:
    properties = cupy.cuda.runtime.getDeviceProperties(device)
    return properties["name"].decode(), int(properties["multiProcessorCount"])
