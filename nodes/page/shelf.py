"""Runs as things on a shelf: renamed, pinned, noted on, thrown away, taken out as a table or for other tools, opened with
their workflow.

POST /posttrain/runs/{run}/rename {"name"} | /pin {"pinned": true or false} | /note {"note"} |
/delete {"delete": the run's name again} -> {"run": its name afterwards};
/export {"to": "tensorboard" or "wandb"} -> {"folder": where it lies}
GET /posttrain/runs/{run}/metrics.csv | /posttrain/runs/{run}/workflow
A deleted run lies in output/posttrain/.trash until its user empties that folder. Pin and note are in the run's page.json.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

from ...rewards.base.files import read_bytes, written_whole
from ...rewards.base.names import found_beside
from ...rewards.base.words import shown
from ...trainers.run import RunInUse, check_name
from ...trainers.run.folder import LOCK
from ...trainers.run.lock import RunLock
from ...trainers.run.metrics import read_metrics
from ...trainers.run.steered import WORKFLOW
from .live import forget
from .run_reader import MARKS, marks_of, run_folder
from .server import add_routes, answering, body_of

TRASH = ".trash"
LONGEST_NOTE = 2000


def rename(run: str, name: str, root: Path | None = None) -> str:
    """-> the new name. ValueError where it is none, is taken, or the run is being trained."""
    folder = run_folder(run, root)
    target = folder.with_name(check_name(name, "name"))
    # the folder itself is no obstacle: a name may change in case alone
    if (there := found_beside(target)) and not there.samefile(folder):
        raise ValueError(f"name: there is a run '{name}' already; choose another name")
    _at_rest(folder)
    os.rename(folder, target)
    forget(run)
    return target.name


def delete(run: str, root: Path | None = None, delete: str = "") -> str:
    """Into the trash folder, under a name of its own there -> that name. ValueError where the run is being trained.
    delete: the run's name once more, so that a slip of a script deletes nothing."""
    folder = run_folder(run, root)
    if delete != run:
        raise ValueError(f"delete: it has to be the run's name, '{run}'")
    _at_rest(folder)
    trash = folder.parent / TRASH
    trash.mkdir(exist_ok=True)
    target, number = trash / folder.name, 1
    while target.exists():
        number += 1
        target = trash / f"{folder.name} {number}"
    os.rename(folder, target)
    forget(run)
    return target.name


def mark(run: str, root: Path | None = None, **marks) -> str:
    """pinned: bool, note: str. What the other says stays."""
    folder = run_folder(run, root)
    if len(marks.get("note", "")) > LONGEST_NOTE:
        raise ValueError(f"note: {len(marks['note'])} characters are too many; {LONGEST_NOTE} is the most")
    with written_whole(folder / MARKS) as beside:
        beside.write_text(json.dumps(marks_of(folder) | marks), encoding="utf-8")
    return folder.name


def as_csv(points: Iterable[dict]) -> str:
    """One line for each iteration, one column for each number that any of them has."""
    rows = list(points)
    names = {name: None for row in rows for name in row}
    text = io.StringIO()
    table = csv.DictWriter(text, list(names), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def workflow_of(run: str, root: Path | None = None) -> dict:
    """The workflow that the run was trained with, as the page draws it. LookupError where none was kept."""
    try:
        found = json.loads(read_bytes(run_folder(run, root) / WORKFLOW))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise LookupError(f"the run '{run}' holds no workflow: it is older than that, was queued by a script, or ComfyUI was "
                          "told to write none (--disable-metadata)")  # fmt: skip
    return found


def export(run: str, to: str, root: Path | None = None) -> str:
    """-> the folder that the other tool reads. ValueError where it is not known or not installed."""
    from ...trainers.run.trackers import TOOLS

    if to not in TOOLS:
        raise ValueError(f"to: unknown tool {shown(to)!r}; use one of {', '.join(TOOLS)}")
    return str(TOOLS[to](run_folder(run, root)))


def _at_rest(folder: Path) -> None:
    """ValueError where the run is being trained, here or elsewhere."""
    try:
        RunLock(folder / LOCK, folder.name).release()
    except RunInUse:
        raise ValueError(f"run: '{folder.name}' is being trained at this moment; cancel it or wait until it ends") from None


def register_routes(routes) -> None:
    """Adds the routes to a server's route table."""
    from aiohttp import web

    def told(act, **kinds):
        async def answer(request):
            body = await body_of(request, **kinds)
            given = {name: body[name] for name in kinds}
            return {"run": await asyncio.to_thread(act, request.match_info["run"], **given)}

        return answering(answer, "the run's folder cannot be changed")

    async def table(request):
        folder = run_folder(request.match_info["run"])
        text = await asyncio.to_thread(lambda: as_csv(read_metrics(folder / "metrics.jsonl")))
        return web.Response(text=text, content_type="text/csv", headers={"Content-Disposition": "attachment"})

    async def taken_out(request):
        body = await body_of(request, to=str)
        return {"folder": await asyncio.to_thread(export, request.match_info["run"], body["to"])}

    async def workflow(request):
        return await asyncio.to_thread(workflow_of, request.match_info["run"])

    for name, act, kinds in (("rename", rename, {"name": str}), ("pin", mark, {"pinned": bool}), ("note", mark, {"note": str}),
                             ("delete", delete, {"delete": str})):  # fmt: skip
        routes.post(f"/posttrain/runs/{{run}}/{name}")(told(act, **kinds))
    routes.post("/posttrain/runs/{run}/export")(answering(taken_out, "the run's folder cannot be changed"))
    routes.get("/posttrain/runs/{run}/metrics.csv")(answering(table, "the run's folder cannot be read"))
    routes.get("/posttrain/runs/{run}/workflow")(answering(workflow, "the run's folder cannot be read"))


add_routes(register_routes)
