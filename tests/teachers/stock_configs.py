# SPDX-License-Identifier: Apache-2.0
"""The table of stock configs with an averaged teacher, and how each is made small enough to train.

One row for each way in which a config of mmpretrain or mmdet comes by its teacher: the config that
is trained, the others that are alike, what our hook has to find, and what is shrunk.
"""

import fnmatch
import importlib
import inspect
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

REPLACED = ('EMAHook', 'MeanTeacherHook')


@dataclass(frozen=True)
class Stock:
    """A row.

    Attributes:
        config: ``library::path`` of the config that is trained.
        kind: Kind of its teacher.
        follows: What the teacher is called in the log.
        shrink: Settings of the config that are changed, as ``--cfg-options``.
        pixels: Sizes of images in the config -> smaller ones.
        alike: Patterns of the configs that have a teacher in the same way. They are bound on the
            meta device at full size.
    """

    config: str
    kind: str
    follows: str
    shrink: dict = field(default_factory=dict)
    pixels: dict = field(default_factory=lambda: {224: 32})
    alike: tuple = ()

    @property
    def package(self):
        return self.config.split('::')[0]

    def covers(self, name):
        return any(fnmatch.fnmatch(name, pattern) for pattern in (self.config, *self.alike))


def neck(in_channels=256, hidden=32):
    return {'model.neck.in_channels': in_channels, 'model.neck.hid_channels': hidden}


SMALL_RESNET = {'model.backbone.stem_channels': 8, 'model.backbone.base_channels': 8}
SMALL_VIT = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=24, _delete_=True)
SMALL_CONVNEXT = dict(depths=[1, 1, 1, 1], channels=[8, 8, 16, 16], _delete_=True)

STOCK = [
    Stock(
        'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py',
        'averaged',
        'target_net (averaged) follows backbone, neck',
        {**SMALL_RESNET, **neck(), 'model.head.predictor.hid_channels': 32},
    ),
    Stock(
        'mmpretrain::mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py',
        'averaged',
        'encoder_k (averaged) follows backbone, neck',
        {**SMALL_RESNET, **neck(), 'model.queue_len': 16},
    ),
    Stock(
        'mmpretrain::mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py',
        'averaged',
        'momentum_encoder (averaged) follows backbone, neck',
        {**SMALL_RESNET, **neck(), 'model.head.predictor.hid_channels': 32},
        alike=('mmpretrain::mocov3/mocov3_resnet50_*.py',),
    ),
    Stock(
        'mmpretrain::mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py',
        'averaged',
        'momentum_encoder (averaged) follows backbone, neck',
        {
            'model.backbone.arch': SMALL_VIT,
            'model.backbone.img_size': 32,
            **neck(24),
            'model.head.predictor.hid_channels': 32,
        },
        alike=('mmpretrain::mocov3/mocov3_vit-*.py',),
    ),
    Stock(
        'mmpretrain::densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py',
        'averaged',
        'encoder_k (averaged) follows backbone, neck',
        {**SMALL_RESNET, **neck(), 'model.queue_len': 16},
    ),
    Stock(
        'mmpretrain::cae/cae_beit-base-p16_8xb256-amp-coslr-300e_in1k.py',
        'method',
        'teacher (method) follows backbone',
        {
            'model.backbone.arch': SMALL_VIT,
            'model.backbone.img_size': 64,
            'model.neck.embed_dims': 24,
            'model.neck.num_heads': 2,
            'model.neck.mask_tokens_num': 8,
            'model.neck.regressor_depth': 1,
            'model.neck.decoder_depth': 1,
            'model.target_generator.init_cfg': None,
            'model.target_generator.n_hid': 8,
            'train_dataloader.dataset.pipeline.3.num_masking_patches': 8,
            'train_dataloader.dataset.pipeline.3.min_num_patches': 4,
        },
        {224: 64, 112: 32, 14: 4},
    ),
    Stock(
        'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
        'pair',
        'teacher (pair) follows student',
        {
            'model.detector.backbone.init_cfg': None,
            'model.detector.backbone.base_channels': 8,
            'model.detector.backbone.stem_channels': 8,
            'model.detector.neck.in_channels': [32, 64, 128, 256],
            'model.detector.roi_head.bbox_head.fc_out_channels': 32,
            'model.detector.neck.out_channels': 16,
            'model.detector.rpn_head.in_channels': 16,
            'model.detector.rpn_head.feat_channels': 16,
            'model.detector.roi_head.bbox_roi_extractor.out_channels': 16,
            'model.detector.roi_head.bbox_head.in_channels': 16,
            'model.detector.test_cfg.rpn.max_per_img': 20,
            'model.detector.train_cfg.rpn_proposal.max_per_img': 20,
            'model.detector.train_cfg.rcnn.sampler.num': 16,
            # Batch norm is frozen, at statistics that are not those of any weights.
            'optim_wrapper.optimizer.lr': 1e-4,
        },
        {1333: 96, 400: 96, 1200: 96},
        alike=('mmdet::soft_teacher/*.py',),
    ),
    Stock(
        'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',
        'shadow',
        'a copy of the model (shadow) follows RTMDet',
        {
            'model.backbone.init_cfg': None,
            'model.backbone.deepen_factor': 0.1,
            'model.backbone.widen_factor': 0.125,
            'model.neck.in_channels': [32, 64, 128],
            'model.neck.out_channels': 32,
            'model.bbox_head.in_channels': 32,
            'model.bbox_head.feat_channels': 32,
        },
        {640: 64, 1280: 128},
        alike=('mmdet::rtmdet/*.py',),
    ),
    Stock(
        'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
        'shadow',
        'a copy of the model (shadow) follows YOLOX',
        {
            'model.backbone.widen_factor': 0.125,
            'model.neck.in_channels': [32, 64, 128],
            'model.neck.out_channels': 32,
            'model.bbox_head.in_channels': 32,
            'model.bbox_head.feat_channels': 32,
            'model.data_preprocessor.batch_augments': None,
            'train_dataloader.dataset.pipeline.1.border': (-32, -32),
        },
        {640: 64},
        alike=('mmdet::yolox/*.py', 'mmdet::bytetrack/*.py', 'mmdet::*sort/*.py'),
    ),
    Stock(
        'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
        'shadow',
        'a copy of the model (shadow) follows ImageClassifier',
        {
            'model.backbone.arch': SMALL_CONVNEXT,
            'model.head.in_channels': 16,
        },
        {224: 32, 256: 32},
        alike=(
            'mmpretrain::convnext*/*.py',
            'mmpretrain::hornet/*.py',
            'mmpretrain::edgenext/*.py',
            'mmpretrain::t2t_vit/*.py',
            'mmpretrain::deit/*.py',
            'mmpretrain::vision_transformer/*.py',
            'mmpretrain::mocov3/benchmarks/*.py',
        ),
    ),
    Stock(
        'mmpretrain::mobileone/mobileone-s0_8xb32_in1k.py',
        'shadow',
        'a copy of the model (shadow) follows ImageClassifier',
        {},
        {224: 32, 256: 32},
        alike=('mmpretrain::mobileone/*.py', 'mmpretrain::regnet/*.py'),
    ),
    Stock(
        'mmpretrain::spark/benchmarks/convnextv2-tiny_8xb256-coslr-300e_in1k.py',
        'shadow',
        'a copy of the model (shadow) follows ImageClassifier',
        {
            'model.backbone.arch': SMALL_CONVNEXT,
            'model.backbone.init_cfg': None,
            'model.head.in_channels': 16,
        },
        {224: 32, 256: 32},
    ),
]

# Moved by a method of the model, and not one teacher but four, which a shadow leaves as they are.
NOT_SUPPORTED = ('mmpretrain::blip/blip-base_8xb32_retrieval*.py',)


def folder_of(library):
    return Path(importlib.import_module(library).__file__).parent / '.mim/configs'


def load(name):
    """The config of a name, with the scope that its model is built in."""
    library, path = name.split('::')
    init_default_scope(library)
    return Config.fromfile(folder_of(library) / path)


@cache
def averaging_models(library):
    """Names of a library's models that hold a teacher and average it."""
    init_default_scope(library)
    importlib.import_module(f'{library}.models')
    names = set()
    for name, kind in MODELS.children[library].module_dict.items():
        source = ''.join(
            inspect.getsource(base)
            for base in getattr(kind, '__mro__', [])
            if base.__module__.startswith(library)
        )
        averages = re.search(r'CosineEMA\(|MovingAverage\(|momentum_update\(', source)
        if averages or ('self.student =' in source and 'self.teacher =' in source):
            names.add(name)
    return names


@cache
def configs_with_a_teacher(library):
    """Names of all configs of a library that name such a model, or a hook that keeps a teacher."""
    kinds = '|'.join([*REPLACED, *sorted(averaging_models(library))])
    named = re.compile(rf"type='?({kinds})\b")
    root = folder_of(library)
    files = {path: path.read_text() for path in sorted(root.rglob('*.py'))}

    def has_teacher(path):
        text = files.get(path, '')
        if named.search(text):
            return True
        bases = re.search(r'_base_ = (\[.*?\]|.*?\n)', text, re.DOTALL)
        relative = re.findall(r"'([^']+\.py)'", bases.group(1)) if bases else []
        overridden = re.search(r'^custom_hooks = ', text, re.MULTILINE)
        return not overridden and any(has_teacher((path.parent / b).resolve()) for b in relative)

    return [
        f'{library}::{path.relative_to(root)}'
        for path in files
        if '_base_' not in path.parts and has_teacher(path)
    ]


def smaller(value, pixels):
    """A part of a config with the sizes of images replaced."""
    if isinstance(value, dict):
        return {
            key: _sizes(item, pixels) if key in _SIZE_KEYS else smaller(item, pixels)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(smaller(item, pixels) for item in value)
    return value


_SIZE_KEYS = ('scale', 'size', 'second_size', 'input_size', 'crop_size', 'img_scale')


def _sizes(value, pixels):
    if isinstance(value, (list, tuple)):
        return type(value)(_sizes(item, pixels) for item in value)
    return pixels.get(value, value) if not isinstance(value, dict) else value


def small_config(stock, data, work_dir):
    """The config of a row, shrunk, on data of ours, as long as four iterations.

    Args:
        stock: The row.
        data: Folder with ``imagenet`` and ``coco``.
        work_dir: Where it is to write.
    """
    cfg = load(stock.config)
    cfg.optim_wrapper.optimizer.lr = 0.01  # There is no warm-up.
    cfg.merge_from_dict(stock.shrink)
    cfg.train_dataloader.dataset = smaller(
        cfg.train_dataloader.dataset.to_dict(), {k: v for k, v in stock.pixels.items()}
    )
    put_data(cfg.train_dataloader.dataset, data)
    cfg.train_dataloader.batch_size = 4
    if 'source_ratio' in cfg.train_dataloader.sampler:
        cfg.train_dataloader.sampler.update(batch_size=4, source_ratio=[1, 1])
    cfg.train_dataloader.num_workers = 0
    cfg.train_dataloader.persistent_workers = False
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4)
    for key in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg.pop(f'{key}_{part}', None)
    cfg.param_scheduler = None
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False))
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(work_dir)
    cfg.launcher = 'none'
    cfg.log_level = 'ERROR'
    cfg.visualizer = None
    return cfg


def put_data(dataset, data):
    """Let the datasets below read files of ours, and their randomness follow from the image."""
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    if inner:
        for part in inner:
            put_data(part, data)
        return
    if dataset.type == 'CocoDataset':
        dataset.update(data_root=str(data / 'coco'), ann_file='train.json')
        dataset.data_prefix = dict(img='')
    else:
        dataset.pop('split', None)
        dataset.update(data_root=str(data / 'imagenet'), ann_file='meta/train.txt')
        dataset.data_prefix = 'train'
    dataset.pipeline = [dict(type='SeedByImage'), *dataset.pipeline]


def switched(cfg, hook):
    """A config with our hook in the place of the one that moved the teacher, or added.

    A line that is replaced keeps its options: only SE, which does not average, drops the average's.
    """
    cfg = cfg.copy()
    lines = [dict(line) for line in cfg.get('custom_hooks') or []]
    for index, line in enumerate(lines):
        if line['type'] in REPLACED:
            if hook['type'] == 'SpatialEnsembleHook':
                line = {k: v for k, v in line.items() if k not in ('momentum', 'ema_type', 'gamma')}
            lines[index] = {**line, **hook}
            break
    else:
        lines.append(dict(hook))
    cfg.custom_hooks = lines
    return cfg
