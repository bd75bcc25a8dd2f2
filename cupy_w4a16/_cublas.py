"""cuBLAS, which CuPy's matrix products need and our kernels do not."""

from __future__ import annotations


def require_cublas(what: str) -> None:
    """ImportError, with what to install, where CuPy can't load cuBLAS; `what` needs it."""
    try:
        from cupy.cuda import cublas  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{what} needs CuPy's matrix products, and CuPy finds no cuBLAS for them ({error}). The extras "
            "[demo] and [bench] bring it: pip install nvidia-cublas-cu12 (for CUDA 13: nvidia-cublas)"
        ) from error
