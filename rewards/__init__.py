"""Rewards: one file each. Nothing is imported here, so that a reward costs nothing before it is used."""
