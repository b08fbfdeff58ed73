# SPDX-License-Identifier: Apache-2.0
"""Users' own images with labels in a CSV file."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from mmengine.fileio import join_path
from mmengine.registry import DATASETS

from se_mm.datasets.image_folder import OwnImages, check_classes, check_path, warn_of_alike
from se_mm.smoothing.options import OptionError, did_you_mean


@DATASETS.register_module()
class CSVDataset(OwnImages):
    """Images with labels listed in a CSV file.

    The file is in UTF-8 and has a header and comma-separated values; spaces around values are
    ignored. Each row has an image, relative to ``data_root`` and ``data_prefix``, and its class.
    Before the pipeline, an item is a dict of ``img_path``, ``gt_label`` int and ``sample_idx``. The
    whole file is checked when the data set is built.

    Example:
        >>> dataset = dict(type='CSVDataset', data_root='data/birds', ann_file='train.csv')

    Args:
        ann_file: The CSV file, relative to ``data_root``.
        data_root: Folder of the data.
        data_prefix: Folder of the images, relative to ``data_root``.
        classes: Names of the classes, in the order of the labels. None: the names in the file,
            sorted.
        image_column: Name of the column of the images.
        label_column: Name of the column of the classes.
        unreadable: See :class:`~se_mm.datasets.image_folder.OwnImages`.
        **kwargs: ``pipeline``, ``test_mode`` and ``indices``, as in every OpenMMLab dataset.

    Raises:
        OptionError: If the file cannot be read, or a row is invalid; it names the line.
    """

    def __init__(
        self,
        ann_file: str,
        data_root: str = '',
        data_prefix: str = '',
        classes: Optional[Sequence[str]] = None,
        image_column: str = 'image',
        label_column: str = 'label',
        unreadable: str = 'error',
        **kwargs: Any,
    ) -> None:
        check_path('ann_file', ann_file)
        check_path('data_root', data_root, empty=True)
        check_path('data_prefix', data_prefix, empty=True)
        for key, value in (('image_column', image_column), ('label_column', label_column)):
            if not isinstance(value, str):
                raise OptionError(f'{key} must be the name of a column, got {value!r}')
        if image_column == label_column:
            raise OptionError(
                f'label_column must differ from image_column, got {label_column!r} for both'
            )
        self._given_classes = check_classes(classes)
        self.image_column = image_column
        self.label_column = label_column
        super().__init__(
            unreadable=unreadable,
            ann_file=os.path.expanduser(ann_file),
            data_root=os.path.expanduser(data_root),
            data_prefix=dict(img_path=os.path.expanduser(data_prefix)),
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Read and check the file. Called once."""
        rows = list(self._rows())
        if not rows:
            raise OptionError(
                f'{self.ann_file!r} must list at least one image below its header, got none'
            )
        classes = self._given_classes
        if classes is None:
            classes = warn_of_alike(self.ann_file, tuple(sorted({label for _, _, label in rows})))
        self._metainfo['classes'] = classes
        labels = {name: label for label, name in enumerate(classes)}
        lines: dict[str, int] = {}
        items = []
        for line, image, label in rows:
            where = f'{self.ann_file!r}, line {line}'
            if label not in labels:
                shown = ', '.join(repr(name) for name in classes[:10])
                raise OptionError(
                    f'{where}: {self.label_column} must be one of {shown}'
                    f'{", ..." if len(classes) > 10 else ""}, got {label!r}.'
                    f'{did_you_mean(label, classes)}'
                )
            path = self._find_image(where, image)
            first = lines.setdefault(os.path.normpath(path), line)
            if first != line:
                raise OptionError(
                    f'{where}: {self.image_column} must be unique, got {image!r} as in line {first}'
                )
            items.append({'img_path': path, 'gt_label': labels[label]})
        return items

    def _rows(self) -> Iterator[tuple[int, str, str]]:
        """Yield the line number, image and label of each row."""
        # Strict: otherwise an unclosed quote would swallow all rows below it.
        reader = csv.reader(io.StringIO(self._read_text(), newline=''), strict=True)
        line = 1
        try:
            header = [name.strip() for name in next(reader, [])]
            columns = [self._find_column(header, 'image'), self._find_column(header, 'label')]
            line = reader.line_num + 1
            for row in reader:
                # Values may contain line breaks; report the line where the row begins.
                start, line = line, reader.line_num + 1
                if len(row) < 2 and not ''.join(row).strip():
                    continue
                where = f'{self.ann_file!r}, line {start}'
                if len(row) != len(header):
                    raise OptionError(
                        f'{where} must have {len(header)} values, as many as the header, got '
                        f'{len(row)}: {_shorten(row)}; put a value with a comma in quotes'
                    )
                image, label = (row[column].strip() for column in columns)
                for name, value in ((self.image_column, image), (self.label_column, label)):
                    if not value:
                        raise OptionError(f'{where}: {name} must not be empty')
                yield start, image, label
        except csv.Error as error:
            raise OptionError(f'{self.ann_file!r}, line {line}: not a CSV file: {error}') from error

    def _read_text(self) -> str:
        """Return the file's text."""
        try:
            # Excel begins UTF-8 files with a byte order mark.
            return Path(self.ann_file).read_bytes().decode('utf-8-sig')
        except FileNotFoundError as error:
            folder = Path(self.ann_file).parent
            near = did_you_mean(self.ann_file, [str(path) for path in folder.glob('*')])
            raise OptionError(
                f'ann_file must be the path of a CSV file, got {self.ann_file!r}, which does not '
                f'exist.{near}'
            ) from error
        except OSError as error:
            raise OptionError(f'ann_file={self.ann_file!r} cannot be read: {error}') from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b'\n') + 1
            value = error.object[error.start : error.end]
            raise OptionError(
                f'{self.ann_file!r}, line {line} must be UTF-8, got {value!r}; save the file in '
                f'that encoding'
            ) from error

    def _find_column(self, header: list[str], which: str) -> int:
        """Return the index of the column of the images or of the labels."""
        name = self.image_column if which == 'image' else self.label_column
        if header.count(name) != 1:
            where = f'{self.ann_file!r}, line 1'
            if not header:
                raise OptionError(
                    f'{where} must be a header with the column {name!r}, got an empty file'
                )
            names = ', '.join(repr(column) for column in header)
            if name in header:
                raise OptionError(f'{where} must have the column {name!r} only once, got {names}')
            hint = did_you_mean(name, header)
            if len(header) == 1 and any(mark in header[0] for mark in ';\t|'):
                hint = ' Separate values by commas.'
            raise OptionError(
                f'{where}: {which}_column must be one of the columns {names}, got {name!r}.{hint}'
            )
        return header.index(name)

    def _find_image(self, where: str, image: str) -> str:
        """Return the path of an image named in a row."""
        folder = self.data_prefix['img_path']
        # Only the name is checked, so that links out of the folder remain possible.
        if os.path.isabs(image) or os.path.normpath(image).split(os.sep)[0] == os.pardir:
            raise OptionError(
                f'{where}: {self.image_column} must be inside the folder '
                f'{folder or os.curdir!r}, got {image!r}'
            )
        path = join_path(folder, image)
        if not os.path.isfile(path):
            parent = Path(path).parent
            # Not all names in the folder, which may be a million.
            same = [str(name) for name in parent.glob(f'{glob.escape(Path(path).stem)}.*')]
            hint = ' Separate folders by "/".' if '\\' in image else did_you_mean(path, same)
            raise OptionError(
                f'{where}: {self.image_column} must name an image file, got {image!r}; there is no '
                f'file {path!r}.{hint}'
            )
        return path


def _shorten(row: list[str]) -> str:
    """Return a row as written, cut to 60 characters."""
    text = repr(','.join(row))
    return text if len(text) <= 60 else f'{text[:57]}...'
