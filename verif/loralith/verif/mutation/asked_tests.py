"""The first of a block's own tests that fails on the mutant that is selected."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from .schemata import SchemaMutant

__all__ = ["prepare"]


class _First:
    """A pytest plugin. Attribute: failed, the first test that failed."""

    failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


def prepare(request: dict[str, Any]) -> Callable[[SchemaMutant], str]:
    """Runs the tests with no mutant selected, so that what they import and compile is there for all mutants.

    Raises RuntimeError where a test fails then.
    """
    os.environ["LORALITH_MUTANT"] = "selected"  # what tests do on a mutant is no run of the tests
    failed = _run(request)
    if failed:
        raise RuntimeError(f"with no mutant in force, {failed} fails")
    return lambda _: _run(request)


def _run(request: dict[str, Any]) -> str:
    import pytest

    from loralith.verif import block_test

    block_test.design.cache_clear()  # blocks without the mutant
    first = _First()
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--basetemp", f"{request['folder']}/tmp"]
    with open(os.devnull, "w", encoding="utf-8") as silent, contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        code = pytest.main([*options, *request["tests"]], plugins=[first])
    if code not in (0, 1, 2):
        raise RuntimeError(f"pytest ended with {code} for {' '.join(request['tests'])}")
    return first.failed if code else ""
