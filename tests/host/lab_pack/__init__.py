"""Nodes that only the tests use: a tiny policy, a body of plain steps, one node for each feature of the host, rewards."""
from .demo import DEMO
from .features import FEATURES
from .policy import BODY
from .rewards import REWARDS

NODE_CLASS_MAPPINGS = {**BODY, **DEMO, **FEATURES, **REWARDS}
