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
# # 10 · The four questions
#
# The paper orders its results by four questions. This page asks them of our own results: which conclusions reappear in the
# pocket, which do not, and which cannot be told. Nothing is trained; it reads what notebooks 02 to 05 left, a minute on two
# cores.
#
# > Words in a block like this, and sentences in italics in the tables, are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from lib.figures import write_table
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_questions import plot_conclusions
from lib.profiles import load_profile
from lib.question_draws import published_scores, read_scores
from lib.questions import QUESTIONS, ask, rule
from lib.questions_page import (
    conclusions_markdown,
    labelled_classes,
    mean_token,
    remarks,
    summary,
    verdicts_markdown,
)

# %% [markdown]
# ## The rule, first
#
# A rule that is made after the results fits them. This one, and the list of what is asked, were written and committed
# before the profile was run; they stand in `lib/questions.py` and `lib/questions_asked.py`, whose history shows when.

# %%
Markdown(rule())

# %% [markdown]
# ## What is asked
#
# Three conclusions a question. The last column is the quantity in the paper's own tables, by the function that also
# computes ours: the weakest part, where a conclusion has several.

# %%
for question, words in QUESTIONS.items():
    display(Markdown(f"**{question} · {words}**\n\n{conclusions_markdown(question)}"))

# %% [markdown]
# ## What was found
#
# Our encoders have a hundredth of the size, the training sets are small and, in the profile `pocket`, the sounds are
# synthetic. Absolute numbers are therefore not comparable, and no verdict here confirms or refutes the paper. It says whether an effect is strong enough
# to show under these conditions too.

# %%
scores, paper = read_scores(profile), published_scores()
table = ask(scores, paper)
note = f"profile {profile}: {load_profile(profile).about}; {len(load_profile(profile).seeds)} seeds; intervals are 95 %"
write_table(figure_root() / profile / "questions.csv", table, note)
Markdown(summary(table))

# %% [markdown]
# A row a conclusion, to the right of the line where it is as in the paper. Every row has its own scale; its numbers stand
# beside it. The upright stroke is what the paper's tables give.

# %%
page_image(plot_conclusions(table), colours=64)

# %%
Markdown(verdicts_markdown(table))


# %% [markdown]
# In the column *configurations*: in how many (dataset, encoder) pairs, or what else the conclusion counts, the value lies on
# the paper's side; in how many it clearly does, or clearly does not, by the interval of that configuration alone; and
# wins to losses by more than one sd.


# %%
def answer(question):
    """Show what was found under a question, in sentences, and the averages behind it."""
    lines = "\n".join(f"- {words}" for words in table.loc[table["question"] == question, "words"])
    display(Markdown(f"{lines}\n\nBehind it:\n\n{remarks(question, scores, paper)}"))


# %% [markdown]
# ## Q1 · Is there a best-performing pooling method?
#
# > A clear hierarchy with prototypes outperforming single-vector methods would support our hypothesis that probing benefits
# > from multi-vector aggregation.

# %%
answer("Q1")

# %% [markdown]
# How much of the gain over `linear` is the pooling, and how much a weak [cls]? Where an encoder has a [cls] of its own, `linear` was
# also trained on the mean token of the many-class dataset. Points of `protobin` above `linear` on [cls] → above `linear` on the mean
# token:

# %%
Markdown(mean_token(profile))

# %% [markdown]
# ## Q2 · Is the linear probe a faithful evaluator?
#
# > A flawed proxy both underestimates the absolute potential of the embeddings and distorts the relative ranking of
# > different backbones.
#
# The encoders here are small and were trained for an hour or less. How they rank says nothing about the originals; whether two
# heads rank them alike is what is asked.

# %%
answer("Q2")

# %% [markdown]
# ## Q3 · Is the pooling bottleneck specific to multi-label?
#
# > If fixed global pooling degrades from single- to multi-label while token-aware methods remain stable, it would implicate
# > a polyphony-induced bottleneck.
#
# The paper compares accuracy on single-label sets with mean average precision on a multi-label one, and so do we. The two
# scales differ, and a difference of differences across them is only as good as that.

# %%
answer("Q3")

# %% [markdown]
# ## Q4 · Does extra fine-tuning enrich the token map?
#
# > A localized improvement, where gains are specific to [cls] probes and in-domain data, would suggest the latter [just a stronger
# > global descriptor].
#
# Two things differ from the paper. The pocket BEATs has no [cls]: there, the heads that read [cls] read the mean token. And
# the supervised⁺ versions have seen labels of sixteen classes of synthetic sounds; general audio is in their domain as far as
# its classes are among these:

# %%
Markdown(labelled_classes(profile))

# %%
answer("Q4")
