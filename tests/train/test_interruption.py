"""Signals: after the first one the step is finished, the second one exits at once."""

import os
import signal

import pytest

from scratch_gpt.train.engine.signals import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("times", "code"), [(0, 0), (1, 7), (2, "128 + number"), (3, "128 + number")])
def test_second_signal_exits_at_once(number, times, code, capfd):
    pid = os.fork()
    if pid == 0:
        try:
            with Interruption() as interruption:
                for _ in range(times):
                    os.kill(os.getpid(), number)
                os._exit(7 if interruption.signal == number else interruption.signal)
        finally:
            os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == (128 + number if code == "128 + number" else code)
    assert capfd.readouterr().err.count("a second signal stops immediately") == min(times, 1)


def test_signal_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with Interruption():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in before} == before
