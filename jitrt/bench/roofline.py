"""Where the time of a network goes, against what its layers must take.

    floor of a layer = max(bytes / bandwidth, FLOPs / arithmetic rate)

The bytes are those of the layer's operands and result, each moved once; the rates are what the architecture reaches at
best (jitrt/codegen/target.py: on sm_90 measured on an H200, 4.3 TB/s and 790 TFLOP/s; the data sheet promises more).
The sum of the floors is the layer-wise ideal: it is gone below only by fusing more, or where a layer finds in the L2
cache what the one before it left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from jitrt.codegen.target import TARGETS
from jitrt.plan.schema import Layer, Plan
from jitrt.runtime.report import Profile

LAUNCH = 2.0  # microseconds: the shortest kernels of a network in a CUDA graph take 2 to 3, whatever they do
_FP32 = {80: 19.5e12, 90: 67e12, 100: 75e12}  # FLOP/s without tensor cores, by the data sheets

BYTES, TENSOR_CORES, FP32_UNITS, LATENCY = "bytes", "tensor cores", "fp32 units", "launch latency"

HEADINGS = ("Layer", "What", "MB", "GFLOP", "Floor (us)", "Achieved (us)", "Share", "Of floor", "Bound by", "Tactic")


@dataclass(frozen=True)
class Rates:
    """What a GPU reaches at best: bytes/s, FLOP/s, and the units that compute."""

    bandwidth: float
    flops: float
    units: str

    @classmethod
    def of(cls, arch: int, precision: str) -> Rates:
        """Of an architecture (90) in a precision ("fp16", "bf16", "tf32", "fp32")."""
        target = TARGETS[arch]
        if precision == "fp32":
            return cls(target.bandwidth, _FP32[arch], FP32_UNITS)
        return cls(target.bandwidth, target.flops32 if precision == "tf32" else target.flops16, TENSOR_CORES)

    def floor(self, nbytes: float, flops: float) -> float:
        """Microseconds below which no kernel moves that and computes that."""
        return 1e6 * max(nbytes / self.bandwidth, flops / self.flops)

    def bound(self, nbytes: float, flops: float, launches: int) -> str:
        """What keeps a layer from being faster: starting it, if that takes longer than its floor."""
        if self.floor(nbytes, flops) < LAUNCH * launches:
            return LATENCY
        return BYTES if nbytes / self.bandwidth >= flops / self.flops else self.units


@dataclass(frozen=True)
class RooflineLayer:
    """One layer: what it moves and computes at least, the microseconds that takes at least, and those it took."""

    name: str
    what: str
    tactic: str
    bytes: int
    flops: int
    floor: float
    achieved: float
    bound: str


@dataclass(frozen=True)
class Roofline:
    """An engine's layers in order. `call` is the time of a whole call, back to back, in microseconds."""

    model: str
    batch: int
    precision: str
    rates: Rates
    call: float
    layers: tuple[RooflineLayer, ...]

    @classmethod
    def of(cls, model: str, batch: int, plan: Plan, profile: Profile) -> Roofline:
        """Of the engine of `plan`, from its profile."""
        precision = precision_of(plan)
        rates = Rates.of(plan.arch, precision)
        launches = Counter(launch.layer for launch in plan.launches)
        layers = tuple(
            RooflineLayer(
                name=_name(time.layer),
                what=time.layer.text,
                tactic=time.layer.tactic,
                bytes=time.layer.bytes,
                flops=time.layer.flops,
                floor=rates.floor(time.layer.bytes, time.layer.flops),
                achieved=time.microseconds,
                bound=rates.bound(time.layer.bytes, time.layer.flops, max(1, launches[number])),
            )
            for number, time in enumerate(profile.layers)
        )
        return cls(model, batch, precision, rates, profile.graph, layers)

    @property
    def floor(self) -> float:
        """The layer-wise ideal: the sum of the floors."""
        return sum(layer.floor for layer in self.layers)

    @property
    def achieved(self) -> float:
        """The layers one after another."""
        return sum(layer.achieved for layer in self.layers)

    @property
    def reached(self) -> float:
        """The floor's part of a call: 1 is the ideal."""
        return self.floor / self.call if self.call else 0.0

    def title(self) -> str:
        """One line: the sums."""
        rates = f"{self.rates.bandwidth / 1e12:g} TB/s, {self.rates.flops / 1e12:g} TFLOP/s of the {self.rates.units}"
        return (
            f"{self.model}, batch {self.batch}, {self.precision}: {self.call:,.0f} us a call, layers one by one "
            f"{self.achieved:,.0f} us, layer-wise ideal {self.floor:,.0f} us ({rates}): {self.reached:.0%} of the floor"
        )

    def shares(self) -> list[str]:
        """What bounds the layers, and the part of the time each bound accounts for: "bytes 61%"."""
        spent: dict[str, float] = {}
        for layer in self.layers:
            spent[layer.bound] = spent.get(layer.bound, 0.0) + layer.achieved
        total = self.achieved or 1.0
        return [f"{bound} {spent[bound] / total:.0%}" for bound in sorted(spent, key=lambda b: -spent[b])]

    def rows(self) -> list[list[str]]:
        """A row a layer under HEADINGS, slowest first, and the sums."""
        ordered = sorted(self.layers, key=lambda layer: -layer.achieved)
        body = [_row(layer, self.achieved) for layer in ordered]
        moved, computed = sum(layer.bytes for layer in ordered), sum(layer.flops for layer in ordered)
        total = RooflineLayer("sum", "", "", moved, computed, self.floor, self.achieved, "")
        return [*body, _row(total, self.achieved)]


def precision_of(plan: Plan) -> str:
    """The precision a plan computes in, as it notes; of one that does not, by its first input."""
    options = plan.notes.get("options")
    if isinstance(options, dict) and "precision" in options:
        return str(options["precision"])
    dtype = plan.inputs[0].dtype if plan.inputs else "f32"
    return {"f16": "fp16", "bf16": "bf16"}.get(dtype, "fp32")


def _name(layer: Layer) -> str:
    return layer.location or layer.name


def _row(layer: RooflineLayer, total: float) -> list[str]:
    return [
        layer.name,
        layer.what,
        f"{layer.bytes / 1e6:,.2f}",
        f"{layer.flops / 1e9:,.2f}",
        f"{layer.floor:,.2f}",
        f"{layer.achieved:,.2f}",
        f"{layer.achieved / total:.1%}" if total else "-",
        f"{layer.floor / layer.achieved:.0%}" if layer.achieved else "-",
        layer.bound,
        layer.tactic,
    ]
