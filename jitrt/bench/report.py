"""What `jitrt bench` found, as tables for the terminal and as Markdown; as HTML see html.py, as JSON history.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jitrt.bench import roofline
from jitrt.bench.measure import DeviceState, Stats
from jitrt.bench.memory import CAPTION
from jitrt.bench.outcome import Gains, Outcome
from jitrt.bench.roofline import Roofline

if TYPE_CHECKING:
    from jitrt.bench.layers import Convolutions

US = "jitrt"
WITHOUT = "without "  # begins the name of jitrt with an optimisation left out


@dataclass(frozen=True)
class Report:
    """One run of the bench. `command` is what was typed, `gains` what jitrt's builds found of their optimisations,
    `rooflines` jitrt's layers if they were asked for, `convolutions` those of the layer benchmark."""

    when: str
    device: DeviceState | None
    host: str
    tools: dict[str, str]
    outcomes: tuple[Outcome, ...]
    command: str = ""
    gains: tuple[Gains, ...] = ()
    rooflines: tuple[Roofline, ...] = ()
    convolutions: tuple[Convolutions, ...] = ()

    def contests(self) -> list[list[Outcome]]:
        """The outcomes, grouped by model, batch and precision."""
        groups: dict[tuple[str, int, str], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault((outcome.model, outcome.batch, outcome.precision), []).append(outcome)
        return list(groups.values())

    @property
    def contestants(self) -> list[str]:
        return list(dict.fromkeys(o.contestant for o in self.outcomes))

    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.failure is not None]


def speedup(contest: Sequence[Outcome]) -> float | None:
    """How many times faster jitrt is than the best peer of one contest; None unless both ran."""
    ours = next((o.microseconds for o in contest if o.contestant == US), None)
    theirs = [o.microseconds for o in contest if is_peer(o.contestant) and o.microseconds is not None]
    return min(theirs) / ours if ours and theirs else None


def geometric_mean(report: Report) -> float | None:
    """Of the speed-ups of all contests; None if there is none."""
    ratios = [ratio for contest in report.contests() if (ratio := speedup(contest))]
    return statistics.geometric_mean(ratios) if ratios else None


def is_peer(contestant: str) -> bool:
    return contestant != US and not contestant.startswith(WITHOUT)


# -- two tables, as rows of text -------------------------------------------------------------------------------------

DETAIL = (
    *("Model", "Batch", "Contestant"),
    "Throughput (samples/s)",
    "Back to back (us)",
    "Latency min / max / mean / median / p90 / p99 (us)",
    "Enqueue Time (us)",
    "GPU Compute Time (us)",
    *("Memory in use (MiB)", "Lent (MiB)"),
    "Build (s)",
    "Error",
    "SM clock (MHz)",
)


def summary_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a line a contest, a column a contestant: back to back (one synchronised call), and the ratio."""
    names = report.contestants
    header = ["Model", "Batch", "Precision", *names, "Best peer / jitrt", "Error"]
    rows = []
    for contest in report.contests():
        by_name = {o.contestant: o for o in contest}
        ratio, ours = speedup(contest), by_name.get(US)
        rows.append(
            [
                contest[0].model,
                str(contest[0].batch),
                contest[0].precision,
                *(_cell(by_name.get(name)) for name in names),
                f"{ratio:.2f}x" if ratio else "-",
                f"{ours.error:.1e}" if ours and ours.timing and not math.isnan(ours.error) else "-",
            ]
        )
    mean = geometric_mean(report)
    if mean and len(rows) > 1:
        rows.append(["geometric mean", *["-"] * (len(header) - 3), f"{mean:.2f}x", "-"])
    return header, rows


def detail_rows(report: Report) -> list[list[str]]:
    """A line an outcome, under DETAIL."""
    rows = []
    for o in report.outcomes:
        head = [o.model, str(o.batch), o.contestant]
        if o.timing is None:
            rows.append([*head, o.absence, *["-"] * (len(DETAIL) - len(head) - 1)])
            continue
        t = o.timing
        rows.append(
            [
                *head,
                f"{o.throughput:,.0f}",
                f"{t.back_to_back.median:,.1f} ± {o.spread:,.1f}",
                _spectrum(t.latency),
                f"{t.enqueue.median:,.1f}",
                f"{t.gpu_compute.median:,.1f}",
                *(o.memory.cells() if o.memory else "--"),
                f"{o.build_seconds:.1f}",
                f"{o.error:.1e}" if not math.isnan(o.error) else "-",
                f"{o.state.sm_clock:.0f}" if o.state else "-",
            ]
        )
    return rows


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "-"
    if outcome.timing is None:
        return outcome.absence
    return f"{outcome.timing.back_to_back.median:,.0f} ({outcome.timing.latency.median:,.0f})"


def _spectrum(stats: Stats) -> str:
    numbers = (stats.min, stats.max, stats.mean, stats.median, stats.p90, stats.p99)
    return " / ".join(f"{n:,.0f}" for n in numbers)


# -- what it is made of ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A table with the lines above it and below it."""

    above: tuple[str, ...]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    below: tuple[str, ...] = ()


def sections(report: Report) -> list[Section]:
    """The report as tables: the contests in short and in full, what optimisations gain, jitrt's layers, the layer
    benchmark."""
    found = []
    if report.outcomes:
        above = ("Microseconds a call back to back, in brackets one synchronised call; medians.",)
        found.append(Section(above, *summary_rows(report)))
        spread = "Of two equal runs and within one (interquartile range), the larger spread stands behind ±."
        excuses = tuple(outcome.excuse() for outcome in report.failures())
        found.append(Section((spread, CAPTION), DETAIL, detail_rows(report), excuses))
    if any(gains.found for gains in report.gains):
        above = ("Each optimisation left out by itself while the plan was built: the whole network, runs in turns.",)
        found.append(Section(above, Gains.HEADINGS, [row for gains in report.gains for row in gains.rows()]))
    for line in report.rooflines:
        below = (f"The layers' time by what bounds them: {', '.join(line.shares())}.",)
        found.append(Section((line.title(),), roofline.HEADINGS, line.rows(), below))
    for contest in report.convolutions:
        found.append(Section((contest.title(),), contest.headings(), contest.rows(), contest.notes()))
    return found


# -- three ways to hand it over --------------------------------------------------------------------------------------


def to_console(report: Report, also: Sequence[Section] = ()) -> RenderableType:
    """What the terminal shows."""
    parts: list[RenderableType] = [Text(setting(report))]
    for section in (*sections(report), *also):
        parts += [Text(line) for line in section.above]
        parts += [_table(section.header, section.rows), *(Text(line) for line in section.below)]
    return Group(*parts)


def to_markdown(report: Report, also: Sequence[Section] = ()) -> str:
    """A section of RESULTS.md."""
    lines = [f"## {report.when}", "", setting(report), ""]
    if report.command:
        lines += [f"`{report.command}`", ""]
    for section in (*sections(report), *also):
        lines += [*section.above, "", *_markdown_table(section.header, section.rows), ""]
        lines += [*(f"- {line}" for line in section.below), *[""] * bool(section.below)]
    return "\n".join(lines).rstrip() + "\n"


HEADER = """# Measured results

Each section is one run of `jitrt bench`: all contestants in one process, on the same random inputs (images
channels_last), prepared first, then timed in turns, twice. The inputs stay in one buffer, so small ones sit in the L2
cache for everybody. Errors are ‖out − ref‖/‖ref‖ against PyTorch in float32 on the same inputs.
"""


def write(report: Report, path: Path, also: Sequence[Section] = ()) -> None:
    """Append the report, and the sections `also`, to the Markdown file `path`."""
    text = path.read_text() if path.exists() else HEADER
    path.write_text(f"{text.rstrip()}\n\n{to_markdown(report, also)}")


def setting(report: Report) -> str:
    """Where it was measured, and with what."""
    gpu = f"{report.device.name}, driver {report.device.driver}" if report.device else "no GPU"
    return ", ".join([gpu, report.host, *(f"{name} {version}" for name, version in report.tools.items())])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*header)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
