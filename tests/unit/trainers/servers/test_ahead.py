"""A drawing beside the training: it is used where it is the one that is wanted, and it ends with whoever waits for it."""

from __future__ import annotations

import threading
import time

import pytest
from posttrain.rewards.base import beside
from posttrain.trainers.servers.ahead import Ahead


class Picture:
    """Draws once it is let, unless it is ended before."""

    def __init__(self, name: str, error: Exception | None = None):
        self.name, self.error, self.let, self.begun, self.ended = name, error, threading.Event(), 0, False

    def same_as(self, other):
        return self.name == other.name

    def drawn(self, look, told):
        self.begun += 1
        told(1, 2, self.name)
        while not self.let.wait(0.01):
            try:
                look()
            except BaseException:
                self.ended = True
                raise
        if self.error:
            raise self.error
        return f"a picture of {self.name}"


def nothing(*_) -> None:
    pass


def test_what_is_under_way_is_waited_for_and_its_news_are_told():
    ahead, cat, news = Ahead(), Picture("cat"), []
    ahead.begin(cat)

    def told(*what):
        news.append(what)
        cat.let.set()

    assert ahead.result(Picture("cat"), nothing, told) == "a picture of cat"
    assert cat.begun == 1 and news == [(1, 2, "cat")]


def test_another_one_ends_it_and_is_drawn():
    ahead, cat, dog = Ahead(), Picture("cat"), Picture("dog")
    ahead.begin(cat)
    dog.let.set()
    assert ahead.result(dog, nothing, nothing) == "a picture of dog" and cat.ended and dog.begun == 1


def test_its_error_comes_out_where_it_is_waited_for():
    ahead, cat = Ahead(), Picture("cat", OSError("all are lost"))
    cat.let.set()
    ahead.begin(cat)
    with pytest.raises(OSError, match="all are lost"):
        ahead.result(Picture("cat"), nothing, nothing)


def test_a_cancel_ends_it():
    ahead, cat = Ahead(), Picture("cat")
    ahead.begin(cat)

    def cancelled():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ahead.result(Picture("cat"), cancelled, nothing)
    assert cat.ended


def test_it_ends_with_the_run():
    before = set(threading.enumerate())
    ahead, cat = Ahead(), Picture("cat")
    run = beside.collect(3)
    beside.ends_with_the_run(ahead.end)
    ahead.begin(cat)
    beside.end(*run)
    assert cat.ended and set(threading.enumerate()) == before


def test_a_drawing_that_is_ended_at_once_leaves_no_thread():
    before = threading.active_count()
    for _ in range(20):
        ahead = Ahead()
        ahead.begin(Picture("cat"))
        ahead.end()
    time.sleep(0.05)
    assert threading.active_count() == before
