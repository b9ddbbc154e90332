"""What is measured: costs with their limits (develop.py bench), and learning, with its evidence (develop.py prove)."""
