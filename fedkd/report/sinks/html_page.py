"""The sink of ``report.html``: the page of a run, made of its files once it has ended."""

from fedkd.report.report_settings import Report
from fedkd.report.sinks.sink import Ending, SinkRound, SinkRun


def check(options: Report) -> None:
    """Refuse nothing: all that a page needs is installed."""


def begin(options: Report, run: SinkRun) -> "HtmlPage":
    """Return the page of a run that begins or goes on."""
    return HtmlPage(run)


class HtmlPage:
    """Writes the page of a run that was completed; ``fedkd report`` makes that of any other."""

    title = "report.html"

    def __init__(self, run: SinkRun) -> None:
        """Remember the run's folder."""
        self._folder = run.folder
        self._lines: list[str] = []

    def round(self, row: SinkRound) -> None:
        """Take nothing: the folder has every round."""

    def tell(self, ending: Ending) -> None:
        """Write the page of a completed run."""
        if ending.summary["status"] not in ("completed", "stopped"):
            return
        from fedkd.report.pages.run_page import write_run_page

        self._lines = [f"Report: {write_run_page(self._folder)}"]

    def close(self, status: int) -> None:
        """End: nothing is open."""

    def lines(self) -> list[str]:
        """Return where the page is."""
        return self._lines
