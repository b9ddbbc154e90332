"""A run's settings have changed: whoever queued the workflow on a page is asked there; a script gets the same as an error.

POST /posttrain/pages {"client"}: a page of this server tells its client id, which its workflows are queued with.
GET /posttrain/questions -> {"questions": [{id, run, text, changes: [{name, old, new}], answers}]}
POST /posttrain/questions/{id} {"answer": one of its answers}
Event "posttrain.question" {id, open} whenever one comes or goes.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from ...rewards.base.words import brief, shown
from ...trainers.run import CONTINUE_CHANGED, START_OVER, SettingsChanged
from ..privacy import without_places
from .server import add_routes, answering, body_of, page_server

LEAVE = "leave it"
ANSWERS = (CONTINUE_CHANGED, START_OVER, LEAVE)
TICK = 0.1  # seconds between two looks at Cancel, and at whether the page is still there
LONGEST, MOST_PAGES = 100, 1000  # characters of a client's id; ids that are kept, the newest

_pages: dict[str, None] = {}
_open: dict[str, Question] = {}


@dataclass
class Question:
    """changes: (name, old, new) of each setting, in words. Routes and the waiting node share it."""

    run: str
    text: str
    changes: list[dict]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    answer: str = ""
    answered: threading.Event = field(default_factory=threading.Event)
    __repr__ = brief

    def plain(self) -> dict:
        return {"id": self.id, "run": self.run, "text": self.text, "changes": self.changes, "answers": list(ANSWERS)}

    def give(self, answer: str) -> None:
        if answer not in ANSWERS:
            raise ValueError(f"answer: '{shown(answer)}' is none; use one of {', '.join(ANSWERS)}")
        self.answer = answer
        self.answered.set()


def ask_the_page(run: str, changed: SettingsChanged, check_cancelled: Callable[[], None]) -> str:
    """How an existing run shall be met; "" where no page of ours has queued the workflow, or it is gone, or leaves it."""
    client = getattr(page_server(), "client_id", None)
    if client not in _pages:
        return ""
    changes = [{"name": name, "old": _short(old), "new": _short(new)} for name, (old, new) in changed.named.items()]
    question = Question(run, without_places(str(changed)), changes)
    _open[question.id] = question
    _tell(question, True)
    try:
        while not question.answered.wait(TICK):
            check_cancelled()
            if not _is_there(client):
                return ""
    finally:
        del _open[question.id]
        _tell(question, False)
    return "" if question.answer == LEAVE else question.answer


def _short(value: object) -> str:
    return without_places(shown(str(value), 60))


def _is_there(client: str) -> bool:
    return client in getattr(page_server(), "sockets", {})


def _tell(question: Question, is_open: bool) -> None:
    page_server().send_sync("posttrain.question", {"id": question.id, "open": is_open})


def register_routes(routes) -> None:
    """Adds the three routes to a server's route table."""

    async def hello(request):
        client = (await body_of(request, client=str))["client"]
        if not client or len(client) > LONGEST:
            raise ValueError("client: it is no client's id")
        _pages.pop(client, None)
        _pages[client] = None
        for oldest in list(_pages)[:-MOST_PAGES]:
            del _pages[oldest]
        return {}

    async def all_open(_request):
        return {"questions": [question.plain() for question in list(_open.values())]}

    async def give(request):
        question = _open.get(request.match_info["id"])
        if question is None:
            raise LookupError("this question is not open any more")
        question.give((await body_of(request, answer=str))["answer"])
        return {}

    routes.post("/posttrain/pages")(answering(hello, "the page cannot be known"))
    routes.get("/posttrain/questions")(answering(all_open, "the questions cannot be read"))
    routes.post("/posttrain/questions/{id}")(answering(give, "the answer cannot be taken"))


add_routes(register_routes)
