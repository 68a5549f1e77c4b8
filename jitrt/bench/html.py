"""A report as one HTML file that needs no other: plots as inline SVG, tables under them, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jitrt.bench.outcome import Outcome
from jitrt.bench.report import US, Report, Section, geometric_mean, is_peer, sections, setting, speedup
from jitrt.bench.roofline import Roofline

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1c2024; --quiet: #5c656e; --line: #d9dee3;
  --ours: #2f7d4f; --peer: #8a97a6; --variant: #7fb294; --floor: #16452b; --slow: #b4473c; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181b; --ink: #e6e9ec; --quiet: #9aa4ae; --line: #353b42;
    --ours: #55b37d; --peer: #6c7886; --variant: #3e7a58; --floor: #c9f0d8; --slow: #e07a6d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .3rem; }
p, figcaption { color: var(--quiet); } code { overflow-wrap: anywhere; }
figure { margin: 0 0 1.5rem; overflow-x: auto; } svg { display: block; font-size: 12px; }
svg text { fill: var(--ink); } svg .label { text-anchor: end; } svg .value { fill: var(--quiet); }
.ours { fill: var(--ours); } .peer { fill: var(--peer); } .variant { fill: var(--variant); }
.slow { fill: var(--slow); } .floor { fill: var(--floor); } .whisker, .one { stroke: var(--ink); stroke-width: 1.5; }
.one { stroke-dasharray: 3 3; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
"""

_ROW, _BAR = 22, 14  # pixels
_LABEL, _PLOT, _VALUE = 300, 440, 290


@dataclass(frozen=True)
class Bar:
    """A line of a plot: a value with its text and colour class, how far it may be off, and the least it could be."""

    label: str
    value: float
    text: str
    kind: str
    spread: float = 0.0
    floor: float = 0.0


def to_html(report: Report, also: Sequence[Section] = ()) -> str:
    """The report, and the sections `also`, as a page."""
    command = f"<p><code>{escape(report.command)}</code></p>" if report.command else ""
    parts = [f"<h1>jitrt bench, {escape(report.when)}</h1><p>{escape(setting(report))}</p>{command}"]
    contests = report.contests()
    if any(speedup(contest) for contest in contests):
        parts += ["<h2>How much faster than the best peer</h2>", _speedups(contests, geometric_mean(report))]
    if contests:
        parts += ["<h2>A call back to back</h2>", *map(_times, contests)]
    if report.rooflines:
        parts += ["<h2>jitrt's layers, and their floors</h2>", *map(_layers, report.rooflines)]
    parts += ["<h2>Tables</h2>", *map(_table, (*sections(report), *also))]
    head = "<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>jitrt bench</title>"
    head = f"<head>{head}<style>{_STYLE}</style></head>"
    return f"<!DOCTYPE html><html lang='en'>{head}<body>{''.join(parts)}</body></html>\n"


def _speedups(contests: Sequence[Sequence[Outcome]], mean: float | None) -> str:
    bars = []
    for contest in contests:
        ratio = speedup(contest)
        if ratio is not None:
            bars.append(Bar(_name(contest), ratio, f"{ratio:.2f}x", "ours" if ratio >= 1 else "slow"))
    caption = "The best peer's time by jitrt's; the dashed line is the best peer."
    return _figure(bars, f"{caption} Geometric mean {mean:.2f}x." if mean else caption, one=True)


def _times(contest: Sequence[Outcome]) -> str:
    bars = []
    for outcome in contest:
        kind = "ours" if outcome.contestant == US else "peer" if is_peer(outcome.contestant) else "variant"
        if outcome.microseconds is None:
            bars.append(Bar(outcome.contestant, 0.0, outcome.absence, kind))
        else:
            text = f"{outcome.microseconds:,.1f} ± {outcome.spread:,.1f} us"
            bars.append(Bar(outcome.contestant, outcome.microseconds, text, kind, outcome.spread))
    return f"<h3>{escape(_name(contest))}</h3>" + _figure(bars, "Medians; the whiskers are the spread.")


def _layers(line: Roofline) -> str:
    bars = [
        Bar(x.name, x.achieved, f"{x.achieved:,.2f} us, floor {x.floor:,.2f}, {x.bound}", "ours", floor=x.floor)
        for x in line.layers
    ]
    caption = f"In order. The mark is the floor. By what bounds them: {', '.join(line.shares())}."
    return f"<h3>{escape(line.title())}</h3>" + _figure(bars, caption)


def _name(contest: Sequence[Outcome]) -> str:
    return f"{contest[0].model}, batch {contest[0].batch}, {contest[0].precision}"


def _figure(bars: Sequence[Bar], caption: str, *, one: bool = False) -> str:
    """A plot of horizontal bars; with `one` a line at 1."""
    most = (
        max([*(bar.value + bar.spread for bar in bars), *(bar.floor for bar in bars), float(one)], default=0.0) or 1.0
    )
    scale, height = _PLOT / most, _ROW * len(bars)
    drawn = [_bar(bar, number * _ROW, scale, float(one)) for number, bar in enumerate(bars)]
    if one:
        drawn.append(_vertical("one", _LABEL + scale, 0, height))
    svg = f"<svg width='{_LABEL + _PLOT + _VALUE}' height='{height}' role='img' aria-label='{escape(caption)}'>"
    svg += f"{''.join(drawn)}</svg>"
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _bar(bar: Bar, top: float, scale: float, clear: float) -> str:
    """A bar from `top` on; its text is right of it and of the value `clear`."""
    middle, end = top + _ROW / 2, _LABEL + scale * max(bar.value + bar.spread, bar.floor, clear)
    name = escape(bar.label if len(bar.label) <= 44 else f"…{bar.label[-43:]}")
    parts = [
        f"<title>{escape(bar.label)}: {escape(bar.text)}</title>",
        f"<text class='label' x='{_LABEL - 8}' y='{middle + 4:g}'>{name}</text>",
        _rectangle(bar.kind, _LABEL, middle - _BAR / 2, scale * bar.value, _BAR),
    ]
    if bar.floor:
        parts.append(_rectangle("floor", _LABEL + scale * bar.floor - 1.5, middle - _BAR / 2 - 2, 3, _BAR + 4))
    if bar.spread:
        first, last = (_LABEL + scale * (bar.value + side * bar.spread) for side in (-1, 1))
        parts.append(f"<path class='whisker' d='M{max(first, _LABEL):.1f} {middle:g}H{last:.1f}'/>")
    parts.append(f"<text class='value' x='{end + 8:.1f}' y='{middle + 4:g}'>{escape(bar.text)}</text>")
    return f"<g>{''.join(parts)}</g>"


def _rectangle(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f"<rect class='{kind}' x='{x:.1f}' y='{y:g}' width='{width:.1f}' height='{height:g}'/>"


def _vertical(kind: str, x: float, top: float, bottom: float) -> str:
    return f"<path class='{kind}' d='M{x:.1f} {top:g}V{bottom:g}'/>"


def _table(section: Section) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    above, below = ("".join(f"<p>{escape(line)}</p>" for line in lines) for lines in (section.above, section.below))
    body = "".join(row("td", cells) for cells in section.rows)
    head = row("th", section.header)
    return f"{above}<div class='scroll'><table><thead>{head}</thead><tbody>{body}</tbody></table></div>{below}"
