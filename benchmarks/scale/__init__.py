"""What an iteration moves, waits for and costs from one card to a thousand: reckoned, and written into docs/scale.md."""
