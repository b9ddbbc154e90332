"""A simulated GPU: ``device`` is the card, ``host`` a ComfyUI that takes it for a real one."""
