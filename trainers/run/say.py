"""What other parts of the pack have to say to the user of the training that runs now."""

from __future__ import annotations

import logging

from .session import _running


def say_once(what: str, text: str) -> None:
    """A sentence where nothing was said in this training about ``what`` before; where none runs, for the log."""
    session = _running.get()
    if session is None or session.run is None:
        logging.info("PostTrain: %s", text)
    elif what not in session.said:
        session.said.add(what)
        session.message(text)
