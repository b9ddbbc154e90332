"""The parts of develop.py. Not published with the pack."""
