# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of results: medians, ratios, and how they are printed."""

from dataclasses import dataclass, field
from statistics import median

from config import MIB


def text_of(value, unit):
    """A value for people: bytes as MiB, seconds as milliseconds."""
    if unit == 'bytes':
        # What others in the kernel do is seen as some KiB more or less.
        return f'{value / MIB:.2f}'.replace('-0.00', '0.00') + ' MiB'
    if unit == 'seconds':
        return f'{value * 1000:.{1 if value >= 0.1 else 2}f} ms'
    return f'{value:g}'


@dataclass
class Row:
    """A quantity of all subjects; several samples of each."""

    section: str
    name: str
    unit: str
    samples: dict = field(default_factory=dict)

    def add(self, subject, value):
        self.samples.setdefault(subject, []).append(value)

    def median(self, subject):
        return (median(self.samples[subject])
                if subject in self.samples else None)

    def text(self, subject):
        value = self.median(subject)
        return '-' if value is None else text_of(value, self.unit)

    def ratio(self, subject, reference):
        """How much of the reference's cost this subject has."""
        ours, theirs = self.median(subject), self.median(reference)
        if ours is None or not theirs or theirs < 0:
            return None
        return max(ours, 0) / theirs

    def ratio_text(self, subject, reference):
        value = self.ratio(subject, reference)
        if value is None:
            return '-'
        return f'{value:.4f}' if value < 1 else f'{value:.2f}'


class Results:
    """All rows, in the order in which they are first mentioned."""

    def __init__(self):
        self._rows = {}

    def row(self, section, name, unit):
        return self._rows.setdefault((section, name),
                                     Row(section, name, unit))

    def sections(self):
        grouped = {}
        for (section, _), row in self._rows.items():
            grouped.setdefault(section, []).append(row)
        return grouped

    def tables(self, subjects, reference=None):
        """Text with a table for each section; ratios if there is a stock."""
        compared = [s for s in subjects if reference and s != reference]
        parts = []
        for section, rows in self.sections().items():
            # A table of nothing but zeroes has no ratios.
            with_ratio = [s for s in compared if any(
                row.ratio(s, reference) is not None for row in rows)]
            lines = [['', *subjects,
                      *(f'{s}/{reference}' for s in with_ratio)]]
            for row in rows:
                lines.append([row.name, *(row.text(s) for s in subjects),
                              *(row.ratio_text(s, reference)
                                for s in with_ratio)])
            parts.append(f'{section}\n{table(lines)}')
        return '\n\n'.join(parts)

    def as_json(self, subjects, reference=None):
        return [{'section': row.section, 'name': row.name, 'unit': row.unit,
                 'samples': row.samples,
                 'median': {s: row.median(s) for s in subjects
                            if s in row.samples},
                 'ratio': {s: row.ratio(s, reference) for s in subjects
                           if row.ratio(s, reference) is not None}
                 if reference else {}}
                for rows in self.sections().values() for row in rows]


def table(lines):
    """Columns as wide as needed; the first to the left, others right."""
    widths = [max(len(line[column]) for line in lines)
              for column in range(len(lines[0]))]
    out = []
    for first, *rest in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width)
                  for cell, width in zip(rest, widths[1:])]
        out.append('  '.join(cells).rstrip())
    out.insert(1, '  '.join('-' * width for width in widths))
    return '\n'.join(out)
