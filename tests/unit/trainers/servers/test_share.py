"""Work shared among servers that are slow, fail or never answer."""

from __future__ import annotations

import threading
import time

import pytest
from posttrain.rewards.base.reward import RewardUnavailable
from posttrain.trainers.servers.share import Share, Worker


def nothing(*_) -> None:
    pass


def worker(name: str, do, prepare=nothing) -> Worker:
    return Worker(name, prepare, do)


def squares(task: int, stopped) -> int:
    time.sleep(0.01)
    return task * task


def hangs(task: int, stopped) -> int:
    while not stopped():
        time.sleep(0.01)
    raise OSError("it was told to stop")


def results(*workers: Worker, count: int = 12, seconds: float = 5.0, look=nothing, told=nothing) -> list[int]:
    return Share(workers, count, seconds).results(look, told)


def test_results_come_in_the_order_of_the_tasks_and_all_have_a_part():
    by, told = {}, []

    def of(name: str):
        def do(task, stopped):
            by.setdefault(name, []).append(task)
            return squares(task, stopped)

        return worker(name, do)

    assert results(of("a"), of("b"), of("c"), told=lambda done: told.append(len(done))) == [i * i for i in range(12)]
    assert sorted(sum(by.values(), [])) == list(range(12)) and set(by) == {"a", "b", "c"}
    assert told == sorted(set(told)) and told[-1] == 12


@pytest.mark.parametrize("fails_at", [0, 3, 11])
def test_what_a_lost_one_has_not_finished_another_one_does(fails_at):
    def dies(task, stopped):
        if task >= fails_at:
            raise OSError("gone")
        return squares(task, stopped)

    assert results(worker("a", dies), worker("b", squares)) == [i * i for i in range(12)]


def test_a_fault_in_getting_ready_costs_that_one_alone():
    def prepare(stopped):
        raise ValueError("it lacks something")

    assert results(worker("a", squares, prepare), worker("b", squares)) == [i * i for i in range(12)]


@pytest.mark.parametrize("where", ["ready", "task"])
def test_one_that_takes_too_long_is_left_behind(where):
    slow = worker("a", hangs) if where == "task" else worker("a", squares, lambda stopped: hangs(0, stopped))
    busy = worker("b", lambda task, stopped: time.sleep(0.05) or squares(task, stopped))
    assert results(slow, busy, seconds=0.3) == [i * i for i in range(12)]
    assert f"longer than 0.3 seconds {'to get ready' if where == 'ready' else 'for the images of a prompt'}" in slow.lost


def test_where_all_are_lost_everybodys_words_are_told():
    def fails(words):
        def do(task, stopped):
            if task > 2:
                raise OSError(words)
            return task

        return do

    with pytest.raises(RewardUnavailable, match="after 3 of 12 .* a: no power. b: no disk|a: no power; b: no disk"):
        results(worker("a", fails("no power")), worker("b", fails("no disk")))


def test_where_all_hang_it_ends_too():
    started = time.monotonic()
    with pytest.raises(RewardUnavailable, match="longer than 0.2 seconds"):
        results(worker("a", hangs), worker("b", hangs), seconds=0.2)
    assert time.monotonic() - started < 3


def test_a_cancel_ends_it_at_once_and_all_are_told():
    heard, started = threading.Event(), time.monotonic()

    def hears(task, stopped):
        try:
            return hangs(task, stopped)
        finally:
            heard.set()

    def look():
        if time.monotonic() - started > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results(worker("a", hears), look=look)
    assert heard.wait(2) and time.monotonic() - started < 2


def test_hundreds_of_servers_without_work_sleep_until_all_is_done():
    """256 that look around every now and then would keep a core busy."""

    def slow(task, stopped):
        time.sleep(0.3 if not task else 0.0)
        return task

    shared, asleep = Share([worker(str(number), slow) for number in range(256)], 200, 5.0), []
    wait = shared._work.wait
    shared._work.wait = lambda *limit: (asleep.append(limit), wait(*limit))[1]
    assert shared.results(nothing, nothing) == list(range(200))
    assert 0 < len(asleep) <= 256 and set(asleep) == {()}, "each once, and for no set time"


def test_how_long_each_was_at_work_is_counted_also_of_one_that_is_lost():
    def slow(task, stopped):
        time.sleep(0.05)
        return task

    def dies(task, stopped):
        time.sleep(0.05)
        raise OSError("gone")

    shared = Share([worker("a", slow), worker("b", dies, lambda stopped: time.sleep(0.1))], 4, 5.0)
    assert shared.busy() == 0
    shared.results(nothing, nothing)
    time.sleep(0.3)  # the second one may have been at it when all was done
    first, second = shared.workers
    assert first.busy >= 4 * 0.05 - 0.06 and second.busy >= 0.1 - 0.01  # by then the other one may have done all
    assert shared.busy() == (first.busy + second.busy) / 2


def test_many_that_are_lost_for_one_reason_are_said_in_one_breath():
    def dies(task, stopped):
        raise OSError("it does not answer")

    def refuses(stopped):
        raise ValueError("it lacks a node")

    gone = [worker(f"computer {number}", dies) for number in range(9)]
    with pytest.raises(RewardUnavailable, match="after 0 of 12") as said:
        results(*gone, worker("b", dies), worker("c", squares, refuses))
    assert "computer 0, computer 1, computer 2 and 7 more: it does not answer; c: it lacks a node. Start" in str(said.value)
