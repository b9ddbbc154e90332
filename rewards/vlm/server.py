"""The judge behind any OpenAI-compatible server (vLLM, SGLang, llama.cpp, LM Studio, Ollama ...).

One question is one request; several run at a time in threads, by several servers in turn where there are several. Every
request has a deadline and is tried again, at another server if it can be; what stays unanswered is None. Servers that
cannot be reached at all, or that answer nothing usable to most questions, raise RewardUnavailable: the run stops with its
state saved instead of learning from noise. Where a server gives no log-probabilities, the answer is sampled a few times and
counted.
"""
from __future__ import annotations

import base64
import json
import logging
import math
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException

import torch.nn.functional as F
from torch import Tensor

from ..base.pixels import png_bytes
from ..base.reward import RewardUnavailable
from ..base.words import shown
from ..learned.holder import cancel_point
from .address import KEY_URL_VARIABLE, KEY_VARIABLE, addresses, is_here, origin_of
from .judge import Probabilities, Question

LARGEST = 8 << 20  # bytes of an answer; more is not an answer
MOST_FAILED = 0.5
MOST_THREADS = 256  # of all servers together
REST = 30.0  # seconds for which a server that has failed is asked only after the others
SLACK = 0.01  # of a server's rounding, in log-probabilities
logger = logging.getLogger(__name__)


class Refused(RuntimeError):
    """The server understood and said no (wrong model name, wrong key): trying again is useless."""


@dataclass(frozen=True)
class Server:
    """url: up to and without /chat/completions; several with commas between them share the questions. timeout: seconds for
    one request. tries: requests per question and server. wait: seconds before the second try, doubled each time. at_once:
    requests in flight at each server. side: images are made this large at most. samples: how often a server without
    log-probabilities is asked."""

    url: str
    model: str
    timeout: float = 60.0
    tries: int = 4
    wait: float = 2.0
    at_once: int = 8
    side: int = 768
    samples: int = 4

    differentiable = False

    def __post_init__(self):
        for url in self.urls:
            origin_of(url)
        if not self.model.strip():
            raise ValueError("model: type the name that the server knows the model by.")

    @property
    def urls(self) -> list[str]:
        return addresses(self.url)

    def __call__(self, questions: Sequence[Question]) -> list[Probabilities]:
        stop, pool = threading.Event(), ThreadPoolExecutor(min(self.at_once * len(self.urls), MOST_THREADS))
        turns = Turns(self.urls, self.at_once)
        try:
            jobs = [pool.submit(self._patiently, q, stop, turn, turns) for turn, q in enumerate(questions)]
            while not all(job.done() for job in jobs):
                cancel_point()
                time.sleep(0.02)
            results = [job.result() for job in jobs]
        finally:  # after Cancel nobody waits for the requests in flight, and no new one is made
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        errors = [r for r in results if isinstance(r, str)]
        if errors:
            logger.warning("the VLM judge left %d of %d questions unanswered: %s", len(errors), len(questions), errors[0])
        if questions and len(errors) > MOST_FAILED * len(questions):
            raise RewardUnavailable(f"The VLM judge at {self.url} left {len(errors)} of {len(questions)} questions "
                                    f"unanswered after {self.tries} tries each: {errors[0]}. Check the server, then run "
                                    "again: the run goes on from its saved state.")
        return [None if isinstance(r, str) else r for r in results]

    def _patiently(self, question: Question, stop: threading.Event, turn: int, turns: Turns) -> dict[str, float] | str:
        """The probabilities, or what went wrong at the last try."""
        problem, body = "it was cancelled", request_body(self.model, question, self.side)
        for attempt in range(self.tries):
            if attempt and stop.wait(self.wait * 2 ** (attempt - 1)):
                break
            refused, tried = 0, set[str]()
            while len(tried) < len(self.urls):
                if stop.is_set():
                    return problem
                try:
                    with turns.taken(turn + attempt, tried) as url:
                        return self._ask(question, body, url)
                except Refused as error:
                    problem, refused = str(error), refused + 1
                except (OSError, HTTPException, ValueError, KeyError, TypeError, IndexError, AttributeError,
                        ArithmeticError, RecursionError) as error:
                    problem = f"{type(error).__name__}: {shown(str(error), 300)}"
                turns.failed[url] = time.monotonic()
            if refused == len(self.urls):
                break
        return problem

    def _ask(self, question: Question, body: dict, url: str) -> dict[str, float]:
        choice = self._post(url, body | {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20})
        content = (choice.get("logprobs") or {}).get("content")
        if content:
            return read_logprobs(content[0]["top_logprobs"], question.answers)
        body |= {"max_tokens": 16, "temperature": 0.7}
        texts = [self._post(url, body)["message"]["content"] for _ in range(self.samples)]
        return read_texts(texts, question.answers)

    def _post(self, url: str, body: dict) -> dict:
        """The first choice of the server's answer. Raises OSError, ValueError, KeyError ... or Refused."""
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE) and url == os.environ.get(KEY_URL_VARIABLE):
            # only to the address that the user named beside the key: a workflow from elsewhere must not get it
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        deadline = time.monotonic() + self.timeout
        try:
            with opener(url).open(request, timeout=self.timeout) as response:
                return json.loads(read_before(response, deadline))["choices"][0]
        except urllib.error.HTTPError as error:
            if 300 <= error.code < 400:
                raise Refused(f"it sends requests on to {shown(error.headers.get('Location'))}; type that address, if you "
                              "trust it") from error
            text = f"the server says {error.code}: {error.read(300).decode('utf-8', 'replace')}"
            raise (Refused if 400 <= error.code < 500 and error.code not in (408, 425, 429) else OSError)(text) from error


class Turns:
    """Which of several servers is asked next: another one at each turn, one on this machine before all others. One that answers
    as many questions as it may has others go before, so that a slow one holds up only those; one that has failed a moment ago
    comes last.

    failed: when a server has failed last.
    """

    def __init__(self, urls: Sequence[str], at_once: int):
        self.failed: dict[str, float] = {}
        self._urls, self._at_once, self._busy, self._lock = urls, at_once, Counter[str](), threading.Lock()

    @contextmanager
    def taken(self, turn: int, tried: set[str]) -> Iterator[str]:
        """A server that is none of ``tried``, which it is put into."""
        with self._lock:
            url = self._next(turn, tried)
            tried.add(url)
            self._busy[url] += 1
        try:
            yield url
        finally:
            with self._lock:
                self._busy[url] -= 1

    def _next(self, turn: int, tried: set[str]) -> str:
        first, now = turn % len(self._urls), time.monotonic()
        left = [url for url in (*self._urls[first:], *self._urls[:first]) if url not in tried]
        failed = {url for url in left if now - self.failed.get(url, -math.inf) < REST}
        return min(left, key=lambda url: (url in failed, self._busy[url] >= self._at_once, not is_here(url)))


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A request carries pictures, prompts and maybe a key: it goes where the user has said, and nowhere else."""

    def redirect_request(self, *_):
        return None


def opener(url: str) -> urllib.request.OpenerDirector:
    """Follows no redirect, and asks this machine without any proxy, which would be another one."""
    return urllib.request.build_opener(NoRedirect, *([urllib.request.ProxyHandler({})] if is_here(url) else []))


def read_before(response, deadline: float, largest: int = LARGEST) -> bytes:
    """The whole body; OSError if it is too long or still coming at the deadline (a timeout counts each piece alone)."""
    parts, size = [], 0
    while part := response.read1(65536):
        parts.append(part)
        size += len(part)
        if size > largest:
            raise OSError("the answer is too long")
        if time.monotonic() > deadline:
            raise OSError("the answer did not end in time")
    return b"".join(parts)


def request_body(model: str, question: Question, side: int) -> dict:
    """The chat request without sampling settings."""
    content = [{"type": "image_url", "image_url": {"url": data_url(image, side)}} for image in question.images]
    content.append({"type": "text", "text": question.text})
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def data_url(image: Tensor, side: int) -> str:
    """[1,H,W,3] -> a PNG data URL, made smaller so that its long side is at most `side`."""
    scale = side / max(image.shape[1:3])
    if scale < 1:
        size = [max(1, round(n * scale)) for n in image.shape[1:3]]
        image = F.interpolate(image.movedim(-1, 1).float(), size, mode="bicubic", antialias=True).movedim(1, -1)
    return "data:image/png;base64," + base64.b64encode(png_bytes(image[0])).decode()


def read_logprobs(top: Sequence[dict], answers: Sequence[str]) -> dict[str, float]:
    """The listed first tokens -> probability of each answer; capitals and spaces do not matter.

    ValueError where the numbers are no log-probabilities: one is above 0 or is none, or all together are more than certain.
    """
    found, total = {a: 0.0 for a in answers}, 0.0
    for entry in top:
        token, logprob = entry["token"].strip().lower(), float(entry["logprob"])
        if not logprob <= SLACK:
            raise ValueError(f"the server gives {logprob:g} as a log-probability, which is above 0 or no number")
        total += math.exp(logprob)
        if token in found:
            found[token] += math.exp(logprob)
    if total > 1 + SLACK * len(top):
        raise ValueError(f"the server's probabilities of one word add up to {total:.3g}, which is more than 1")
    return found


def read_texts(texts: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Sampled answers -> share of each; what begins with none of them counts for none. ValueError if none does."""
    found = {a: 0.0 for a in answers}
    for text in texts:
        words = text.strip().lower().replace("*", "").split()
        first = words[0].strip(".,:;!\"'") if words else ""
        if first in found:
            found[first] += 1 / len(texts)
    if not any(found.values()):
        raise ValueError(f"the answer is none of {', '.join(answers)}: '{texts[0][:60]}'")
    return found
