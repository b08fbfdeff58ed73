# FixMatch on glyphs, 4 labels for each letter: up to which keep_prob a smoothing does not lose
# accuracy.
#
# The trainings are those of fixmatch_glyphs.py; 150 of them take 45 minutes on two cores:
#   python tools/compare.py configs/studies/fixmatch_keep-prob.py --work-dir work_dirs/keep-prob
_base_ = 'fixmatch_glyphs.py'
configs = {'_delete_': True, '4-labels': '../fixmatch/fixmatch_tma_conv4_1xb32_glyphs-4.py'}
matrix = [
    dict(smoothing='none'),
    dict(smoothing='tma', momentum=0.05),
    dict(smoothing='se', keep_prob=[0.8, 0.9, 0.95]),
    dict(smoothing='sts', keep_prob=[0.1, 0.3, 0.5, 0.7], momentum=0.05),
]
