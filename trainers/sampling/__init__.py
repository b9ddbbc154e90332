"""From noise to images: settings, draws, the plan of the steps, the rollout, evaluation."""
