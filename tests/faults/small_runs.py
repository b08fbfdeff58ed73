# SPDX-License-Identifier: Apache-2.0
"""Small runs of each kind of teacher, in each way in which a run can be set up."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from forked import start as start_forked
from mmengine.config import Config

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TOOLS = ROOT / 'tools'
ITERS = 12
EPOCHS, BATCHES = 3, 4
SEED = int(os.environ.get('SE_MM_FAULT_SEED', 20210))
FULL = os.environ.get('SE_MM_FAULTS') == 'full'

PLACES = (
    'load',  # in start-up, once the checkpoint is read
    'begin',  # in start-up, right before the first iteration
    'batch',  # once an iteration has its batch
    'before step',
    'after step',
    'before update',
    'within update',
    'after update',
    'within save',  # half of the bytes are written
    'before rename',  # all of them are, under another name
    'after rename',  # before last_checkpoint says so
    'before removal',
)
"""Where a run can kill itself."""


VIEW = [
    dict(type='RandomResizedCrop', scale=8, crop_ratio_range=(0.5, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Brightness', magnitude_level=10, magnitude_range=(0, 0.6), magnitude_std='inf'),
]
MEAN = dict(mean=[127.5] * 3, std=[63.75] * 3)
BACKBONE = dict(type='DroppingConvNet', channels=(8, 8, 16), strides=(2, 1, 1))
CLASSIFIER = dict(
    type='ImageClassifier',
    backbone=BACKBONE,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
)
NECK = dict(type='NonLinearNeck', hid_channels=16, out_channels=8, num_layers=2)


def data(pipeline, ranks):
    """Digits, as many as the epochs of all ranks need."""
    return dict(
        dataset=dict(
            type='Digits', split='test', size=8, indices=8 * BATCHES * ranks, pipeline=pipeline
        ),
        batch_size=8,
        sampler=dict(type='InfiniteSampler', shuffle=True),
        collate_fn=dict(type='default_collate'),
    )


def byol(ranks):
    """BYOL: an averaged module, moved in the forward pass."""
    views = [dict(type='MultiView', num_views=2, transforms=[VIEW]), dict(type='PackInputs')]
    predictor = dict(**NECK, in_channels=8, with_last_bn=False, with_avg_pool=False)
    return dict(
        default_scope='mmpretrain',
        model=dict(
            type='BYOL',
            base_momentum=0.05,
            data_preprocessor=dict(type='SelfSupDataPreprocessor', **MEAN),
            backbone=BACKBONE,
            neck=dict(**NECK, in_channels=16, with_last_bn=False, with_avg_pool=True),
            head=dict(
                type='LatentPredictHead',
                predictor=predictor,
                loss=dict(type='CosineSimilarityLoss'),
            ),
        ),
        train_dataloader=data(views, ranks),
        hook=dict(type='SETMAHook'),
    )


def shadow(ranks):
    """A classifier, with a shadow of its own."""
    return dict(
        default_scope='mmpretrain',
        model=dict(data_preprocessor=dict(num_classes=10, **MEAN), **CLASSIFIER),
        train_dataloader=data([*VIEW, dict(type='PackInputs')], ranks),
        hook=dict(
            type='SETMAHook',
            ema_type='ExponentialMovingAverage',
            momentum=0.05,
            update_buffers=True,
        ),
    )


def fixmatch(ranks):
    """FixMatch: a pair, whose teacher labels for its student."""
    views = dict(type='MultiView', num_views=[1, 1], transforms=[VIEW[:2], VIEW])
    return dict(
        default_scope='mmpretrain',
        model=dict(type='FixMatch', threshold=0.15, data_preprocessor=MEAN, classifier=CLASSIFIER),
        train_dataloader=dict(
            batch_size=4,
            sampler=dict(type='InfiniteSampler'),
            batch_sampler=dict(type='MultiSourceBatchSampler', mu=2),
            collate_fn=dict(type='collate_views'),
            dataset=dict(
                type='SemiSupervisedDataset',
                labelled=dict(type='Digits', split='test', size=8),
                split=dict(num_labels=20, seed=0),
                labelled_pipeline=[*VIEW[:2], dict(type='PackInputs')],
                unlabelled_pipeline=[views, dict(type='PackInputs')],
            ),
        ),
        train_cfg=dict(type='SemiSupervisedTrainLoop', max_iters=ITERS),
        hook=dict(type='SETMAHook', momentum=0.05),
    )


def softteacher(ranks):
    """SoftTeacher: a pair of detectors."""
    base = Config.fromfile(ROOT / 'configs/_base_/softteacher_small.py').to_dict()
    cfg = {key: base[key] for key in ('default_scope', 'model', 'train_dataloader')}
    detector = cfg['model']['detector']
    detector['backbone'].update(type='DroppingConvNet', channels=(8, 8, 16, 16))
    detector['backbone'].update(strides=(2, 2, 2, 2), norm_groups=4)
    detector['neck'].update(in_channels=[8, 16, 16], out_channels=16)
    detector['rpn_head'].update(in_channels=16, feat_channels=16)
    detector['roi_head']['bbox_roi_extractor'].update(out_channels=16)
    detector['roi_head']['bbox_head'].update(in_channels=16, fc_out_channels=16)
    cfg['model']['semi_train_cfg'].update(cls_pseudo_thr=0.05, pseudo_label_initial_score_thr=0.05)
    loader = cfg['train_dataloader']
    loader.update(batch_size=4)
    loader['sampler'].update(batch_size=4)
    for dataset in loader['dataset']['datasets']:
        dataset.update(num_images=16, percent=50)
    return {**cfg, 'hook': dict(type='SETMAHook', momentum=0.05)}


KINDS = {run.__name__: run for run in (byol, fixmatch, softteacher, shadow)}
STUDENTS = dict(byol='', fixmatch='student.', softteacher='student.', shadow='')

PERSISTENT = dict(num_workers=2, persistent_workers=True)
TRANSIENT = dict(num_workers=2, persistent_workers=False)
VARIANTS = dict(
    plain=dict(),
    # The third and the ninth iteration are between two optimizer steps.
    accumulated=dict(accumulated=2, hook=dict(granularity='channel'), loader=TRANSIENT),
    amp=dict(amp=True, hook=dict(granularity='element'), loader=PERSISTENT, keep=2),
    checkpointed=dict(
        checkpointing=True,
        hook=dict(granularity='layer', keep_prob=dict(type='cosine', start=0.2, end=0.9)),
        interval=4,
    ),
    # Reads the data again and again: MMEngine waits two seconds before it begins anew.
    late=dict(hook=dict(begin_iter=5), loader=TRANSIENT, interval=2, passes=True),
    epochs=dict(epochs=True, loader=PERSISTENT, hook=dict(granularity='channel')),
    everything=dict(
        accumulated=2,
        amp=True,
        checkpointing=True,
        loader=PERSISTENT,
        interval=5,
        hook=dict(
            granularity='channel',
            begin_iter=3,
            every_iter=True,
            keep_prob=dict(type='linear', start=0.9, end=0.3),
        ),
    ),
)
"""How runs are set up: a name -> what is unlike a plain run."""


def config(kind, variant, ranks):
    """The config of a run.

    Args:
        kind: One of ``KINDS``.
        variant: One of ``VARIANTS``, or such a dict.
        ranks: Number of ranks.
    """
    variant = VARIANTS[variant] if isinstance(variant, str) else variant
    cfg = KINDS[kind](ranks)
    iters = variant.get('iters', ITERS)
    by_epoch = variant.get('epochs', False) and 'train_cfg' not in cfg and kind != 'softteacher'
    if by_epoch:
        cfg['train_cfg'] = dict(type='EpochBasedTrainLoop', max_epochs=EPOCHS)
    if 'batch_sampler' not in cfg['train_dataloader'] and kind != 'softteacher':
        finite = by_epoch or variant.get('passes', False)
        cfg['train_dataloader']['sampler'].update(
            type='DefaultSampler' if finite else 'InfiniteSampler'
        )
    cfg.setdefault('train_cfg', dict(type='IterBasedTrainLoop', max_iters=iters))
    cfg['train_dataloader'].update(
        dict(num_workers=0, persistent_workers=False), **variant.get('loader', {})
    )
    cfg['optim_wrapper'] = dict(
        optimizer=dict(type='AdamW', lr=2e-3),
        accumulative_counts=variant.get('accumulated', 1),
        clip_grad=dict(max_norm=1.0),
    )
    cfg['param_scheduler'] = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=4, end=iters, eta_min=0.0),
    ]
    # DDP refuses a checkpointed layer that one forward pass uses twice.
    twice = kind in ('byol', 'softteacher')
    if variant.get('checkpointing') and not (twice and ranks > 1):
        cfg['activation_checkpointing'] = [f'{STUDENTS[kind]}backbone.layers.1']
    hook = dict(keep_prob=0.5, **cfg.pop('hook'))
    hook.update(variant.get('hook', {}))
    logger = dict(type='LoggerHook', interval=variant.get('log', 1))
    checkpoint = dict(
        type='CheckpointHook',
        by_epoch=by_epoch,
        interval=1 if by_epoch else variant.get('interval', 3),
        max_keep_ckpts=variant.get('keep', 1),
    )
    return dict(
        **cfg,
        custom_imports=dict(
            imports=['se_mm', 'fault_probe', 'fault_arm'], allow_failed_imports=False
        ),
        default_hooks=dict(logger=logger, checkpoint=checkpoint),
        log_processor=dict(by_epoch=by_epoch),
        custom_hooks=[hook, dict(type='Probe'), *variant.get('hooks', [])],
        randomness=dict(seed=variant.get('seed', 3)),
    )


def options_of(kind, variant):
    """The options of ``tools/train.py`` for a run: mmdet's operators know no bfloat16."""
    return ['--amp'] if VARIANTS[variant].get('amp') and kind != 'softteacher' else []


def write_config(path, cfg):
    """Write a config in Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg.items()))
    return path


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return str(listener.getsockname()[1])


class Launch:
    """The processes of one run.

    Args:
        config: Path of the config.
        work_dir: Folder of logs and checkpoints; the ranks' output goes to files beside it.
        ranks: Number of ranks.
        options: More options of ``tools/train.py``.
        kill: Where the run is to kill itself, see ``fault_probe``.
        forked: Whether the ranks are forks of this process, which has imported everything;
            otherwise they are started as a user starts them.
    """

    def __init__(self, config, work_dir, ranks=1, options=(), kill=None, forked=True):
        count = len(list(work_dir.parent.glob(f'{work_dir.name}.*.log')))
        self.logs = [Path(f'{work_dir}.{count + rank:03d}.log') for rank in range(ranks)]
        self.work_dir = work_dir
        self.forked = forked
        arguments = [config, '--work-dir', work_dir, *options]
        environment = {
            'OMP_NUM_THREADS': '1',
            'PYTHON': sys.executable,
            'PYTHONPATH': f'{HERE}:{os.environ.get("PYTHONPATH", "")}',
            'FAULT_KILL': json.dumps(kill or {}),
        }
        if not forked:
            command = [sys.executable, TOOLS / 'train.py', *arguments]
            if ranks > 1:
                command = ['bash', TOOLS / 'dist_train.sh', config, ranks, *arguments[1:]]
                environment['PORT'] = free_port()
            with self.logs[0].open('w') as log:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    cwd=work_dir.parent,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.processes = [process]
            return
        if ranks > 1:
            arguments += ['--launcher', 'pytorch']
            environment.update(WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1')
            environment.update(MASTER_PORT=free_port())
        self.processes = []
        for rank in range(ranks):
            place = {'RANK': str(rank), 'LOCAL_RANK': str(rank)} if ranks > 1 else {}
            self.processes.append(
                start_forked(
                    [TOOLS / 'train.py', *arguments],
                    cwd=work_dir.parent,
                    env={**environment, **place},
                    log=self.logs[rank],
                )
            )

    def output(self):
        """The end of what the ranks have said."""
        return '\n'.join(log.read_text()[-4000:] for log in self.logs if log.exists())

    def statuses(self):
        """The exit status of each process, None of one that runs."""
        return [process.poll() for process in self.processes]

    def kill(self):
        """Kill all that this run consists of, and wait until it is gone."""
        # The ranks that torchrun starts lead sessions of their own.
        pids = {pid for process in self.processes for pid in descendants(process.pid)}
        for process in self.processes:
            if process.poll() is None:
                pids.add(process.pid)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self.processes:
            process.wait(timeout=600)

    def wait(self, seconds=180.0, until=lambda: False):
        """Wait until all processes have ended, one has failed, or something else holds.

        Returns:
            Whether all of them ended well. If one has failed, the others are killed.
        """
        end = time.monotonic() + seconds
        while not until():
            statuses = self.statuses()
            if any(statuses):
                self.kill()
                return False
            if None not in statuses:
                return True
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f'still running after {seconds} s:\n{self.output()}')
            time.sleep(0.003)
        return False


def descendants(pid):
    """The processes that one has started, and those that these have, of those that are there."""
    children = {}
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            parent = int(path.read_text().rsplit(')', 1)[1].split()[1])
        except (OSError, IndexError):  # It has just ended.
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = list(children.get(pid, []))
    for child in found:  # which grows on the way
        found += children.get(child, [])
    return found
