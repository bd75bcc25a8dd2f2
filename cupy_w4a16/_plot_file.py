"""The picture that `--plot` asks for: looked at before the work, written after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check_plot(path: str, error: type[Exception]) -> None:
    """Raise `error` now, not after the work is done, where the picture can't be drawn or written."""
    try:
        import matplotlib.figure
    except ImportError as missing:
        raise error(
            "--plot needs matplotlib, which the extras [demo] and [bench] bring: pip install matplotlib"
        ) from missing
    place = Path(path)
    if place.is_dir():
        raise error(f"--plot {path}: it is a folder; name a file in it")
    if not place.parent.is_dir():
        raise error(f"--plot {path}: make the folder {place.parent} first")
    formats: Any = matplotlib.figure.Figure().canvas.get_supported_filetypes()
    ending = place.suffix[1:].lower()
    if ending and ending not in formats:  # without one, matplotlib takes its own
        raise error(f"--plot {path}: matplotlib draws no .{ending}; end it in .png, .svg or .pdf")


def save_figure(figure: Any, path: str, error: type[Exception]) -> None:
    """Write it; the ending of `path` is the format."""
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as failed:
        raise error(f"--plot {path}: {failed}") from failed
