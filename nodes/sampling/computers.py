"""Rollouts that other computers sample, each with a ComfyUI of its own."""

from __future__ import annotations

import os
from dataclasses import replace
from urllib.parse import urlsplit

from ...rewards.base.words import lines_of
from ...trainers.run import say_once
from ..loop.body import links_of, nodes_before
from ..loop.readers import check_may_be_behind, check_no_steps_are_needed, means_are_read
from ..loop.runner import FEED
from ..page.address import check_and_ask
from ..page.server import page_server
from ..progress import node_progress
from ..sockets import COMPUTERS, POLICY, PROMPTS, ROLLOUT, SAMPLING
from .rollout import CATEGORY, say_need

EXAMPLE = "http://192.168.0.5:8188"
MOST = 256


def samplers():
    import comfy.samplers

    return comfy.samplers.KSampler.SAMPLERS


def drawn_when() -> tuple:
    from ...trainers.servers.computers import AFTER, DURING, Computers

    words = (
        "after each update: by the policy as it is then; the computers wait while it is trained. during the update: the next "
        "images are drawn while this computer trains, by the policy of one iteration before. Nobody waits then, but images are a "
        "little out of date; trainers that cannot correct for it say so."
    )
    return ((AFTER, DURING), {"default": Computers.when, "tooltip": words})


class PTOtherComputers:
    DESCRIPTION = (
        "Other computers that sample for a training, each with a ComfyUI that was started with --listen. Nothing has to be "
        "installed there but what your model needs: the same model files, and the packs of the nodes that load it. Place it "
        "outside the loop."
    )
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (COMPUTERS,), ("computers",)
    OUTPUT_TOOLTIPS = ("For Rollout on Other Computers.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.policy.interchange import PRECISIONS
        from ...trainers.servers.computers import OWN_STEPS, Computers

        return {
            "required": {
                "model": (
                    "MODEL",
                    {
                        "tooltip": "The same output that Create Policy has. The nodes that make it run on the other "
                        "computers, too."
                    },
                ),
                "clip": ("CLIP", {"tooltip": "The same output that Encode Prompts has."}),
                "addresses": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": EXAMPLE,
                        "tooltip": "One ComfyUI on each line, or ray for "
                        "the samplers of a run under Ray (docs/scale.md). You are asked "
                        "once about one of another machine (docs/security.md).",
                    },
                ),
                "sampler": (
                    (*samplers(), OWN_STEPS),
                    {
                        "default": Computers.sampler,
                        "tooltip": "As in KSampler. euler gives the images of Rollout without random steps. as Rollout, with "
                        "random steps: the other computers need this pack, too; for Flow-GRPO, DDPO and DPOK.",
                    },
                ),
                "lora_precision": (
                    tuple(PRECISIONS),
                    {
                        "tooltip": "Of the LoRA that they get in each iteration. float32 is the policy "
                        "as it is; the others halve what is sent."
                    },
                ),
                "longest_wait": (
                    "FLOAT",
                    {
                        "default": Computers.seconds,
                        "min": 5.0,
                        "max": 86400.0,
                        "step": 1.0,
                        "tooltip": "Seconds for which a computer may work on the images of a prompt, waiting in its queue and "
                        "loading the model included. Then another one draws them.",
                    },
                ),
            },
            "optional": {
                "draw_images": drawn_when(),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "dynprompt": "DYNPROMPT"},
        }

    def run(
        self,
        model,
        clip,
        addresses,
        sampler,
        lora_precision,
        longest_wait,
        draw_images="after each update",
        unique_id=None,
        dynprompt=None,
    ):
        from ...trainers.servers import actors
        from ...trainers.servers.computers import Computers

        found = addresses_of(addresses)
        for each in found:
            if each not in actors.names():
                check_and_ask(each, "prompts and the LoRA in training")
        source = made_by(dynprompt, unique_id)
        computers = Computers(found, model, source, sampler, lora_precision, longest_wait, draw_images)
        return {"ui": {"text": computers.ready()}, "result": (computers,)}


class PTRolloutOnComputers:
    DESCRIPTION = (
        "Samples images on other computers with the policy. In place of Rollout, for trainers that learn from finished images: "
        "DiffusionNFT, AWM, DGPO, CRD, RWR, and preferences; for Flow-GRPO, DDPO and DPOK too where Other Computers says as "
        "Rollout. One that is lost costs no image: others draw its."
    )
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (ROLLOUT, "IMAGE", "LATENT"), ("rollout", "images", "latents")
    OUTPUT_TOOLTIPS = ("For Score and Train Step.", "The images, for a preview.", "The clean latents.")

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "policy": (POLICY, {"tooltip": "Inside a loop: from Loop Start."}),
                "prompts": (PROMPTS, {"tooltip": "From Encode Prompts."}),
                "vae": ("VAE", {"tooltip": "The model's VAE; images are decoded on this computer."}),
                "sampling": (
                    SAMPLING,
                    {
                        "tooltip": "From Sampling Settings: size, steps, guidance, how many. A KSampler there makes no random "
                        "steps, and computes each image on its own."
                    },
                ),
                "computers": (COMPUTERS, {"tooltip": "From Other Computers."}),
            },
            "optional": {
                "iteration": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**31,
                        "forceInput": True,
                        "tooltip": "From Loop Start: decides "
                        "which prompts and which noise this time. Unwired, the policy's own count of train steps does.",
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "dynprompt": "DYNPROMPT"},
        }

    def run(self, policy, prompts, vae, sampling, computers, iteration=None, unique_id=None, dynprompt=None):
        from ...trainers.policy.latents import to_latent_socket
        from ...trainers.run.steering import asked_weights
        from ...trainers.servers.computers import DURING, OWN_STEPS
        from ...trainers.servers.rollout import rollout_by_computers

        if computers.sampler != OWN_STEPS:
            check_no_steps_are_needed(dynprompt, unique_id, "a KSampler on another computer")
        if computers.when == DURING:
            check_may_be_behind(dynprompt, unique_id)
        iteration = policy.iteration if iteration is None else iteration
        made = rollout_by_computers(
            policy,
            prompts,
            vae,
            sampling,
            computers,
            iteration,
            keep_means=means_are_read(dynprompt, unique_id),
            tell=say_need,
            missed=say_missed,
            progress=node_progress(unique_id, policy.model),
        )
        made = replace(made, reward_weights=asked_weights(policy))
        return (made, made.images, to_latent_socket(policy.model, made.latents))


def say_missed(name: str, why: str) -> None:
    """Once in a training for each computer."""
    say_once(f"missed {name}", f"{name} could not draw its images, and the other computers have drawn them. {why}")


def addresses_of(text: str) -> tuple[str, ...]:
    """The addresses of a text, one a line; for "ray" those of its actors. ValueError where one is none, or stands there twice."""
    from ...rewards.vlm.address import origin_of
    from ...trainers.servers import actors

    found = tuple(line.strip().rstrip("/") for line in lines_of(text) if line.strip())
    if not 0 < len(found) <= MOST:
        raise ValueError(f"addresses: {len(found)} are not possible; write 1 to {MOST}, one on each line. Example: {EXAMPLE}")
    for each in found:
        if each != actors.WORD:
            origin_of(each, EXAMPLE)
        elif not actors.names():
            raise ValueError(
                f"addresses: {each} stands for the samplers of a run under Ray, and this one has none; start it with headless.py "
                "ray and --samplers, or write addresses"
            )
        if found.count(each) > 1:
            raise ValueError(f"addresses: {each} stands there twice; name each computer once")
        if each != actors.WORD and is_this_comfyui(each):
            raise ValueError(
                f"addresses: {each} is this ComfyUI itself, which is busy with the training; name others, or use Rollout"
            )
    return tuple(name for each in found for name in (actors.names() if each == actors.WORD else (each,)))


def is_this_comfyui(address: str) -> bool:
    from ...rewards.vlm.address import PORTS, is_here

    parts = urlsplit(address)
    return is_here(address) and getattr(page_server(), "port", None) == (parts.port or PORTS[parts.scheme])


def made_by(dynprompt, node: str):
    """The nodes that make the model and the clip of ``node``. ValueError where they stand in the loop: they are the same for all
    of a training."""
    from ...trainers.servers.graph import Source

    links = links_of(dynprompt.get_node(node))
    nodes = nodes_before(dynprompt.get_node, (links["model"][0], links["clip"][0]))
    if any(each["class_type"] == FEED for each in nodes.values()):
        raise ValueError("computers: Other Computers stands inside the loop; take its model and clip from before Loop Start")
    return Source(nodes, links["model"], links["clip"], files_of(nodes))


def files_of(nodes: dict[str, dict]) -> dict[str, dict[str, int]]:
    """Model files that widgets name: name -> model folder -> bytes."""
    import folder_paths

    names = {value for node in nodes.values() for value in node["inputs"].values() if isinstance(value, str) and "." in value}
    found: dict[str, dict[str, int]] = {}
    for name in sorted(names):
        for folder in sorted(set(folder_paths.folder_names_and_paths) - {"custom_nodes", "configs"}):
            path = folder_paths.get_full_path(folder, name)
            if path is not None:
                found.setdefault(name, {})[folder] = os.path.getsize(path)
    return found


NODES = {"PTOtherComputers": PTOtherComputers, "PTRolloutOnComputers": PTRolloutOnComputers}
NAMES = {"PTOtherComputers": "Other Computers", "PTRolloutOnComputers": "Rollout on Other Computers"}
