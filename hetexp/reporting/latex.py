"""LaTeX tables (booktabs) ready for \\input: values with their intervals below them, so that a page holds them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

SIGNS = {"≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$", ">": "$>$", "<": "$<$", "|": "$|$", "×": r"$\times$"}
SIGNS |= {"−": "$-$", "†": r"\textsuperscript{\textdagger}", "–": "--", "✓": r"\checkmark{}", "✗": r"$\times$"}
SIGNS |= {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", '"': "''"}
SIGNS |= {
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "~": r"$\sim$",
    "\\": r"\textbackslash{}",
    "^": r"\^{}",
    "\N{NO-BREAK SPACE}": "~",
}

PACKAGES = "% needs \\usepackage{amssymb,array,booktabs,graphicx,longtable}"
GAP = "@{\\hspace{2em}}"  # between groups of columns
COLUMN = 4  # columns of values that a column of a page holds; tables of more take the page's width
TALL = 16  # rows with intervals that a page holds; longer tables are set in a smaller size
NAME, HEADING = 30, 13  # letters of a row's name and of a heading, after which they go on in the next line
_INTERVAL = re.compile(r"^(?P<before>[^[]*?) ?(?P<ends>\[[^]]*\])(?P<after>.*)$", re.DOTALL)


def escape(text: str) -> str:
    """Text with LaTeX's special signs made printable."""
    return "".join(SIGNS.get(sign, sign) for sign in text)


def table(
    frame: pd.DataFrame,
    caption: str,
    label: str,
    *,
    groups: Sequence[tuple[str, int]] = (),
    bold: Collection[tuple[int, int]] = (),
    rules: Collection[int] = (),
    sections: Mapping[int, str] | None = None,
    below: str = "",
) -> str:
    """A table of texts in its environment: the index on the left, an interval below its value.

    Args:
        frame: plain texts, as the caption is; in a cell "1.2 [1.0, 1.4]" the brackets are an interval.
        caption: of the table.
        label: without "tab:".
        groups: headings over so many columns each, set apart from each other.
        bold: (row, column) of the values set in bold.
        rules: rows with a rule above them.
        sections: row -> heading above it.
        below: further LaTeX below the table.
    """
    small = "\\small\n" if len(frame) > TALL else ""
    body = small + fitted(tabular(frame, groups=groups, bold=bold, rules=rules, sections=sections or {}))
    return environment(escape(caption), label, body, *([below] if below else []), wide=frame.shape[1] > COLUMN)


def tabular(
    frame: pd.DataFrame,
    *,
    groups: Sequence[tuple[str, int]] = (),
    bold: Collection[tuple[int, int]] = (),
    rules: Collection[int] = (),
    sections: Mapping[int, str] | None = None,
) -> str:
    """The table alone; arguments are those of `table`."""
    width = frame.shape[1]
    sizes = [size for _, size in groups] or [width]
    columns = GAP.join("r" * size for size in sizes)
    lines = [f"\\begin{{tabular}}{{@{{}}l{columns}@{{}}}}", "\\toprule"]
    if groups:
        heads = " & ".join(f"\\multicolumn{{{size}}}{{c}}{{{escape(heading)}}}" for heading, size in groups)
        lines.append(f" & {heads} \\\\")
        ends = [2 + sum(sizes[: i + 1]) for i in range(len(sizes))]
        lines.append("".join(f"\\cmidrule(lr){{{e - s}-{e - 1}}}" for e, s in zip(ends, sizes, strict=True)))
    arrows = [re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", str(name)) for name in frame.columns]
    headings = [textwrap.wrap(name, HEADING, break_long_words=False) or [""] for name in arrows]
    depth = max(map(len, headings), default=1)
    headings = [[""] * (depth - len(parts)) + parts for parts in headings]
    lines += [_row(["", *(escape(parts[level]) for parts in headings)]) for level in range(depth)]
    lines.append("\\midrule")
    for number, (name, cells) in enumerate(zip(frame.index, frame.to_numpy().tolist(), strict=True)):
        if sections and number in sections:
            lines += ["\\midrule"] if number else []
            lines.append(f"\\multicolumn{{{width + 1}}}{{@{{}}l}}{{\\emph{{{escape(sections[number])}}}}} \\\\")
        elif number in rules:
            lines.append("\\midrule")
        lines += _lines(str(name), [str(cell) for cell in cells], {c for r, c in bold if r == number})
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _lines(name: str, cells: Sequence[str], bold: Collection[int]) -> list[str]:
    """One row of a table as lines: values, then their intervals; a long name takes as many."""
    values, intervals = [], []
    for column, cell in enumerate(cells):
        parts = _INTERVAL.match(cell)
        value = escape(parts["before"] if parts else cell)
        values.append(f"\\textbf{{{value}}}" if column in bold else value)
        intervals.append(f"{{\\scriptsize {escape(parts['ends'])}}}" if parts else "")
        if parts and parts["after"].strip():
            values[-1] += f" {escape(parts['after'].strip())}"
    names = textwrap.wrap(name, NAME, break_long_words=False) or [""]
    depth = max(len(names), 2 if any(intervals) else 1)
    rows = [values, intervals, *([""] * len(cells) for _ in range(depth - 2))][:depth]
    names += [""] * (depth - len(names))
    lines = [_row([escape(part), *row]) for part, row in zip(names, rows, strict=True)]
    return [*lines, "\\addlinespace[2pt]"] if depth > 1 else lines


def _row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def fitted(body: str) -> str:
    """A table made smaller where it is wider than the line."""
    return f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{body}\n}}"


def flowing(share: float) -> str:
    """A column of text over several lines, as wide as a share of the line."""
    return f">{{\\raggedright\\arraybackslash}}p{{{share:g}\\linewidth}}"


def long_table(
    frame: pd.DataFrame, caption: str, label: str, columns: Mapping[str, str], gaps: Collection[int] = ()
) -> str:
    """A table of texts that goes on over pages, without an index.

    Args:
        frame: plain texts, as the caption is.
        caption: of the table.
        label: without "tab:".
        columns: of the table -> its letter of LaTeX, e.g. "l" or `flowing(0.4)`.
        gaps: rows with a gap above them.
    """
    head = [_row([escape(name) for name in columns]), "\\midrule"]
    rows = []
    for number, cells in enumerate(frame[list(columns)].to_numpy().tolist()):
        rows += ["\\addlinespace"] if number in gaps else []
        rows.append(_row([escape(str(cell)) for cell in cells]))
    lines = [
        *(PACKAGES, "{\\footnotesize", "\\setlength{\\tabcolsep}{4pt}", "\\setlength{\\LTcapwidth}{\\linewidth}"),
        f"\\begin{{longtable}}{{@{{}}{''.join(columns.values())}@{{}}}}",
        *(f"\\caption{{{escape(caption)}}}", f"\\label{{tab:{label}}} \\\\"),
        *("\\toprule", *head, "\\endfirsthead", "\\toprule", *head, "\\endhead", "\\bottomrule", "\\endfoot"),
        *(*rows, "\\end{longtable}", "}", ""),
    ]
    return "\n".join(lines)


def environment(caption: str, label: str, *body: str, wide: bool = False) -> str:
    """The whole table environment around its parts; the caption is taken as LaTeX.

    Args:
        caption: of the table.
        label: without "tab:".
        body: its parts.
        wide: whether it takes the page's width where the page has two columns.
    """
    name = "table*" if wide else "table"
    return "\n".join(
        [
            PACKAGES,
            f"\\begin{{{name}}}",
            "\\centering",
            "\\setlength{\\tabcolsep}{4pt}",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{label}}}",
            *body,
            f"\\end{{{name}}}",
            "",
        ]
    )
