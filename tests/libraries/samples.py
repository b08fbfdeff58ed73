# SPDX-License-Identifier: Apache-2.0
"""Synthetic samples in the structures of each library: what its ``Pack...Inputs`` would return.

They go through the model's own data preprocessor. A sample is a function of its index.
"""

import numpy as np
import torch
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData, LabelData, PixelData
from torch.utils.data import Dataset


@DATASETS.register_module(force=True)
class SyntheticDataset(Dataset):
    """Random samples of one kind.

    Args:
        kind: A key of ``KINDS``.
        length: Number of samples.
        **options: Options of the kind: sizes and numbers of classes.
    """

    metainfo = {}

    def __init__(self, kind, length=16, **options):
        self.kind, self.length, self.options = kind, length, options

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return KINDS[self.kind](np.random.RandomState(index), **self.options)


def image(rng, height, width=None, *lead):
    """Smooth noise, so that samples differ by more than their mean."""
    shape = (*lead, 3, height, width or height)
    coarse = rng.rand(*shape[:-2], 4, 4).repeat(shape[-2] // 4, -2).repeat(shape[-1] // 4, -1)
    return torch.from_numpy((coarse * 200 + rng.rand(*shape) * 55).astype(np.uint8))


def metainfo(size):
    return dict(
        img_id=0,
        img_shape=(size, size),
        ori_shape=(size, size),
        pad_shape=(size, size),
        batch_input_shape=(size, size),
        scale_factor=(1.0, 1.0),
        flip=False,
    )


def boxes(rng, size, number):
    start = rng.rand(number, 2) * size / 2
    return torch.tensor(
        np.concatenate([start, start + size * (0.2 + 0.3 * rng.rand(number, 2))], 1),
        dtype=torch.float32,
    )


def detection(rng, size=64, classes=80):
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes

    labels = torch.from_numpy(rng.randint(0, classes, 3))
    found = InstanceData(bboxes=HorizontalBoxes(boxes(rng, size, 3)), labels=labels)
    sample = DetDataSample(metainfo=metainfo(size), gt_instances=found)
    sample.ignored_instances = found[:0]
    return dict(inputs=image(rng, size), data_samples=sample)


def rotated(rng, size=64, classes=15):
    from mmdet.structures import DetDataSample
    from mmrotate.structures.bbox import RotatedBoxes

    flat = boxes(rng, size, 3)
    centre, extent = (flat[:, :2] + flat[:, 2:]) / 2, flat[:, 2:] - flat[:, :2]
    angle = torch.from_numpy(rng.rand(3, 1).astype(np.float32))
    found = InstanceData(
        bboxes=RotatedBoxes(torch.cat([centre, extent, angle], 1)),
        labels=torch.from_numpy(rng.randint(0, classes, 3)),
    )
    sample = DetDataSample(metainfo=metainfo(size), gt_instances=found)
    sample.ignored_instances = found[:0]
    return dict(inputs=image(rng, size), data_samples=sample)


def segmentation(rng, size=64, classes=19):
    from mmseg.structures import SegDataSample

    coarse = rng.randint(0, classes, (1, 4, 4)).repeat(size // 4, 1).repeat(size // 4, 2)
    sample = SegDataSample(metainfo=metainfo(size))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(coarse))
    return dict(inputs=image(rng, size), data_samples=sample)


def pose(rng, codec, keypoints=17):
    from mmpose.registry import KEYPOINT_CODECS
    from mmpose.structures import PoseDataSample

    width, height = codec['input_size']
    points = (rng.rand(1, keypoints, 2) * (width, height)).astype(np.float32)
    visible = np.ones((1, keypoints), np.float32)
    labels = KEYPOINT_CODECS.build(dict(codec)).encode(points, visible)
    sample = PoseDataSample(metainfo=dict(img_shape=(height, width), input_size=(width, height)))
    sample.gt_instance_labels = InstanceData(
        **{key: torch.from_numpy(np.asarray(value, np.float32)) for key, value in labels.items()}
    )
    return dict(inputs=image(rng, height, width), data_samples=sample)


def people(rng, size=64, keypoints=17):
    """The key points and boxes of three people in one image."""
    from mmpose.structures import PoseDataSample

    found = boxes(rng, size, 3)
    extent = found[:, None, 2:] - found[:, None, :2]
    spread = torch.from_numpy(rng.rand(3, keypoints, 2).astype(np.float32))
    sample = PoseDataSample(metainfo=metainfo(size) | dict(input_size=(size, size)))
    sample.gt_instance_labels = InstanceData(
        bboxes=found,
        labels=torch.zeros(3, dtype=torch.long),
        keypoints=found[:, None, :2] + extent * spread,
        keypoints_visible=torch.ones(3, keypoints),
        areas=extent.prod(-1)[:, 0],
    )
    return dict(inputs=image(rng, size), data_samples=sample)


def video(rng, size=32, lead=(), frames=3, classes=400):
    """Frames of one clip: (frames, 3, H, W), or with ``lead`` (*lead, 3, frames, H, W)."""
    from mmaction.structures import ActionDataSample

    clip = image(rng, size, size, frames)
    if lead:
        clip = clip.transpose(0, 1).reshape(*lead, 3, frames, size, size)
    sample = ActionDataSample().set_gt_label(int(rng.randint(classes)))
    return dict(inputs=clip, data_samples=sample)


def points(rng, number=400, extent=(0.0, -4.0, -3.0, 8.0, 4.0, 1.0)):
    """A point cloud in which a car-sized box is dense."""
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes

    low, high = np.split(np.asarray(extent), 2)
    centre = low[:2] + (high[:2] - low[:2]) * (0.35 + 0.3 * rng.rand(2))
    box = np.array([[*centre, -1.7, 3.9, 1.6, 1.56, 0.1]], np.float32)
    cloud = low + (high - low) * rng.rand(number, 3)
    cloud[: number // 2] = box[0, :3] + (rng.rand(number // 2, 3) - (0.5, 0.5, 0)) * box[0, 3:6]
    cloud = np.concatenate([cloud, rng.rand(number, 1)], 1).astype(np.float32)
    sample = Det3DDataSample(metainfo=dict(box_type_3d=LiDARInstance3DBoxes))
    sample.gt_instances_3d = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(torch.from_numpy(box)),
        labels_3d=torch.zeros(1, dtype=torch.long),
    )
    return dict(inputs=dict(points=torch.from_numpy(cloud)), data_samples=sample)


def labelled(rng, size=32, classes=10):
    """An image to be generated, with its class."""
    from mmagic.structures import DataSample

    sample = DataSample(gt_img=image(rng, size).float())
    sample.gt_label = LabelData(label=torch.from_numpy(rng.randint(0, classes, 1)))
    return dict(inputs=image(rng, size), data_samples=sample)


def restoration(rng, size=16, scale=4):
    """A small image and the large one that it stands for."""
    from mmagic.structures import DataSample

    large = image(rng, size * scale).float()
    sample = DataSample(gt_img=large, gt_unsharp=large.clone())
    return dict(inputs=large[:, ::scale, ::scale], data_samples=sample)


KINDS = {
    kind.__name__: kind
    for kind in (
        detection,
        rotated,
        segmentation,
        pose,
        people,
        video,
        points,
        labelled,
        restoration,
    )
}
