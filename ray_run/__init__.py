"""A run under Ray: the command that starts its processes, and the actors that sample and score for it."""
