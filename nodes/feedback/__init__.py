"""From scores, or from collected data, to what a trainer learns from."""
