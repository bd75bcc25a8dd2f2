"""Which configuration a call gets that names none: the tuning file's for this GPU, else the heuristic's."""

from __future__ import annotations

from functools import cache

from . import _device
from ._check_config import check_problem
from ._config import GemmConfig, GemmProblem
from ._heuristics import fastest_config
from ._pdl import check_pdl
from ._scalars import as_int
from ._tuned import tuned_config

H100_SMS = 132  # of an H100 SXM, and of an H200


def choose_config(problem: GemmProblem, num_sms: int | None = None, pdl: bool = False) -> GemmConfig:
    """The configuration that a call gets which names none.

    Parameters
    ----------
    problem : GemmProblem
    num_sms : int, the multiprocessors of a GPU to choose for, by the heuristic alone: a pure function. None:
        for the current GPU, by the tuning file where it has this problem; with no Hopper GPU, for 132
    pdl : bool, whether the launch is dependent, which another configuration may suit better

    Returns
    -------
    GemmConfig

    Raises
    ------
    TypeError, ValueError
        `problem` is no `GemmProblem`, or one of its fields is not as `GemmProblem` says; `num_sms` is no
        integer above 0, or `pdl` no bool.

    Examples
    --------
    >>> from cupy_w4a16 import GemmProblem, choose_config
    >>> choose_config(GemmProblem(4096, 4096, 4096), num_sms=132).name
    '256x128x128_1x1_cooperative'
    >>> choose_config(GemmProblem(1, 4096, 4096)).family
    'mma'
    """
    problem = check_problem(problem)
    check_pdl(pdl)
    if num_sms is None and _device.has_hopper():
        return config_for(problem, _device.current_device(), pdl)
    sms = H100_SMS if num_sms is None else as_int("num_sms", num_sms)
    if sms < 1:
        raise ValueError(f"num_sms is {sms}: pass how many multiprocessors the GPU has, 1 or more")
    return fastest_config(problem, sms, pdl)


def config_for(problem: GemmProblem, device: int, pdl: bool = False) -> GemmConfig:
    """The configuration for `problem` on GPU number `device`, launched dependent or not."""
    name, sms = _name_and_sms(device)
    return tuned_config(problem, name, sms, pdl) or fastest_config(problem, sms, pdl)


@cache
def _name_and_sms(device: int) -> tuple[str, int]:
    return _device.device_name(device), _device.num_sms(device)
