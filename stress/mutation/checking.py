"""One mutant: run the tests that reach it in a fork, and believe a failure only of a test that passes without it."""

import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from mutation import forks
from mutation.mutations import Mutant
from mutation.selection import Test, cost, within

SLACK = 30  # CPU seconds that any test may take beyond ten times what it took without a mutant
IDLE = 90  # seconds without CPU time after which a test hangs, where it took far less
ALLOWED = 2  # times what the tests took under coverage, before a mutant counts as endless
SUSPICIOUS = re.compile(r"hung for|Deadline|Flaky|[Tt]imed? ?out|No space left|Address already in use")


@dataclass
class Outcome:
    """What the tests said of a mutant.

    Attributes:
        status: "caught", "timeout" (caught as well), "survived", "no test" or "error" (of this tool).
        by: The test that failed, and `message` the first line of why.
        tests: How many passed. `reaching` is how many reach the mutant: more than were run where the budget ended.
    """

    status: str
    by: str = ""
    message: str = ""
    tests: int = 0
    reaching: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    distrusted: list[str] = field(default_factory=list)


class Chosen:
    """A pytest plugin that runs chosen tests in a chosen order, and writes down how far they are."""

    def __init__(self, names: list[str], progress: Path):
        self.ranks = {name: i for i, name in enumerate(names)}
        self.file = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def write(self, **said: str) -> None:
        os.write(self.file, (json.dumps(said) + "\n").encode())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if item.nodeid in self.ranks), key=lambda it: self.ranks[it.nodeid])

    def pytest_runtest_logstart(self, nodeid):
        self.write(started=nodeid)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            message = crash.message if crash else str(report.longrepr)
            self.write(failed=report.nodeid, message=" ".join(message.split())[:400])

    def pytest_collectreport(self, report):
        if report.failed:
            self.write(failed=report.nodeid, message=" ".join(str(report.longrepr).split())[-400:])


class Checker:
    """Checks mutants one after another on a copy of the repository.

    Args:
        tree: The copy, for which this process is prepared.
        log: Folder for the output of the tests.
        budget: CPU seconds, as recorded, of the tests that are run at most for one mutant.
    """

    def __init__(self, tree: forks.Tree, log: Path, budget: float):
        self.tree, self.log, self.budget = tree, log, budget
        self.trusted: dict[str, bool] = {}  # test: whether it passes alone without a mutant

    def check(self, mutant: Mutant, tests: list[Test]) -> Outcome:
        """Run the tests that reach a mutant until one fails.

        Args:
            mutant: Of a file of the copy.
            tests: In the order to run them.
        """
        if not tests:
            return Outcome("no test")
        original = (self.tree.root / mutant.file).read_bytes()
        reaching = sum(test.reaches for test in tests)
        total = Outcome("survived" if reaching else "no test", reaching=reaching)
        began, left = time.monotonic(), within(tests, self.budget)
        while left:
            self.tree.write(mutant.file, mutant.apply(original))
            try:
                found = self.run(left, f"{mutant.id}.log")
                if found.status == "caught" and SUSPICIOUS.search(found.message):
                    alone = self.run([test for test in left if test.name == found.by] or left, "again.log")
                    found.status = alone.status  # slow for another reason, where it passes alone
            finally:
                self.tree.write(mutant.file, original)
            total.cpu += found.cpu
            total.tests += found.tests
            if found.by and found.status == "survived":
                left = after(found.by, left)
            elif found.status in ("caught", "timeout") and not self.passes_without(found.by, left):
                total.distrusted.append(found.by)
                left = after(found.by, left)
            else:
                if found.status != "survived":
                    total.status, total.by, total.message = found.status, found.by, found.message
                break
        total.wall = time.monotonic() - began
        return total

    def passes_without(self, name: str, tests: list[Test]) -> bool:
        """Whether a test (of a file that failed to import, its first one) passes alone without a mutant; tried once."""
        if name not in self.trusted:
            alone = [test for test in tests if name in (test.name, test.file)][:1] or tests[:1]
            self.trusted[name] = self.run(alone, "alone.log").status == "survived"
        return self.trusted[name]

    def run(self, tests: list[Test], log: str) -> Outcome:
        """Run tests in a fork, in their order, until one fails or takes too long."""
        self.tree.clean()
        progress, names = self.tree.home / "progress", [test.name for test in tests]
        progress.unlink(missing_ok=True)
        files = list(dict.fromkeys(test.file for test in tests if (self.tree.root / test.file).exists()))
        plugins = [Chosen(names, progress)] if files else []

        def work() -> int:
            return forks.run_pytest(files, self.tree, plugins, "--maxfail=1", "-o", "timeout=0")

        process = forks.fork(self.tree, work, self.log / log)
        watch = Watch(process, progress, {test.name: test for test in tests}, ALLOWED * cost(tests) + 4 * SLACK)
        code = watch.wait()
        forks.end(process)
        started = [each["started"] for each in read_progress(progress) if "started" in each]
        failed = next((each for each in read_progress(progress) if "failed" in each), None)
        cpu, last = watch.cpu, started[-1] if started else ""
        if code is None:
            return Outcome("timeout", last, watch.reason, max(len(started) - 1, 0), cpu=cpu)
        if failed:
            return Outcome("caught", failed["failed"], failed["message"], max(len(started) - 1, 0), cpu=cpu)
        if code == 0:
            return Outcome("survived", tests=len(started), cpu=cpu)
        if code == 5:  # pytest found none of them
            return Outcome("no test", cpu=cpu)
        text = " ".join((self.log / log).read_text(errors="replace").split())[-400:]
        if code in (1, 2, 3, 4) or code < 0:  # conftest.py cannot be imported, a crash
            return Outcome("caught", last, f"pytest ended with exit code {code}: {text}", len(started), cpu=cpu)
        return Outcome("error", last, f"exit code {code}: {text}", len(started), cpu=cpu)


@dataclass
class Watch:
    """Waits for the tests, and gives up where one takes far longer than it did without a mutant."""

    process: psutil.Process
    progress: Path
    tests: dict[str, Test]
    limit: float  # CPU seconds for all
    cpu: float = 0.0
    reason: str = ""

    def wait(self) -> int | None:
        """The exit code, or None where the tests take too long; `reason` says why."""
        current, began_cpu, began, active_cpu, active = "", 0.0, time.monotonic(), 0.0, time.monotonic()
        while (code := forks.wait(self.process, 0.5)) is None:
            now, self.cpu = time.monotonic(), max(self.cpu, forks.cpu_seconds(self.process))
            started = [each["started"] for each in read_progress(self.progress) if "started" in each]
            if started and started[-1] != current:
                current, began_cpu, began = started[-1], self.cpu, now
            if self.cpu > active_cpu + 0.5 or began == now:
                active_cpu, active = self.cpu, now
            test = self.tests.get(current, Test("", 9.0, 9.0))
            alone = test.cpu + sum(seconds for _, seconds in test.fixtures)
            if self.cpu - began_cpu > 10 * alone + SLACK:
                self.reason = f"took {self.cpu - began_cpu:.0f} CPU seconds, {alone:.1f} without the mutant"
            elif now - active > IDLE and now - began > 3 * (test.wall + alone) + IDLE:
                self.reason = f"idle for {now - active:.0f} seconds"
            elif self.cpu > self.limit:
                self.reason = f"all took {self.cpu:.0f} CPU seconds"
            if self.reason:
                return None
        return code


def after(name: str, tests: list[Test]) -> list[Test]:
    """The tests that come after one; those of other files where `name` is a file."""
    names = [test.name for test in tests]
    return tests[names.index(name) + 1 :] if name in names else [test for test in tests if test.file != name]


def read_progress(path: Path) -> list[dict]:
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
