"""Compiles what the collected GPU tests run, many kernels at a time, before the first of them."""

from __future__ import annotations

import contextlib

import pytest
from helpers.cases import Case, compile_for

from cupy_w4a16 import CompileError


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> None:
    """Kernels of every `Case` and every collection of cases among the parameters of the collected tests."""
    cases: list[Case] = []
    for item in request.session.items:
        if item.get_closest_marker("gpu") and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            for value in item.callspec.params.values():
                values = value if isinstance(value, (list, tuple)) else [value]
                cases += [each for each in values if isinstance(each, Case)]
    with contextlib.suppress(CompileError):  # the tests that need the kernel will say so, and the others run
        compile_for(cases)
