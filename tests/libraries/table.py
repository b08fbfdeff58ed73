# SPDX-License-Identifier: Apache-2.0
"""The table of stock configs of other libraries, their lines, and how each is made small.

One row drives every test of ``test_libraries.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import save_checkpoint

EMA = dict(type='EMAHook', momentum=0.1)
"""The line that is added to a config that has none."""


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        config: ``library::path`` of the stock config.
        samples: Kind of the synthetic samples and its options, see ``samples.py``.
        shrink: Settings of the config that are changed, as ``--cfg-options``.
        line: A line that is added: of ``EMAHook``, for a config without one.
        averages: Where the model itself keeps its teacher; for these our hook is added, since there
            is no line to switch.
        distilled: Where the model keeps a pretrained teacher that nothing may move.
        in_python: The types in the line are classes, as in a config in pure Python.
        lr: Learning rate; there is no warm-up.
        prepare: Called with the config and a folder; makes the files that the config names.
    """

    config: str
    samples: dict
    shrink: dict
    line: dict | None = None
    averages: str | None = None
    distilled: str | None = None
    in_python: bool = False
    prepare: Callable | None = None
    lr: float = 0.01

    @property
    def library(self):
        return self.config.split('::')[0]

    def __str__(self):
        name = f'{self.library}-{self.config.split("/")[-1][:-3]}'
        return name + '-in-python' * self.in_python


CODEC = dict(
    type='SimCCLabel',
    input_size=(64, 96),
    sigma=(2.0, 3.0),
    simcc_split_ratio=2.0,
    normalize=False,
    use_dark=False,
)
SMALL_RTMPOSE = {
    'model.backbone.init_cfg': None,
    'model.backbone.deepen_factor': 0.167,
    'model.backbone.widen_factor': 0.0625,
    'model.head.in_channels': 64,
    'model.head.input_size': CODEC['input_size'],
    'model.head.in_featuremap_size': (2, 3),
    'model.head.decoder': CODEC,
    'model.head.gau_cfg.hidden_dims': 32,
    'model.head.gau_cfg.s': 16,
}


def distillation(cfg, folder):
    """Write the two configs that a stage of DWPose names, shrunk, and a pretrained teacher.

    The teacher of the first stage is larger than its student, that of the second as large.
    """
    init_default_scope('mmpose')
    widths = dict(
        student=0.0625, teacher=0.0625 if cfg.model.teacher_cfg == cfg.model.student_cfg else 0.125
    )
    for role, width in widths.items():
        small = Config.fromfile(stock_file('mmpose', cfg.model[f'{role}_cfg'].split('/', 1)[1]))
        small.merge_from_dict(SMALL_RTMPOSE)
        small.model.backbone.widen_factor = width
        small.model.head.in_channels = int(1024 * width)
        path = folder / f'{role}.py'
        path.write_text(f'model = {small.model.to_dict()!r}\n')
        cfg.model[f'{role}_cfg'] = str(path)
    pretrained = folder / 'pretrained.pth'
    if not pretrained.exists():
        torch.manual_seed(7)
        teacher = MODELS.build(Config.fromfile(cfg.model.teacher_cfg).model)
        teacher.init_weights()
        save_checkpoint(dict(state_dict=teacher.state_dict()), str(pretrained))
    cfg.model.teacher_pretrained = str(pretrained)
    for part in cfg.model.distill_cfg:
        for loss in part.methods:
            if loss.type == 'FeaLoss':
                loss.student_channels = int(1024 * widths['student'])
                loss.teacher_channels = int(1024 * widths['teacher'])


def stock_file(library, path):
    from importlib.util import find_spec

    return f'{find_spec(library).submodule_search_locations[0]}/.mim/configs/{path}'


TABLE = [
    Row(
        'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py',
        dict(kind='segmentation'),
        {
            'model.pretrained': None,
            'model.data_preprocessor.size': (64, 64),
            'model.backbone.stem_channels': 8,
            'model.backbone.base_channels': 8,
            'model.decode_head.in_channels': 256,
            'model.decode_head.channels': 16,
            'model.auxiliary_head.in_channels': 128,
            'model.auxiliary_head.channels': 16,
        },
        line=EMA,
    ),
    Row(
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        dict(kind='segmentation', classes=150),
        {
            'model.backbone.init_cfg': None,
            'model.data_preprocessor.size': (64, 64),
            'model.backbone.embed_dims': 8,
            'model.backbone.num_layers': [1, 1, 1, 1],
            'model.decode_head.in_channels': [8, 16, 40, 64],
            'model.decode_head.channels': 16,
        },
        line=dict(EMA, update_buffers=True, begin_iter=2),
    ),
    Row(
        'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
        dict(kind='pose', codec=CODEC),
        SMALL_RTMPOSE,
    ),
    Row(
        'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py',
        dict(kind='pose', codec=CODEC),
        SMALL_RTMPOSE,
        in_python=True,
    ),
    Row(
        'mmpose::body_2d_keypoint/yoloxpose/coco/yoloxpose_tiny_4xb64-300e_coco-416.py',
        dict(kind='people'),
        {
            'model.backbone.init_cfg': None,
            'model.backbone.widen_factor': 0.125,
            'model.neck.in_channels': [32, 64, 128],
            'model.neck.out_channels': 32,
            'model.head.head_module_cfg.widen_factor': 0.125,
            'model.data_preprocessor.batch_augments': None,
        },
    ),
    Row(
        'mmpose::wholebody_2d_keypoint/dwpose/coco-wholebody/s1_dis/dwpose_l_dis_m_coco-256x192.py',
        dict(kind='pose', codec=CODEC, keypoints=133),
        {},
        distilled='teacher',
        prepare=distillation,
    ),
    Row(
        'mmpose::wholebody_2d_keypoint/dwpose/coco-wholebody/s2_dis/dwpose_m-mm_coco-256x192.py',
        dict(kind='pose', codec=CODEC, keypoints=133),
        {},
        distilled='teacher',
        prepare=distillation,
    ),
    Row(
        'mmaction::recognition/tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb.py',
        dict(kind='video'),
        {
            'model.backbone.pretrained': None,
            'model.backbone.depth': 18,
            'model.cls_head.in_channels': 512,
        },
        line=EMA,
    ),
    Row(
        'mmaction::recognition/slowfast/slowfast_r50_8xb8-8x8x1-256e_kinetics400-rgb.py',
        dict(kind='video', lead=(1,), frames=16),
        {
            'model.backbone.slow_pathway.base_channels': 8,
            'model.backbone.fast_pathway.base_channels': 1,
            'model.cls_head.in_channels': 288,
        },
        line=dict(EMA, ema_type='MomentumAnnealingEMA', gamma=10),
    ),
    Row(
        'mmrotate::rotated_rtmdet/rotated_rtmdet_tiny-3x-dota.py',
        dict(kind='rotated'),
        {
            'model.backbone.init_cfg': None,
            'model.backbone.widen_factor': 0.125,
            'model.neck.in_channels': [32, 64, 128],
            'model.neck.out_channels': 32,
            'model.bbox_head.in_channels': 32,
            'model.bbox_head.feat_channels': 32,
            # The IoU of rotated boxes can be differentiated on a GPU only.
            'model.bbox_head.loss_bbox': dict(type='GDLoss', loss_type='kld', _delete_=True),
        },
    ),
    Row(
        'mmdet3d::pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-car.py',
        dict(kind='points'),
        {
            'model.data_preprocessor.voxel_layer.point_cloud_range': [0, -4, -3, 8, 4, 1],
            'model.data_preprocessor.voxel_layer.voxel_size': [0.25, 0.25, 4],
            'model.voxel_encoder.point_cloud_range': [0, -4, -3, 8, 4, 1],
            'model.voxel_encoder.voxel_size': [0.25, 0.25, 4],
            'model.voxel_encoder.feat_channels': [8],
            'model.middle_encoder.in_channels': 8,
            'model.middle_encoder.output_shape': [32, 32],
            'model.backbone.in_channels': 8,
            'model.backbone.layer_nums': [1, 1, 1],
            'model.backbone.out_channels': [8, 16, 32],
            'model.neck.in_channels': [8, 16, 32],
            'model.neck.out_channels': [16, 16, 16],
            'model.bbox_head.in_channels': 48,
            'model.bbox_head.feat_channels': 48,
            'model.bbox_head.anchor_generator.ranges': [[0, -4, -1.78, 8, 4, -1.78]],
        },
        line=EMA,
    ),
    Row(
        'mmyolo::yolov5/yolov5_s-v61_syncbn_8xb16-300e_coco.py',
        dict(kind='detection'),
        {
            'model.backbone.widen_factor': 0.125,
            'model.neck.widen_factor': 0.125,
            'model.bbox_head.head_module.widen_factor': 0.125,
        },
    ),
    Row(
        'mmyolo::rtmdet/rtmdet_tiny_syncbn_fast_8xb32-300e_coco.py',
        dict(kind='detection'),
        {
            'model.backbone.init_cfg': None,
            'model.backbone.widen_factor': 0.125,
            'model.neck.widen_factor': 0.125,
            'model.bbox_head.head_module.widen_factor': 0.125,
        },
    ),
    Row(
        'mmagic::biggan/biggan_2xb25-500kiters_cifar10-32x32.py',
        dict(kind='labelled'),
        {
            'model.generator.base_channels': 4,
            'model.generator.noise_size': 16,
            'model.discriminator.base_channels': 4,
            'model.discriminator_steps': 1,
            # sync_parameters in the first iteration, then averages and sync_buffers.
            'model.ema_config.start_iter': 2,
            'model.ema_config.momentum': 0.1,
        },
        averages='generator_ema',
        lr=0.002,
    ),
]

REALESRGAN = Row(
    'mmagic::real_esrgan/realesrgan_c64b23g32_4xb12-lr1e-4-400k_df2k-ost.py',
    dict(kind='restoration'),
    {
        'model.perceptual_loss': None,
        'model.generator.mid_channels': 8,
        'model.generator.num_blocks': 1,
        'model.generator.growth_channels': 4,
        'model.discriminator.mid_channels': 8,
    },
    line=dict(type='KeepStart'),
    averages='generator_ema',
)
"""Keeps a copy beside its generator, which no model but a hook of mmagic's own moves."""
