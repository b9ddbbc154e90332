"""Sampling settings, rollouts, evaluation."""
