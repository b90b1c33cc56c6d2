"""The verdicts of the evidence: each sentence is made of committed tables, by its own study's code."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from lib import controls_tables, plots_dial, plots_localisation
from lib.audit import verdict as audit_verdict
from lib.errors import InputError, unknown_name
from lib.summary import SHOWN, WIDTH, read_figures

Read = Callable[[str], pd.DataFrame]  # a path below figures/ → its table


@dataclass(frozen=True)
class Verdict:
    """A study with a verdict.

    Attributes
    ----------
    title, notebook : str
        What the README calls it, and the notebook's file name without its ending.
    tables : tuple of str
        What the sentences are made of, below ``figures/<profile>/``.
    sentences : callable
        Makes them of these tables.
    """

    title: str
    notebook: str
    tables: tuple[str, ...]
    sentences: Callable[..., list[str]]


VERDICTS = (
    Verdict("Controls", "15_is_it_the_pooling", ("controls_effects",), controls_tables.verdict),
    Verdict("The polyphony dial", "16_the_polyphony_dial", ("dial", "dial_trends"), plots_dial.verdict),
    Verdict("Localisation", "17_where_is_it", ("localisation",), plots_localisation.in_words),
)
AUDIT = Verdict(
    "Preprocessing", "22_is_it_the_preprocessing", ("audit", "audit_traces"), lambda *tables: [audit_verdict(*tables)]
)


def evidence(read: Read | None = None) -> str:
    """Return a bullet a study and profile that has it, as Markdown.

    Parameters
    ----------
    read : callable, optional
        Returns a table by its path below ``figures/``; by default as it lies there.
    """
    read, bullets = read or read_figures, []
    for verdict in VERDICTS:
        for profile, sounds in SHOWN.items():
            try:
                tables = [read(f"{profile}/{name}.csv") for name in verdict.tables]
            except InputError:  # this study has not been run in this profile
                continue
            number = verdict.notebook[:2]
            start = f"- *{verdict.title}* ([notebook {number}](notebooks/{verdict.notebook}.ipynb)), on {sounds}. "
            text = " ".join(verdict.sentences(*tables)).replace("**", "")
            bullets.append(
                textwrap.fill(
                    start + text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
                )
            )
    return "\n".join(bullets) or "Nothing is measured yet: `make evidence`."


def verdict_on(profile: str, notebook: str, read: Read | None = None) -> str:
    """Return the verdict that a study came to on a profile, from its committed tables, as Markdown.

    Parameters
    ----------
    profile : str
        The profile, whichever one a page is run on.
    notebook : str
        The study's notebook, by its file name without the ending.
    read : callable, optional
        As in `evidence`.

    Raises
    ------
    InputError
        For a notebook that has no verdict, with those that have one, and if a table is missing.
    """
    known = {verdict.notebook: verdict for verdict in (*VERDICTS, AUDIT)}
    if notebook not in known:
        raise unknown_name("notebook with a verdict", notebook, list(known))
    verdict, read = known[notebook], read or read_figures
    return "\n\n".join(verdict.sentences(*(read(f"{profile}/{name}.csv") for name in verdict.tables)))
