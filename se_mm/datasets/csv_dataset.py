# SPDX-License-Identifier: Apache-2.0
"""Users' own images with labels in a CSV file."""

from __future__ import annotations

import csv
import glob
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from se_mm.datasets.class_checks import listed
from se_mm.datasets.image_files import ImageFiles
from se_mm.smoothing.options import OptionError, did_you_mean


@DATASETS.register_module()
class CSVDataset(ImageFiles):
    """Images with labels listed in a CSV file.

    The file is in UTF-8 and has a header and comma-separated values; spaces around values are
    ignored. Each row has an image, absolute or relative to ``data_prefix``, and its class.
    The whole file is checked when the data set is built; errors name the line.

    Example:
        >>> dataset = dict(type='CSVDataset', data_root='data/birds', ann_file='train.csv')

    Args:
        ann_file: The CSV file, relative to ``data_root``.
        image_column: Name of the column of the images.
        label_column: Name of the column of the classes.
        **kwargs: See :class:`~se_mm.datasets.image_files.ImageFiles`.
    """

    def __init__(
        self,
        ann_file: str,
        data_root: str = '',
        data_prefix: str = '',
        image_column: str = 'image',
        label_column: str = 'label',
        **kwargs: Any,
    ) -> None:
        self.image_column = image_column
        self.label_column = label_column
        super().__init__(ann_file, data_root, data_prefix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the file. Called once."""
        rows = list(self._rows())
        if not rows:
            raise OptionError(
                f'{self.ann_file!r} must list at least one image below its header, got none'
            )
        labels = self._label_classes({label for _, _, label in rows})
        lines: dict[str, int] = {}
        items = []
        for line, image, label in rows:
            where = f'{self.ann_file!r}, line {line}'
            if label not in labels:
                raise OptionError(
                    f'{where}: {self.label_column} must be one of {listed(list(labels))}, got '
                    f'{label!r}.{did_you_mean(label, labels)}'
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
            columns = [self._find_column(header, key) for key in ('image_column', 'label_column')]
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
                        f'{len(row)}: {",".join(row)!r:.60}; put a value with a comma in quotes'
                    )
                image, label = (row[column].strip() for column in columns)
                if not (image and label):
                    name = self.label_column if image else self.image_column
                    raise OptionError(f'{where}: {name} must not be empty')
                yield start, image, label
        except csv.Error as error:
            raise OptionError(f'{self.ann_file!r}, line {line}: not a CSV file: {error}') from error

    def _read_text(self) -> str:
        """Return the file's text."""
        try:
            # Excel begins UTF-8 files with a byte order mark.
            return Path(self.ann_file).read_bytes().decode('utf-8-sig')
        except OSError as error:
            near = [str(path) for path in Path(self.ann_file).parent.glob('*.csv')]
            raise OptionError(
                f'ann_file={self.ann_file!r} cannot be read: {error.strerror}.'
                f'{did_you_mean(self.ann_file, near)}'
            ) from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b'\n') + 1
            value = error.object[error.start : error.end]
            raise OptionError(
                f'{self.ann_file!r}, line {line} must be UTF-8, got {value!r}; save the file in '
                f'that encoding'
            ) from error

    def _find_column(self, header: list[str], key: str) -> int:
        """Return the index of the column that an option names."""
        name = getattr(self, key)
        if header.count(name) != 1:
            hint = did_you_mean(name, [other for other in header if other != name])
            if len(header) == 1 and set(header[0]) & set(';\t|'):
                hint = ' Separate values by commas.'
            raise OptionError(
                f'{self.ann_file!r}, line 1 must have the {key} {name!r} once, got '
                f'{listed(header) or "an empty file"}.{hint}'
            )
        return header.index(name)

    def _find_image(self, where: str, image: str) -> str:
        """Return the path of an image named in a row."""
        path = os.path.join(self.data_prefix['img_path'], image)
        if not os.path.isfile(path):
            # Not all names in the folder, which may be a million.
            same = Path(path).parent.glob(f'{glob.escape(Path(path).stem)}.*')
            near = did_you_mean(path, [str(other) for other in same])
            hint = ' Separate folders by "/".' if '\\' in image else near
            raise OptionError(
                f'{where}: {self.image_column} must name an image file, got {image!r}; there is no '
                f'file {path!r}.{hint}'
            )
        return path
