# SPDX-License-Identifier: Apache-2.0
"""Write files atomically."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional, Union

from se_mm.smoothing.options import OptionError


@contextmanager
def whole_file(key: Optional[str], path: Union[str, Path]) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` and rename it to ``path`` on leaving.

    The folder is created. If the body fails, an existing file is left as it was.

    Args:
        key: The option that names the file, for the OptionError when it cannot be written. None: an
            OSError stays one.
        path: The file.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open('r+b') as file:
                os.fsync(file.fileno())  # Otherwise a power failure could leave an empty file.
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if key is None:
            raise
        raise OptionError(f'{key}={str(path)!r} cannot be written: {error}') from error


def remove_leftovers(folder: Union[str, Path]) -> None:
    """Remove the temporary files of a run that was killed while it saved."""
    for path in Path(folder).glob('.*.tmp'):
        path.unlink(missing_ok=True)


def check_out(source: Path, out: Path, overwrite: bool) -> None:
    """Raise OptionError if ``out`` is the source, or exists and ``overwrite`` is not set."""
    if out.resolve() == source.resolve():
        raise OptionError(f'out must not be the checkpoint itself, got {str(out)!r}')
    if out.exists() and not overwrite:
        raise OptionError(f'out={str(out)!r} exists; choose another name or set --overwrite')
