"""The only code that knows ComfyUI's model objects: any MODEL, a LoRA bank over it, one question: ``denoise``."""
from .bank import TARGETS, Recipe
from .export import lora_state_dict, policy_as_hooks, policy_as_model, save_lora
from .levels import path_of
from .network import Network, open_policy
from .value import Policy, create_policy

__all__ = ["TARGETS", "Network", "Policy", "Recipe", "create_policy", "lora_state_dict", "open_policy", "path_of",
           "policy_as_hooks", "policy_as_model", "save_lora"]
