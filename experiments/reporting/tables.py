"""Tables for people and programs: text, Markdown, LaTeX and CSV out of the same cells."""

from __future__ import annotations

import csv
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from experiments.reporting.statistics import Mean

LATEX_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "†": r"\textdagger{}",
        "\n": " ",
    }
    | {character: "\\" + character for character in "&%$#_{}"}
)


class Cell(ABC):
    """What stands in a table, in each of its forms."""

    @abstractmethod
    def text(self) -> str:
        """For people, without markup."""

    @abstractmethod
    def latex(self) -> str:
        """For LaTeX, escaped."""

    @abstractmethod
    def fields(self) -> list[str]:
        """For CSV: as many fields as the column has headings."""


@dataclass(frozen=True)
class Text(Cell):
    """Words."""

    value: str

    def text(self) -> str:
        """On one line."""
        return " ".join(self.value.split())

    def latex(self) -> str:
        """Escaped."""
        return escape_latex(self.value)

    def fields(self) -> list[str]:
        """As it is."""
        return [self.value]


@dataclass(frozen=True)
class Number(Cell):
    """A mean over ``num_runs`` runs with its standard error; None where there is none.

    No more than ``digits`` decimals are shown, and no more than the error's first two digits.
    ``note`` follows the number; ``best`` is set in bold (LaTeX); the 95 % interval is
    mean ± ``reach`` × standard error.
    """

    mean: float | None
    standard_error: float | None
    num_runs: int
    digits: int = 2
    note: str = ""
    best: bool = False
    reach: float = math.nan

    @classmethod
    def of(cls, mean: Mean, digits: int, note: str = "") -> Number:
        """The cell of a mean."""
        return cls(mean.mean, mean.standard_error, mean.num_runs, digits, note, reach=mean.reach)

    @property
    def decimals(self) -> int:
        """How many the error allows, itself rounded to two digits: 9.96 is 10."""
        if not self.standard_error or not math.isfinite(self.standard_error):
            return self.digits
        exponent = int(f"{self.standard_error:.1e}".partition("e")[2])
        return min(self.digits, max(0, 1 - exponent))

    def text(self) -> str:
        """``-87.15 ± 0.07``; a dash for no number."""
        if self.mean is None:
            return "-"
        error = self._rounded_error()
        return f"{self.rounded()}{error and f' ± {error}'}{self.note}"

    def latex(self) -> str:
        r"""``$-87.15 \pm 0.07$``; a dash for no number."""
        if self.mean is None:
            return "--"
        mean = _in_formula(self.rounded())
        mean = rf"\mathbf{{{mean}}}" if self.best else mean
        error = _in_formula(self._rounded_error())
        spread = rf" \pm {error}" if error else ""
        return f"${mean}{spread}${escape_latex(self.note)}"

    def fields(self) -> list[str]:
        """The numbers of ``NUMBER_FIELDS``: exact, empty where there is none."""
        numbers = (self.mean, self.standard_error, *self.interval)
        texts = ["" if number is None else repr(number) for number in numbers]
        return [*texts, str(self.num_runs), self.note.strip()]

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Where the truth lies with a probability of 95 %."""
        if self.mean is None or self.standard_error is None or math.isnan(self.reach):
            return None, None
        return self.mean - self.reach * self.standard_error, (
            self.mean + self.reach * self.standard_error
        )

    def rounded(self, decimals: int | None = None) -> str:
        """The mean as it is shown, or with so many decimals; never as -0."""
        assert self.mean is not None
        return self._format(self.mean, self.decimals if decimals is None else decimals)

    def _rounded_error(self) -> str:
        """The error as it is shown; one that is not zero is never shown as zero."""
        if self.standard_error is None:
            return ""
        least = 10.0**-self.decimals if self.standard_error > 0 else 0.0
        return self._format(max(self.standard_error, least), self.decimals)

    def _format(self, value: float, decimals: int) -> str:
        if not (self.standard_error and LARGE <= self.standard_error < math.inf):
            return f"{value:z.{decimals}f}"
        mantissa, exponent = f"{value:z.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"


LARGE = 1e6
"""With an error from here on numbers are shown by powers of ten."""


def _in_formula(number: str) -> str:
    mantissa, _, exponent = number.partition("e")
    if exponent:
        return rf"{mantissa} \times 10^{{{exponent}}}"
    return number.replace("inf", r"\infty").replace("nan", r"\mathrm{nan}")


NUMBER_FIELDS = ("", " s.e.", " lower", " upper", " runs", " note")
"""What stands after the label in the headings of a number's fields in CSV."""


class Heading(NamedTuple):
    """A column's head; ``is_number`` columns are set to the right."""

    label: str
    is_number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings; the caption says what the numbers are."""

    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    caption: Sequence[str] = ()


def escape_latex(text: str) -> str:
    """``text`` with the characters that LaTeX takes for commands escaped."""
    return text.translate(LATEX_ESCAPES)


def to_text(table: Table) -> str:
    """Columns set under their headings, two spaces apart."""
    cells = [[heading.label for heading in table.headings]]
    cells += [[cell.text() for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if heading.is_number else text.ljust(width)
            for text, width, heading in zip(line, widths, table.headings, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "".join(f"{line}\n" for line in [*table.caption, *lines])


def to_markdown(table: Table) -> str:
    """A pipe table under its caption."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |\n"

    caption = " ".join(table.caption)
    head = line([heading.label for heading in table.headings])
    rule = line(["---:" if heading.is_number else "---" for heading in table.headings])
    body = "".join(line([cell.text() for cell in row]) for row in table.rows)
    return (f"{caption}\n\n" if caption else "") + head + rule + body


def to_latex(table: Table) -> str:
    r"""A tabular to be read by ``\input``; the caption stands in comments."""
    alignment = "".join("r" if heading.is_number else "l" for heading in table.headings)
    rows = [[escape_latex(heading.label) for heading in table.headings]]
    rows += [[cell.latex() for cell in row] for row in table.rows]
    # After a rule or the end of a row LaTeX would take these for its argument.
    head, *body = [f"{'{}' * row[0].startswith(('[', '*'))}{' & '.join(row)}" for row in rows]
    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% {line}" for line in table.caption),
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *(rf"{row} \\" for row in body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Exact values; a column of numbers gives those of ``NUMBER_FIELDS``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    labels: list[str] = []
    for heading in table.headings:
        labels += [heading.label + of for of in (NUMBER_FIELDS if heading.is_number else ("",))]
    writer.writerow(labels)
    writer.writerows([field for cell in row for field in cell.fields()] for row in table.rows)
    return text.getvalue()


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
}
