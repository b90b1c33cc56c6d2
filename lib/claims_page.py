"""The verdicts as a reader sees them: the rules, the count, a table a section."""

import pandas as pd

from lib import claims
from lib.claims import VERDICTS


def rules() -> str:
    """Return the rules by which verdicts are reached, as Markdown; they stand in `lib.claims`, beside the code."""
    return claims.__doc__.partition("\n\n")[2].strip()


def summary(table: pd.DataFrame | None = None) -> str:
    """Return one line: how many of the sentences got which verdict.

    Parameters
    ----------
    table : pandas.DataFrame, optional
        `lib.claims.verdicts`; computed by default.
    """
    table = claims.verdicts() if table is None else table
    counts = table["verdict"].value_counts()
    holds, under_reading, fails, unknown = (int(counts.get(verdict, 0)) for verdict in VERDICTS)
    about = int((~table["place"].str.match("Abstract|Section|Appendix")).sum())
    return (
        f"Of {len(table)} sentences ({about} of them about the paper, not in it), **{holds} hold**, "
        f"**{under_reading} hold under a reading** that the text states or leaves open, **{fails} do not hold** "
        f"against the paper's own tables or a named source, and {unknown} cannot be checked from the tables."
    )


def as_markdown(table: pd.DataFrame) -> str:
    """Return verdicts as a Markdown table: sentence, how it was checked, what was found, verdict and reading."""
    lines = ["| sentence | checked by | found | verdict |", "|---|---|---|---|"]
    for row in table.itertuples():
        verdict = f"**{row.verdict}**" + (f": {row.reading}" if row.reading else "")
        cells = (f"*{row.sentence}*", row.computation, row.found, verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
