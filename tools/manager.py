"""The archive in fresh ComfyUIs, put there by ComfyUI-Manager itself: python develop.py release --install.

The Manager's own command installs it as it would from the registry, for which a server on this machine stands: it answers
the Manager's three questions (which nodes, which version, its archive) out of the archive. Then the host starts, and a shipped
template runs out of what was installed.

What the Manager 4.3 takes besides: an address of git by http or ``file://localhost/...``; not ``file:///...``, a folder, or an
archive's address.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import hosts
from .environment import ROOT, Environment
from .overlay import laid

PINS = ("comfyui-manager==4.3", "GitPython==3.2.1", "gitdb==4.0.12", "smmap==5.0.3", "toml==0.10.2", "chardet==7.7.0")
NODE, TEMPLATE = "posttrain", "learn_to_follow_prompts_flow_grpo"
SMALL = {"PTLoopStart.iterations": 1, "PTLoopStart.run_name": "installed", "PTSampling.prompts_per_iteration": 2,
         "PTSampling.images_per_prompt": 4, "PTSampling.batch_size": 8, "EmptyLatentImage.batch_size": 1}  # fmt: skip
# the Manager knows one registry and takes no other's address; nothing else of it is touched
COMMAND = """import sys
from comfyui_manager.common import cnr_utils
cnr_utils.base_url = sys.argv.pop(1)
from cm_cli import main
main()"""


def installer(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for the Manager."""
    return laid(env, "manager", "ComfyUI-Manager", PINS, lambda step: PINS)


def fresh_hosts(env: Environment, asked: list[str]) -> list[tuple[Environment, list[Path]]]:
    """The oldest host, the pinned one, those beside (tools/hosts.py) and those named, with what each wants on PYTHONPATH."""
    named = [*hosts.OLDER, *map(str, hosts.beside()), *asked]
    return [(env, []), *(hosts.other(env, one, None) for one in dict.fromkeys(named))]


@contextlib.contextmanager
def registry(archive: Path, version: str) -> Iterator[str]:
    """The address of a registry on this machine that has this one node."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = archive.read_bytes() if self.path == "/archive" else json.dumps(self.words()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # the Manager looks at the head first and comes again
                self.wfile.write(body)

        def words(self) -> dict:
            release = {"id": version, "version": version, "downloadUrl": f"{address}/archive",
                       "status": "NodeVersionStatusActive"}  # fmt: skip
            if self.path.startswith(f"/nodes/{NODE}/install"):
                return release
            node = {"id": NODE, "name": "PostTrain", "repository": "", "latest_version": release, "publisher": {"id": "OWNER"}}
            return {"nodes": [node], "totalPages": 1}

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()


def install(comfyui: Path, archive: Path, version: str) -> Path:
    """The folder that the Manager made in this ComfyUI; RuntimeError, with its words, where it made none."""
    with registry(archive, version) as address:
        done = subprocess.run([sys.executable, "-c", COMMAND, address, "install", NODE, "--mode", "remote"], cwd=comfyui,
                              env=os.environ | {"COMFYUI_PATH": str(comfyui)}, capture_output=True, text=True)  # fmt: skip
    place = comfyui / "custom_nodes" / NODE
    if done.returncode or "[INSTALLED]" not in done.stdout or not (place / "__init__.py").is_file():
        raise RuntimeError(f"ComfyUI-Manager did not install it:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return place


def fresh(comfyui: Path, place: Path) -> Path:
    """A copy of a ComfyUI as it is unpacked: without models, outputs and nodes that somebody put there."""
    theirs = {str(comfyui / name) for name in ("models", "output", "input", "temp", "user", "custom_nodes", ".git")}
    shutil.copytree(comfyui, place, ignore=lambda folder, names: [n for n in names if os.path.join(folder, n) in theirs])
    (place / "custom_nodes").mkdir()
    return place


def run(comfyui: Path, pack: Path) -> str:
    """Starts it and trains with a template of the installed pack; what came of it. RuntimeError where it did not."""
    from .host import Host
    from .training import finished, load_workflow

    graph = load_workflow(json.loads((pack / "workflows" / "api" / f"{TEMPLATE}.json").read_text(encoding="utf-8")), SMALL)
    with Host(comfyui, comfyui=comfyui, pack=None) as host:
        offered = host.get("/workflow_templates").json().get(NODE, ())
        if len(offered) < len(list((pack / "workflows").glob("*.json"))):
            raise RuntimeError(f"the host offers {len(offered)} templates of the pack")
        result = finished(host, graph, "template")
        lines = (comfyui / "output" / "posttrain" / "installed" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        loras = list((comfyui / "models" / "loras").rglob("*.safetensors"))
    if json.loads(lines[-1])["iteration"] != 1 or not loras:
        raise RuntimeError("the template ended without its iteration or its LoRA")
    return f"{len(offered)} templates offered; an iteration trained and its LoRA saved, {result.seconds:.0f} s"


def main(folder: Path) -> int:
    from .release import version

    archive, comfyui = folder / f"{NODE}-{version()}.zip", Path(os.environ["COMFYUI_DIR"])
    with tempfile.TemporaryDirectory() as place:
        host = fresh(comfyui, Path(place, "ComfyUI"))
        pack = install(host, archive, version())
        files = sum(path.is_file() for path in pack.rglob("*"))
        print(f"ComfyUI {hosts.version(host)}: installed by ComfyUI-Manager, {files} files; {run(host, pack)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "release").absolute()))
