"""LaTeX tables (booktabs) ready for \\input."""

from __future__ import annotations

from typing import Any

import pandas as pd

SIGNS = {"≥": r"$\geq$", ">": "$>$", "×": r"$\times$", "−": "$-$", "†": r"\textsuperscript{\textdagger}", "–": "--"}
SIGNS |= {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}"}
SIGNS |= {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "~": r"$\sim$", "\\": r"\textbackslash{}", "^": r"\^{}"}


def escape(text: str) -> str:
    """Text with LaTeX's special signs made printable."""
    return "".join(SIGNS.get(sign, sign) for sign in text)


def escaped(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of texts whose cells, columns and rows are LaTeX."""
    out = frame.map(escape)
    out.index = pd.Index([escape(str(name)) for name in frame.index])
    out.columns = pd.Index([escape(str(name)) for name in frame.columns])
    return out


def as_wide_as_the_line(frame: pd.DataFrame, **options: Any) -> str:
    """A table scaled to the line's width; its texts are taken as LaTeX, `options` are those of `DataFrame.to_latex`."""
    return "\n".join(["\\resizebox{\\linewidth}{!}{%", frame.to_latex(**options).strip(), "}"])


def table(frame: pd.DataFrame, caption: str, label: str) -> str:
    """A table of texts as wide as the line, in its environment: the index on the left, cells on the right.

    Args:
        frame: plain texts, as the caption is.
        caption: of the table.
        label: without "tab:".
    """
    body = as_wide_as_the_line(escaped(frame), column_format="l" + "r" * frame.shape[1])
    return environment(escape(caption), label, body)


def environment(caption: str, label: str, *body: str) -> str:
    """The whole table environment around its parts; the caption is taken as LaTeX."""
    return "\n".join(
        [
            "% needs \\usepackage{booktabs,graphicx}",
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{label}}}",
            *body,
            "\\end{table}",
            "",
        ]
    )
