"""Signals: after the first one the step is finished, the second one exits at once."""

import os
import shutil
import signal

import pytest
from helpers.processes import PRETRAIN, TINY_RUN, run_here

from scratch_gpt.errors import RunInterruptedError
from scratch_gpt.train.engine.command import run_command
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


def test_an_interrupted_run_ends_with_a_plain_line(capsys):
    def stop():
        raise RunInterruptedError(1234, signal.SIGINT)

    with pytest.raises(SystemExit) as ended:
        run_command(stop)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped at step 1,234 by SIGINT; continue with --resume\n"


def test_a_resumed_run_says_where_and_a_finished_one_that_it_is_finished(tmp_path):
    (tmp_path / "text.txt").write_text("One day, Anna has two old lamps near the mill. " * 40)
    options = (*TINY_RUN, "--dataset", "text.txt", "--output_dir", "run", "--no-baselines", "--save_every", "1")
    first = run_here(PRETRAIN, *options, "--max_steps", "2", "--keep_last", "2", cwd=tmp_path)
    assert "resumed" not in first.stdout
    shutil.rmtree(tmp_path / "run/checkpoints/step-00000002")
    resumed = run_here(PRETRAIN, "--output_dir", "run", "--resume", cwd=tmp_path).stdout
    assert resumed.count("resumed at step 1\n") == 1
    assert "already finished" not in resumed
    again = run_here(PRETRAIN, "--output_dir", "run", "--resume", cwd=tmp_path).stdout
    assert again.count("already finished at step 2: nothing to train\n") == 2
    assert again.endswith("nothing to train\n")


def test_signal_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with Interruption():
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert {number: signal.getsignal(number) for number in before} == before
