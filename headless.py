#!/usr/bin/env python3
"""Runs a workflow without page or server, in one process or, shared, in several.

    python headless.py workflow_api.json                                  one process
    torchrun --nproc-per-node 2 headless.py workflow_api.json             two, one card each
    torchrun --nproc-per-node 2 headless.py workflow_api.json --share-weights      for a model that fits no single card
    python headless.py workflow_api.json --comfyui FOLDER --lowvram       ComfyUI elsewhere, and its own options
    python headless.py workflow_api.json --page http://192.168.1.5:8188   shown, steered and rated for on that ComfyUI's page
    python headless.py ray workflow_api.json --workers 2 --address auto   the same under Ray; see headless.py ray --help

The workflow is one that ComfyUI's page exports for the API (Export (API)); it comes first. ComfyUI is the one in whose
custom_nodes this pack lies. A run that was cut short goes on from its last checkpoint when the command is given again.

Exit codes: 0 done, 1 an error, 2 the workflow or the command is wrong, 3 paused (a reward is not there at the moment),
130 stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from pathlib import Path

PACK = Path(os.path.abspath(__file__)).parent  # of a link, the link's: ComfyUI lies above that
RAY = "ray"
CARD_CHOSEN = {"--cpu", "--cuda-device"}


def main(arguments: list[str], **told) -> int:
    """told: what a launcher in this process has to say, for Headless.run_file."""
    if arguments[:1] == [RAY]:
        from ray_run import command

        return command.main(arguments[1:], PACK, _parsed)
    words, chosen, of_comfyui = _parsed(arguments)
    workflow, rank = chosen.workflow.resolve(), int(os.environ.get("RANK", "0"))
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not workflow.is_file() and not several:  # several processes tell each other
        words.error(f"{workflow} is not there; export a workflow with Export (API)")
    if several and (lacking := _lacking(of_comfyui)):
        words.error(
            f"WORLD_SIZE says that there are several processes, and {', '.join(lacking)} is not set; a launcher sets it"
        )
    if chosen.share_weights and not several:
        words.error("--share-weights: there is one process, which has nobody to share with; start several with torchrun")
    with tempfile.TemporaryDirectory(prefix="posttrain-rank-", ignore_cleanup_errors=True) as own:
        _choose_card(of_comfyui)
        sys.argv = ["main.py", *_folders(Path(own), rank), *of_comfyui]
        loop, server, _ = _start(chosen.comfyui)
        made = _pack("nodes.headless").Headless(loop, server)
        return made.run_file(workflow, chosen.quiet or rank > 0, chosen.share_weights, page=chosen.page, **told)


def serve(arguments: list[str], own: Path, port: int) -> None:
    """Starts a ComfyUI that answers this machine alone, in a thread that lives as long as the process. own: an empty folder."""
    here = ["--listen", "127.0.0.1", "--port", str(port), "--max-upload-size", "100000"]
    (loop, _, start), _ = _beside(arguments, own, *here)
    threading.Thread(target=lambda: loop.run_until_complete(start()), name="server", daemon=True).start()


def judge(arguments: list[str], own: Path):
    """Starts a ComfyUI that scores for another one. own: an empty folder. -> nodes.rewards.judging.Judging."""
    (loop, server, _), _ = _beside(arguments, own)
    return _pack("nodes.rewards.judging").Judging(loop, server)


def model_sizes(arguments: list[str], own: Path) -> list[int]:
    """Bytes of each model file that the workflow names; none where it cannot be read, which those say who run it. own: an empty
    folder."""
    _, workflow = _beside(arguments, own, "--cpu")  # no card is asked for
    prompt, _ = _pack("nodes.headless").read(workflow)
    return _pack("nodes.machines").model_sizes(prompt)


def _beside(arguments: list[str], own: Path, *more: str):
    """A ComfyUI beside the one that trains: what ``_start`` gives, and the workflow."""
    _, chosen, of_comfyui = _parsed(arguments)
    sys.argv = ["main.py", *_folders(own, 1), *of_comfyui, *more]
    return _start(chosen.comfyui), chosen.workflow


def _parsed(arguments: list[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace, list[str]]:
    """-> the parser, for its errors; what was chosen; and what is ComfyUI's."""
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    words.add_argument("workflow", type=Path, help="a workflow in API format (.json)")
    words.add_argument(
        "--comfyui", type=Path, default=PACK.parent.parent, help="ComfyUI's folder; else the one around this pack"
    )
    words.add_argument(
        "--share-weights",
        action="store_true",
        help="several processes hold a part of the model each; for one that fits no card",
    )
    words.add_argument(
        "--page",
        default="",
        metavar="ADDRESS",
        help="of a ComfyUI with this pack, such as http://192.168.1.5:8188: its page shows the training and steers it, and asks "
        "there what a person is to rate; POSTTRAIN_PAGE_KEY is set to the same on both sides",
    )
    words.add_argument("--quiet", action="store_true", help="no line of progress")
    chosen, of_comfyui = words.parse_known_args(arguments)
    chosen.comfyui = chosen.comfyui.resolve()
    if not (chosen.comfyui / "main.py").is_file():
        words.error(f"{chosen.comfyui} is no ComfyUI (it has no main.py); name its folder with --comfyui")
    return words, chosen, of_comfyui


def _lacking(of_comfyui: list[str]) -> list[str]:
    """What a launcher has to tell each of several processes, and has not."""
    needed = ["RANK", "MASTER_ADDR", "MASTER_PORT", *([] if CARD_CHOSEN & set(of_comfyui) else ["LOCAL_RANK"])]
    return [name for name in needed if not os.environ.get(name)]


def _folders(own: Path, rank: int) -> list[str]:
    """Each process has its own temp folder, which ComfyUI empties at the start; what others than the first write is not kept."""
    options = ["--temp-directory", str(own), "--database-url", "sqlite:///:memory:", "--disable-auto-launch"]
    if rank:
        (own / "output").mkdir()
        options += ["--output-directory", str(own / "output")]
    return options


def _choose_card(of_comfyui: list[str]) -> None:
    """Each process of a machine takes a card of its own; which, ComfyUI reads before torch is there."""
    number = os.environ.get("LOCAL_RANK")
    if number is not None and not CARD_CHOSEN & set(of_comfyui):
        cards = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
        os.environ["CUDA_VISIBLE_DEVICES"] = cards[int(number) % len(cards)] if cards else number


def _start(comfyui: Path):
    """A ComfyUI that has started: its loop, its server, and what has it listen."""
    here = str(PACK)
    sys.path[:] = [str(comfyui), *(place for place in sys.path if os.path.abspath(place or ".") != here)]
    import main as comfyui_main

    return comfyui_main.start_comfyui()


def lora_folder() -> Path:
    """Where Save LoRA writes, in a ComfyUI that has started."""
    return _pack("nodes.model.export").lora_folder()


def _pack(name: str):
    """A module of the pack, out of a ComfyUI that has started."""
    import nodes

    kind = nodes.NODE_CLASS_MAPPINGS.get("PTTrain")
    if kind is None:
        sys.exit("The nodes of PostTrain were not loaded: see the lines above for why, or start ComfyUI once as usual.")
    return sys.modules[f"{kind.__module__.rsplit('.nodes.', 1)[0]}.{name}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
