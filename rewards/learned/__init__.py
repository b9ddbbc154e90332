"""Rewards with a network, and what loads their weights."""
