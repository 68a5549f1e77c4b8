from __future__ import annotations

import json

from rich.console import Console

from jitrt.graph import parse
from jitrt.passes import Decision, PassContext, Report


def _report() -> Report:
    report = Report()
    report.add(Decision("fuse_vertical", "conv %1", "net.py:3", True, "conv + relu in one kernel"))
    report.add(Decision("fuse_vertical", "conv %2", "net.py:4", True, "conv + relu in one kernel"))
    report.add(Decision("fuse_vertical", "add %3", "", False, "add makes [2, <b>] of [/red]"))
    return report


def test_decisions_are_grouped_and_counted():
    lines = str(_report()).splitlines()
    assert lines == [
        "fuse_vertical: 2 done",
        "     2 x conv + relu in one kernel  (first: conv %1 at net.py:3)",
        "fuse_vertical: 1 not done",
        "     1 x add makes [2, <b>] of [/red]  (first: add %3)",
    ]
    assert repr(Report()) == "nothing to report"


def test_they_can_be_selected():
    report = _report()
    assert len(report) == len(list(report)) == len(report.of("fuse_vertical")) == 3
    assert [d.subject for d in report.of("fuse_vertical", applied=False)] == ["add %3"]
    assert report.of("layout") == []


def test_rich_prints_what_came_from_a_model_as_it_is():
    console = Console(width=200)
    with console.capture() as captured:
        console.print(_report())
    assert "add makes [2, <b>] of [/red]" in captured.get()


def test_html_is_escaped():
    text = _report()._repr_html_()
    assert "[2, &lt;b&gt;]" in text
    assert text.count("<tr>") == 3


def test_html_names_a_pass_once_and_counts_what_it_did():
    report = _report()
    report.add(Decision("fuse_vertical", "conv %4", "net.py:5", True, "conv + add in one kernel"))
    text = report._repr_html_()
    assert text.count("<b>fuse_vertical</b>") == 2, "what was done, and what was not"
    assert text.count(">2x<") == 1
    assert text.count(">1x<") == 2
    assert "<small>conv %1 at net.py:3</small>" in text
    assert "nothing to report" in Report()._repr_html_()


def test_json_is_plain_data():
    assert json.loads(json.dumps(_report().to_json()))[2] == {
        "pass_name": "fuse_vertical",
        "subject": "add %3",
        "location": "",
        "applied": False,
        "text": "add makes [2, <b>] of [/red]",
    }


def test_a_context_signs_what_its_pass_decides():
    graph = parse("graph g(%x: f32[2]) {\n%y = relu(%x) : f32[2] @ 'net.py:1'\nreturn %y\n}")
    context = PassContext().within("my_pass")
    context.applied(graph.nodes[0], "done")
    context.refused(graph.nodes[0], "why not")
    assert list(context.report) == [
        Decision("my_pass", "relu %y", "net.py:1", True, "done"),
        Decision("my_pass", "relu %y", "net.py:1", False, "why not"),
    ]
