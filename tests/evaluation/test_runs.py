# SPDX-License-Identifier: Apache-2.0
"""Several runs in processes of their own: what is repeated, and what ends them.

The processes are scripts that write what MMEngine would, so that each behaviour takes moments;
tests/tools/test_compare.py has real trainings.
"""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from rich.console import Console

from se_mm.evaluation.runs import Run, RunFailure, run_all
from se_mm.home import HOME as ROOT
from se_mm.smoothing.options import OptionError

SCRIPT = """
import json, pathlib, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
with open(folder / 'starts', 'a') as file:
    file.write(' '.join(sys.argv[2:]) + '\\n')
log = folder / str(time.time()) / 'vis_data/scalars.json'
log.parent.mkdir(parents=True)
write = lambda **line: log.open('a').write(json.dumps(line) + '\\n')
write(loss=1.0, step=1)
if what == 'wait':
    time.sleep(60)
if what == 'fail':
    sys.exit('the data is not there')
if '--resume' not in sys.argv or what != 'silent':
    write(**{'accuracy/top1': 50.0, 'time': 1.0, 'step': 2})
"""


@pytest.fixture
def make(tmp_path):
    """Makes a run of the script, in a folder of its name."""
    script = tmp_path / 'script.py'
    script.write_text(textwrap.dedent(SCRIPT))

    def run(name, what='train', identity=None):
        folder = tmp_path / name
        return Run(name, folder, [sys.executable, str(script), str(folder), what], 2, identity)

    return run


def quiet():
    return Console(file=io.StringIO())


def starts(run):
    return (run.work_dir / 'starts').read_text().splitlines()


def test_complete_run_has_the_metrics_of_its_last_evaluation_and_is_not_repeated(make):
    runs = [make('a'), make('b')]
    assert run_all(runs, quiet(), jobs=2) == []
    assert [run.metrics for run in runs] == [{'accuracy/top1': 50.0}] * 2
    run_all([make('a'), make('b')], quiet())
    assert starts(runs[0]) == ['train']


def test_run_that_is_another_by_its_identity_is_made_anew(make):
    run_all([make('a', identity='one')], quiet())
    assert make('a', identity='other').metrics is None
    other = make('a', identity='other')
    run_all([other], quiet())
    assert starts(other) == ['train']  # Nothing of the first is left.


def test_stopped_run_goes_on_where_it_has_a_checkpoint(make):
    run = make('a', 'wait', identity='same')
    run.start()
    run.stop()
    make_again = make('a', identity='same')
    run_all([make_again], quiet())
    assert starts(make_again) == ['train']
    run = make('b', 'wait', identity='same')
    run.start()
    (run.work_dir / 'last_checkpoint').write_text('iter_1.pth')
    while not (run.work_dir / 'starts').exists():
        time.sleep(0.05)
    run.stop()
    make_again = make('b', identity='same')
    run_all([make_again], quiet())
    assert starts(make_again) == ['wait', 'train --resume']


def test_run_stopped_in_its_last_evaluation_is_made_anew(make):
    run = make('a', 'silent', identity='same')
    run.work_dir.mkdir()
    (run.work_dir / 'log.txt').write_text('')
    (run.work_dir / 'last_checkpoint').write_text('iter_2.pth')
    (run.work_dir / 'run.json').write_text('{"identity": "same"}')
    run_all([run], quiet())
    assert run.metrics == {'accuracy/top1': 50.0}
    assert starts(run) == ['silent']


def test_failure_before_any_success_ends_all_and_later_ones_are_told_at_the_end(make):
    runs = [make('a', 'fail'), make('b')]
    with pytest.raises(RunFailure, match=r'a ended with status 1(.|\n)*the data is not there'):
        run_all(runs, quiet(), jobs=1)
    assert runs[1].metrics is None
    (failure,) = run_all([make('b'), make('a', 'fail'), make('c')], quiet(), jobs=1)
    assert str(failure).startswith('a ended with status 1')
    assert make('c').metrics


def test_metric_that_no_run_reports_is_told_after_the_first_with_those_there_are(make):
    runs = [make('a'), make('b')]
    with pytest.raises(OptionError, match=r"those that a reported, .*, got 'acuracy/top1'") as told:
        run_all(runs, quiet(), jobs=1, wanted=['acuracy/top1'])
    assert "Did you mean 'accuracy/top1'?" in str(told.value)
    assert runs[0].metrics and runs[1].metrics is None


def test_process_that_a_killed_comparison_left_behind_is_ended_before_its_run_goes_on(make):
    left = make('a', 'wait', identity='same')
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from se_mm.evaluation.runs import Run
run = Run('a', Path({str(left.work_dir)!r}), {left.command!r}, 2, 'same')
run.start()
print(run.process.pid, flush=True)
run.process.wait()
"""
    words = [sys.executable, '-c', code]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    os.kill(pid, 0)  # It goes on alone.
    run = make('a', identity='same')
    run_all([run], quiet())
    assert run.metrics
    with pytest.raises(ProcessLookupError):
        while True:  # Ended; whoever inherited it may still have to take notice.
            os.kill(pid, 0)
            time.sleep(0.1)


@pytest.mark.parametrize(
    'visible, expected',
    [(None, {'0', '1'}), ('3,5', {'3', '5'}), ('GPU-8f, GPU-1c', {'GPU-8f', 'GPU-1c'})],
)
def test_gpus_are_shared_out_of_those_that_the_comparison_sees(
    make, tmp_path, monkeypatch, visible, expected
):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    script = tmp_path / 'script.py'
    script.write_text(
        script.read_text() + "\nimport os\n(folder / 'gpu').write_text("
        "os.environ.get('CUDA_VISIBLE_DEVICES', ''))\n"
    )
    runs = [make(name) for name in 'abcd']
    run_all(runs, quiet(), jobs=2, gpus=2)
    used = [(run.work_dir / 'gpu').read_text() for run in runs]
    assert set(used) == expected and used[0] != used[1]


def test_files_of_a_run_that_were_cut_off_count_as_none(make):
    run = make('a')
    run_all([run], quiet())
    path = run.work_dir / 'metrics.json'
    path.write_text(path.read_text()[:-10])
    assert run.metrics is None
    path.write_text(json.dumps({'identity': run.command, 'metrics': {'x': 1.0}}))
    assert run.metrics == {'x': 1.0}
