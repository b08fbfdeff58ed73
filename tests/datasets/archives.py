# SPDX-License-Identifier: Apache-2.0
"""Writes small sets in the files of CIFAR-10, CIFAR-100, SVHN and STL-10.

Images are (n, height, width, 3) uint8 in RGB order, labels (n,) integers from 0. Their readers
check MD5 sums: each function returns what to change in them, to be applied by
``for target, value in changes.items(): monkeypatch.setattr(target, value)``.
"""

import hashlib
import pickle
from pathlib import Path

import numpy as np

CIFAR10_CLASSES = [
    *('airplane', 'automobile', 'bird', 'cat', 'deer'),
    *('dog', 'frog', 'horse', 'ship', 'truck'),
]
STL10_CLASSES = [
    *('airplane', 'bird', 'car', 'cat', 'deer'),
    *('dog', 'horse', 'monkey', 'ship', 'truck'),
]


def random_set(rng, num_images, num_classes, size=32):
    """Random images, and labels that begin with one of each class."""
    images = rng.integers(0, 256, (num_images, size, size, 3), np.uint8)
    return images, np.arange(num_images) % num_classes


def write_cifar10(folder, train, test):
    """Write pairs of images and labels, of at least 5 training images."""
    folder = Path(folder, 'cifar-10-batches-py')
    folder.mkdir(parents=True)
    parts = zip(np.array_split(train[0], 5), np.array_split(train[1], 5))
    batches = {f'data_batch_{i}': part for i, part in enumerate(parts, 1)}
    for name, (images, labels) in {**batches, 'test_batch': test}.items():
        content = {'data': _planes(images), 'labels': labels.tolist(), 'batch_label': name}
        _pickle(folder / name, content)
    _pickle(folder / 'batches.meta', {'label_names': CIFAR10_CLASSES, 'num_vis': 3072})
    return _cifar_changes('CIFAR10', folder, list(batches), ['test_batch'], 'batches.meta')


def write_cifar100(folder, train, test, classes):
    """Write pairs of images and labels."""
    folder = Path(folder, 'cifar-100-python')
    folder.mkdir(parents=True)
    for name, (images, labels) in {'train': train, 'test': test}.items():
        fine = labels.tolist()
        coarse = [label // 5 for label in fine]
        content = {'data': _planes(images), 'fine_labels': fine, 'coarse_labels': coarse}
        _pickle(folder / name, content)
    _pickle(folder / 'meta', {'fine_label_names': list(classes)})
    return _cifar_changes('CIFAR100', folder, ['train'], ['test'], 'meta')


def write_svhn(folder, **splits):
    """Write the splits that are given, as pairs of images and labels."""
    from scipy.io import savemat

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    split_list = {}
    for name in ('train', 'test', 'extra'):
        path = folder / f'{name}_32x32.mat'
        if name in splits:
            images, labels = splits[name]
            # The digit 0 is the class 10, as MATLAB counts.
            y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
            savemat(path, {'X': images.transpose(1, 2, 3, 0), 'y': y})
        md5 = _md5(path) if name in splits else '0' * 32
        split_list[name] = [f'http://localhost:1/{path.name}', path.name, md5]
    return {'torchvision.datasets.SVHN.split_list': split_list}


def write_stl10(folder, train, test, unlabelled, folds):
    """Write pairs of images of 96 x 96 and labels, images without labels, and 10 folds."""
    folder = Path(folder, 'stl10_binary')
    folder.mkdir(parents=True)
    for name, (images, labels) in {'train': train, 'test': test}.items():
        _write_stl10_images(folder / f'{name}_X.bin', images)
        (labels + 1).astype(np.uint8).tofile(folder / f'{name}_y.bin')
    _write_stl10_images(folder / 'unlabeled_X.bin', unlabelled)
    (folder / 'class_names.txt').write_text('\n'.join(STL10_CLASSES) + '\n')
    lines = [' '.join(str(index) for index in fold) + ' \n' for fold in folds]
    (folder / 'fold_indices.txt').write_text(''.join(lines))
    train_list, test_list = (
        [[name, _md5(folder / name)] for name in names]
        for names in (
            ('train_X.bin', 'train_y.bin', 'unlabeled_X.bin'),
            ('test_X.bin', 'test_y.bin'),
        )
    )
    target = 'torchvision.datasets.STL10'
    return {
        f'{target}.train_list': train_list,
        f'{target}.test_list': test_list,
        f'{target}.url': 'http://localhost:1/stl10_binary.tar.gz',
    }


def _planes(images):
    """Images as rows of 1,024 red, 1,024 green and 1,024 blue values."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))


def _write_stl10_images(path, images):
    """Colour by colour, and each column by column."""
    np.ascontiguousarray(images.transpose(0, 3, 2, 1)).tofile(path)


def _pickle(path, content):
    path.write_bytes(pickle.dumps(content, protocol=2))


def _md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def _cifar_changes(name, folder, train, test, meta):
    target = f'mmpretrain.datasets.cifar.{name}'
    key = 'label_names' if name == 'CIFAR10' else 'fine_label_names'
    return {
        f'{target}.train_list': [[file, _md5(folder / file)] for file in train],
        f'{target}.test_list': [[file, _md5(folder / file)] for file in test],
        f'{target}.meta': {'filename': meta, 'key': key, 'md5': _md5(folder / meta)},
        f'{target}.url': 'http://localhost:1/cifar.tar.gz',
    }
