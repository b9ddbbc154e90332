"""Recommended numbers: what the papers' official code trains each kind of model with, each number with its source.

They are data (numbers.json), read by ``table`` and put in by ``settle`` where a setting was left open. Nothing here knows a
model, a trainer or the host.
"""
