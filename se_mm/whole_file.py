# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Union

from se_mm.smoothing.options import OptionError


@contextmanager
def whole_file(key: str, path: Union[str, Path]) -> Iterator[Path]:
    """A temporary file in the folder of ``path``, which takes its place on leaving.

    The folder is made. If what is inside fails, the file that was there is left as it was.

    Args:
        key: What names the file, for the message.
        path: The file.

    Raises:
        OptionError: If it cannot be written there.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(f'{key}={str(path)!r} cannot be written: {error}') from error


def check_out(source: Path, out: Path, overwrite: bool) -> None:
    """Refuse to write over what is not to be lost.

    Args:
        source: The checkpoint that is read.
        out: The file that is to be written.
        overwrite: Whether a file that is there is replaced.

    Raises:
        OptionError: If ``out`` is the source, or is there and is to stay.
    """
    if out.resolve() == source.resolve():
        raise OptionError(f'out={str(out)!r} is the checkpoint itself, which is not overwritten.')
    if out.exists() and not overwrite:
        raise OptionError(f'out={str(out)!r} is there already: another name, or --overwrite.')
