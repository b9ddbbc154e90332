"""What only a card can show (develop.py gpu): an iteration of every trainer at the size of the models that people train."""
