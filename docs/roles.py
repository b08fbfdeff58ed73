# SPDX-License-Identifier: Apache-2.0
"""An extension of Griffe: docstrings as they are written here, as Markdown.

Docstrings name other objects by Sphinx's roles, which Markdown does not have. Each becomes a link
to the object's place in the site, or code where the site has none; a name that se_mm does not have
is a warning, which ``mkdocs build --strict`` takes for an error. Tables become Markdown's, and
``Example:`` the section that Griffe knows by its plural.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_logger = griffe.get_logger('se_mm.docs')
_ROLE = re.compile(r':(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`')
_RULE = re.compile(r'^( *)=+(?: +=+)+ *$')


class Roles(griffe.Extension):
    """Turns every docstring of a package into Markdown once the package is read."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrite the docstrings of all that is in ``pkg``."""
        _rewrite(pkg, pkg)


def _rewrite(obj: griffe.Object, package: griffe.Module) -> None:
    if obj.docstring:
        text = obj.docstring.value
        text = re.sub(r'^( *)Example:$', r'\1Examples:', text, flags=re.MULTILINE)
        text = _ROLE.sub(lambda role: _link(obj, package, *role.groups()), text)
        obj.docstring.value = _with_tables(text)
    for member in obj.members.values():
        if not member.is_alias:
            _rewrite(member, package)


def _link(obj: griffe.Object, package: griffe.Module, short: str, name: str) -> str:
    """What stands in place of a role."""
    shown = name.rpartition('.')[2] if short else name
    path = _path(obj, package, name)
    if path is None:
        if name.startswith(package.name + '.') or '.' not in name:
            _logger.warning('%s: the docstring of %s names %r', obj.filepath, obj.path, name)
        return f'`{shown}`'  # Of another library.
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'


def _path(obj: griffe.Object, package: griffe.Module, name: str) -> str | None:
    """Where the object is that a docstring names: in its own class, module, or from the top."""
    scopes = [obj]
    while scopes[-1].parent is not None:
        scopes.append(scopes[-1].parent)
    if name.startswith(package.name + '.'):
        scopes, name = [package], name[len(package.name) + 1 :]
    for scope in scopes:
        found: Any = scope
        for part in name.split('.'):
            try:
                found = found.all_members[part] if found.is_class else found.members[part]
                found = found.final_target if found.is_alias else found
            except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError):
                found = None
                break
        if found is not None:
            return found.path
    return None


def _with_tables(text: str) -> str:
    """Make the simple tables of reStructuredText Markdown's."""
    lines = text.split('\n')
    rules = [index for index, line in enumerate(lines) if _RULE.match(line)]
    for top, head, bottom in reversed(list(zip(rules[::3], rules[1::3], rules[2::3]))):
        starts = [match.start() for match in re.finditer(r'=+', lines[top])]
        rows: list[list[str]] = []
        for line in [*lines[top + 1 : head], *lines[head + 1 : bottom]]:
            cells = [
                line[start:end].strip() for start, end in zip(starts, [*starts[1:], len(line)])
            ]
            if cells[0]:
                rows.append(cells)
            else:  # A row goes on where its first cell is empty.
                rows[-1] = [f'{old} {new}'.strip() for old, new in zip(rows[-1], cells)]
        rows.insert(1, ['---'] * len(starts))
        indent = ' ' * starts[0]
        lines[top : bottom + 1] = [f'{indent}| {" | ".join(row)} |' for row in rows]
    return '\n'.join(lines)
