"""What the passes did and what they left alone, with reasons: the matter of `jitrt explain`."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from jitrt.graph.html import table


@dataclass(frozen=True)
class Decision:
    """One thing a pass did (`applied`) or could not do. `subject` is a node or value ("conv %12"), `location` the
    user's source line, `text` what was done, or the reason why not, as a person would say it."""

    pass_name: str
    subject: str
    location: str
    applied: bool
    text: str


class Report:
    """All decisions of one compilation, in the order they were taken."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def add(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    def of(self, pass_name: str, applied: bool | None = None) -> list[Decision]:
        """The decisions of one pass; `applied` keeps only those done or only those not done."""
        return [d for d in self if d.pass_name == pass_name and applied in (None, d.applied)]

    def grouped(self) -> list[tuple[str, bool, list[tuple[str, int, Decision]]]]:
        """(pass, applied, [(text, how often, first such decision), ...]) in order of first appearance."""
        groups: dict[tuple[str, bool], Counter[str]] = {}
        first: dict[tuple[str, bool, str], Decision] = {}
        for decision in self:
            key = (decision.pass_name, decision.applied)
            groups.setdefault(key, Counter())[decision.text] += 1
            first.setdefault((*key, decision.text), decision)
        return [
            (name, applied, [(text, count, first[name, applied, text]) for text, count in texts.most_common()])
            for (name, applied), texts in groups.items()
        ]

    def to_json(self) -> list[dict[str, object]]:
        """Plain data, for a plan's notes."""
        return [asdict(decision) for decision in self]

    def __repr__(self) -> str:
        lines = []
        for name, applied, texts in self.grouped():
            lines.append(f"{name}: {_headline(applied, texts)}")
            lines += [f"  {count:4d} x {text}  (first: {_where(first)})" for text, count, first in texts]
        return "\n".join(lines) or "nothing to report"

    def __rich__(self) -> str:
        """The same as console markup; rich renders a string returned from here."""
        lines = []
        for name, applied, texts in self.grouped():
            colour = "green" if applied else "yellow"
            lines.append(f"[bold]{name}[/bold] [{colour}]{_headline(applied, texts)}[/{colour}]")
            for text, count, first in texts:
                lines.append(_escape(f"  {count:4d} x {text}  ") + f"[dim]first: {_escape(_where(first))}[/dim]")
        return "\n".join(lines) or "nothing to report"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, ...]] = []
        for name, applied, texts in self.grouped():
            for index, (text, count, first) in enumerate(texts):
                group = (f"<b>{html.escape(name)}</b>", "done" if applied else "not done") if index == 0 else ("", "")
                rows.append((*group, f"{count}x", html.escape(text), f"<small>{html.escape(_where(first))}</small>"))
        if not rows:
            return "<p>nothing to report</p>"
        return table(("pass", "", "times", "what, or why not", "the first of them"), rows)


def _headline(applied: bool, texts: list[tuple[str, int, Decision]]) -> str:
    total = sum(count for _, count, _ in texts)
    return f"{total} done" if applied else f"{total} not done"


def _where(decision: Decision) -> str:
    return f"{decision.subject} at {decision.location}" if decision.location else decision.subject


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
