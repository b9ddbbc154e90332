"""Post-training of diffusion and flow models: paths, transitions, rollouts, advantages, losses, updates."""
