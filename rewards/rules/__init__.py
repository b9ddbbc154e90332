"""Rewards that measure or check: colours, file size, text, objects."""
