"""The chips jitrt builds for, as far as templates and the cost model need to know them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jitrt.errors import TargetError


@dataclass(frozen=True)
class Target:
    """A CUDA architecture: `arch` is the compute capability as one number (90 for sm_90); `shared` bytes a block may
    use; `bandwidth` bytes/s; `flops16` and `flops32` peak dense tensor-core FLOP/s for 16-bit and tf32 operands."""

    arch: int
    sms: int
    shared: int
    l2: int
    bandwidth: float
    flops16: float
    flops32: float
    name: str

    def __str__(self) -> str:
        return f"sm_{self.arch}"

    def with_sms(self, sms: int, name: str) -> Target:
        """This architecture as found on one device."""
        return replace(self, sms=sms, name=name)


# Data-sheet figures, bandwidth and 16-bit rate of sm_90 as measured on an H200.
TARGETS = {
    80: Target(80, 108, 163 * 1024, 40 << 20, 1.5e12, 312e12, 156e12, "A100"),
    90: Target(90, 132, 227 * 1024, 60 << 20, 4.3e12, 790e12, 400e12, "H200"),
    100: Target(100, 148, 227 * 1024, 126 << 20, 7.0e12, 2200e12, 1100e12, "B200"),
}


def target_of(name: str | int) -> Target:
    """The target for "sm_90", "90" or 90. Raises TargetError for one jitrt does not build for."""
    text = str(name).removeprefix("sm_").rstrip("a")
    if not text.isdigit() or int(text) not in TARGETS:
        raise TargetError(f"unknown target {name!r}; jitrt builds for {', '.join(f'sm_{a}' for a in TARGETS)}")
    return TARGETS[int(text)]
