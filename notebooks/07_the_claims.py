# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 · The claims
#
# Takes the paper's quantitative sentences one by one: the sentence in short, how it was checked, the number that the
# paper's own tables give, and a verdict. Ten seconds on two cores. Nothing is retrained here; a sentence is held against
# what was published with it, not against our reruns.
#
# > Words in a block like this, and in the column *sentence*, are the paper's (arXiv 2509.24901), shortened where "[…]"
# > stands. All others are ours.

# %% tags=["parameters"]
profile = "pocket"  # as in all notebooks; nothing here depends on it

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from lib import published
from lib.claims import VERDICTS, verdicts
from lib.claims_page import as_markdown, rules, summary
from lib.figures import write_table
from lib.paths import figure_root
from lib.plots import page_image, plot_verdicts

table = verdicts()
write_table(figure_root() / "published" / "claims.csv", table, "every sentence, the number found, the verdict")
Markdown(summary(table))

# %% [markdown]
# ## How a verdict is reached
#
# The rules stand beside the code that applies them, and are the same for every sentence. Many sentences that do not hold
# are slips of the pen that change no conclusion. The copy of the paper that we read is a machine conversion; where it may
# have lost characters, the finding says so.

# %%
Markdown(rules())

# %%
page_image(plot_verdicts(table, VERDICTS))

# %%
for place, part in table.groupby("place", sort=False):
    display(Markdown(f"### {place}\n\n{as_markdown(part)}"))

# %% [markdown]
# ## See a verdict follow
#
# No verdict is typed. Change a number of a table, and what depends on it changes: here every `mhca` of Table 2 is lifted by
# ten points.

# %%
lifted = published.table(2)
lifted.loc[lifted["head"] == "mhca", "mean"] += 10
with published.altered("table_2", lifted):
    after = verdicts()
moved = table["verdict"] != after["verdict"]
table.loc[moved, ["id", "place", "verdict"]].assign(after=after.loc[moved, "verdict"]).set_index("id")
