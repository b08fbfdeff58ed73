# SPDX-License-Identifier: Apache-2.0
"""Several runs in processes of their own: what is repeated, and what ends them.

The processes are scripts that write what MMEngine would, so that each behaviour takes moments;
test_compare.py has real trainings.
"""

import io
import json
import platform
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch
from rich.console import Console

from se_mm.home import HOME as ROOT
from se_mm.smoothing.options import OptionError
from se_mm.studies.runs import Run, RunFailure, run_all

SCRIPT = """
import json, pathlib, sys, time
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
with open(folder / 'starts', 'a') as file:
    file.write(' '.join(sys.argv[2:]) + '\\n')
log = folder / str(time.time()) / 'vis_data/scalars.json'
log.parent.mkdir(parents=True)
write = lambda **line: log.open('a').write(json.dumps(line) + '\\n')
write(loss=1.0, step=1)
if what in ('wait', 'slow'):
    time.sleep(60 if what == 'wait' else 2)
if what == 'fail':
    sys.exit('the data is not there')
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


def fails(run):
    with pytest.raises(RunFailure):
        run.train()


@pytest.fixture
def in_background():
    """Starts a run, and stops it once its process is at work."""

    def start_and_stop(run, checkpoint=False):
        thread = threading.Thread(target=fails, args=[run])
        thread.start()
        while not (run.work_dir / 'starts').exists():
            time.sleep(0.05)
        if checkpoint:
            (run.work_dir / 'last_checkpoint').write_text('iter_1.pth')
        run.stop()
        thread.join()

    return start_and_stop


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


def test_another_setup_in_the_same_folder_is_trained_and_the_first_is_kept(make):
    run_all([make('a', identity='one')], quiet())
    first = (make('a').work_dir / 'metrics.json').read_text()
    other = make('a', identity='other')
    assert other.metrics is None
    run_all([other], quiet())
    assert starts(other) == ['train']
    assert (other.work_dir.with_name('a.old-1') / 'metrics.json').read_text() == first


def test_identity_is_the_value_and_not_the_order_of_its_keys(make):
    run_all([make('a', identity={'x': 1, 'y': (2, 3)})], quiet())
    assert make('a', identity={'y': [2, 3], 'x': 1}).metrics
    assert make('a', identity={'y': [2, 3], 'x': 2}).metrics is None


def test_stopped_run_goes_on_where_it_has_a_checkpoint(make, in_background):
    in_background(make('a', 'wait', identity='same'))
    again = make('a', identity='same')
    run_all([again], quiet())
    assert starts(again) == ['train']
    in_background(make('b', 'wait', identity='same'), checkpoint=True)
    again = make('b', identity='same')
    run_all([again], quiet())
    (first, second) = starts(again)
    assert first == 'wait' and second.startswith('train --resume --cfg-options default_hooks.')


def test_run_json_says_what_was_run_where_and_how_often(make, in_background):
    in_background(make('a', 'wait', identity={'seed': 3}), checkpoint=True)
    run = make('a', identity={'seed': 3})
    run_all([run], quiet())
    known = json.loads((run.work_dir / 'run.json').read_text())
    assert known['identity'] == {'seed': 3}
    assert len(known['starts']) == 2
    for start in known['starts']:
        assert start['host'] == platform.node() and start['torch'] == torch.__version__
        assert start['command'][0] == sys.executable


def test_failure_before_any_success_ends_all_and_later_ones_are_told_at_the_end(make):
    runs = [make('a', 'fail'), make('b', 'wait')]
    with pytest.raises(RunFailure, match=r'a ended with status 1(.|\n)*the data is not there'):
        run_all(runs, quiet(), jobs=1)
    assert runs[1].metrics is None
    (failure,) = run_all([make('b'), make('a', 'fail'), make('c')], quiet(), jobs=1)
    assert str(failure).startswith('a ended with status 1')
    assert make('c').metrics


def test_metric_that_no_run_reports_is_told_after_the_first_with_those_there_are(make):
    runs = [make('a'), make('b', 'wait')]
    with pytest.raises(OptionError, match=r"a metric of a must be .*, got 'acuracy/top1'") as told:
        run_all(runs, quiet(), jobs=1, wanted=['acuracy/top1'])
    assert "Did you mean 'accuracy/top1'?" in str(told.value)
    assert runs[0].metrics and runs[1].metrics is None


def test_process_of_a_killed_comparison_ends_before_its_run_goes_on(make):
    left = make('a', 'wait', identity='same')
    code = f"""
import sys, threading
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from se_mm.studies.runs import Run
Run('a', Path({str(left.work_dir)!r}), {left.command!r}, 2, 'same').train()
"""
    parent = subprocess.Popen([sys.executable, '-c', code])
    while not (left.work_dir / 'starts').exists():
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    begin = time.monotonic()
    run = make('a', identity='same')
    run_all([run], quiet())
    assert run.metrics
    assert time.monotonic() - begin < 30  # It would wait for 60.


def test_two_comparisons_of_the_same_runs_train_each_once(make):
    runs = [[make('a', 'slow'), make('b', 'slow')] for _ in range(2)]
    threads = [threading.Thread(target=run_all, args=(each, quiet())) for each in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [starts(run) for run in runs[0]] == [['slow'], ['slow']]
    assert all(run.metrics for run in runs[1])


def test_run_that_another_comparison_trains_can_be_stopped_without_it(make):
    other, run = make('a', 'wait'), make('a', 'wait')
    threads = [threading.Thread(target=fails, args=[other]), threading.Thread(target=run.train)]
    threads[0].start()
    while not (other.work_dir / 'starts').exists():
        time.sleep(0.05)
    threads[1].start()
    run.stop()
    threads[1].join(timeout=10)
    assert not threads[1].is_alive()
    assert run.process is None and other.process.poll() is None
    other.stop()
    threads[0].join()


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
    path.write_text(json.dumps({'identity': run.identity, 'metrics': {'x': 1.0}}))
    assert run.metrics == {'x': 1.0}
