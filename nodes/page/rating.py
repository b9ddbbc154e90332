"""Questions to a person: images that wait for votes in the page, and the routes by which the page gives them.

GET /posttrain/ratings -> {"questions": [{id, title, mode, blind, sheets: [{prompt, rows, before}], votes: {row: 1 or -1},
    ties: [sheet], consistency: {alike, of}}]}
GET /posttrain/ratings/{id}/images/{row} -> PNG; before: the row of the picture that a sheet's images were made from, or null
POST /posttrain/ratings/{id}/votes {"votes": {row: 1, -1 or 0}}: kept at once; with "client": only where that client has the
    sheet; {"tie": a sheet's number} instead of "votes": of two images neither is better
POST /posttrain/ratings/{id}/take {"client", "done": a sheet's number}: the sheet that this client is to rate (turns.py)
POST /posttrain/ratings/{id}/end {"how": "done" or "pause"}
Event "posttrain.rating" {id, open} whenever a question comes or goes. A script without a page can answer in the same way.
"""
from __future__ import annotations

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from ...rewards.base.files import read_bytes
from ...rewards.base.reward import RewardUnavailable
from ...rewards.base.words import brief
from ...rewards.person.by_hand import BEST_AND_WORST, Sheet
from ...trainers.data.again import Returns
from ...trainers.data.vote_book import VoteBook, together
from .server import add_routes, answering, body_of, is_seen, page_server
from .turns import Turns

DONE, PAUSE = "done", "pause"
TICK = 0.1  # seconds between two looks at Cancel

_open: dict[str, RatingRequest] = {}


@dataclass
class RatingRequest:
    """Sheets of images, and the votes so far. images: PNG files' bytes by row; blind: two things are compared, nothing trains;
    before: rows of the pictures that sheets' images were made from, which nobody votes on. Routes and the waiting node share
    it."""

    title: str
    mode: str
    sheets: Sequence[Sheet]
    images: dict[int, bytes]
    book: VoteBook
    before: Mapping[Sheet, int] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    votes: dict[int, int] = field(default_factory=dict)
    ties: set[int] = field(default_factory=set)
    how: str = ""
    blind: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    after: Callable[[], None] = lambda: None  # called by whoever ends it, where no node waits
    __repr__ = brief

    def __post_init__(self):
        self._rows = {row for sheet in self.sheets for row in sheet.rows}
        self.sheets, self.images = list(self.sheets), dict(self.images)
        # the same for the same images, so that a sheet may be begun today and ended tomorrow
        self._pair_of = {sheet: together(self.images[row] for row in sheet.rows) if self.mode == BEST_AND_WORST else ""
                         for sheet in self.sheets}
        self._returns, self._again = Returns(self.book.folder), {}  # sheets that are shown a second time: sheet -> pair
        if self.mode == BEST_AND_WORST:
            self._bring_back()
        self._sheet_of = {row: sheet for sheet in self.sheets for row in sheet.rows}
        self._lock = threading.Lock()
        self._take_up()
        self.turns = Turns(len(self.sheets), self.is_judged)

    def _bring_back(self) -> None:
        """A tenth of the pairs of earlier questions, turned round and under row numbers of their own."""
        here = set(self._pair_of.values())
        pairs = [pair for pair in self.book.pairs() if pair.id not in here]
        for pair in self._returns.due(pairs, len(self.sheets)):
            try:
                right, left = (read_bytes(file) for file in pair.files)
            except OSError:
                continue  # somebody has tidied up
            row = max(self.images) + 1
            self.images |= {row: left, row + 1: right}
            sheet = Sheet(pair.prompt, (row, row + 1))
            self._again[sheet] = pair
            self.sheets.insert(random.randint(0, len(self.sheets)), sheet)

    def _take_up(self) -> None:
        """What was voted on the same images before."""
        for number, sheet in enumerate(self.sheets):
            if sheet in self._again:
                continue
            self.votes |= {row: vote for row in sheet.rows if (vote := self.book.vote_on(self.images[row], sheet.prompt))}
            if self._can_tie(number) and all(self.book.is_tie(self.images[row], sheet.prompt) for row in sheet.rows):
                self.ties.add(number)

    def is_judged(self, number: int) -> bool:
        """Whether a sheet has all the votes that it can have."""
        rows = self.sheets[number].rows
        given = sum(bool(self.votes.get(row)) for row in rows)
        return number in self.ties or given == (2 if self.mode == BEST_AND_WORST else len(rows))

    def _can_tie(self, number: int) -> bool:
        return self.mode == BEST_AND_WORST and len(self.sheets[number].rows) == 2

    def tie(self, number: int, client: str = "") -> None:
        """Keeps that of a sheet's two images neither is better, on the disk too. Errors as of ``vote``; client: as there."""
        if not (0 <= number < len(self.sheets) and self._can_tie(number)):
            raise ValueError("tie: only a sheet of two images, of which the better one is asked for, can be a tie")
        if client:
            self.turns.check(number, client)
        with self._lock:
            for row in self.sheets[number].rows:
                self._keep(row, 0, tie=True)
            self.ties.add(number)
            self._compare(number)

    def vote(self, votes: dict[int, int], client: str = "") -> None:
        """Keeps votes, on the disk too. client: a page, which votes on its own sheets only; "" a script.

        ValueError where one is none, or not this client's; LookupError where there is no such image.
        """
        for row, vote in votes.items():
            if row not in self._sheet_of:
                raise LookupError(f"votes: there is no image {row} in this question")
            if isinstance(vote, bool) or vote not in (1, -1, 0):
                raise ValueError(f"votes: {vote!r} is neither 1 (up), -1 (down) nor 0 (none)")
        numbers = {self.sheets.index(self._sheet_of[row]) for row in votes}
        if client:
            for number in numbers:
                self.turns.check(number, client)
        with self._lock:
            for row, vote in votes.items():
                if vote != self.votes.get(row, 0):
                    self._keep(row, vote)
            for number in numbers:
                self._compare(number)

    def _keep(self, row: int, vote: int, tie: bool = False) -> None:
        sheet = self._sheet_of[row]
        if sheet not in self._again:
            place = sheet.rows.index(row) if self.mode == BEST_AND_WORST else None
            self.book.add(self.images[row], sheet.prompt, vote, self._pair_of[sheet], tie, place)
        self.ties.discard(self.sheets.index(sheet))
        self.votes[row] = vote

    def _compare(self, number: int) -> None:
        """Of a pair that has come back: whether the answer is that of the first time. It is no vote."""
        pair = self._again.get(self.sheets[number])
        if pair is not None and self.is_judged(number):
            right, left = (self.votes.get(row, 0) for row in self.sheets[number].rows)
            self._returns.note(f"{self.id} {number}", pair, (left, right) == pair.answer)

    def image(self, row: int) -> bytes | None:
        return self.images.get(row)

    def take(self, client: str, done: int | None = None) -> dict:
        return self.turns.take(client, done)

    def result(self) -> dict[int, int]:
        """1 or -1 by row of the images that were asked about."""
        return {row: vote for row, vote in self.votes.items() if vote and row in self._rows}

    def end(self, how: str) -> None:
        if how not in (DONE, PAUSE):
            raise ValueError(f"how: {how!r} is unknown; use {DONE} or {PAUSE}")
        self.how = how
        self.ended.set()

    def finish(self, how: str) -> None:
        """As whoever rates says it."""
        self.end(how)
        self.after()

    def plain(self) -> dict:
        """As JSON."""
        with self._lock:
            votes = {str(row): vote for row, vote in self.votes.items() if vote}
            ties = sorted(self.ties)
            consistency = asdict(self._returns.consistency())
        return {"id": self.id, "title": self.title, "mode": self.mode, "blind": self.blind, "votes": votes, "ties": ties,
                "consistency": consistency,
                "sheets": [{"prompt": sheet.prompt, "rows": list(sheet.rows), "before": self.before.get(sheet)}
                           for sheet in self.sheets]}


def ask(question: RatingRequest, seconds: float, check_cancelled: Callable[[], None]) -> dict[int, int]:
    """Shows a question in every open page and waits for its end -> votes by row.

    seconds: how long; 0: as long as it takes. check_cancelled raises where the user has pressed Cancel. RewardUnavailable
    where nobody answers in time or Pause is pressed: votes given so far are on the disk, and shown when asked again.
    """
    started = time.monotonic()
    with _shown(question):
        while not question.ended.wait(TICK):
            check_cancelled()
            if seconds and time.monotonic() - started > seconds:
                raise RewardUnavailable(f"nobody has rated the images of '{question.title}' within {seconds / 60:g} minutes; "
                                        "queue again when somebody is at the page, or raise wait_minutes")
    if question.how == PAUSE:
        raise RewardUnavailable(f"you have paused the rating of '{question.title}'; queue again to go on with it")
    return question.result()


@contextmanager
def _shown(question: RatingRequest):
    if not is_seen():
        raise RewardUnavailable("rating by hand needs ComfyUI's server: images are shown in its page; headless.py is told the "
                                "address of one that runs with --page")
    put_up(question)
    try:
        yield
    finally:
        take_down(question)


def put_up(question: RatingRequest) -> None:
    """Shows it in every open page."""
    _open[question.id] = question
    _tell(question, True)


def take_down(question: RatingRequest) -> None:
    if _open.pop(question.id, None) is not None:
        _tell(question, False)


def is_open(id: str) -> bool:
    return id in _open


def open_questions() -> list[RatingRequest]:
    return list(_open.values())


def question_of(id: str) -> RatingRequest:
    """LookupError where it is not open."""
    if id not in _open:
        raise LookupError("this question is not open any more")
    return _open[id]


def _tell(question: RatingRequest, shown: bool) -> None:
    server = page_server()
    if server is not None:
        server.send_sync("posttrain.rating", {"id": question.id, "open": shown})


def register_routes(routes) -> None:
    """Adds the five routes to a server's route table."""
    from aiohttp import web

    def answer(act):
        async def about(request):
            return await act(question_of(request.match_info["id"]), request)
        return answering(about, "the vote cannot be saved")

    async def image(question, request):
        row = int(request.match_info["row"])
        if (data := await asyncio.to_thread(question.image, row)) is None:
            raise LookupError(f"there is no image {row} in this question")
        return web.Response(body=data, content_type="image/png", headers={"Cache-Control": "max-age=86400, immutable"})

    async def votes(question, request):
        body = await body_of(request)
        client, tie = body.get("client", ""), body.get("tie")
        if not isinstance(client, str):
            raise ValueError("client: it is no client's name")
        if type(tie) is int:
            await asyncio.to_thread(question.tie, tie, client)  # the disk may be slow: never in the event loop
            return question.plain()
        if not isinstance(body.get("votes"), dict):
            raise ValueError("votes: it is missing")
        await asyncio.to_thread(question.vote, {int(row): vote for row, vote in body["votes"].items()}, client)
        return question.plain()

    async def take(question, request):
        body = await body_of(request, client=str)
        done = body.get("done")
        if done is not None and type(done) is not int:
            raise ValueError("done: it is no sheet's number")
        return await asyncio.to_thread(question.take, body["client"], done)

    async def end(question, request):
        await asyncio.to_thread(question.finish, (await body_of(request, how=str))["how"])
        return {}

    async def all_open(_request):
        return {"questions": [question.plain() for question in open_questions()]}

    routes.get("/posttrain/ratings")(answering(all_open, "the questions cannot be read"))
    routes.get("/posttrain/ratings/{id}/images/{row}")(answer(image))
    routes.post("/posttrain/ratings/{id}/votes")(answer(votes))
    routes.post("/posttrain/ratings/{id}/take")(answer(take))
    routes.post("/posttrain/ratings/{id}/end")(answer(end))


add_routes(register_routes)
