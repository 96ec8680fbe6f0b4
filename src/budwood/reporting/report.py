"""The report's text: its sections in their order."""

from budwood.reporting import sections
from budwood.reporting.ledger import total_by_stage
from budwood.reporting.records import Findings
from budwood.reporting.summary import start_here


def markdown_report(findings: Findings) -> str:
    """Return the report as markdown: what was found in plain words, then the tables behind it.

    Every number, and every word that judges one, is computed from the findings.
    """
    parts = {
        "Start here": start_here(findings),
        "Results": sections.results(findings.results),
        "Training": sections.training(findings.results),
        "Savings": sections.savings(findings.savings),
        **findings.further,
        "Questions": sections.questions(findings.tasks),
        "Speed and memory": sections.speeds(findings.speeds),
        "Search": sections.winners(findings.winners),
        "Search spaces": sections.search_spaces(findings.search_spaces),
        "Text": sections.corpus(findings.corpus_counts),
        "Teacher": sections.teacher(findings.teacher),
        "Costs": sections.costs(total_by_stage(findings.ledger)),
        "How this was made": sections.made(findings.results, findings.provenance),
    }
    return "\n\n".join(["# Budwood report", *(f"## {name}\n\n{body}" for name, body in parts.items())]) + "\n"
