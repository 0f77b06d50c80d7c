"""Reports out of the results database: lists, tables and learning curves."""


class ReportError(RuntimeError):
    """There is nothing to report: no such runs, metrics or estimates. The message says what is."""
