"""The list of what the paper left open as a reader sees it: a table a group, and what came out in sentences.

Every number is taken from the table of `lib.open_options.effects`; the outcomes are those of `lib.open_options.judged`.
"""

import pandas as pd

from lib import open_options as rules
from lib.encoders import ENCODERS
from lib.open_options import OUTCOMES, Option, judged, open_options

YARDSTICK = "precision"  # the option whose alternatives differ from the default by rounding alone


def rule() -> str:
    """Return the rule by which an effect is judged, as Markdown; it stands in `lib.open_options`, beside the code."""
    return rules.__doc__.partition("How an effect is judged")[2].partition("\n\n")[2].strip()


def groups() -> list[str]:
    """Return the groups of the list, in its order."""
    return list(dict.fromkeys(option.group for option in open_options()))


def list_markdown(group: str, table: pd.DataFrame | None = None) -> str:
    """Return the options of a group as a Markdown table, with the effects if `table` has them.

    An effect is in points, with its interval, an encoder after another; a clear one is bold.
    """
    head = "alternatives" if table is None else "alternatives, and their effect in points"
    lines = [f"| open | the paper | here, and why | {head} | set by |", "|---|---|---|---|---|"]
    for option in open_options():
        if option.group == group:
            paper = f"*{option.paper}* ({option.place})" if option.paper else "silent"
            here = f"**{option.default}**: {option.why}"
            cells = (option.option, paper, here, _alternatives(option, table), option.where)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _alternatives(option: Option, table: pd.DataFrame | None) -> str:
    parts = []
    for choice in option.alternatives:
        words = choice.name
        if table is not None:
            rows = table[(table["option"] == option.id) & (table["alternative"] == choice.name)]
            of_heads = rows.dropna(subset="head").groupby("head", sort=False)
            words += "".join(f"<br>{_effects(head, part, option)}" for head, part in of_heads)
            reasons = rows["reason"].dropna().unique()
            words += f": {reasons[0]}" if len(reasons) and not option.not_measured else ""
        parts.append(words)
    if option.not_measured:
        return "; ".join(parts) + f".<br>*{option.not_measured}*"
    return "<br>".join(parts) + (f"<br>({option.note})" if option.note else "")


def _effects(head: str, rows: pd.DataFrame, option: Option) -> str:
    """Return a head's effects, an encoder after another; with its name where an option has several."""
    found = []
    for row in rows.itertuples():
        number = f"{signed(row.difference)} [{signed(row.low)}, {signed(row.high)}]"
        found.append(f"{called(row.encoder)} {f'**{number}**' if row.clear else number}")
    return (f"{head}: " if len(option.heads) > 1 else "") + "; ".join(found)


def in_words(table: pd.DataFrame) -> list[str]:
    """Say which options matter more than the spread of the seeds, and which do not; all computed from the table."""
    options = {option.id: option for option in open_options()}
    if table["difference"].isna().all():
        return [f"Nothing of the {len(options)} options was measured in this profile."]
    found = judged(table)
    reached = found.groupby("option", sort=False)["outcome"].agg(lambda all_: min(all_, key=OUTCOMES.index))
    matter, somewhere, nowhere = ([name for name in reached.index if reached[name] == o] for o in OUTCOMES)
    not_here = [name for name in options if name not in reached.index]
    sentences = [
        f"The list has {len(options)} options; {len(reached)} of them were measured, with {len(found)} alternatives "
        f"(an alternative counts once a head), and {len(not_here)} were not: {_named(not_here, options)}."
    ]
    sentences.append(
        f"**{_so_many(matter)}** more than seeds and clips explain, on every encoder in one direction"
        + _listed(found, matter, OUTCOMES[0], options)
    )
    sentences.append(
        f"**{_so_many(somewhere)} somewhere**, on one encoder only or in both directions"
        + _listed(found, somewhere, OUTCOMES[1], options)
    )
    sentences.append(
        f"Of **{len(nowhere)}** options no alternative can be told from seeds and clips"
        + (f": {_named(nowhere, options)}." if nowhere else ".")
    )
    return sentences + _cautions(table)


def _listed(found: pd.DataFrame, names: list[str], outcome: str, options: dict[str, Option]) -> str:
    """Return the options that reach an outcome, a line each, as the end of a sentence."""
    lines = [f"\n  - {_behind(found, name, outcome, options)}" for name in names]
    return f":{''.join(lines)}" if lines else "."


def _behind(found: pd.DataFrame, name: str, outcome: str, options: dict[str, Option]) -> str:
    """Return an option with those of its alternatives that reach its outcome, and their range over encoders."""
    rows = found[(found["option"] == name) & (found["outcome"] == outcome)]
    parts = []
    for (alternative,), some in rows.groupby(["alternative"], sort=False):
        ranges = [f"{row.head} {signed(row.least)} to {signed(row.most)}" for row in some.itertuples()]
        parts.append(f"*{alternative}* ({', '.join(ranges)})")
    return f"{_title(options[name])}: {', '.join(parts)}"


def _cautions(table: pd.DataFrame) -> list[str]:
    """Say how large the effects are beside rounding and the seeds, and how many would be clear by chance."""
    rows = table[table["difference"].notna()]
    sizes = rows["difference"].abs()
    largest = rows.loc[sizes.idxmax()]
    left_out = int(((rows["low"] > 0) | (rows["high"] < 0)).sum())
    said = [
        f"Half of the {len(rows)} effects are smaller than {sizes.median():.1f} points. The largest is "
        f"{signed(largest['difference'])}: {largest['what']} ({largest['head']} on {called(largest['encoder'])}, "
        f"*{largest['alternative']}*). The seeds' spread lies between {rows['spread'].min():.1f} and "
        f"{rows['spread'].max():.1f} points.",
        f"{left_out} of these intervals leave zero out, {int(rows['clear'].sum())} of them with an effect above the "
        f"seeds' spread. By chance alone one interval in twenty does, which would be about {len(rows) / 20:.0f}.",
    ]
    rounding = rows[rows["option"] == YARDSTICK]
    if len(rounding):
        most = rounding["difference"].abs()
        said.append(
            f"Rounding alone, the same runs in another precision or order, moves a score by {most.median():.2f} points "
            f"in the middle and by {most.max():.2f} at most."
        )
    return said


def _so_many(names: list[str]) -> str:
    return {0: "None matters", 1: "One matters"}.get(len(names), f"{len(names)} matter")


def _named(names: list[str], options: dict[str, Option]) -> str:
    """Return options by group: "group (one; another), next group (a third)"."""
    by_group: dict[str, list[str]] = {}
    for name in names:
        by_group.setdefault(options[name].group, []).append(options[name].option)
    return ", ".join(f"{group} ({'; '.join(some)})" for group, some in by_group.items())


def _title(option: Option) -> str:
    return f"{option.group}, {option.option}"


def called(encoder: str) -> str:
    """Return an encoder's label without the word that all have in common."""
    return ENCODERS[encoder].label.removesuffix(" (pocket)")


def signed(value: float) -> str:
    """Return a number of points with its sign; what rounds to zero has none."""
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")
