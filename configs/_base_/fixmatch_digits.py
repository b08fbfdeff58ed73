# scikit-learn's handwritten digits, with two labels for each digit.
_base_ = './fixmatch_small.py'

model = dict(classifier=dict(head=dict(num_classes=10)))
train_dataloader = dict(
    dataset=dict(
        labelled=dict(type='Digits', split='train'),
        split=dict(num_labels=20, seed=0),
    )
)
val_dataloader = dict(dataset=dict(type='Digits', split='test', pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader

max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=200)
param_scheduler = [dict(_base_.param_scheduler[0], T_max=max_iters * 16 / 7, end=max_iters)]
