"""Results: what a study's tasks reported and cost, as tables, data frames and usage."""

from shoal.results.build import build_table
from shoal.results.data import StudyData
from shoal.results.errors import ResultError
from shoal.results.formats import FORMATS, render_table, table_json, table_rich
from shoal.results.frame import StudyResults, load, report_tables
from shoal.results.read import read_store
from shoal.results.tables import Table
from shoal.results.usage import Usage, usage_summary

__all__ = [
    "FORMATS",
    "ResultError",
    "StudyData",
    "StudyResults",
    "Table",
    "Usage",
    "build_table",
    "load",
    "read_store",
    "render_table",
    "report_tables",
    "table_json",
    "table_rich",
    "usage_summary",
]
