"""develop.py gpu: what only a card can show, also on a machine without network (standard library only)."""
