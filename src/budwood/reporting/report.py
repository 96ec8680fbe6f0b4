"""The report's text: its sections in order."""

import re
from dataclasses import dataclass

from budwood.reporting import sections, summary
from budwood.reporting.findings import Findings
from budwood.reporting.limits import limited
from budwood.reporting.rates import swept_rates
from budwood.reporting.selection import selection_section


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and the markdown below it."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        """The target of links to it, as markdown viewers form it."""
        return re.sub(r"[^\w-]", "", self.title.lower().replace(" ", "-"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A title, a warning (empty without any), and sections."""

    title: str
    warning: str
    sections: tuple[Section, ...]

    @property
    def markdown(self) -> str:
        """The whole report as markdown."""
        quoted = "\n".join(f"> {line}".rstrip() for line in self.warning.splitlines())
        parts = [f"# {self.title}", quoted, *(f"## {part.title}\n\n{part.body}" for part in self.sections)]
        return "\n\n".join(filter(None, parts)) + "\n"


def write_report(findings: Findings) -> Report:
    """Return the report: the opening, contents, and the tables behind it.

    Every number and every verdict is computed from the findings.
    """
    opening = {
        "Models to take": summary.models(findings),
        "What they write": summary.samples(findings.samples),
        "What was searched": summary.searched(findings),
        "Why to believe it": summary.evidence(findings),
        "What it cost": summary.cost(findings),
    }
    selected = {} if findings.selections is None else {"Selection": selection_section(findings.selections)}
    details = {
        "Results": sections.results(findings.results),
        "Forgetting": sections.forgetting(findings),
        "Training": sections.training(findings.results) + swept_rates(findings.arms),
        "Savings": sections.saved(findings.savings),
        **selected,
        "Tasks": sections.tasks(findings.tasks),
        "Generation": sections.generation(findings.samples),
        "Speed and memory": sections.speeds(findings.speeds) + limited(findings.winners),
        "Sanity gates": sections.gates(findings),
        "Opens in": sections.opens_in(findings.certificates),
        "Search": sections.searches(findings.winners),
        "Search spaces": sections.search_spaces(findings.search_spaces),
        "Text": sections.corpus(findings.corpus_counts),
        "Teacher": sections.teacher(findings.teacher_record, findings.teacher_evaluation.perplexity),
        "How this was made": sections.made(findings),
    }
    first, rest = ([Section(title=title, body=body) for title, body in part.items()] for part in (opening, details))
    contents = Section(title="Contents", body="\n".join(f"- [{part.title}](#{part.anchor})" for part in rest))
    return Report(
        title=f"Small models from {findings.teacher_record.name}",
        warning=summary.warning(findings),
        sections=(*first, contents, *rest),
    )
