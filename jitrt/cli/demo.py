"""See what jitrt does on a full-size GoogLeNet: trace, fuse, plan memory, build real kernels, check the answer.

Works without a GPU in under two minutes. With one it also tunes, saves the plan, runs it in a fresh process and times
it against PyTorch and torch.compile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jitrt.cli.terminal import console, line, size, table
from jitrt.errors import NoGpuError

if TYPE_CHECKING:
    from rich.console import Console

    from jitrt.compiler import Optimized
    from jitrt.explanation import Explanation
    from jitrt.graph import Graph

EXAMPLES = """examples:
  jitrt demo
  jitrt demo --precision fp32
  jitrt demo --tune heuristic        (with a GPU: skip measuring)
"""

_KERNELS_SHOWN = 4


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", default="fp16", choices=("fp32", "tf32", "fp16", "bf16"), help="default: fp16")
    parser.add_argument("--tune", default="60s", help="with a GPU: time budget, heuristic or exhaustive (default: 60s)")


def run(args: argparse.Namespace) -> int:
    out = console()
    started = time.perf_counter()
    with _step(out, "making a GoogLeNet with random, well-behaved weights"):
        from jitrt.bench.models import load_model, settle

        model, make_input = load_model("googlenet")
        settle(model, make_input(2))
        x = make_input(1, seed=1)
    with _step(out, "tracing it with torch.export"):
        from jitrt.frontend.torch import import_torch

        imported = import_torch(model, (x,), name="googlenet")
    with _step(out, "running the passes"):
        from jitrt.compiler import Options, optimize_graph
        from jitrt.explanation import Explanation

        options = Options(precision=args.precision, tune=args.tune)
        optimized = optimize_graph(imported.graph, options)
        explanation = Explanation.of(optimized)
    _show_graphs(out, explanation)
    _show_decisions(out, optimized)
    _show_memory(out, explanation)
    with _step(out, f"building {_KERNELS_SHOWN} of the kernels for sm_90 (no GPU needed)"):
        rows = _cross_build(optimized.graph)
    _show_kernels(out, rows)
    with _step(out, "running the optimised graph in numpy, and the model in PyTorch"):
        error = _compare(model, x, optimized)
    out.print(line(f"the optimised graph in {args.precision} against PyTorch in float32: relative error {error:.1e}\n"))
    if _has_gpu():
        _on_gpu(out, model, x, args)
    else:
        out.print(line("No GPU here: with one, the demo now tunes, saves a plan and times it. What runs without one:"))
        out.print(line("  jitrt explain googlenet            every fusion, and why one did not happen"))
        out.print(line("  jitrt build resnet50 --fp16 --target sm_90 -o resnet50.plan"))
    out.print(line(f"\nthe whole demo took {time.perf_counter() - started:.0f} s"))
    return 0


@contextmanager
def _step(out: Console, what: str) -> Iterator[None]:
    """Say what is going on while it does, and how long it took once done."""
    started = time.perf_counter()
    with out.status(what + " ..."):
        yield
    out.print(line(f"✓ {what} ({time.perf_counter() - started:.1f} s)"))


# -- the graph ---------------------------------------------------------------------------------------------------------


def _show_graphs(out: Console, explanation: Explanation) -> None:
    before, after = explanation.layers, explanation.kernels
    left = [f"{count:4} {name}" for name, count in before.most_common()]
    right = [f"{count:4} {name}" for name, count in after.most_common()]
    height = max(len(left), len(right))
    rows = [((left + [""] * height)[i], (right + [""] * height)[i]) for i in range(height)]
    rows.append((f"{before.total():4} layers", f"{after.total():4} kernels"))
    out.print()
    out.print(table("the graph", ("layers before", "kernels after"), rows))
    out.print(line("\nan inception module (Figure 4) as traced, batch norm and relu one by one:\n"))
    drawn_before, drawn_after = explanation.module()
    out.print(line(drawn_before))
    out.print(line("\nthe same module after fusion; the concat costs nothing, every branch writes into its slice:\n"))
    out.print(line(drawn_after))


def _show_decisions(out: Console, optimized: Optimized) -> None:
    rows: list[tuple[object, ...]] = []
    for name, applied, texts in optimized.report.grouped():
        for text, count, first in texts[:4]:
            rows.append((name, "done" if applied else "not done", count, text, f"{first.subject}"))
        if len(texts) > 4:
            rows.append((name, "", "", f"... and {len(texts) - 4} more kinds (jitrt explain googlenet lists them)", ""))
    out.print()
    out.print(table("what was done, and what was not", ("pass", "", "times", "what", "first"), rows, right=[2]))


def _show_memory(out: Console, explanation: Explanation) -> None:
    plan = explanation.memory
    out.print(
        line(
            f"\nmemory for activations: {size(plan.arena_bytes)} in one arena, {size(plan.naive_bytes)} if every value "
            f"had its own, {size(plan.lower_bound)} live at once at the least\n"
        )
    )


# -- kernels -----------------------------------------------------------------------------------------------------------


def _cross_build(graph: Graph) -> list[tuple[Any, ...]]:
    """Compile the best guess for a few different regions for sm_90."""
    from jitrt.codegen.compile import compile_call, use_cache_dir
    from jitrt.codegen.target import target_of
    from jitrt.graph.draw import label
    from jitrt.graph.ops import Region
    from jitrt.kernels.base import Problem, Tactic, templates

    target = target_of("sm_90")
    rows: list[tuple[Any, ...]] = []
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        use_cache_dir(folder)
        for node in graph.nodes:
            if not isinstance(node.op, Region) or label(node) in seen or len(seen) == _KERNELS_SHOWN:
                continue
            seen.add(label(node))
            problem = Problem.of(node)
            template = next(
                t
                for t in templates().values()
                if t.accepts(problem.body) is None and t.supports(problem, target) is None
            )
            tactic = Tactic.make(template, template.candidates(problem, target)[0])
            for call in tactic.lower(problem, target).calls:
                binary = compile_call(call, problem, target)
                shape = "x".join(map(str, node.output.type.shape))
                grid = call.grid[0] * call.grid[1] * call.grid[2]
                facts = (binary.registers, size(binary.shared_bytes), binary.spills, size(len(binary.cubin)))
                rows.append((label(node), shape, binary.entry, grid, 32 * binary.num_warps, *facts))
    return rows


def _show_kernels(out: Console, rows: Sequence[tuple[Any, ...]]) -> None:
    header = ("region", "output", "kernel", "programs", "threads", "registers", "shared", "spilled bytes", "cubin")
    out.print()
    out.print(table("cubins for sm_90", header, rows, right=range(3, 9)))
    out.print()


def _compare(model: Any, x: Any, optimized: Optimized) -> float:
    import torch

    from jitrt.graph import interpret

    with torch.no_grad():
        expected = model(x).numpy()
    (got,) = interpret(optimized.graph, [x.numpy()])
    return float(np.linalg.norm(got.astype(np.float64) - expected) / np.linalg.norm(expected))


# -- with a GPU --------------------------------------------------------------------------------------------------------


def _has_gpu() -> bool:
    from jitrt.runtime.driver import cuda_driver

    try:
        cuda_driver()
    except NoGpuError:
        return False
    return True


def _on_gpu(out: Console, model: Any, x: Any, args: argparse.Namespace) -> None:
    import torch

    import jitrt
    from jitrt.bench.measure import CudaTimer, measure
    from jitrt.bench.peers import PEERS

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(args.precision, torch.float32)
    model, x = model.to("cuda", dtype), x.to("cuda", dtype)
    out.print(line("on the GPU: building and tuning"))
    engine = jitrt.compile(model, (x,), precision=args.precision, tune=args.tune)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "googlenet.plan"
        engine.save(path)
        out.print(line(f"saved the plan: {size(path.stat().st_size)}"))
        fresh = subprocess.run(
            [sys.executable, "-m", "jitrt.cli", "run", str(path)], capture_output=True, text=True, check=False
        )
        out.print(line(f"in a fresh process, without torch or triton:\n{fresh.stdout or fresh.stderr}"))
    rows = []
    with torch.no_grad():
        peers = [
            (name, PEERS[peer].prepare(model, (x,)))
            for name, peer in (("eager", "eager"), ("torch.compile", "compile"))
        ]
        for name, call in (("jitrt", engine), *peers):
            timing = measure(call, (x,), CudaTimer())
            rows.append((name, f"{timing.latency.median:.0f}", f"{timing.back_to_back.median:.0f}"))
    out.print(table("microseconds a call", ("", "synchronised", "back to back"), rows, right=[1, 2]))
