"""Show what is in a plan file. Reads the file alone: no GPU, no PyTorch, nothing is run."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitrt.cli.lifetimes import lifetimes
from jitrt.cli.terminal import console, line, size, table
from jitrt.errors import OptionError

if TYPE_CHECKING:
    from rich.console import ConsoleRenderable
    from rich.table import Table

    from jitrt.plan.schema import Plan

EXAMPLES = """examples:
  jitrt inspect resnet50.plan
  jitrt inspect resnet50.plan --layers
  jitrt inspect resnet50.plan --memory
  jitrt inspect resnet50.plan --json | jq .layers[0]
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="a plan file")
    parser.add_argument("--layers", action="store_true", help="every layer with its tactic and resources")
    parser.add_argument("--memory", action="store_true", help="where the bytes are, and what lives in the arena when")
    parser.add_argument("--json", action="store_true", help="the whole plan as JSON, for other programs")


def run(args: argparse.Namespace) -> int:
    from jitrt.plan.codec import plan_to_json
    from jitrt.plan.file import read_plan

    if args.plan.endswith(".onnx"):
        raise OptionError(
            f"{args.plan} is a model, not a plan; jitrt doctor looks at it, jitrt build makes a plan of it"
        )
    file = read_plan(args.plan)
    plan = file.plan
    if args.json:
        print(plan_to_json(plan))
        return 0
    terminal = console()
    archs = ", ".join(f"sm_{one.plan.arch}" for one in file.every)
    terminal.print(summary(plan, Path(args.plan).stat().st_size, archs))
    if args.layers:
        terminal.print(layers(plan))
    elif not args.memory:
        terminal.print(kinds(plan))
    if args.memory:
        terminal.print(memory(plan))
        for part in drawn(plan, terminal.width):
            terminal.print(part)
    return 0


def summary(plan: Plan, nbytes: int, archs: str) -> Table:
    """The plan on one screen; of a file for several architectures, the first."""
    rows = [
        ("name", plan.name),
        ("for", archs),
        *((f"input {b.name}", _binding(b)) for b in plan.inputs),
        *((f"output {b.name}", _binding(b)) for b in plan.outputs),
        ("layers", str(len(plan.layers))),
        ("launches", f"{len(plan.launches)} of {len(plan.kernels)} different kernels"),
        ("weights", size(plan.constants_bytes)),
        ("arena", size(plan.arena_bytes)),
        ("file", size(nbytes)),
    ]
    spent: Any = plan.notes.get("seconds")
    if spent:
        rows.append(("built in", ", ".join(f"{seconds:.1f} s for {part}" for part, seconds in spent.items())))
    return table(None, ("", ""), rows)


def kinds(plan: Plan) -> Table:
    """Layers by kind, with their tuned time."""
    counts = Counter(layer.kind for layer in plan.layers)
    rows = [
        (kind, count, _time(sum(layer.microseconds for layer in plan.layers if layer.kind == kind)))
        for kind, count in counts.most_common()
    ]
    return table("Layers by kind", ("Kind", "Layers", "Tuned (us)"), rows, right=(1, 2))


def layers(plan: Plan) -> Table:
    """One line a layer. Registers are the most and spills the sum over its kernels."""
    resources = ("Registers", "Shared", "Spills")
    header = ("#", "Layer", "Ops", "Tuned (us)", "Moves", "MFLOP", *resources, "Tactic", "Chosen from", "From")
    rows = []
    for index, layer in enumerate(plan.layers):
        kernels = [plan.kernels[launch.kernel] for launch in plan.launches if launch.layer == index]
        rows.append(
            (
                index,
                layer.name,
                layer.text,
                _time(layer.microseconds),
                size(layer.bytes),
                f"{layer.flops / 1e6:,.1f}",
                max((k.registers for k in kernels), default=0),
                size(max((k.shared_bytes for k in kernels), default=0)),
                sum(k.spills for k in kernels),
                layer.tactic,
                layer.source,
                layer.location,
            )
        )
    return table("Layers", header, rows, right=(0, 3, 4, 5, 6, 7, 8))


def memory(plan: Plan) -> Table:
    """Where the bytes are."""
    rows: list[tuple[str, str]] = [
        ("weights", size(plan.constants_bytes)),
        ("arena (activations and workspace, one a context)", size(plan.arena_bytes)),
        ("zeros (counters, one a context)", size(plan.zeros_bytes)),
    ]
    largest = sorted(plan.constants, key=lambda c: -c.nbytes)[:5]
    rows += [(f"weight {c.name} {c.dtype}{list(c.shape)}", size(c.nbytes)) for c in largest]
    return table("Memory", ("", ""), rows, right=(1,))


def drawn(plan: Plan, width: int) -> list[ConsoleRenderable]:
    """What lives where in the arena, and when, over the plan's layers; as far as the plan's notes have it."""
    noted = plan.notes.get("memory")
    wanted = {"arena_bytes", "naive_bytes", "lower_bound_bytes", "blocks", "in_place", "not_in_place"}
    if not isinstance(noted, dict) or not wanted <= noted.keys():
        return [line("this plan does not note what lives where in the arena: it was built by an older jitrt")]
    return lifetimes(noted, width)


def _binding(binding: Any) -> str:
    return f"{binding.dtype}[{','.join(map(str, binding.shape))}] strides {list(binding.strides)}"


def _time(microseconds: float) -> str:
    return f"{microseconds:,.1f}" if microseconds else "-"
