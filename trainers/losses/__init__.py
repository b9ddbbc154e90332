"""The losses: one paper, one file, pure functions of tensors with the formula in the docstring."""
