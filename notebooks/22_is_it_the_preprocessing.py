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
# # 22 · Is it the preprocessing?
#
# Everything between a recording and a frozen encoder can be wrong without an error message. Here it is made wrong on purpose,
# one thing at a time: what becomes of the tokens, what of the heads, and how to recognise a mistake from the trace that it leaves.
# Less than ten minutes on two cores the first time, seconds after that.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown

from lib.audit import faults_on, further_words, plan_in_words, rule, run_audit, study_of, verdict, write_tables
from lib.audit_stores import pictures
from lib.audit_table import SHORT, table_markdown, title_of
from lib.audit_traces import STATISTICS, trace_to_mistake
from lib.evidence import verdict_on
from lib.figures import save_figure
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_audit import plot_heard, plot_scores, plot_traces

study = study_of(profile)

# %% [markdown]
# ## Why this page
#
# > For instance, a 10-second log-Mel spectrogram with F = 128 Mel bins (from 16 kHz audio) is patched into non-overlapping 16×16
# > time-frequency tokens, yielding T ≈ 1024 frames and thus S_t = 64 and S_f = 8. (Section 2.1)
#
# The rest, constants, filters, the padding of short clips, is left to the code of each encoder. An encoder that is frozen cannot
# learn to put up with what it is given. And since heads *are* trained, a score comes out in any case, often not a bad one. So a wrong
# constant does not look like a bug, it looks like a bad encoder. The pocket encoders want 10 s at 16 kHz between ±1, Kaldi's filter bank
# with 64 bands and the natural logarithm of power, normalised with the constants of pretraining, as (frames, mel). The published
# ones want the like in other numbers.
#
# ## The mistakes

# %%
Markdown(table_markdown())

# %% [markdown]
# This is what the encoder hears of one clip. All pictures have the same colours, from −4 (black) to 4; the numbers are mean and
# standard deviation. Which would you notice if you drew each with colours of its own, as most plots do?

# %%
shown = next(name for name in study.datasets if SHORT in faults_on(name))
page_image(plot_heard(pictures(study.encoders[0], shown, "test", 0)), colours=160)

# %% [markdown]
# Two cautions. Our recordings have 16 kHz, so that slowed down they leave the upper bands empty; recordings that really have 44.1 kHz
# would fill them. And padding matters only for clips that are too short, so for these mistakes clips of a single event are cut to it:

# %%
Markdown(plan_in_words(study))

# %% [markdown]
# ## The rule, before the result

# %%
Markdown(rule())

# %% [markdown]
# Before running: which head can least do with wrong tokens, one that reads a single vector, or one that compares each token with
# prototypes? And which mistakes should cost nothing at all?

# %% tags=["long"]
computed = run_audit(profile)

# %% tags=["long"]
tables = write_tables(profile)

# %% [markdown]
# ## What came out
#
# These sentences are written by the code, by the rule above, from the tables (`figures/<profile>/audit*.csv`).

# %%
Markdown(verdict(tables["audit"], tables["audit_traces"]))

# %%
main = plot_scores(tables["audit"])
save_figure(main, figure_root() / profile / "audit")
page_image(main, dpi=115, colours=64)

# %%
wide = tables["audit"].pivot_table(index="fault", columns=["encoder", "dataset", "head"], values="mean", sort=False)
wide.rename(index=title_of).round(1)

# %%
further = further_words(tables["audit"], tables["audit_traces"], tables["audit_recognised"])
Markdown("\n".join(f"- {sentence}" for sentence in further))

# %% [markdown]
# Each side is the outcome of a short search, and that another search would have found other rates is in no interval. Two mistakes cannot
# matter here, for Kaldi's filter bank takes the mean of a frame away, and these heads take tokens as a set: if the rule called one of them
# harmful, it would be the rule that is wrong.
#
# A mistake that costs nothing is still one: scores of one encoder can then be compared with each other, but not with anybody else's.
# And where training and test clips come by different roads, only one of them may have it; that is not what is measured here.
#
# ## The trace in the tokens
#
# Nobody has the right tokens to compare with, or there would be no mistake. What one has is tokens of some clips, without labels. These
# numbers need no more:

# %%
Markdown("\n".join(f"- **{one.title}**: {one.about}" for one in STATISTICS.values()))

# %%
traces = plot_traces(tables["audit_traces"])
save_figure(traces, figure_root() / profile / "audit_traces")
page_image(traces, dpi=115)

# %% [markdown]
# A number is worth something only beside the range that it has where all is well, and that range must hold for other sounds too. So the
# healthy range is that of groups of clips of all datasets here. The table reads the picture backwards: from what you see to what
# may be wrong. Only what holds on every dataset stands in it; in brackets, how far outside, in halves of the healthy range. For the two
# mistakes in padding, healthy are short clips that are padded with silence.

# %%
Markdown(trace_to_mistake(tables["audit_traces"], study.encoders[0]))

# %% [markdown]
# ## Recognised?
#
# A table of symptoms is easily made and proves little. So: for each group of clips of one dataset, which mistake known from
# the *other* dataset has the nearest trace? Ranges, too, are those of the other dataset alone. What leaves no trace there
# should be taken for healthy. The share of groups for which the nearest is what it should be, and that for which it is among
# the three nearest:

# %%
known = tables["audit_recognised"]
shares = known.pivot_table(index="fault", columns=["encoder", "dataset"], values=["first", "third"], sort=False)
shares.rename(index=title_of).round(2)

# %% [markdown]
# ## On real recordings
#
# The same page run with `--profile esc10` (soundscapes, and ESC-10 itself); its tables lie in `figures/esc10`.
#
# ![The audit on ESC-10](../figures/esc10/audit.png)

# %%
Markdown(verdict_on("esc10", "22_is_it_the_preprocessing"))

# %% [markdown]
# With your own encoder: `lib.audit_traces.trace_of(tokens, grid)` gives these numbers for tokens `(B, N, D)`. Take them once when you are
# sure that all is well, keep them beside the weights, and hold every new cache against them. And keep some tokens of one clip from the
# original implementation: the cosine with those is the one check that needs no interpretation.
