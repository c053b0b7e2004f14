"""The report: one HTML file by which a person can judge a run, offline."""

from orchard.report.page import ReportData, collect, render

__all__ = ["ReportData", "collect", "render"]
