"""The report of a run: one self-contained page, the worst cases first."""

from pipeline.report.page import write_report

__all__ = ["write_report"]
