# SPDX-License-Identifier: Apache-2.0
"""From pretraining to a detector, and semi-supervised detection, by the published configs.

Networks and images are shrunk; the commands are those of the configs' heads.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from se_mm.datasets import DigitScenes
from se_mm.datasets.coco_files import draw_coco_split
from se_mm.home import find_config

Image = pytest.importorskip('PIL.Image')
pytest.importorskip('mmpretrain')
CocoDataset = pytest.importorskip('mmdet.datasets').CocoDataset
ROOT = Path(__file__).parents[2]
SMALL_RESNET = {'backbone.stem_channels': 8, 'backbone.base_channels': 8}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with data/imagenet and data/coco as the configs expect them."""
    folder = tmp_path_factory.mktemp('project')
    scenes = DigitScenes(num_images=16)
    coco = scenes.coco()
    # The file lists every class of COCO, as COCO's own do, of which the images show ten.
    coco['categories'] = [
        {'id': number, 'name': name}
        for number, name in enumerate(CocoDataset.METAINFO['classes'], start=1)
    ]
    for annotation in coco['annotations']:
        x, y, width, height = annotation['bbox']
        right, bottom = x + width, y + height
        annotation['segmentation'] = [[x, y, right, y, right, bottom, x, bottom]]
    lines = []
    for index, image in enumerate(coco['images']):
        image['file_name'] = Path(image['file_name']).name
        picture = Image.fromarray(np.ascontiguousarray(scenes.get_data_info(index)['img']))
        for path in (
            folder / 'data/coco/train2017' / image['file_name'],
            folder / 'data/imagenet/train/n0' / image['file_name'],
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        lines.append(f'n0/{image["file_name"]} 0')
    for path, text in (
        ('data/imagenet/meta/train.txt', '\n'.join(lines)),
        ('data/coco/annotations/instances_train2017.json', json.dumps(coco)),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def run(folder, tool, *words):
    """Run a tool in the folder as a user does; it must succeed."""
    result = subprocess.run(
        [sys.executable, ROOT / 'tools' / tool, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def train(folder, config, **settings):
    """Train a config for two iterations of four images."""
    settings = {
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        'train_cfg.max_iters': 2,
        'train_cfg.type': 'IterBasedTrainLoop',
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 2,
        'param_scheduler': None,
        **settings,
    }
    words = [f'{key}={str(value).replace(" ", "")}' for key, value in settings.items()]
    return run(folder, 'train.py', find_config(config) or config, '--cfg-options', *words)


def model(**settings):
    return {f'model.{key}': value for key, value in settings.items()}


@pytest.fixture(scope='module')
def backbone(folder):
    """A published backbone of a MoCo v2 that was trained by its config."""
    (folder / 'moco.py').write_text(
        f"_base_ = '{ROOT}/configs/moco/mocov2_sts_r50_8xb32.py'\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2)\n"
        'param_scheduler = None\n'
    )
    log = train(
        folder,
        folder / 'moco.py',
        **{f'model.{key}': value for key, value in SMALL_RESNET.items()},
        **{'model.neck.in_channels': 256, 'model.neck.hid_channels': 16, 'model.queue_len': 16},
        **{'train_dataloader.dataset.ann_file': 'meta/train.txt'},
        **{'train_dataloader.dataset.data_prefix': 'train'},
        **{'train_dataloader.dataset.pipeline.1.transforms.0.0.scale': 32},
    )
    assert 'SETMAHook: encoder_k (averaged) follows backbone, neck; keep_prob 0.5' in log
    checkpoint = 'work_dirs/moco/iter_2.pth'
    words = ('--weights', 'teacher', '--prefix', 'backbone')
    assert 'tensors' in run(folder, 'publish_teacher.py', checkpoint, 'backbone.pth', *words)
    return folder / 'backbone.pth'


@pytest.mark.parametrize('name', ['faster-rcnn', 'mask-rcnn'])
def test_published_backbone_is_fine_tuned(folder, backbone, name):
    (folder / f'{name}.py').write_text(
        f"_base_ = '{ROOT}/configs/transfer/{name}_r50_8xb2_coco.py'\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2)\n"
        'param_scheduler = None\n'
        + ''.join(f'{s}_{part} = None\n' for s in ('val', 'test') for part in STAGE)
    )
    train(
        folder,
        folder / f'{name}.py',
        **{f'model.{key}': value for key, value in SMALL_RESNET.items()},
        **{
            'model.neck.in_channels': '[32,64,128,256]',
            'model.backbone.init_cfg.checkpoint': backbone,
            'model.roi_head.bbox_head.fc_out_channels': 16,
            'model.train_cfg.rpn_proposal.max_per_img': 20,
            'model.train_cfg.rcnn.sampler.num': 16,
            'train_dataloader.dataset.pipeline.2.scale': '(96,96)',
            'optim_wrapper.optimizer.lr': 0.0,
        },
    )
    trained = torch.load(folder / f'work_dirs/{name}/iter_2.pth', weights_only=True)['state_dict']
    published = torch.load(backbone, weights_only=True)['state_dict']
    weights = [key for key in published if key.endswith('weight')]
    assert len(weights) > 50
    assert all(torch.equal(trained[key], published[key]) for key in weights)


STAGE = ('dataloader', 'cfg', 'evaluator')
SCALES = '[(96,96),(96,96)]'


@pytest.mark.parametrize('smoothing', ['se', 'sts'])
@pytest.mark.parametrize('percent', [1, 2, 5, 10])
def test_softteacher_config_names_the_files_of_the_split_tool(percent, smoothing):
    name = f'softteacher_{smoothing}_faster-rcnn-r50_8xb5_coco-{percent}.py'
    cfg = Config.fromfile(find_config(name))
    files = [part.ann_file for part in cfg.train_dataloader.dataset.datasets]
    stem = f'semi_anns/instances_train2017.1@{percent}'
    assert files == [f'{stem}.json', f'{stem}-unlabeled.json']
    (line,) = cfg.custom_hooks
    expected = {'se': ('SpatialEnsembleHook', 0.999), 'sts': ('SETMAHook', 0.5)}[smoothing]
    assert (line.type, line.keep_prob) == expected


def test_softteacher_trains_on_the_split_of_the_tool(folder):
    annotations = 'data/coco/annotations/instances_train2017.json'
    run(folder, 'split_coco.py', annotations, '--percent', 10, '--folds', 1)
    (folder / 'soft.py').write_text(
        f"_base_ = '{ROOT}/configs/softteacher/softteacher_sts_faster-rcnn-r50_8xb5_coco-10.py'\n"
        + ''.join(f'{s}_{part} = None\n' for s in ('val', 'test') for part in STAGE)
    )
    detector = {
        'backbone.base_channels': 8,
        'backbone.stem_channels': 8,
        'backbone.init_cfg': None,
        'neck.in_channels': '[32,64,128,256]',
        'roi_head.bbox_head.fc_out_channels': 16,
        'train_cfg.rpn_proposal.max_per_img': 20,
        'train_cfg.rcnn.sampler.num': 16,
        'test_cfg.rpn.max_per_img': 20,
    }
    datasets = 'train_dataloader.dataset.datasets'
    log = train(
        folder,
        folder / 'soft.py',
        **{f'model.detector.{key}': value for key, value in detector.items()},
        **{
            'train_dataloader.sampler.batch_size': 4,
            f'{datasets}.0.pipeline.2.scale': SCALES,
            f'{datasets}.1.pipeline.2.unsup_teacher.0.scale': SCALES,
            f'{datasets}.1.pipeline.2.unsup_student.0.scale': SCALES,
            f'{datasets}.0.filter_cfg.min_size': 1,
            'train_dataloader.sampler.type': 'MultiSourceSampler',
            'optim_wrapper.optimizer.lr': 1e-4,
        },
    )
    assert 'SETMAHook: teacher (pair) follows student; keep_prob 0.5' in log
    state = torch.load(folder / 'work_dirs/soft/iter_2.pth', weights_only=True)
    assert state['se_mm']['step'] == 3
    run(
        folder,
        'publish_teacher.py',
        'work_dirs/soft/iter_2.pth',
        'soft.pth',
        '--weights',
        'teacher',
    )
    init_default_scope('mmdet')
    cfg = Config.fromfile(folder / 'soft.py')
    cfg.merge_from_dict(
        {f'model.detector.{k}': eval(v) if isinstance(v, str) else v for k, v in detector.items()}
    )
    plain = MODELS.build(cfg.model.detector)
    plain.load_state_dict(torch.load(folder / 'soft.pth')['state_dict'], strict=True)


def test_small_softteacher_trains_and_both_are_evaluated(tmp_path):
    settings = {
        'train_cfg.max_iters': 4,
        'train_cfg.val_interval': 4,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'custom_hooks.1.iters': 2,
        'val_dataloader.dataset.num_images': 8,
        'default_hooks.checkpoint.interval': 4,
    }
    for index in (0, 1):
        settings[f'train_dataloader.dataset.datasets.{index}.num_images'] = 20
    config = ROOT / 'configs/softteacher/softteacher_sts_faster-rcnn-conv5_1xb8_scenes-10.py'
    words = [f'{key}={value}' for key, value in settings.items()]
    log = run(tmp_path, 'train.py', config, '--cfg-options', *words)
    assert 'BurnInHook: unlabelled images from iteration 2 on' in log
    assert 'teacher/coco/bbox_mAP_50' in log and 'student/coco/bbox_mAP_50' in log


@pytest.mark.parametrize(
    'name, logged',
    [
        ('softteacher_sts_faster-rcnn-conv5_1xb8_bccd-10', 'teacher/coco/bbox_mAP_50'),
        ('supervised_shadows_faster-rcnn-conv5_1xb8_bccd-10', 'sts-recalibrate/coco/bbox_mAP_50'),
    ],
)
def test_cells_train_from_a_voc_folder_by_the_commands_of_the_docs(tmp_path, name, logged):
    voc = tmp_path / 'data/bccd'
    for part in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (voc / part).mkdir(parents=True)
    box = '<xmin>9</xmin><ymin>9</ymin><xmax>60</xmax><ymax>50</ymax>'
    cell = f'<object><name>WBC</name><bndbox>{box}</bndbox></object>'
    size = '<size><width>128</width><height>96</height></size>'
    for index in range(8):
        Image.new('RGB', (128, 96), (200, 180, 30 * index)).save(voc / f'JPEGImages/{index}.jpg')
        (voc / f'Annotations/{index}.xml').write_text(f'<annotation>{size}{cell}</annotation>')
    for split, stems in (('train', '012345'), ('val', '6'), ('test', '7')):
        (voc / f'ImageSets/Main/{split}.txt').write_text('\n'.join(stems))
    run(tmp_path, 'voc_to_coco.py', voc, '--classes', 'RBC', 'WBC', 'Platelets')
    run(tmp_path, 'split_coco.py', voc / 'annotations/train.json', '--percent', 10, '--folds', 1)
    settings = ['train_cfg.max_iters=4', 'train_cfg.val_interval=4']
    settings += ['custom_hooks.0.begin_iter=2', 'custom_hooks.1.iters=2']
    if 'shadows' in name:
        settings[2:] = ['custom_hooks.0.iters=4', 'custom_hooks.1.recalibrate_batches=1']
    log = run(tmp_path, 'train.py', find_config(f'{name}.py'), '--cfg-options', *settings)
    assert logged in log


def test_embedded_labelled_scenes_are_those_that_the_split_draws():
    cfg = Config.fromfile(
        ROOT / 'configs/softteacher/softteacher_tma_faster-rcnn-conv5_1xb8_scenes-10.py'
    ).train_dataloader.dataset.datasets
    labelled, unlabelled = (
        DigitScenes(**{k: v for k, v in part.items() if k not in ('type', 'pipeline')})
        for part in cfg
    )
    ids = {info['img_id'] for info in labelled.data_list}
    others = {info['img_id'] for info in unlabelled.data_list}
    assert len(ids) == 20 and len(others) == 180 and not ids & others
    assert ids == set(draw_coco_split(ids | others, 10, 1))
    assert all(info['instances'] == [] for info in unlabelled.data_list)
