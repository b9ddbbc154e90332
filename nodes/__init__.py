"""Every node of the pack, gathered from the modules of this folder."""
from __future__ import annotations

from . import host_version

host_version.check()  # before the nodes, which need what older hosts lack

from . import demo, edits, headless, prompts  # noqa: E402, F401  headless is for headless.py
from .feedback import advantages, data, preferences, votes  # noqa: E402
from .guard import guarded  # noqa: E402
from .loop import blind_gate, estimate, held_out, stop, train, wired  # noqa: E402
from .model import export, hooks, policy, trained_lora  # noqa: E402
from .page import blind, elsewhere, live, open_folder, own_page, shelf, steer  # noqa: E402, F401  add the page's routes
from .rewards import composite, goal, judges, learned, person, rules, score, simple, step_reward, taste, tools  # noqa: E402
from .rewards.lending import noted  # noqa: E402
from .sampling import audit, computers, distance, draw_steps, evaluate, rollout, step_rollout  # noqa: E402
from .trainers import (  # noqa: E402
           add,
           alignprop,
           awm,
           crd,
           d3po,
           ddpo,
           dgpo,
           diffusion_dpo,
           diffusion_opd,
           dpok,
           draft,
           drtune,
           flow_grpo,
           kto,
           lcm,
           mapo,
           nft,
           refl,
           rtdmd,
           rwr,
           spo,
           srpo,
           train_step,
)

MODULES = (demo, prompts, edits, policy, hooks, export, rollout, step_rollout, evaluate, score, simple, person, learned, goal,
           rules,
           judges, composite, tools, step_reward, advantages, preferences, data, flow_grpo, ddpo, dpok, nft, awm, dgpo, crd, rwr,
           rtdmd,
           diffusion_dpo, mapo, kto, d3po, spo, draft, alignprop, refl, drtune, srpo, lcm, add, diffusion_opd, train_step, wired,
           train, stop, held_out, blind_gate, trained_lora, estimate, computers, taste, votes, distance, audit, draw_steps)

NODE_CLASS_MAPPINGS = {node_id: guarded(noted(node)) for module in MODULES for node_id, node in module.NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {node_id: name for module in MODULES for node_id, name in module.NAMES.items()}
