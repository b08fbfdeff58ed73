# SPDX-License-Identifier: Apache-2.0
"""A checkpoint hook that removes an old checkpoint only after it has written the new one."""

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
    """MMEngine's ``CheckpointHook``, made safe against interruption.

    MMEngine's hook removes the oldest of ``max_keep_ckpts`` files before it writes the next one. If
    there is only one, a kill or a full disk then leaves none. In a run folder that was copied, it
    removes the best checkpoint of the original.

    Args:
        **options: Those of :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        OptionError: Before the first iteration, if ``filename_tmpl`` contains a folder.
    """

    def before_train(self, runner: Runner) -> None:
        """Check the file name, and set up the folder."""
        name = self.filename_tmpl.format(0)
        if os.path.basename(name) != name:
            raise OptionError(
                f'checkpoint.filename_tmpl must be a file name without a folder, such as '
                f'{"epoch_{}.pth"!r}, got {self.filename_tmpl!r}; set the folder by out_dir'
            )
        # From a checkpoint; the files with these numbers are removed.
        ids = runner.message_hub.runtime_info.get('keep_ckpt_ids')
        if ids is not None and not all(isinstance(step, int) for step in ids):
            raise OptionError(f'keep_ckpt_ids of the checkpoint must be integers, got {ids!r}')
        super().before_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        oldest: Optional[int] = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                oldest = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)  # So that the parent removes nothing.
            # If the run ends before the oldest is removed, the resumed run removes it.
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
        # The parent class must not remove the old ones.
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
            return  # The run folder was copied, and the file belongs to the original.
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
