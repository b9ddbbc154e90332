"""Steering a run from the page or a script: what is asked for is carried out between two iterations.

GET /posttrain/runs/{run}/steer -> {"paused", "asked", "numbers": {"learning rate": 0.0003, ...}}, or null
POST /posttrain/runs/{run}/steer {"do": one of ORDERS of trainers/run/steering.py, "value": for a number} -> the same
Null, or 404, where the run is not being trained by this ComfyUI; 400 where the order cannot be. Both say what to do.
"""

from __future__ import annotations

import asyncio

from ...trainers.run.steering import state_of, steering_of
from .run_reader import run_folder
from .server import add_routes, answering, body_of


def register_routes(routes) -> None:
    """Adds the two routes to a server's route table."""

    async def look(request):
        return state_of(run_folder(request.match_info["run"]))

    async def order(request):
        body, found = await body_of(request, do=str), steering_of(run_folder(request.match_info["run"]))
        await asyncio.to_thread(found.order, body["do"], body.get("value"))  # it may have to be asked for elsewhere
        return found.plain()

    routes.get("/posttrain/runs/{run}/steer")(answering(look, "the run cannot be read"))
    routes.post("/posttrain/runs/{run}/steer")(answering(order, "the run cannot be steered"))


add_routes(register_routes)
