# SPDX-License-Identifier: Apache-2.0
"""What --cfg-options reads as MMEngine does, what it keeps, and what it refuses."""

import argparse

import pytest

from se_mm.engine.cfg_options import key_value


def parsed(*pairs):
    """The options of a command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', type=key_value)
    return parser.parse_args(['--cfg-options', *pairs]).cfg_options


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('c', "must be KEY=VALUE, got 'c'"),
        (
            'c=[dict(type=1,b=2)]',
            "VALUE must be a number, a string, or a list or tuple of these, got 'c=[dict(",
        ),
        ('c=[(1,2', "tuple of these, got 'c=[(1,2'"),
        ('a.data_root=my,images', """in quotes: "KEY='a, b'" or"""),
        ('a.data_prefix.img=my, images', 'put a string with a comma'),
        ('c=[my ants, bees]', """one with a space in a list, in quotes: """),
    ],
)
def test_option_that_cannot_be_read_is_refused_as_any_wrong_option(capsys, option, said):
    with pytest.raises(SystemExit) as end:
        parsed('a.b=1', option)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('data/my images (2)', 'data/my images (2)'),
        ("'data/my, images'", 'data/my, images'),
        ('"it\'s, [ours"', "it's, [ours"),
        ("it's mine", "it's mine"),
        ("['my ants', 'bees, wild', 0]", ['my ants', 'bees, wild', 0]),
        ("('a',)", ('a',)),
        ("'1'", '1'),
        # As MMEngine's own.
        ('1', 1),
        (' 1e-3 ', 1e-3),
        ('None', None),
        ('true', True),
        ('', ''),
        ('1,b', [1, 'b']),
        ('[1, b ,(2, [c])]', [1, 'b', (2, ['c'])]),
        ("('a')", ('a',)),
    ],
)
def test_spaces_and_quotes_of_an_option_are_kept(text, value):
    options = parsed(f'a.data={text}', 'b=1')
    assert options == [('a.data', value), ('b', 1)]
    assert type(options[0][1]) is type(value)
