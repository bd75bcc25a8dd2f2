"""From a configuration to CUDA text: one include, one struct of constants a kernel, one instantiation.

The only place that knows what a `Config` of `kernels_src/gemm.cuh`, for the family "wgmma", and of
`kernels_src/decode.cuh`, for "mma", is made of; both say so in the comments at their tops.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

from ._config import NAMED_CONFIGS, GemmConfig, GemmProblem
from ._key import Unit
from ._smem import resolved_stages, smem_bytes

_TYPES = {
    None: "NoZeros",
    "float16": "Half",
    "bfloat16": "Bfloat16",
    "float32": "Float",
    "uint8": "Uint8",
    "int8": "Uint8",  # zeros lie between 0 and 16: the same bits
    "int32": "Int32",
}
_ACTIVATIONS = {None: "kNone", "gelu": "kGelu", "gelu_tanh": "kGeluTanh", "silu": "kSilu", "relu": "kRelu"}
_HEADERS = {"wgmma": "gemm.cuh", "mma": "decode.cuh"}
_SHORT = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "uint8": "u8", "int32": "i32"}


@dataclass(frozen=True)
class Kernel:
    """One instantiation: a configuration and all that changes the machine code."""

    config: GemmConfig
    group_size: int  # 32, 64 or 128: larger groups differ at run time only
    dtype: str
    zeros: str | None
    out_dtype: str
    activation: str | None = None
    normalised: bool = False  # scales

    @property
    def problem(self) -> GemmProblem:
        """A problem of this kernel's kind, for what depends on the kind alone."""
        return GemmProblem(1, 1, 1, self.group_size, self.dtype, self.zeros, self.out_dtype)

    @cached_property
    def name(self) -> str:
        """The `extern "C"` name."""
        parts = [self.config.name, _SHORT[self.dtype], f"g{self.group_size}"]
        if self.zeros:
            parts.append(f"z{_SHORT[self.zeros]}")
        if self.out_dtype != self.dtype:
            parts.append(f"o{_SHORT[self.out_dtype]}")
        if self.normalised:
            parts.append("normalised")
        if self.activation:
            parts.append(self.activation)
        name = "_".join(parts)
        return name if name.startswith("w4a16") else f"w4a16_{name}"

    @cached_property
    def stages(self) -> int:
        return resolved_stages(self.config, self.problem)

    @cached_property
    def smem_bytes(self) -> int:
        return smem_bytes(self.config, self.problem, self.stages)

    @property
    def threads(self) -> int:
        return self.config.threads

    @cached_property
    def text(self) -> str:
        """The struct of constants and the instantiation."""
        config = self.config
        if config.family == "mma":
            return f"""{self._common_text}
  static constexpr int kTiles = {config.tile_n // 16};
  static constexpr int kWarps = {config.threads // 32};
  static constexpr int kStages = {self.stages};
}};
W4A16_DECODE({self.name}, {self.name}_config)
"""
        consumer, producer = config.registers
        return f"""{self._common_text}
  static constexpr int kTileN = {config.tile_n};
  static constexpr int kClusterN = {config.cluster_n};
  static constexpr int kClusterM = {config.cluster_m};
  static constexpr int kStages = {self.stages};
  static constexpr bool kPingpong = {_bool(config.schedule == "pingpong")};
  static constexpr int kWarpgroupsN = {config.stage_readers};
  static constexpr int kSplitWarpgroups = {config.split_k_warpgroups};
  static constexpr int kSplitCluster = {config.split_k_cluster};
  static constexpr bool kScaleAccumulators = {_bool(config.scale_on == "accumulators")};
  static constexpr int kBatchSteps = {config.batch_steps(self.normalised)};
  static constexpr int kStoreTokens = {config.store_tokens};
  static constexpr int kStoreBuffers = {config.store_buffers};
  static constexpr int kConsumerRegisters = {consumer};
  static constexpr int kProducerRegisters = {producer};
}};
W4A16_GEMM({self.name}, {self.name}_config)
"""

    @property
    def _common_text(self) -> str:
        """The constants that both families know."""
        return f"""
struct {self.name}_config {{
  using Element = w4a16::{_TYPES[self.dtype]};
  using Zero = w4a16::{"NoZerosNormalised" if self.normalised else _TYPES[self.zeros]};
  using Out = w4a16::{_TYPES[self.out_dtype]};
  static constexpr int kGroupSize = {self.group_size};
  static constexpr int kTileM = {self.config.tile_m};
  static constexpr int kCtasPerSm = {self.config.ctas_per_sm};
  static constexpr w4a16::Activation kActivation = w4a16::Activation::{_ACTIVATIONS[self.activation]};
  static constexpr int kSmemBytes = {self.smem_bytes};"""


def _bool(value: bool) -> str:
    return "true" if value else "false"


def kernel_for(
    config: GemmConfig, problem: GemmProblem, activation: str | None = None, normalised: bool = False
) -> Kernel:
    """The kernel that runs `problem` with `config`; `normalised` are scales as `_normalised` makes them."""
    group_size = problem.group_size if problem.group_size in (32, 64) else 128
    zeros = "uint8" if problem.zeros == "int8" else problem.zeros
    return Kernel(config, group_size, problem.dtype, zeros, problem.out_dtype, activation, normalised)


def unit_of(kernels: Iterable[Kernel], name: str | None = None) -> Unit:
    """The translation unit that defines `kernels`."""
    kernels = tuple(kernels)
    headers = sorted({_HEADERS[kernel.config.family] for kernel in kernels})
    source = "".join(f'#include "{header}"\n' for header in headers) + "".join(
        kernel.text for kernel in kernels
    )
    return Unit(name or kernels[0].name, source, tuple(kernel.name for kernel in kernels))


@cache
def default_kernels() -> dict[str, tuple[Kernel, ...]]:
    """What import compiles, by unit: the two named configurations for float16, groups of 128 and 64."""
    return {
        name: tuple(Kernel(config, group, "float16", None, "float16") for group in (128, 64))
        for name, config in NAMED_CONFIGS.items()
    }


@cache
def default_units() -> tuple[Unit, ...]:
    """The translation units of the default kernels."""
    return tuple(unit_of(kernels, name) for name, kernels in default_kernels().items())


@cache
def unit_for(kernel: Kernel) -> Unit:
    """The unit to load `kernel` from: a default one where it is there already, else one of its own."""
    for unit in default_units():
        if kernel.name in unit.kernels:
            return unit
    return unit_of([kernel])
