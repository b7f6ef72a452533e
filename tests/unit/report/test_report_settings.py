"""Which runs the settings of reports go with."""

from dataclasses import replace

import pytest

from fedkd.report.report_settings import Report
from fedkd.settings.conditions import RunConditions

PLAIN = RunConditions(components={"privacy": "none"})
PRIVATE = RunConditions(components={"privacy": "gaussian"})
ALONE = replace(PLAIN, exchanges=False)
KEPT = Report(client_metrics="none")


@pytest.mark.parametrize(
    ("report", "conditions", "expected"),
    [
        (Report(), PLAIN, None),
        (Report(), replace(PRIVATE, has_baseline=True, has_secrets=True), None),
        (Report(client_metrics="simulation"), PRIVATE, None),
        (Report(client_metrics="simulation"), PLAIN, "simulation would do nothing"),
        (KEPT, PLAIN, None),
        (KEPT, PRIVATE, None),
        (KEPT, replace(PRIVATE, has_baseline=True), "baseline=none, or report.client_metrics=sim"),
        (KEPT, replace(PLAIN, has_baseline=True), "baseline=none, or report.client_metrics=auto"),
        (KEPT, replace(PRIVATE, has_secrets=True), "text_canaries=none, or"),
        (KEPT, ALONE, "exchanges nothing else"),
        (replace(KEPT, after="training"), PRIVATE, "report.after=training would do nothing"),
    ],
)
def test_metrics_that_are_kept_are_refused_where_a_run_needs_them(
    report: Report, conditions: RunConditions, expected: str | None
) -> None:
    found = report.conflict(conditions)
    assert (found is None) if expected is None else (found is not None and expected in found)
