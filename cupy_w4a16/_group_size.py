"""The group size: which are allowed, which one fits a k and the rows of `scales`."""

from __future__ import annotations

from typing import Any

from ._pack import BLOCK_K
from ._scalars import as_int

#: The smallest group size; the others are its doubles.
MIN_GROUP = 32
ALLOWED_SIZES = f"powers of two from {MIN_GROUP}, and -1 for one group of all k"


def is_group_size(size: int) -> bool:
    """Whether it is one of `ALLOWED_SIZES`."""
    return size == -1 or (size >= MIN_GROUP and not size & (size - 1))


def check_group_size(given: Any) -> int:
    """The group size as an int; TypeError or ValueError where it is none that is allowed."""
    size = given if type(given) is int else as_int("group_size", given)
    if not is_group_size(size):
        raise ValueError(
            f"group_size is {size}: allowed are {ALLOWED_SIZES}; quantize the weight with one of these"
        )
    return size


def group_rows(k: int, group_size: int) -> int:
    """Rows of `scales`: ceil(k / group_size); for -1 one, or none if k is 0."""
    return -(-k // group_size) if group_size != -1 else min(k, 1)


def checked_group_size(given: Any, k: int, rows: int, s_shape: tuple[int, ...]) -> int:
    """The group size, checked where given, else found: at most one power of two fits two rows or more."""
    if given is None:
        found = fitting_group_size(k, rows)
        if found is None:
            fits = ", ".join(f"{-(-k // g)} ({g})" for g in sizes_up_to(k))
            raise ValueError(
                f"scales of shape {s_shape} has {rows} rows, which no group_size gives for k = {k}: allowed "
                f"are 1 (-1){', ' + fits if fits else ''}; pass the scales of this weight, (ceil(k / "
                "group_size), n)"
            )
        return found
    size = check_group_size(given)
    needed = group_rows(k, size)
    if rows == needed or (size == -1 and rows == 1):
        return size
    fitting = fitting_group_size(k, rows)
    raise ValueError(
        f"group_size is {size}, which for k = {k} needs {needed} rows of scales, but scales of shape "
        f"{s_shape} has {rows}: "
        f"{'pass scales that fit' if fitting is None else f'group_size={fitting} would fit them'}"
    )


def fitting_group_size(k: int, rows: int) -> int | None:
    if rows == 1 or (rows == 0 and k == 0):
        return -1
    if rows == 0 or k == 0:
        return None
    # The smallest power of two >= k / rows; with rows >= 2 the next one is already too large.
    size = 1 << (-(-k // rows) - 1).bit_length()
    return size if size >= MIN_GROUP and -(-k // size) == rows else None


def sizes_up_to(k: int) -> list[int]:
    """The group sizes that give k rows two groups or more, from the largest."""
    return [MIN_GROUP << i for i in range(max(0, (k - 1).bit_length() - 5))][::-1] if k > MIN_GROUP else []


def whole_groups(s_shape: tuple[int, ...], b_shape: tuple[int, ...], given: Any) -> tuple[int, int]:
    """k and the group size where k is not given: whole groups, and as many blocks as `b_packed` has."""
    rows, blocks = s_shape[0], b_shape[1]
    if given is None and rows > 1:
        # Two rows in one block are 64 k in groups of 32 or 128 k in groups of 64: the one ambiguous case.
        sizes = [MIN_GROUP << i for i in range(64) if -(-(rows * MIN_GROUP << i) // BLOCK_K) == blocks]
        if len(sizes) > 1:
            raise ValueError(
                f"group_size is None, but {rows} rows of scales fit both {' and '.join(map(str, sizes))}: "
                f"pass group_size= or k="
            )
        given = sizes[0] if sizes else None
        if given is None:
            raise ValueError(
                f"scales of shape {s_shape} has {rows} rows, which no group_size makes whole groups for the "
                f"{blocks} blocks of 128 k of b_packed of shape {b_shape}: pass k="
            )
    if given is None or given == -1:
        k = BLOCK_K * blocks
        return k, checked_group_size(given, k, rows, s_shape)
    size = given if type(given) is int else as_int("group_size", given)
    k = rows * size
    size = checked_group_size(size, k, rows, s_shape)
    if -(-k // BLOCK_K) != blocks:
        raise ValueError(
            f"group_size {size} x {rows} rows of scales of shape {s_shape} are {k} k, but b_packed of shape "
            f"{b_shape} has {blocks} blocks of 128 k: pass k= where the last group is not whole, or the "
            "group_size that fits"
        )
    return k, size
