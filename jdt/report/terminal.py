"""The final table of a run, for the terminal."""

from rich.markup import escape
from rich.table import Table

from jdt.report.content import TargetFindings
from jdt.report.select import Effect, effects, extremes, first_estimator, typical_sizes
from jdt.report.words import MINUS, NBSP, Scale, clean, decimal, mode_words, scale_of, shorten


def findings_table(findings: TargetFindings, count: int = 3) -> Table:
    """The units that help and harm every target class most, by the first estimator.

    Args:
      findings: Of one target.
      count: How many units of each kind.

    Returns:
      A table with a row for every class, cells like "dogs +2.1 pp (z 6.3)", without z where there is none.
    """
    estimator = first_estimator(findings)
    classes = findings.estimators[estimator].classes
    scale = scale_of(findings.output, typical_sizes(classes))
    title = clean(f"{findings.target}, {mode_words(findings.mode)}: influence on {scale.output} ({estimator})")
    table = Table("target class", "helps most", "harms most", title=escape(title), title_justify="left")
    for column, name in enumerate(classes.target_names):
        rows = effects(classes, column)
        sides = extremes(classes, column, count)
        table.add_row(escape(shorten(name, 28)), *("\n".join(_cell(rows[u], scale) for u in side) for side in sides))
    return table


def _cell(effect: Effect, scale: Scale) -> str:
    # Plain characters: not every terminal has a true minus sign, and people search and copy these lines.
    z = "" if effect.z is None else f" (z {decimal(effect.z, 1)})"
    numbers = f"{scale.effect(effect.influence)}{z}".replace(MINUS, "-").replace(NBSP, " ")
    return escape(f"{shorten(effect.unit, 28)} {numbers}")
