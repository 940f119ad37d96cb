"""A figure of a report: a chart under its caption, to download as SVG and its data as CSV."""

from __future__ import annotations

from dataclasses import dataclass

from .charts import standalone
from .page import data_uri


@dataclass(frozen=True)
class Figure:
    """A chart and its data. name: of the files to download."""

    name: str
    caption: str
    note: str
    svg: str
    data: str  # CSV

    @property
    def svg_link(self) -> str:
        """The chart as a file."""
        return data_uri(standalone(self.svg), "image/svg+xml")

    @property
    def csv_link(self) -> str:
        """Its data as a file."""
        return data_uri(self.data, "text/csv;charset=utf-8")
