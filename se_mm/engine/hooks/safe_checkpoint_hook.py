# SPDX-License-Identifier: Apache-2.0
"""The hook that removes an old checkpoint only when the new one is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from se_mm.smoothing.options import OptionError


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, which loses nothing when it is interrupted.

    MMEngine's own removes the oldest of ``max_keep_ckpts`` files before it writes the next: with 1,
    a run that ends there, or whose disk is full, has none left. A resumed run that was copied
    elsewhere removes the best checkpoint of the original.

    Args:
        **options: Those of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        OptionError: Before the first iteration, if ``filename_tmpl`` leads out of the folder.
    """

    def before_train(self, runner: Runner) -> None:
        """Refuse a file name that leads elsewhere, and find the folder."""
        name = self.filename_tmpl.format(0)
        if os.path.basename(name) != name:
            raise OptionError(
                f'checkpoint.filename_tmpl={self.filename_tmpl!r} is not allowed: a file name '
                f'without a folder, as {"epoch_{}.pth"!r}. The folder is out_dir.'
            )
        # A checkpoint brings them along, and they become names of files that are removed.
        ids = runner.message_hub.runtime_info.get('keep_ckpt_ids')
        if ids is not None and not all(isinstance(step, int) for step in ids):
            raise OptionError(f'the checkpoint has keep_ckpt_ids={ids!r}: damaged.')
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        oldest: Optional[int] = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)  # The parent's then removes nothing.
            # A run that ends before the oldest is removed does so when it goes on.
            known = [*([] if oldest is None else [oldest]), *self.keep_ckpt_ids]
            runner.message_hub.update_info('keep_ckpt_ids', known)
        if hasattr(runner, 'gather_ranks'):  # A ResumableRunner.
            runner.gather_ranks()
        super()._save_checkpoint_with_step(runner, step, meta)
        if oldest is not None:
            self._remove(
                self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(oldest))
            )

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        several = len(self.key_indicators) > 1 if self.save_best else False
        before = dict(self.best_ckpt_path_dict) if several else {'': self._best()}
        # Unknown to the parent's, the old ones are not removed.
        if several:
            self.best_ckpt_path_dict.update(dict.fromkeys(before))
        elif before['']:
            self.best_ckpt_path = None
        super()._save_best_checkpoint(runner, metrics)
        now = self.best_ckpt_path_dict if several else {'': self._best()}
        for key, path in before.items():
            if now.get(key) is None:
                if several:
                    self.best_ckpt_path_dict[key] = path
                else:
                    self.best_ckpt_path = path
            elif path and path != now[key]:
                self._remove(path)

    def _best(self) -> Optional[str]:
        return getattr(self, 'best_ckpt_path', None)

    def _remove(self, path: str) -> None:
        """Remove a checkpoint of this run."""
        if not is_main_process() or Path(path).parent != Path(self.out_dir):
            return  # The run was copied, and the file is the original's.
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
