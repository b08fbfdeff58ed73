# SPDX-License-Identifier: Apache-2.0
"""Classes of a detector's heads, data sets and COCO files are compared, and names are listed."""

import json
from copy import deepcopy

import pytest
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.logging import MMLogger
from mmengine.registry import DATA_SAMPLERS, METRICS, init_default_scope

import se_mm  # noqa: F401  (registers what the configs name)
from se_mm.datasets import DigitScenes, check_detection_classes
from se_mm.datasets.detection_checks import _heads, check_evaluator_file
from se_mm.home import config_names, find_config
from se_mm.smoothing import OptionError

NAMES = ('nut', 'bolt', 'washer')
CATEGORIES = [{'id': i, 'name': n} for i, n in zip((3, 7, 20), NAMES)]


@pytest.fixture
def detection(tmp_path):
    """A Soft Teacher on three files in COCO's format, as a user writes it."""
    pytest.importorskip('mmdet')
    base = deepcopy(DigitScenes(num_images=6).coco())
    for annotation in base['annotations']:
        annotation['category_id'] = CATEGORIES[annotation['category_id'] % 3]['id']
    base['categories'] = CATEGORIES
    for name in ('labelled', 'free', 'val'):
        content = {**base, 'annotations': [] if name == 'free' else base['annotations']}
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    cfg = Config.fromfile(find_config('softteacher_sts_faster-rcnn-conv5_1xb8_scenes-10.py'))
    cfg.merge_from_dict({'model.detector.roi_head.bbox_head.num_classes': 3})

    def of(name, pipeline):
        return dict(
            type='CocoDataset',
            metainfo=dict(classes=NAMES),
            data_root=str(tmp_path),
            ann_file=f'{name}.json',
            data_prefix=dict(img='images/'),
            pipeline=[dict(type='LoadImageFromFile'), *pipeline],
        )

    cfg.train_dataloader.dataset.datasets = [
        of('labelled', cfg.labelled_pipeline),
        of('free', cfg.unlabelled_pipeline),
    ]
    cfg.val_dataloader.dataset = cfg.test_dataloader.dataset = of('val', cfg.test_pipeline)
    return cfg, tmp_path


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_detector_that_fits_its_data_passes(detection):
    check_detection_classes(detection[0])


@pytest.mark.parametrize('number', [1, 2, 4, 80])
def test_other_number_of_outputs_is_refused(detection, number):
    cfg, _ = detection
    cfg.merge_from_dict({'model.detector.roi_head.bbox_head.num_classes': number})
    with pytest.raises(OptionError, match=r'bbox_head.num_classes must be 3, .*nut, bolt, washer'):
        check_detection_classes(cfg)


TRAIN = 'train_dataloader.dataset.datasets'


@pytest.mark.parametrize(
    'options, message',
    [
        ({f'{TRAIN}.0.metainfo': {}}, r'num_classes must be 80, .*person, bicycle.*80 in all'),
        ({f'{TRAIN}.1.metainfo': {}}, r'classes of .*datasets.1 must be those of .*datasets.0'),
        ({f'{TRAIN}.0.metainfo': {'CLASSES': NAMES}}, "'classes' in lower case, got 'CLASSES'"),
        ({f'{TRAIN}.0.metainfo': {'classes': 'washer'}}, r"got 'washer'; write \('washer',\)"),
        (
            {f'{TRAIN}.0.metainfo': {'classes': ('nuts', 'bolt', 'washer')}},
            r"labelled.json', in their order \(nut, bolt, washer\), got nuts. Did you mean 'nut'",
        ),
        (
            {f'{TRAIN}.0.metainfo': {'classes': ('bolt', 'nut', 'washer')}},
            r'in their order \(nut, bolt, washer\), got bolt, nut, washer. mmdet numbers',
        ),
        (
            {'val_dataloader.dataset.metainfo': {'classes': ('nut', 'bolt')}},
            'val_dataloader.dataset must be those .*: without washer',
        ),
        (
            {'train_dataloader.sampler.source_ratio': [1, 0]},
            r'must leave an image for each source, .* \[1, 0\], which is \[8, 0\]; .* alone',
        ),
        (
            {'train_dataloader.sampler.source_ratio': [99, 1]},
            r'in the ratio \[99, 1\], .* \[8, 0\]',
        ),
    ],
)
def test_what_disagrees_is_refused_in_one_line(detection, options, message):
    cfg, _ = detection
    for key, value in options.items():
        *way, last = key.split('.')
        part = cfg
        for name in way:
            part = part[int(name) if name.isdigit() else name]
        part[last] = value
    with pytest.raises(OptionError, match=message) as error:
        check_detection_classes(cfg)
    assert '\n' not in str(error.value)


def test_files_of_several_orders_are_refused(detection):
    cfg, folder = detection
    edited(folder / 'val.json', lambda coco: coco['categories'].reverse())
    with pytest.raises(
        OptionError, match=r"val_dataloader.* categories of '.*val.json', in their order"
    ):
        check_detection_classes(cfg)


def test_boxes_that_are_not_learned_are_counted_before(detection, capfd):
    cfg, folder = detection
    MMLogger.get_instance('boxes', log_level='WARNING')

    def shrink(coco):
        for number, annotation in enumerate(coco['annotations'][:3]):
            annotation['bbox'][2] = number and -1
        coco['annotations'][3]['iscrowd'] = 1

    edited(folder / 'labelled.json', shrink)
    check_detection_classes(cfg)
    said = capfd.readouterr().out
    assert 'boxes are learned (left out: 1 of a crowd, 3 without area) in' in said

    def shift(coco):
        for annotation in coco['annotations']:
            annotation['bbox'][0] += 1000

    edited(folder / 'labelled.json', shift)
    with pytest.raises(OptionError, match=r'datasets.0 must have a box .*outside the image'):
        check_detection_classes(cfg)


def test_annotations_of_a_metric_are_those_of_the_data_set(detection):
    cfg, folder = detection
    (folder / 'copy.json').write_text((folder / 'val.json').read_text())
    own = str(folder / 'val.json')
    for stage in ('val', 'test'):
        for path in (own, str(folder / 'copy.json'), 's3://bucket/val.json', None):
            cfg[f'{stage}_evaluator'] = dict(type='CocoMetric', ann_file=path)
            check_evaluator_file(cfg, stage)
        metric = dict(type='CocoMetric', ann_file=str(folder / 'free.json'))
        for key, evaluator in (
            ('', metric),
            ('.0', [metric]),
            ('.metrics.0', dict(type='Evaluator', metrics=[metric])),
        ):
            cfg[f'{stage}_evaluator'] = evaluator
            with pytest.raises(OptionError, match='must be the file of') as error:
                check_evaluator_file(cfg, stage)
            said = f'{stage}_evaluator{key}.ann_file must be the file of {stage}_dataloader.dataset'
            assert said in str(error.value) and repr(own) in str(error.value)


@pytest.mark.parametrize('key', ['source_ratio', 'ann_file'])
def test_what_mmdet_itself_says_is_left_to_it(detection, key):
    cfg, folder = detection
    cfg.train_dataloader.sampler.source_ratio = [1, 1, 1]
    missing = dict(type='CocoMetric', ann_file=str(folder / 'vla.json'))
    cfg.val_evaluator = missing
    check_detection_classes(cfg)
    check_evaluator_file(cfg, 'val')
    init_default_scope('mmdet')
    with pytest.raises((AssertionError, FileNotFoundError), match=r'source_ratio|vla\.json'):
        if key == 'ann_file':
            METRICS.build(missing)
        else:
            data = ConcatDataset([DigitScenes(num_images=2)] * 2)
            DATA_SAMPLERS.build({**cfg.train_dataloader.sampler, 'dataset': data})


@pytest.mark.parametrize(
    'name, heads',
    [
        ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', 4),
        ('retinanet/retinanet_r50_fpn_1x_coco.py', 1),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 2),
        ('detr/detr_r50_8xb2-150e_coco.py', 1),
    ],
)
def test_heads_of_mmdet_are_found(name, heads):
    pytest.importorskip('mmdet')
    cfg = Config.fromstring(f"_base_ = 'mmdet::{name}'\n", '.py')
    found = list(_heads(cfg.model))
    assert len(found) == heads and {number for _, number in found} == {80}
    check_detection_classes(cfg)
    cfg.merge_from_dict({found[-1][0]: 81})
    with pytest.raises(OptionError, match=f'{found[-1][0]} must be 80'):
        check_detection_classes(cfg)


def test_masks_of_all_classes_alike_are_not_counted():
    roi = dict(mask_head=dict(num_classes=1, class_agnostic=True), bbox_head=dict(num_classes=3))
    assert list(_heads(dict(roi_head=roi))) == [('model.roi_head.bbox_head.num_classes', 3)]


@pytest.mark.parametrize('name', config_names(studies=False))
def test_shipped_configs_pass(name):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmpretrain')
    check_detection_classes(Config.fromfile(find_config(name)))


@pytest.mark.parametrize(
    'name',
    [
        'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
        'bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_test-mot17halfval.py',
        'deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py',
        'grounding_dino/grounding_dino_swin-t_pretrain_obj365_goldg_cap4m.py',
        'mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365.py',
        'lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py',
    ],
)
def test_stuff_tracks_and_words_are_not_ours_to_judge(name):
    pytest.importorskip('mmdet')
    check_detection_classes(Config.fromstring(f"_base_ = 'mmdet::{name}'\n", '.py'))
