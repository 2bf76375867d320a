"""The report: one self-contained HTML page about a study."""

from shoal.report.page import write_report

__all__ = ["write_report"]
