"""The report: one HTML file that lets a person judge a run, offline and by itself."""

from orchard.report.page import ReportData, collect, render

__all__ = ["ReportData", "collect", "render"]
