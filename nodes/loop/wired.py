"""Loop Start and Loop End: whatever lies between them is one iteration of a training."""
from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...rewards.base.files import PART
from ...rewards.base.names import check_length
from ...rewards.base.ranks import RankCancelled, RankPaused
from ...rewards.base.reward import RewardUnavailable
from ...rewards.base.words import brief
from ...trainers.run import CONTINUE, START_OVER, WHEN_EXISTS, RunPlan, Session, check_name, run_state
from ..model.export import SAVE_LORA, SUFFIX, checked_name, lora_folder, metadata_is_off
from ..page.live import emit
from ..page.question import ask_the_page
from ..page.report import leave_report
from ..page.run_reader import runs_root
from ..run_name import name_is_valid
from ..sockets import EVALUATION, LOOP, MENU, POLICY, STOP
from .body import Body, find_body, has_end
from .curve import RunCurve
from .runner import FEED, SINK, BodyError, BodyPaused, BodyRunner, PTLoopFeed, PTLoopSink
from .settings import defaults_of, plain, settings_of

CATEGORY, INTERNAL = f"{MENU}/7 Loop", f"{MENU}/internal"
RUNNER = "PTLoopRunner"
# the types, names and tooltips of what a loop's node hands out
RESULTS = ((POLICY, "STRING", "IMAGE"), ("policy", "summary", "curve"),
           ("The trained policy.", "What became of the run, in words.",
            "How the run went, as one picture: reward, alarms, samples of the model before and after."))
SHAPING = ("loop", "policy")  # the inputs of Loop End that decide what is trained


@dataclass(frozen=True)
class Loop:
    """What the socket PT_LOOP carries: the policy to start from, and the plan of the run."""

    policy: Any
    plan: RunPlan
    __repr__ = brief

    @property
    def run_name(self) -> str:
        return self.plan.run_name


def run_inputs() -> dict:
    """The widgets of a run, for Loop Start and Train."""
    return {
        "run_name": ("STRING", {"default": "my run", "tooltip": "Name of this training. Its curve, sample pictures and "
                     "checkpoints go to output/posttrain/<name>, and a training of the same name goes on from there."}),
        "iterations": ("INT", {"default": 50, "min": 1, "max": 1_000_000, "tooltip": "How many iterations the run "
                       "shall have in all. Raise it later to train on."}),
        "when_run_exists": (WHEN_EXISTS, {"default": CONTINUE, "tooltip": "What to do if there is a run of this name. "
                            "continue: go on from its last checkpoint, and ask if settings differ. continue with "
                            "changed settings: go on with the new ones. start over: train anew; the old run is kept as "
                            "a backup."}),
        "save_every": ("INT", {"default": 20, "min": 1, "max": 100_000, "tooltip": "Iterations between checkpoints. "
                       "One is also saved at the end, on Cancel and on an error."})}


def watch_inputs() -> dict:
    """The sockets of a run for what watches it, for Loop Start and Train; they change nothing that is trained."""
    return {"stop": (STOP, {"tooltip": "Stop rules, from Stop When: the training ends as soon as one of them applies."}),
            "evaluation": (EVALUATION, {"tooltip": "From Evaluate While Training: held-out prompts that the run is measured "
                                        "on."})}


def back_input() -> dict:
    """The last widget of Loop Start and Train; optional, since workflows from before have no word of it."""
    return {"continue_from": ("INT", {"default": 0, "min": 0, "max": 1_000_000, "tooltip":
                              "0: go on from the newest checkpoint. Another number: go back to the checkpoint of this iteration, "
                              "after a collapse for example, and train on from there; the run as it was is kept beside it. It "
                              "goes back once; after a change of settings, once more. A number that there is none of lists those "
                              "that there are."})}


def samples_input() -> tuple:
    return ("INT", {"default": 10, "min": 0, "max": 100_000,
                    "tooltip": "Iterations between saved sample grids. 0: none."})


def cache_key(run_name, when_run_exists):
    """For IS_CHANGED: the host's cache may answer only while the run is as it left it."""
    if run_name is None:
        return float("nan")
    # otherwise an unchanged workflow would train anew each time that a node after the loop is touched
    return "" if when_run_exists == START_OVER else run_state(runs_root(), run_name)


def open_session(plan: RunPlan, policy, dynprompt, node: str, inputs: tuple[str, ...], curve: RunCurve,
                 extra_pnginfo=None) -> Session:
    """The session of the loop at ``node``, whose ``inputs`` decide what is trained. curve: hears what the page hears."""
    from comfy.model_management import InterruptProcessingException, throw_exception_if_processing_interrupted

    from nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    prompt = whole_prompt(dynprompt)
    check_names(prompt)
    settings = settings_of(prompt, node, inputs)
    to_page = partial(emit, run=plan.run_name, node=dynprompt.get_display_node_id(node))

    def tell(kind: str, **data) -> None:
        if kind == "end":
            leave_report(runs_root() / plan.run_name)
        to_page(kind, **data)
        curve.hear(kind, **data)

    return Session(runs_root(), plan, policy, settings,
                   tell,
                   cancelled=(InterruptProcessingException, asyncio.CancelledError, KeyboardInterrupt, RankCancelled),
                   paused=(RewardUnavailable, BodyPaused, RankPaused),
                   plain=plain(NODE_DISPLAY_NAME_MAPPINGS), defaults=defaults_of(settings, NODE_CLASS_MAPPINGS),
                   check_cancelled=throw_exception_if_processing_interrupted,
                   workflow=None if metadata_is_off() else (extra_pnginfo or {}).get("workflow"),
                   ask=lambda changed: ask_the_page(plan.run_name, changed, throw_exception_if_processing_interrupted))


def results_of(session: Session, curve: RunCurve) -> dict:
    """What the node of a loop answers the host."""
    pictures, last = curve.last(session)
    return {"ui": {"text": [session.summary], **pictures}, "result": (session.result, session.summary, last)}


def whole_prompt(dynprompt) -> dict[str, dict]:
    """Every node of the workflow, those that other nodes have expanded to included."""
    return {node: dynprompt.get_node(node) for node in sorted(dynprompt.all_node_ids())}


def check_names(prompt: dict[str, dict]) -> None:
    """ValueError where a LoRA of the workflow could not be saved under its name. The host leaves a node that it finds wrong
    out and runs the others: that would train, and save nothing."""
    for node in prompt.values():
        name = node["inputs"].get("file_name")
        if node["class_type"] == SAVE_LORA and isinstance(name, str):
            clean = checked_name(name)
            check_length(lora_folder() / f"{clean}{SUFFIX}.0000000{PART}" / "whole", "file name")


class PTLoopStart:
    DESCRIPTION = ("Where the training loop begins. Wire the policy and the iteration from here to your nodes, and the "
                   "policy that comes out of Train Step to Loop End: all nodes between the two run again and again.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (LOOP, POLICY, "INT"), ("loop", "policy", "iteration")
    OUTPUT_TOOLTIPS = ("For Loop End.", "The policy as it is at the beginning of each iteration.",
                       "The number of the iteration, from 0 on.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"policy": (POLICY, {"tooltip": "The policy to train, from Create Policy."}),
                             **run_inputs()},
                "optional": watch_inputs() | back_input(),
                "hidden": {"dynprompt": "DYNPROMPT", "unique_id": "UNIQUE_ID"}}

    @classmethod
    def VALIDATE_INPUTS(cls, run_name=None):
        return name_is_valid(run_name)

    @classmethod
    def IS_CHANGED(cls, run_name=None, when_run_exists=CONTINUE, **_):
        return cache_key(run_name, when_run_exists)

    def run(self, policy, run_name, iterations, when_run_exists, save_every, dynprompt, unique_id, stop=(),
            evaluation=None, continue_from=0):
        from comfy_execution.graph_utils import ExecutionBlocker
        check_name(run_name)
        if not has_end(whole_prompt(dynprompt), unique_id):
            raise ValueError("loop: no Loop End is wired to it, so nothing would run; add Loop End and connect 'loop'")
        plan = RunPlan(run_name, iterations, when_run_exists, save_every, stop=tuple(stop), evaluation=evaluation,
                       continue_from=continue_from)
        # outside of the loop's own runs the body has to stay still, also where a preview hangs on it
        return (Loop(policy, plan), ExecutionBlocker(None), ExecutionBlocker(None))


class PTLoopEnd:
    DESCRIPTION = ("Where the training loop ends. Runs the nodes between Loop Start and here as often as asked, shows "
                   "the curve, saves checkpoints and hands out the trained policy.")
    CATEGORY, FUNCTION, OUTPUT_NODE, INPUT_IS_LIST = CATEGORY, "run", True, True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = RESULTS

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "loop": (LOOP, {"tooltip": "From Loop Start, directly."}),
            # lazy and raw: the host neither makes these values for this node nor blocks it for want of them
            "policy": (POLICY, {"lazy": True, "rawLink": True,
                                "tooltip": "The policy after this iteration, from Train Step."})},
            "optional": {
            "images": ("IMAGE", {"lazy": True, "rawLink": True,
                                 "tooltip": "Images made in the iteration, for the sample grids."}),
            "samples_every": samples_input()},
            "hidden": {"dynprompt": "DYNPROMPT", "unique_id": "UNIQUE_ID"}}

    def run(self, loop, dynprompt, unique_id, policy=None, images=None, samples_every=(0,)):
        from comfy_execution.graph_utils import GraphBuilder

        from nodes import NODE_CLASS_MAPPINGS
        dynprompt, node = dynprompt[0], unique_id[0]
        if len(loop) != 1:
            raise ValueError(f"loop: Loop Start was given {len(loop)} policies as a list; one loop trains one policy")
        body = find_body(whole_prompt(dynprompt), node,
                         lambda kind: getattr(NODE_CLASS_MAPPINGS[kind], "OUTPUT_NODE", False))
        graph = GraphBuilder()
        # by its links the host evaluates (and caches) what the body takes from outside, once for all iterations
        runner = graph.node(RUNNER, loop=[body.start, 0], body=body.to_json(), samples_every=samples_every[0],
                            **{f"outside_{i}": list(link) for i, link in enumerate(body.outside)})
        return {"result": tuple(runner.out(i) for i in range(len(self.RETURN_TYPES))), "expand": graph.finalize()}


class PTLoopRunner:
    """What Loop End expands to. Asynchronous, since the executor that it drives is."""

    DESCRIPTION = "Internal to the loop; it is never placed by hand."
    CATEGORY, FUNCTION, DEPRECATED, DEV_ONLY, INPUT_IS_LIST = INTERNAL, "run", True, True, True
    RETURN_TYPES, RETURN_NAMES, _ = RESULTS

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"loop": (LOOP, {"tooltip": "From Loop Start."}),
                             "body": ("STRING", {"tooltip": "The nodes between Loop Start and Loop End."}),
                             "samples_every": samples_input()},
                "hidden": {"dynprompt": "DYNPROMPT", "unique_id": "UNIQUE_ID", "extra_pnginfo": "EXTRA_PNGINFO",
                           "auth_token_comfy_org": "AUTH_TOKEN_COMFY_ORG", "api_key_comfy_org": "API_KEY_COMFY_ORG"}}

    async def run(self, loop, body, samples_every, dynprompt, unique_id, **others):
        loop, body, dynprompt, unique_id = loop[0], Body.from_json(body[0]), dynprompt[0], unique_id[0]
        outside = {link: others.pop(f"outside_{i}") for i, link in enumerate(body.outside)}
        extra_data = {key: value[0] for key, value in others.items() if value[0] is not None}
        plan = RunPlan(**{**loop.plan.__dict__, "samples_every": samples_every[0]})
        curve = RunCurve()
        session = open_session(plan, loop.policy, dynprompt, body.end, SHAPING, curve, extra_data.get("extra_pnginfo"))
        runner = BodyRunner(body, outside, dynprompt, unique_id, extra_data,
                            lambda: (session.iteration, plan.iterations))
        try:
            with session, runner:
                while not session.done:
                    results = await runner.run(loop, session.policy, session.iteration)
                    session.advance(one_policy(results["policy"]), joined(results.get("images")))
                    if picture := curve.preview(session):
                        runner.show(picture)
        except BodyError as error:
            emit("error", run=plan.run_name, node=error.node, text=str(error))
            kind = BodyPaused if isinstance(error, BodyPaused) else RuntimeError
            raise kind(f"{error}\n{session.summary}") from None
        return results_of(session, curve)


def one_policy(values: list):
    if len(values) != 1 or not hasattr(values[0], "with_state"):
        what = f"{len(values)} values in a list" if len(values) != 1 else f"a {type(values[0]).__name__}"
        raise ValueError(f"policy: Loop End got {what} from the loop's body; wire exactly one policy to it")
    return values[0]


def joined(images: list | None):
    """The batches of images that have the size of the first, as one."""
    import torch
    if not images or any(image is None for image in images):
        return None
    alike = [image for image in images if image.shape[1:] == images[0].shape[1:]]
    return alike[0] if len(alike) == 1 else torch.cat(alike)


NODES = {"PTLoopStart": PTLoopStart, "PTLoopEnd": PTLoopEnd, RUNNER: PTLoopRunner, FEED: PTLoopFeed, SINK: PTLoopSink}
NAMES = {"PTLoopStart": "Loop Start", "PTLoopEnd": "Loop End", RUNNER: "Loop Runner (internal)",
         FEED: "Loop Feed (internal)", SINK: "Loop Results (internal)"}
