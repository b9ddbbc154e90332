"""A process that scores for a run elsewhere: it makes the rewards that it is asked for by the nodes that make them there."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid

from ...rewards.base.reward import counts_of, evaluate
from ...rewards.base.wire import packed, unpacked
from ..loop.runner import SINK, new_executor, sunk

KEPT = "kept"


class Judging:
    """In a ComfyUI that has started and listens nowhere. loop, server: its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server):
        self._server = server
        self._rewards: dict[str, object] = {}
        threading.Thread(target=loop.run_until_complete, args=(server.publish_loop(),), daemon=True, name="server").start()

    def answer(self, job: tuple) -> tuple:
        """job: of lending.py. -> ``packed`` words of what went wrong, "" where nothing did; the judgement; what was counted."""
        import torch

        told = unpacked(job)
        try:
            reward = self._reward(told["nodes"], told["node"], told["slot"])
            with torch.no_grad():
                found = evaluate(reward, told["images"], told["prompts"], told["groups"])
            return packed(("", found, counts_of(reward)))
        except Exception as error:  # whatever it is, it would be the same at each try
            return packed((f"{type(error).__name__}: {error}", None, {}))

    def _reward(self, nodes: dict, node: str, slot: int):
        """Made once; a workflow that has changed is another one."""
        name = json.dumps([nodes, node, slot], sort_keys=True)
        if name not in self._rewards:
            key = uuid.uuid4().hex
            sink = {KEPT: {"class_type": SINK, "inputs": {"key": key, "reward": [node, slot]}}}
            executor = new_executor(self._server)
            asyncio.run(executor.execute_async(nodes | sink, key, {}, [KEPT]))
            if not executor.success:
                words = next((data for kind, data in reversed(executor.status_messages) if kind == "execution_error"), {})
                raise ValueError(str(words.get("exception_message", "its nodes could not be run")).strip())
            (self._rewards[name],) = sunk(key)["reward"]
        return self._rewards[name]
