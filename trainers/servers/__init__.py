"""Rollouts by other ComfyUI servers: their API, the graph that they run, and how groups are shared among them."""
