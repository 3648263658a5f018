"""What every LaTeX table must be, whoever wrote it."""

from __future__ import annotations

import re

from pylatexenc.latexwalker import LatexWalker  # type: ignore[import-untyped]

# Commands of a row that hold no cell.
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|endfirsthead|endhead|endfoot|cmidrule(?:\(\w+\))?\{[\d-]+\}|addlinespace(?:\[\w+\])?)"
)


def check(tex: str) -> int:
    """Parse a table strictly and count the cells of its rows against its columns; the number of rows.

    Raises:
        LatexWalkerParseError: where braces, brackets or environments do not fit.
        AssertionError: where a row has more or fewer cells than the table has columns, or a sign is not LaTeX.
    """
    LatexWalker(tex, tolerant_parsing=False).get_latex_nodes()
    rows = 0
    for found in re.finditer(r"\\begin\{(tabular|longtable)\}", tex):
        columns, start = _group(tex, found.end())
        body = tex[start : tex.index(f"\\end{{{found[1]}}}", start)]
        if found[1] == "longtable":
            body = re.sub(r"\\caption\{.*\}\n\\label\{.*\} \\\\", "", body)
        for row in re.split(r"\\\\(?!\w)", body):
            cells = _RULES.sub("", row).strip()
            if not cells:
                continue
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", cells))
            assert len(re.findall(r"(?<!\\)&", cells)) + 1 + spanned == width(columns), cells
            rows += 1
    assert rows, "no table"
    return rows


def width(columns: str) -> int:
    """Number of columns of a table's specification."""
    out, at = 0, 0
    while at < len(columns):
        sign = columns[at]
        at += 1
        if sign in "@>p":
            _, at = _group(columns, at)
        out += sign in "lrcp"
    return out


def _group(text: str, at: int) -> tuple[str, int]:
    """What stands in the braces that open at a place, and the place behind them."""
    assert text[at] == "{"
    depth = 0
    for end in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[at + 1 : end], end + 1
    raise AssertionError(f"braces do not close: {text[at : at + 40]}")


def check_signs(tex: str) -> None:
    """Only signs that every LaTeX prints: letters, and what is special is escaped or in mathematics."""
    lines = [line for line in tex.splitlines() if not line.startswith("%")]
    assert "\n".join(lines).isascii(), {sign for sign in "".join(lines) if not sign.isascii()}
    text = re.sub(r"\\ifdim\\width>\\linewidth|>\{\\raggedright", "", re.sub(r"\$[^$]*\$", "", "\n".join(lines)))
    text = re.sub(r"\{\\hspace\{2em\}\}|resizebox\{.*\}\{!\}\{%", "", text)
    assert not re.search(r"(?<!\\)[<>|#^%]|(?<!\\)_(?![^{}]*\}(?:\s|$))", re.sub(r"\\label\{[^}]*\}", "", text)), text
