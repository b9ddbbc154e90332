"""Nodes that only the tests use: a tiny policy, a body of plain steps, and one node for each feature of the host."""
from .features import FEATURES
from .policy import BODY

NODE_CLASS_MAPPINGS = {**BODY, **FEATURES}
