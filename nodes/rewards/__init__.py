"""Rewards, and nodes that look at what they say."""
