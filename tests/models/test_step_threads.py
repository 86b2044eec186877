"""The number of threads of a compiled step, and huge pages."""

import sys

import pytest
import torch

from scratch_gpt.models.step_threads import STEPS, StepThreads, use_huge_pages


def run(threads: StepThreads, seconds: dict[int, float], duration: float) -> dict[int, float]:
    """Steps that take so many seconds with each number of threads, for a duration; return the time spent with each."""
    spent = dict.fromkeys(seconds, 0.0)
    while sum(spent.values()) < duration:
        count = threads.count
        spent[count] += seconds[count]
        threads.record(seconds[count])
    return spent


@pytest.mark.parametrize("step", [1e-4, 1e-2])
def test_all_threads_are_used_if_they_are_faster(step):
    threads = StepThreads(4)
    spent = run(threads, {1: step, 4: step / 3}, 1000 * step)
    assert threads.count == 4
    assert spent[1] < 0.01 * spent[4]


@pytest.mark.parametrize("step", [1e-4, 1e-2])
def test_one_thread_is_used_while_another_process_is_busy(step):
    threads = StepThreads(2)
    run(threads, {1: step, 2: step / 1.8}, 1000 * step)
    busy = {1: step, 2: 20 * step}
    run(threads, busy, 2 * STEPS * busy[2])  # until it is noticed
    spent = run(threads, busy, 20.0)
    assert spent[2] < 0.2 * spent[1]
    run(threads, {1: step, 2: step / 1.8}, 5.0)
    assert threads.count == 2  # the other process has ended


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the call is of Linux")
def test_huge_pages_keep_the_contents():
    tensors = [torch.randn(2**20), torch.randn(3), torch.arange(2**21)]
    copies = [tensor.clone() for tensor in tensors]
    pages = use_huge_pages(tensors)
    assert pages >= 0  # none before Linux 6.1
    assert all(map(torch.equal, tensors, copies))
