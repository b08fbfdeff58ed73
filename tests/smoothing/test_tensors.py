# SPDX-License-Identifier: Apache-2.0
"""Tensors are found by the names that they have now, whatever the model has replaced."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from se_mm.smoothing import tensors
from se_mm.smoothing.tensors import Tracked, named_tensors, slots, unwrapped


def net():
    """Modules in modules, a tied weight, a buffer that is not saved and a missing bias."""
    root = nn.Module()
    root.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False))
    root.heads = nn.ModuleDict({'a': nn.Linear(3, 2), 'b': nn.Sequential(nn.Linear(3, 2))})
    root.scale = nn.Parameter(torch.ones(()))
    root.register_buffer('mask', torch.zeros(2), persistent=False)
    root.backbone[2].register_buffer('seen', torch.tensor(0))
    return root


def expected(module):
    """All tensors by name, by PyTorch's own functions."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


NAMES = sorted(expected(net()))


def same_objects(found, wanted):
    return found.keys() == wanted.keys() and all(found[name] is wanted[name] for name in wanted)


def owner_of(root, name):
    folder, _, key = name.rpartition('.')
    return root.get_submodule(folder), key


def replace_submodule(draw, root):
    paths = [path for path, _ in root.named_modules() if path]
    folder, key = owner_of(root, draw(st.sampled_from(paths)))
    folder._modules[key] = copy.deepcopy(folder._modules[key])


def replace_parameter(draw, root):
    owner, key = owner_of(root, draw(st.sampled_from([n for n, _ in root.named_parameters()])))
    shape = owner._parameters[key].shape
    setattr(owner, key, nn.Parameter(torch.full(shape, 2.0)))


def replace_buffer(draw, root):
    owner, key = owner_of(root, draw(st.sampled_from([n for n, _ in root.named_buffers()])))
    setattr(owner, key, torch.zeros_like(owner._buffers[key]))


def replace_data(draw, root):
    name = draw(st.sampled_from(sorted(expected(root))))
    tensor = expected(root)[name]
    tensor.data = tensor.data.clone()


def change_dtype(draw, root):
    root.half().float()


def set_to_none_and_back(draw, root):
    owner, key = owner_of(root, draw(st.sampled_from([n for n, _ in root.named_parameters()])))
    shape = owner._parameters[key].shape
    setattr(owner, key, None)
    setattr(owner, key, nn.Parameter(torch.zeros(shape)))


REPLACEMENTS = [
    replace_submodule,
    replace_parameter,
    replace_buffer,
    replace_data,
    change_dtype,
    set_to_none_and_back,
]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_promise_6_tracked_tensors_are_those_that_have_the_names_now(data):
    root = net()
    names = sorted(expected(root))
    tracked = Tracked(names)
    for replace in data.draw(st.lists(st.sampled_from(REPLACEMENTS), max_size=6)):
        assert same_objects(dict(zip(names, tracked.now(root))), expected(root))
        for _ in range(data.draw(st.integers(1, 2))):
            replace(data.draw, root)
    assert same_objects(dict(zip(names, tracked.now(root))), expected(root))


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_promise_6_another_root_that_holds_the_same_submodules_is_followed(data):
    # As BYOL passes a new Sequential of its backbone and neck at every iteration.
    parts = [nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))]
    names = sorted(expected(nn.Sequential(*parts)))
    tracked = Tracked(names)
    for _ in range(data.draw(st.integers(1, 6))):
        root = nn.Sequential(*parts)
        assert same_objects(dict(zip(names, tracked.now(root))), expected(root))
        replace = data.draw(st.sampled_from(REPLACEMENTS))
        root = nn.Sequential(*parts)
        replace(data.draw, root)
        parts = list(root)


def test_name_that_is_gone_gives_none_and_one_that_comes_back_is_found():
    root = net()
    tracked = Tracked(['backbone.0.bias', 'heads.b.0.weight'])
    tracked.now(root)
    root.backbone[0].bias = None
    head = root.heads.pop('b')
    assert tracked.now(root) == [None, None]
    root.heads['b'] = head
    root.backbone[0].bias = nn.Parameter(torch.ones(4))
    assert tracked.now(root)[0] is root.backbone[0].bias
    assert tracked.now(root)[1] is head[0].weight


def test_same_tensors_are_found_without_a_walk(monkeypatch):
    root = net()
    tracked = Tracked(NAMES)
    tracked.now(root)

    def walk(*args):
        raise AssertionError('the module tree was walked over')

    monkeypatch.setattr(tensors, 'slots', walk)
    for name in ('modules', 'named_modules', 'named_parameters', 'named_buffers', 'children'):
        monkeypatch.setattr(nn.Module, name, walk)
    tracked.now(root)
    root.mask = torch.ones(2)
    assert tracked.now(root)[NAMES.index('mask')] is root.mask


def test_slots_know_parameters_and_what_is_saved():
    found = slots(net())
    assert found.keys() == expected(net()).keys()
    assert found['scale'].is_parameter and found['scale'].persistent
    assert not found['mask'].is_parameter and not found['mask'].persistent
    assert not found['backbone.2.seen'].is_parameter and found['backbone.2.seen'].persistent


def test_wrappers_and_compiled_submodules_have_plain_names():
    inner = nn.Sequential(nn.Linear(2, 2))
    wrapped = nn.Module()
    wrapped._orig_mod = inner
    assert unwrapped(wrapped) is inner
    assert unwrapped(nn.DataParallel(wrapped)) is inner
    outer = nn.Module()
    outer.part = wrapped
    assert list(named_tensors(outer)) == ['part.0.weight', 'part.0.bias']
    assert named_tensors(outer)['part.0.weight'] is inner[0].weight


@pytest.mark.parametrize('backend', ['eager'])
def test_really_compiled_module_is_unwrapped(backend):
    inner = nn.Linear(2, 2)
    assert unwrapped(torch.compile(inner, backend=backend)) is inner
