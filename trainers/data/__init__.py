"""Preference data that somebody has collected: read, checked row by row, encoded once, dealt out in batches."""
