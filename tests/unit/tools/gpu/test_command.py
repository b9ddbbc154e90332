"""develop.py gpu where it cannot measure: no card, and no more time."""

from __future__ import annotations

import os
import sys

from posttrain.tools.gpu import card, command


def no_environment():
    raise AssertionError("nothing is to be set up")


def test_without_a_card_it_says_so_and_sets_nothing_up(monkeypatch, capsys):
    monkeypatch.setattr(command, "lacking", lambda: card.lacking("libnowhere.so.7"))
    assert command.main([], no_environment) == command.NO_CARD != 0
    assert command.main(["--from", "anywhere"], no_environment) == command.NO_CARD
    said = capsys.readouterr()
    assert said.out == "" and len(set(said.err.splitlines())) == 1
    assert said.err.startswith(
        "No NVIDIA card is to be had here: its driver (libnowhere.so.7) is not installed; nothing was measured."
    )


def test_it_stops_in_words_when_the_time_is_over(monkeypatch, capsys):
    monkeypatch.setattr(command, "MODULE", "import time; time.sleep(60)")
    assert command.measure(sys.executable, os.environ, 0.02) == 1
    assert "minutes are over" in capsys.readouterr().err


def test_it_ends_as_the_measuring_ends(monkeypatch):
    monkeypatch.setattr(
        command, "MODULE", "import sys; sys.exit(4 if sys.argv[2:] == ['benchmarks.gpu.run', '--minutes', '4.5'] else 5)"
    )
    assert command.measure(sys.executable, os.environ, 5.0) == 4
