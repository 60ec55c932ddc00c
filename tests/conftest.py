from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

# A shell's background jobs ignore Ctrl-C, and so would all processes that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As `make test` has it: sums of floats depend on the number of threads, and Ray gives its processes one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: What writes or runs exported files loads libraries for seconds: one of the processes does it all.
EXPORTING = ("tests/exporting/", "tests/formats/", "tests/networks/test_from_onnx.py")

#: Where a run's own page is looked at.
WITH_PAGES = (
    "tests.reporting.",
    "tests.documentation.",
    "tests.training.test_report",
    "tests.training.test_teacher_scale",
    "tests.training.test_unlabelled",
    "tests.training.test_without_labels",
)


@pytest.fixture(scope="module", autouse=True)
def short_page(request: pytest.FixtureRequest) -> Iterator[None]:
    """A tiny run trains faster than its page is drawn; the page has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.module.__name__.startswith(WITH_PAGES):

            def page(*_: Any, **__: Any) -> str:
                return "page"

            patch.setattr("segdistill.training.run.run_report", page)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as ``--dist loadfile`` does it, and all of `EXPORTING` as if it were one file."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "exporting" if nodeid.startswith(EXPORTING) else super()._split_scope(nodeid)

    return Scheduling(config, log)
