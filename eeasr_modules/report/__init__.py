"""Reports from exit tables: numbers (`summary.json`, CSV), pages (`report.html`, `report.md`), pictures.

Imports `exits` only.
"""

from eeasr_modules.report.numbers.summary import Evaluated, evaluated, summarise
from eeasr_modules.report.render.files import closing_lines, write_report

DEFAULT_POLICIES = (
    "between(random), between(entropy), between(max_entropy), between(confidence), between(margin), "
    "between(patience(1)), between(patience(2)), between(patience_ce(1))"
)

__all__ = ["DEFAULT_POLICIES", "Evaluated", "closing_lines", "evaluated", "summarise", "write_report"]
