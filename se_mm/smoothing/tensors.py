# SPDX-License-Identifier: Apache-2.0
"""Tensors of a module by name, also after the module has replaced some of them.

A model may assign a new buffer in its forward, get a new head, or have ``.data`` replaced. What
counts is the tensor that has the name now. :class:`Tracked` remembers the dict of the submodule
that holds each tensor, so a lookup is a few dict accesses, without a walk over the module tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Any, NamedTuple, Optional, TypeVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Dict = dict[str, Optional[Tensor]]
STATISTICS = ('running_mean', 'running_var')
T = TypeVar('T')
_COMPILED = '_orig_mod'


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``."""
    while (key := _wrapped(module)) is not None:
        module = module.get_submodule(key)
    return module


def _wrapped(module: nn.Module) -> Optional[str]:
    """Name of the child that a wrapper wraps, None for any other module."""
    if isinstance(module, (nn.parallel.DistributedDataParallel, nn.parallel.DataParallel)):
        return 'module'
    return _COMPILED if _COMPILED in module._modules else None


def reshard(*roots: nn.Module) -> bool:
    """Return modules that FSDP2 shards to their shards, and whether there are any.

    A forward gathers whole tensors, which have the names until the next backward, or until the next
    forward where there is none. What is written to them would be lost.
    """
    sharded: list[Any] = [
        module
        for root in roots
        for module in root.modules()
        if hasattr(module, 'set_reshard_after_backward')
    ]
    for module in sharded:
        module.reshard()
    return bool(sharded)


class _Edge(NamedTuple):
    """How a module refers to a child: ``modules[key] is child``."""

    modules: dict[str, Optional[nn.Module]]
    key: str
    child: nn.Module


class _Slot(NamedTuple):
    """Where a tensor is: ``tensors[key]``, behind some edges from the root."""

    edges: tuple[_Edge, ...]
    owner: nn.Module
    tensors: Dict
    key: str
    is_parameter: bool
    persistent: bool

    @property
    def is_statistic(self) -> bool:
        """Whether it is a running mean or variance of a batch norm; SyncBN is one."""
        return self.key in STATISTICS and isinstance(self.owner, _BatchNorm)


def slots(root: nn.Module) -> dict[str, _Slot]:
    """Where each tensor of a module is, by dotted name.

    Names are without the prefixes of wrapped submodules, such as ``_orig_mod.`` of
    ``torch.compile`` and ``module.`` of ``DistributedDataParallel``. A tensor with several names
    appears under each of them.
    """
    found: dict[str, _Slot] = {}

    def visit(module: nn.Module, prefix: str, edges: tuple[_Edge, ...]) -> None:
        transient = module._non_persistent_buffers_set
        for tensors, is_parameter in ((module._parameters, True), (module._buffers, False)):
            for key, tensor in tensors.items():
                if tensor is not None:
                    persistent = is_parameter or key not in transient
                    slot = _Slot(edges, module, tensors, key, is_parameter, persistent)  # type: ignore[arg-type]
                    found.setdefault(prefix + key, slot)
        wrapped = _wrapped(module)
        for key, child in module._modules.items():
            if child is not None:
                inner = prefix if key == wrapped else f'{prefix}{key}.'
                visit(child, inner, (*edges, _Edge(module._modules, key, child)))

    visit(root, '', ())
    return found


def named_tensors(root: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a module by dotted name: see :func:`slots`."""
    return {name: slot.tensors[slot.key] for name, slot in slots(root).items()}  # type: ignore[misc]


class Tracked:
    """The tensors with some names (see :func:`slots`), also after a module has replaced them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._root: Optional[nn.Module] = None
        # Children of the root, by key; then of the modules below it.
        self._root_keys: list[str] = []
        self._root_children: list[nn.Module] = []
        self._edges: list[tuple[dict[str, Optional[nn.Module]], str]] = []
        self._children: list[nn.Module] = []
        self._places: list[tuple[Dict, str]] = []
        self._in_root, self._incomplete = False, True

    def now(self, root: nn.Module) -> list[Optional[Tensor]]:
        """The tensors that have the names now, None for names that are gone.

        Another root may hold the same submodules: BYOL passes a new ``Sequential`` of its backbone
        and neck at every iteration.
        """
        other = self._in_root and root is not self._root
        try:
            if self._incomplete or other or not self._leads(root):
                self._find(root)
            return [d[key] for d, key in self._places]
        except KeyError:
            self._find(root)
            return [d.get(key) for d, key in self._places]

    def _leads(self, root: nn.Module) -> bool:
        """Whether each edge still leads to the same module."""
        at_root = map(root._modules.get, self._root_keys)
        return all(map(is_, at_root, self._root_children)) and all(
            map(is_, [d[key] for d, key in self._edges], self._children)
        )

    def _find(self, root: nn.Module) -> None:
        """Walk over the module tree, once."""
        self._root = root
        found = slots(root)
        places = [found.get(name) for name in self._names]
        edges = {
            (id(edge.modules), edge.key): edge
            for place in places
            for edge in (place.edges if place else ())
        }
        top = [edge for edge in edges.values() if edge.modules is root._modules]
        below = [edge for edge in edges.values() if edge.modules is not root._modules]
        self._root_keys = [edge.key for edge in top]
        self._root_children = [edge.child for edge in top]
        self._edges = [(edge.modules, edge.key) for edge in below]
        self._children = [edge.child for edge in below]
        nowhere: Dict = {'': None}
        self._places = [(p.tensors, p.key) if p else (nowhere, '') for p in places]
        self._incomplete = None in places
        self._in_root = any(place is not None and not place.edges for place in places)


def unique(found: dict[str, _Slot]) -> Iterable[tuple[str, _Slot]]:
    """The slots of :func:`slots`, each tensor once, under its first name."""
    seen: set[int] = set()
    for name, slot in found.items():
        if id(slot.tensors[slot.key]) not in seen:
            seen.add(id(slot.tensors[slot.key]))
            yield name, slot


def grouped(items: Iterable[T], kind: Callable[[T], object]) -> list[list[T]]:
    """Group items by ``kind``, for example for multi-tensor calls."""
    found: dict[object, list[T]] = {}
    for item in items:
        found.setdefault(kind(item), []).append(item)
    return list(found.values())
