# SPDX-License-Identifier: Apache-2.0
"""Self-contained HTML pages, without other files or network access."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(title: str, body: str) -> str:
    """Format a complete HTML page.

    Args:
        title: Title and first heading of the page.
        body: Rest of the page, as HTML.
    """
    return _PAGE.format(title=html.escape(title), body=body)


def png(figure: Figure) -> bytes:
    """Render a figure as PNG, and close it."""
    from matplotlib import pyplot as plt

    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=130)
    plt.close(figure)
    return picture.getvalue()


def embedded(picture: bytes, alt: str) -> str:
    """Embed a PNG in an HTML page.

    Args:
        picture: The PNG.
        alt: Alternative text.
    """
    data = base64.b64encode(picture).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format an HTML table with row headings in the first column."""
    head = ''.join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    lines = []
    for first, *rest in rows:
        cells = ''.join(f'<td>{html.escape(cell)}</td>' for cell in rest)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n'
        + '\n'.join(lines)
        + '\n</tbody></table></div>'
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }}
th, td {{ padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #ddd; }}
th {{ font-weight: normal; }}
thead th {{ border-bottom: 2px solid #888; font-weight: bold; }}
img {{ max-width: 100%; height: auto; }}
pre {{ background: #f4f4f4; padding: .75rem; overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
