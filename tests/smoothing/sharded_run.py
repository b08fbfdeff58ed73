# SPDX-License-Identifier: Apache-2.0
"""One rank of a job whose teacher and student are sharded: test_sharded.py starts two."""

import sys
from copy import deepcopy

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from se_mm.smoothing import OptionError, Settings, Smoother
from se_mm.smoothing.guards import Watch, not_finite
from se_mm.smoothing.units import TensorPair

UPDATES = 8


def net():
    torch.manual_seed(0)
    # Of the last bias, with a single number, one of the two ranks has nothing.
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 7, bias=False), nn.Linear(7, 1))


def smoother_of(teacher, momentum=1.0, granularity='tensor'):
    """Half of the units are kept."""
    return Smoother(teacher, Settings(0.5, momentum, granularity=granularity))


def teacher_after(shard, momentum, granularity, dtype=torch.float32):
    """The teacher's full tensors after some updates, each after an optimizer step."""
    student = net().to(dtype)
    teacher = deepcopy(student).requires_grad_(False)
    if shard:
        mesh = init_device_mesh('cpu', (2,))
        for module in (student, teacher):
            for layer in module:
                fully_shard(layer, mesh=mesh)
            fully_shard(module, mesh=mesh)
    smoother = smoother_of(teacher, momentum, granularity)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for step in range(UPDATES):
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        student(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        smoother.copy(student) if step == 0 else smoother.update(student, step, UPDATES, seed=3)
        teacher(inputs)
    return [t.full_tensor() if shard else t for t in teacher.state_dict().values()]


class Both(nn.Module):
    """A model with teacher and student in it."""

    def __init__(self):
        super().__init__()
        self.student = net()
        self.teacher = deepcopy(self.student).requires_grad_(False)

    def forward(self, inputs):
        with torch.no_grad():
            labels = self.teacher(inputs)
        return (self.student(inputs) - labels - 1).square().mean()


def teacher_inside_after(shard, evaluate):
    """The teacher's full tensors, if only the whole model is sharded.

    With ``evaluate``, a forward without a backward comes before each update: FSDP2 then leaves the
    gathered tensors in the model.
    """
    model = Both()
    if shard:
        fully_shard(model, mesh=init_device_mesh('cpu', (2,)))
    smoother = Smoother(model.teacher, Settings(0.5, 0.1), model=model)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    for step in range(UPDATES):
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        model(inputs).backward()
        optimizer.step()
        optimizer.zero_grad()
        if evaluate:
            with torch.no_grad():
                model(inputs)
        student = model.student
        smoother.copy(student) if step == 0 else smoother.update(student, step, UPDATES, seed=3)
    return [t.full_tensor() if shard else t for t in model.teacher.parameters()]


def pairs_of(teacher, student):
    """The parameters by name."""
    theirs = dict(student.named_parameters())
    return {name: TensorPair(name, one, theirs[name]) for name, one in teacher.named_parameters()}


def refused(teacher, student, **options):
    """The message with which a smoother is refused."""
    try:
        smoother_of(teacher, **options).update(student, 1, UPDATES, seed=3)
    except OptionError as error:
        return str(error)
    raise AssertionError('it was not refused')


def main():
    dist.init_process_group('gloo')
    for momentum in (1.0, 0.1):
        for granularity in ('tensor', 'layer'):
            for dtype in (torch.float32, torch.bfloat16):
                sharded = teacher_after(True, momentum, granularity, dtype)
                whole = teacher_after(False, momentum, granularity, dtype)
                for mine, expected in zip(sharded, whole):
                    torch.testing.assert_close(mine, expected)
    for evaluate in (False, True):
        sharded, whole = (teacher_inside_after(shard, evaluate) for shard in (True, False))
        for mine, expected in zip(sharded, whole):
            torch.testing.assert_close(mine, expected)
    mesh = init_device_mesh('cpu', (2,))
    student, teacher = fully_shard(net(), mesh=mesh), fully_shard(net(), mesh=mesh)
    watch, pairs = Watch(), pairs_of(teacher, student)
    watch.leave(pairs.values())
    assert watch.changed(pairs) is None
    assert not_finite(student.named_parameters(), on_all_ranks=True) == []
    with torch.no_grad():
        bias = student[3].bias
        bias.mul_(float('nan'))  # Of which rank 0 alone has a number.
        teacher[0].weight.add_(1)
    assert not_finite(student.named_parameters(), on_all_ranks=True) == ['3.bias']
    assert watch.changed(pairs) is not None
    for granularity in ('channel', 'element'):
        assert "'tensor' or 'layer'" in refused(teacher, student, granularity=granularity)
    assert 'must be sharded in the same way' in refused(net(), student)
    assert 'must be sharded in the same way' in refused(teacher, net())
    if dist.get_rank() == 0:
        print('all teachers agree')
    dist.destroy_process_group()


if __name__ == '__main__':
    sys.exit(main())
