"""What a reward is, how images are scored, and how scores are shown."""
