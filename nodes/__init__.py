"""Every node of the pack, gathered from the modules of this folder."""
from __future__ import annotations

from . import host_version

host_version.check()  # before the nodes, which need what older hosts lack

from . import (evaluate, export, live, loop, pairs, policy, preferences, prompts, reward, reward_ensemble,  # noqa: E402
               reward_human, reward_judges, reward_models, reward_rules, reward_tools, rollout, step_reward, toy, train,
               train_loop, trainers_backprop, trainers_distillation, trainers_matching, trainers_pairs)

MODULES = (toy, prompts, policy, rollout, reward, reward_human, reward_models, reward_rules, reward_judges, reward_ensemble,
           reward_tools, train, trainers_matching, trainers_backprop, preferences, trainers_pairs, trainers_distillation,
           pairs, step_reward, loop, train_loop, export, evaluate)

NODE_CLASS_MAPPINGS = {node_id: node for module in MODULES for node_id, node in module.NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {node_id: name for module in MODULES for node_id, name in module.NAMES.items()}
