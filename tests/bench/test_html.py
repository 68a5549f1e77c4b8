"""jitrt.bench.html: one file, well-formed, with everything in it and nothing from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

from jitrt.bench.html import to_html
from jitrt.bench.report import Report, Section
from tests.bench.test_report import DEAD, FAST, OURS, SLOW, report
from tests.bench.test_roofline import roofline


def plots(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def full() -> Report:
    left_out = replace(OURS, contestant="without pool")
    made = report(OURS, left_out, SLOW, replace(FAST, model="resnet50"), DEAD)
    return replace(made, command="jitrt bench <net> --vs all", rooflines=(roofline(),))


def test_a_page_has_its_plots_and_needs_nothing_else() -> None:
    page = to_html(full())
    assert not re.search(r"https?://|<script|<link|src=|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert "jitrt bench &lt;net&gt; --vs all" in page
    speedups, times, layers = plots(page)
    assert [text.text for text in speedups.iter("text")] == ["resnet50, batch 8, fp16", "1.50x"]
    assert [bar.get("class") for bar in times.iter("rect")] == ["ours", "variant", "peer", "peer", "peer"]
    assert "failed" in [text.text for text in times.iter("text")]
    assert sum(bar.get("class") == "floor" for bar in layers.iter("rect")) == 3


def test_bars_are_as_long_as_their_values() -> None:
    _, times, layers = plots(to_html(full()))
    widths = [float(str(bar.get("width"))) for bar in times.iter("rect")]
    assert widths[0] / widths[2] == 400 / 1000
    bars = [bar for bar in layers.iter("rect") if bar.get("class") == "ours"]
    marks = [bar for bar in layers.iter("rect") if bar.get("class") == "floor"]
    start, width = (float(str(bars[0].get(name))) for name in ("x", "width"))
    assert abs(float(str(marks[0].get("x"))) + 1.5 - start - width / 2) < 0.2  # 100 of 200 us


def test_what_is_slower_than_a_peer_looks_so() -> None:
    slower = replace(OURS, timing=SLOW.timing)
    (speedups, _) = plots(to_html(report(slower, FAST)))
    assert [bar.get("class") for bar in speedups.iter("rect")] == ["slow"]


def test_no_contest_no_plot() -> None:
    page = to_html(report(), [Section(("Above",), ("A", "B"), [["<1>", "2"]], ("below",))])
    assert plots(page) == []
    assert "<td>&lt;1&gt;</td>" in page
