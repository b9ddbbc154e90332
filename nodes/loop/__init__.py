"""The loop: wired between two nodes, or all of it in one."""
