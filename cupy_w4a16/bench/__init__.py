"""The benchmark: what `python -m cupy_w4a16 bench` and `tune` measure, and `sweep` for programs.

Read in this order: `shapes` (what is measured), `weights` (rotating sets of random weights), `variants`
(whose product is timed), `timing` (CUDA graphs in random order), `sweep` (all of it, a row a measurement),
`report`, `plot`. `host`, `chain`, `quantizing`, `parallel` (by `ranks`) and `tune` measure other things;
`arguments` and `command` are the command line.
"""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark can't run; the message says what to do about it."""


class HangError(BenchError):
    """A kernel does not end: the process can't go on, nor leave CUDA in good order."""
