"""Judges: processes that hold a run's learned rewards and score for it, as headless.py ray --judges starts them.

Which node has made a reward is noted when it runs; its images go, some at a time, to whoever of the judges is free, with the
nodes that make it (judging.py). A judge that is lost costs no score: others do its part, or it itself once it is there again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ...rewards.base import lent
from ...rewards.base.reward import RewardUnavailable, added_up, compares, networks_of, parts_of
from ...rewards.base.stopwatch import JUDGES, note
from ...rewards.base.wire import packed, unpacked
from ..loop.body import nodes_before
from ..sockets import REWARD

Judge = Callable[[tuple, Callable[[], bool]], tuple]  # a job, and whether nobody waits any more -> its answer; both ``packed``
AT_ONCE = 16  # images of a job
LONGEST, PATIENCE, REST = 600.0, 600.0, 0.5  # seconds: for a job, for a judge that is started again, between two looks
CHANGING = ("PTLoopStart", "PTLoopEnd", "PTTrain")  # what comes from there is another value in each iteration

_lending: Lending | None = None


def lend(judges: Mapping[str, Judge], prompt: dict) -> None:
    """From here on the learned rewards of this workflow are asked there."""
    global _lending
    _lending = Lending(judges, prompt) if judges else None


def noted(node: type) -> type:
    """The same class; what it makes of rewards is noted where there are judges."""
    run, slots = getattr(node, node.FUNCTION), [i for i, kind in enumerate(getattr(node, "RETURN_TYPES", ())) if kind == REWARD]
    if not slots:
        return node

    @functools.wraps(run)
    def noting(self, *args, **kwargs):
        found = run(self, *args, **kwargs)
        if _lending is not None:
            results = found.get("result", ()) if isinstance(found, dict) else found
            for slot in slots:
                _lending.note(results[slot], slot)
        return found

    setattr(node, node.FUNCTION, noting)
    return node


class Lending:
    """judges: how each is asked, by name; prompt: the workflow."""

    def __init__(self, judges: Mapping[str, Judge], prompt: dict):
        self._judges, self._prompt = judges, prompt
        self._counted: dict[str, dict[str, dict[str, float]]] = {}  # by node and judge

    def note(self, reward, slot: int) -> None:
        """What the node that runs at this moment has made."""
        from comfy_execution.utils import get_executing_context

        now = get_executing_context()
        single = networks_of(reward) and not parts_of(reward) and not compares(reward)
        if now is None or now.node_id not in self._prompt or not single:
            return
        nodes = nodes_before(self._prompt.__getitem__, [now.node_id])
        if not any(each["class_type"] in CHANGING for each in nodes.values()):
            source = {"nodes": nodes, "node": now.node_id, "slot": slot}
            lent.lend(reward, partial(self._ask, source), partial(self._counts, now.node_id))

    def _counts(self, node: str) -> dict[str, float]:
        return added_up(list(self._counted.get(node, {}).values()))

    def _ask(self, source: dict, images, prompts: Sequence, groups):
        """The judgement of all images."""
        from ...rewards.learned.holder import cancel_point
        from ...trainers.servers.share import Share, Worker

        rows = [slice(at, at + AT_ONCE) for at in range(0, len(images), AT_ONCE)]
        done: dict[int, tuple] = {}
        faults: list[str] = []

        def judged(name: str, task: int, stopped: Callable[[], bool]):
            if task not in done:
                part = rows[task]
                job = packed(
                    source
                    | {"images": images[part].cpu().clone(), "prompts": list(prompts[part]), "groups": groups[part].clone()}
                )
                error, found, counts = unpacked(self._judges[name](job, stopped))
                if error:
                    faults.append(error)
                    raise OSError(error)
                self._counted.setdefault(source["node"], {})[name] = counts
                done[task] = found
            return done[task]

        def look() -> None:
            cancel_point()
            if faults:
                raise RuntimeError(f"a judge could not score: {faults[0]}")

        end = time.monotonic() + PATIENCE
        while True:
            workers = [Worker(name, lambda stopped: None, partial(judged, name)) for name in self._judges]
            share = Share(workers, len(rows), LONGEST)
            try:
                found = share.results(look, lambda _: None)
                note(JUDGES, share.busy())
                return joined(found)
            except RewardUnavailable:
                look()
                if time.monotonic() > end:
                    raise RewardUnavailable(
                        f"judges: none of them is left. {share.reasons()}. Start the run again: it goes on"
                    ) from None
                time.sleep(REST)


def joined(parts: Sequence):
    """The judgement of all images, of those of some each."""
    import torch

    first = parts[0]
    whole = {
        kind: {name: torch.cat([getattr(part, kind)[name] for part in parts]) for name in getattr(first, kind)}
        for kind in ("members", "normalised")
    }
    return type(first)(torch.cat([part.values for part in parts]), **whole, weights=first.weights)
