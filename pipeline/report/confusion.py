"""The confusion matrix as a table whose numbers lead to their cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup


def draw_confusion(
    confusion: Mapping[str, Any], labels: Sequence[str], links: Mapping[str, str]
) -> Markup:
    """Rows are true classes, columns predicted ones; the shade is the part of the row.

    Each number leads to the list of its cases, shown below the table once chosen; `links` gives
    each case's place on the page.
    """
    counts = confusion["counts"]
    head = Markup("").join(
        Markup('<th scope="col"><span>{}</span></th>').format(name) for name in labels
    )
    rows = [_row(number, counts[number], labels) for number in range(len(labels))]
    lists = [
        _list(row, column, labels, _ids(confusion, labels[row], labels[column]), links)
        for row in range(len(labels))
        for column in range(len(labels))
        if counts[row][column]
    ]
    return Markup(
        '<div class="scroll"><table class="confusion{}">'
        '<thead><tr><td></td><th scope="colgroup" colspan="{}">predicted</th><td></td></tr>'
        '<tr><th scope="col" class="corner">truth</th>{}<th scope="col"><span>cases</span></th>'
        "</tr></thead><tbody>{}</tbody></table></div>{}"
    ).format(
        " many" if len(labels) > 12 else "",
        len(labels),
        head,
        Markup("").join(rows),
        Markup("").join(lists),
    )


def commonest_share(confusion: Mapping[str, Any]) -> tuple[int, float] | None:
    """The row with most cases and its part of all: what always naming it would score."""
    totals = [sum(row) for row in confusion["counts"]]
    if not sum(totals):
        return None
    row = totals.index(max(totals))
    return row, totals[row] / sum(totals)


def worst_pairs(
    confusion: Mapping[str, Any], labels: Sequence[str], *, most: int = 3
) -> list[tuple[str, str, int, int]]:
    """The commonest mistakes: (true, predicted, how often, cases of the true class)."""
    pairs = [
        (labels[row], labels[column], count, sum(counts))
        for row, counts in enumerate(confusion["counts"])
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def _row(number: int, counts: Sequence[int], labels: Sequence[str]) -> Markup:
    total = sum(counts)
    cells = [_cell(number, column, count, total, labels) for column, count in enumerate(counts)]
    return Markup('<tr><th scope="row">{}</th>{}<td class="total">{}</td></tr>').format(
        labels[number], Markup("").join(cells), total
    )


def _cell(row: int, column: int, count: int, total: int, labels: Sequence[str]) -> Markup:
    side = "hit" if row == column else "miss"
    if not count:
        return Markup('<td class="{}"></td>').format(side)
    verb = "found" if row == column else f"taken for {labels[column]}"
    title = f"{labels[row]} {verb}: {count} of {total} ({100 * count / total:.0f} %)"
    return Markup(
        '<td class="{}" style="--part:{:.3f}"><a href="#cell-{}-{}" title="{}">{}</a></td>'
    ).format(side, count / total, row, column, title, count)


def _ids(confusion: Mapping[str, Any], true: str, found: str) -> list[str]:
    return [str(name) for name in (confusion.get("ids") or {}).get(f"{true}|{found}", [])]


def _list(
    row: int, column: int, labels: Sequence[str], ids: Sequence[str], links: Mapping[str, str]
) -> Markup:
    verb = "found" if row == column else f"taken for {labels[column]}"
    each = Markup("").join(
        Markup('<li><a href="{}">{}</a></li>').format(links[name], name)
        if name in links
        else Markup("<li>{}</li>").format(name)
        for name in ids
    )
    return Markup(
        '<div class="cell" id="cell-{}-{}"><p><strong>{}</strong> {}</p><ul>{}</ul></div>'
    ).format(row, column, labels[row], verb, each)
