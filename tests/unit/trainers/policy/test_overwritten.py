"""Gradients of what overwrites, in place, tensors that autograd has saved; against the same computed without overwriting."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from posttrain.trainers.policy.overwritten import copies_kept, watched


def a_part(y):
    y[2:4] = 0.0


def another_part(y):
    y[0:2].mul_(3.0)


def all_of_it(y):
    y.add_(1.0)


def a_list(y):
    torch._foreach_mul_([y[1:2], y[3:4]], 2.0)


def an_output(y):
    torch.add(y[1:3], 1.0, out=y[1:3])


def what_shares_its_memory(y):
    y.data.view(2, 2)[1].fill_(5.0)


WAYS = (a_part, another_part, all_of_it, a_list, an_output, what_shares_its_memory)


def gradient(overwrite, context) -> torch.Tensor:
    """Of y * y, y as it was, and twice what is in it afterwards."""
    x = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64, requires_grad=True)
    with context:
        y = x * 2
        z = (y * y).sum()
        with torch.no_grad() if overwrite in (a_list, an_output) else contextlib.nullcontext():
            overwrite(y)
        z.backward()
    return x.grad


@pytest.mark.parametrize("overwrite", WAYS)
def test_what_is_overwritten_counts_as_it_was(overwrite):
    assert torch.equal(gradient(overwrite, copies_kept()), gradient(lambda y: None, contextlib.nullcontext()))


@pytest.mark.parametrize("overwrite", WAYS[:-1])
def test_where_no_copies_are_kept_it_is_an_error(overwrite):
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradient(overwrite, watched())


def test_a_write_that_no_operation_tells_of_is_an_error():
    x = torch.ones(3, requires_grad=True)
    with copies_kept(), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y = x * 2
        z = (y * y).sum()
        with torch.utils._python_dispatch._disable_current_modes():
            y.mul_(2)
        y.mul_(2)
        z.backward()


def test_what_is_saved_twice_is_copied_once_and_nothing_else_is():
    x, copies = torch.ones(1000, requires_grad=True), []

    class Counted(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            copies.extend([func] if func is torch.ops.aten.clone.default else [])
            return func(*args, **(kwargs or {}))

    with Counted(), copies_kept():
        y, kept = x * 2, (x * 3).exp()
        z = (y * y).sum() + y.square().sum() + kept.sin().sum()
        y.mul_(2)
        y.mul_(3)
        z.backward()
    assert len(copies) == 1


def test_a_pass_without_a_backward_is_freed():
    gc.collect()
    gc.disable()  # by itself, without a search for circles
    try:
        with copies_kept():
            y = torch.ones(5, requires_grad=True).exp()
            z = y.sin()
            y.mul_(2)
            gone = weakref.ref(y)
            del y, z
        assert gone() is None
    finally:
        gc.enable()
