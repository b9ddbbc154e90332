"""A person as a reward, and which reward agrees with one."""
