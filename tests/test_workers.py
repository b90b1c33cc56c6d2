"""Worker processes: one torch thread each, the environment of who starts them, errors that reach the caller."""

import os

import pytest
import torch

from lib.errors import InputError
from lib.workers import core_count, run_parallel


def test_a_worker_has_one_thread_and_is_another_process():
    threads = list(run_parallel(torch.get_num_threads, [(), ()], workers=2))
    pids = set(run_parallel(os.getpid, [(), (), ()], workers=2))
    assert threads == [1, 1] and os.getpid() not in pids


def test_workers_have_the_environment_of_today_and_not_that_of_the_first_pool(monkeypatch):
    for value in ("first", "second"):
        monkeypatch.setenv("UNMUTE_OF_THIS_TEST", value)
        assert list(run_parallel(os.getenv, [("UNMUTE_OF_THIS_TEST",)] * 2, workers=2)) == [value] * 2
    monkeypatch.delenv("UNMUTE_OF_THIS_TEST")
    assert list(run_parallel(os.getenv, [("UNMUTE_OF_THIS_TEST",)] * 2, workers=2)) == [None] * 2


def test_an_error_in_a_worker_is_the_callers_and_a_killed_worker_one_sentence():
    with pytest.raises(ZeroDivisionError):
        list(run_parallel(divmod, [(1, 0), (1, 1)], workers=2))
    with pytest.raises(InputError, match="worker process ended unexpectedly"):
        list(run_parallel(os._exit, [(1,), (1,)], workers=2))


def test_a_number_of_workers_that_is_none_is_one_sentence(monkeypatch):
    monkeypatch.setenv("UNMUTE_WORKERS", "none")
    with pytest.raises(InputError, match="UNMUTE_WORKERS is 'none'"):
        core_count()
