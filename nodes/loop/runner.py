"""Runs the body of a loop, iteration after iteration, with an executor of the host inside one node."""
from __future__ import annotations

import inspect
import types
import uuid
from collections.abc import Coroutine

from ...rewards.base.ranks import RankCancelled, RankPaused
from ...rewards.base.reward import RewardUnavailable
from ..progress import node_progress
from .body import ITERATION_SLOT, LOOP_SLOT, POLICY_SLOT, Body, fresh, title_of
from .server import BodyServer

PAUSES = (RewardUnavailable.__name__, RankPaused.__name__)  # exceptions of nodes that end the run as a pause
FEED, SINK = "PTLoopFeed", "PTLoopSink"
SINK_ID = "posttrain results"
MOST_SLOTS = 64
# values on their way between a loop and its body, by key; a prompt itself can hold only JSON
_values: dict[str, dict] = {}


class BodyError(RuntimeError):
    """The body failed. node: the id of the node that did, None where it was the body as a whole."""

    def __init__(self, message: str, node: str | None = None):
        super().__init__(message)
        self.node = node


class BodyPaused(BodyError):
    """A node of the body needs something that is not there for the moment, such as a judge's server."""


class BodyRunner:
    """``with BodyRunner(...) as body: results = await body.run(loop, policy, iteration)``.

    outside: values that the body takes from nodes before the loop, by link, each the host's list of values.
    bar: called for the loop's own progress, -> (done, all).
    """

    def __init__(self, body: Body, outside: dict[tuple[str, int], list], dynprompt, unique_id: str, extra_data: dict,
                 bar):
        from server import PromptServer
        self.body, self.extra_data, self._outside = body, extra_data, outside
        self._node, self._dynprompt, self._bar = unique_id, dynprompt, bar
        self._server = BodyServer(PromptServer.instance, self._bars, {SINK_ID})
        if self._server.client_id is not None:
            self.extra_data = {**extra_data, "client_id": self._server.client_id}
        self._executor = new_executor(self._server)
        self._key = uuid.uuid4().hex
        self._feeds: dict[str, dict] = {}

    def __enter__(self) -> BodyRunner:
        from comfy_execution.progress import get_progress_state
        self._progress = get_progress_state()
        self.prompt_id = self._progress.prompt_id
        for (node, slot), value in self._outside.items():
            _values.setdefault(self._key + node, {})[slot] = value
            self._feeds[node] = self._feed(node, 0)
        return self

    def __exit__(self, *_) -> None:
        self._server.close()
        for key in [key for key in _values if key.startswith(self._key)]:
            del _values[key]
        self._progress.update_progress(self._node, *self._bar())

    async def run(self, loop, policy, iteration: int) -> dict[str, list]:
        """One iteration -> the values wired to Loop End, each a list. Raises BodyError; a cancel as the host does."""
        from comfy.model_management import throw_exception_if_processing_interrupted
        start = self.body.start
        _values[self._key + start] = {LOOP_SLOT: [loop], POLICY_SLOT: [policy], ITERATION_SLOT: [iteration]}
        _values.pop(self._key + SINK_ID, None)
        prompt = {node: fresh(content) for node, content in self.body.nodes.items()}
        prompt |= {node: fresh(feed) for node, feed in self._feeds.items()}
        prompt[start] = self._feed(start, iteration)
        prompt[SINK_ID] = {"class_type": SINK, "inputs": {"key": self._key + SINK_ID, **{
            name: list(link) for name, link in self.body.results.items()}}}
        # the executor forgets a cancel that came before it starts: ask at the last moment
        throw_exception_if_processing_interrupted()
        await with_own_progress(self._executor.execute_async(
            prompt, self.prompt_id, dict(self.extra_data), [SINK_ID, *self.body.shown]))
        if not self._executor.success:
            self._raise(prompt)
        results = _values.get(self._key + SINK_ID)
        if results is None:
            raise BodyError("The loop's body gave no policy: one of its nodes blocked the execution. Inside a loop "
                            "every node on the way from Loop Start to Loop End has to run in every iteration.")
        return results

    def show(self, picture: tuple) -> None:
        """A picture as the loop's preview, ("JPEG", PIL image, largest size or None)."""
        node_progress(self._node)(*self._bar(), preview=picture)

    def _feed(self, node: str, iteration: int) -> dict:
        return {"class_type": FEED, "inputs": {"key": self._key + node, "iteration": iteration}}

    def _bars(self) -> dict:
        done, total = self._bar()
        return {self._node: {
            "value": done, "max": total, "state": "running", "node_id": self._node, "prompt_id": self.prompt_id,
            "display_node_id": self._dynprompt.get_display_node_id(self._node),
            "parent_node_id": self._dynprompt.get_parent_node_id(self._node),
            "real_node_id": self._dynprompt.get_real_node_id(self._node)}}

    def _raise(self, prompt: dict) -> None:
        """The failure of the body's executor, as an exception of this node."""
        from comfy.model_management import InterruptProcessingException

        from nodes import NODE_DISPLAY_NAME_MAPPINGS
        event, data = next(message for message in reversed(self._executor.status_messages)
                           if message[0] in ("execution_interrupted", "execution_error"))
        if event == "execution_interrupted":
            raise InterruptProcessingException()
        node = data.get("node_id")
        title = title_of(prompt[node], NODE_DISPLAY_NAME_MAPPINGS) if node in prompt else data.get("node_type")
        kind = data.get("exception_type", "").rpartition(".")[2]
        words = _failed(title, node, data)
        if kind == RankCancelled.__name__:
            raise RankCancelled(words)
        raise (BodyPaused if kind in PAUSES else BodyError)(words, node)


@types.coroutine
def with_own_progress(running: Coroutine):
    """Awaits an executor's run. It puts its own progress registry in the host's one place for it; whenever it waits, so
    that other nodes of the workflow may run, and when it ends, what the workflow reports to is back there."""
    from comfy_execution import progress
    own = None
    step, value = running.send, None
    while True:
        outer, progress.global_progress_registry = progress.global_progress_registry, own
        try:
            waits_for = step(value)
        except StopIteration as end:
            return end.value
        finally:
            own, progress.global_progress_registry = progress.global_progress_registry, outer
        try:
            step, value = running.send, (yield waits_for)
        except BaseException as error:
            step, value = running.throw, error


def new_executor(server):
    """An executor of this host, whichever form its constructor has. Only one iteration's values stay in its cache."""
    import execution
    parameters = inspect.signature(execution.PromptExecutor.__init__).parameters
    # 0.3.64 sizes its cache by a number; later ones read limits by name, more of them with each version
    limits = {"cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}} if "cache_args" in parameters else {}
    return execution.PromptExecutor(server, cache_type=execution.CacheType.CLASSIC, **limits)


def fed(node: dict, slot: int) -> list | None:
    """What a node of a body's prompt hands on from before the loop; None where it is none that does."""
    return _values.get(node["inputs"].get("key"), {}).get(slot) if node["class_type"] == FEED else None


def sunk(key: str) -> dict[str, list]:
    """What a PTLoopSink has taken, by its inputs' names; it is told once."""
    return _values.pop(key, {})


def _failed(title: str, node: str, data: dict) -> str:
    return (f"{title} (node {node}) failed inside the loop: {data.get('exception_message', '').strip()} "
            f"[{data.get('exception_type')}]")


class PTLoopFeed:
    """Stands in the body's prompt for Loop Start and for every node before the loop, under their ids."""

    DESCRIPTION = "Internal to the loop; it is never placed by hand."
    CATEGORY, FUNCTION, DEPRECATED, DEV_ONLY = "PostTrain/internal", "run", True, True
    RETURN_TYPES = ("*",) * MOST_SLOTS
    OUTPUT_IS_LIST = (True,) * MOST_SLOTS

    @classmethod
    def INPUT_TYPES(cls):
        # iteration is not read: its change tells the host's cache that Loop Start has new values
        return {"required": {"key": ("STRING", {"tooltip": "Where the values lie."}),
                             "iteration": ("INT", {"tooltip": "Changes when the values do."})}}

    def run(self, key, iteration):
        values = _values[key]
        return tuple(values.get(slot, []) for slot in range(max(values) + 1))


class PTLoopSink:
    """Takes what is wired to Loop End out of the body."""

    DESCRIPTION = "Internal to the loop; it is never placed by hand."
    CATEGORY, FUNCTION, DEPRECATED, DEV_ONLY = "PostTrain/internal", "run", True, True
    RETURN_TYPES, OUTPUT_NODE, INPUT_IS_LIST = (), True, True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"key": ("STRING", {"tooltip": "Where the values go."})}}

    def run(self, key, **values):
        _values[key[0]] = values
        return ()
