"""Reports from exit tables: numbers (`summary.json`), a page (`report.md`) and pictures. Imports `exits` only."""

from eeasr_modules.report.summary import summarise
from eeasr_modules.report.writing import closing_lines, write_report

DEFAULT_POLICIES = (
    "between(random), between(entropy), between(confidence), between(margin), "
    "between(patience(1)), between(patience(2)), between(patience_ce(1))"
)

__all__ = ["DEFAULT_POLICIES", "closing_lines", "summarise", "write_report"]
