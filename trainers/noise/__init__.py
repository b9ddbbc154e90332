"""How data and noise mix, a sampling step as a Gaussian, and where randomness comes from."""
