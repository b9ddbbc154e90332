"""One node for each trainer, and the train steps that serve them all."""
