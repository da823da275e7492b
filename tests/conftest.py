"""What all tests share: no test may skip where FAIL_ON_SKIP=1 (CI)."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

# Streams of the tests are not worth a compilation next to them; tests that build say so.
os.environ["MSSTS_BUILD"] = "0"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("FAIL_ON_SKIP") == "1" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"FAIL_ON_SKIP=1, but this test skips: {reason}"
