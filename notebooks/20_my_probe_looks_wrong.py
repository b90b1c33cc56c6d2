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
# # 20 · My probe looks wrong
#
# A field guide: ten troubles of a probe on a frozen encoder, each provoked on purpose, seen, explained and cured. Some minutes on two
# cores the first time, seconds after that. All on one encoder and one dataset, but for number 8.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
from IPython.display import Markdown, display

from lib.figures import save_figure
from lib.paths import figure_root
from lib.plots import page_image
from lib.plots_symptoms import plot_guide, plot_trouble
from lib.symptoms import provoke, rules, settings_in_words, write_symptoms
from lib.symptoms_found import closing_table, find

# %% [markdown]
# ## How to read this page
#
# A trouble that nobody can bring about on purpose is a rumour. So each is brought about here, beside the same run without it: same
# encoder, same clips, same seeds and batch orders, and, unless the rate itself is the trouble, the learning rate and weight decay that
# the search found for the head on healthy tokens. What differs is the one thing that is wrong.
#
# Every section ends with a line that the code writes from its table. It begins with *Provoked* or with *Not provoked at this scale*, and
# which of the two is decided by a rule that stands here, before any result:

# %%
Markdown(rules())

# %% [markdown]
# Seeds are few, encoders small and sounds made up. "Not provoked" means no more than that: the trouble may well be yours.

# %% tags=["long"]
provoke(profile)

# %%
Markdown(settings_in_words(profile))

# %%
tables, findings = {}, {}


def look(name):
    """Show a trouble's plot, and say what came out."""
    tables[name] = write_symptoms(profile, name)
    findings[name] = find(name, tables[name])
    display(page_image(plot_trouble(name, tables[name]), dpi=110, colours=96))
    display(Markdown(findings[name].line()))


# %% [markdown]
# ## 1 · The learning rate against the first values
#
# > For prototypical pooling methods, the prototype learning rate equals the global learning rate […]. (Section 4.1)
# >
# > Based on preliminary experiments showing that prototypical methods benefit from a higher learning rate, their search space for
# > the learning rate was adjusted […]. (Appendix D.4)
#
# **Symptom.** The score is low, and nothing in the loss curve says why.
#
# **Cause.** `protobin` uses the sign of its latent weights and nothing else. AdamW moves each of them by about one learning rate a
# step, whatever the gradient's size. So a sign flips after about `init_std` / `lr` steps that agree: what decides about the *signs* is the
# ratio, and a rate without its `init_std` is half a number. The classifier $W$ shares the rate, and it does not care about
# `init_std` at all: its inputs, maxima of cosines, vary little from clip to clip, so $W$ has to become large, and for that it needs the
# rate itself. Two demands, one knob. Before you look: along which direction of the two maps should the colour stay the same?

# %%
look("scale")

# %% [markdown]
# **Cure.** Search the rate for the `init_std` that you use, and report both. If flips look right and the score does not, it is $W$
# that wants another rate, not the prototypes.
#
# ## 2 · All-positive first values
#
# **Symptom.** `protobin` scores like a head with a single prototype; figures of its prototypes show one colour.
#
# **Cause.** `proto` starts from $U(0, 1)$, and for floats that is harmless. Copied to `protobin`, every sign is $+1$: all prototypes are
# one and the same vector, win at the same token, and get gradients that differ only by their column of $W$. Latents of about one half
# also lie many steps from zero.

# %%
look("positive")

# %% [markdown]
# **Cure.** Draw latents around zero. One line in a test is enough: the share of $+1$ before training is about one half, and the mean
# |cosine| of two prototypes about $\sqrt{2/(\pi D)}$. A high rate may hide the mistake; it is still there.
#
# ## 3 · Frozen signs
#
# **Symptom.** The loss falls as it should, but the prototypes of the last epoch are those of the first: only $W$ has learned.
#
# **Cause.** Latents that lie far from zero need many steps to change sign, and there are only so many, fewer still since the rate falls
# along a cosine: what has not flipped by the middle hardly will. Far from zero they come by a large `init_std`, by a checkpoint
# of another project, or on their own, for nothing clips them. This is the upper left of the map in section 1, looked at epoch by epoch.

# %%
look("frozen")

# %% [markdown]
# **Cure.** Log the share of signs that flip, it is one line. If it is near zero from the start, start nearer to zero or raise the rate.
# How much it costs is another question: random signs are no bad prototypes, as long as there are many of them and $W$ learns.
#
# ## 4 · Prototypes that contribute nothing
#
# **Symptom.** Twice the prototypes, the same score.
#
# **Cause.** Under max pooling every prototype wins somewhere in every clip, so "never wins" is not the question; whether anyone
# hears it is ([13](13_what_prototypes_do.ipynb)). `proto` passes its class weights through a relu: where $w < 0$ the prototype says
# nothing, gets no gradient, and stays so for good. Started from $w = 1$ that hardly happens. Started like any other layer, from
# $U(\pm 1/\sqrt{J})$, it has happened to half of them before the first step; a published configuration of the original did just that.

# %%
look("silent")

# %% [markdown]
# **Cure.** Start $w$ at one, and plot the contributions $\max_c |W_{ck}|\,\mathrm{sd}(\bar{s}_k)$, sorted. A flat foot at zero is the
# symptom. `protobin` has no relu and a dense $W$; there, a prototype can only be silent by having small weights.
#
# ## 5 · Ties in 16 bits
#
# **Symptom.** Scores differ in the last digits between two machines, or between training and test; a map jumps from one place to another.
#
# **Cause.** The cosines of one prototype with the tokens of a clip lie close together, and bfloat16 keeps eight bits of each. Several
# tokens then share the maximum, and which of them wins, and so gets the gradient, depends on the order in which a kernel looks.

# %%
look("ties")

# %% [markdown]
# **Cure.** Take similarities and maximum in float32. Where products in bfloat16 are much faster, look for the two best with them and
# compare those again in float32; our engine does ([11](11_the_fast_engine.ipynb)). A tie need not cost anything: tokens that tie
# score alike. Whether it does, the right panel says.
#
# ## 6 · Collapsed attention
#
# **Symptom.** An attentive head is worse than the mean of all tokens, and no clip changes its mind.
#
# **Cause.** Attention is a softmax of $q^\top z_n$. If $q$ grows too fast, the softmax saturates on a token or two; then its gradient is
# almost zero and it stays there, however low the rate falls. The opposite exists too: at a low rate, and on tokens whose length
# is small, $q^\top z_n$ never gets large and attention never leaves the mean. Count the tokens that it lies on: $\exp$ of its entropy, $N$ for
# the mean, 1 for a single token.

# %%
look("collapse")

# %% [markdown]
# **Cure.** A lower rate, or a norm on the tokens, if attention ends near one token; a higher rate if it still lies on all of them. In the
# panel, `ep` is trained at the rate that its own search chose.
#
# ## 7 · A large spread over seeds
#
# > Second, we take the top-$k$ configurations and re-evaluate each with five random seeds to estimate the mean and standard
# > deviation […]. (Section 4.1)
#
# **Symptom.** A head wins with one seed and loses with the next.
#
# **Cause.** `abmilp` is a self-attention without norm or residual, a tanh, and a softmax in a row; the published spreads are the
# largest of all heads. A short search makes it worse: it may settle on a rate at the edge of what works.

# %%
look("spread")

# %% [markdown]
# **Cure.** More seeds, and every one of them in the plot. The standard deviation of a few values is itself a guess: with so many seeds
# the second number that the line names is how far apart two of them may lie by chance alone. And seeds are one source of doubt;
# other test clips are another, often larger one.
#
# ## 8 · `protobin` behind `linear`
#
# **Symptom.** On an easy dataset the simplest head wins.
#
# **Cause.** This need not be a mistake. One sound a clip, and an encoder that was trained with labels: its [cls] was made to name classes,
# the mean over all tokens loses little, and many prototypes have more to learn from the same few clips. So before you look for a bug, ask
# what the pooling could gain at all. Here are the encoder of the other sections, trained without labels, and the
# supervised⁺ ones of the profile, on its single-label dataset. Their labels were sixteen synthetic classes, of which this dataset has
# some only, and one of real recordings none.

# %%
look("easy")

# %% [markdown]
# **Cure.** None is needed. Report both, and say what kind of data it is.
#
# ## 9 · A wrong token order
#
# **Symptom.** Maps make no sense. Some heads lose, others do not move.
#
# **Cause.** Tokens come as a flat list; whether $n = t \cdot S_f + f$ or $n = f \cdot S_t + t$ is an agreement, and other encoders, or the
# exporter of a checkpoint, have the other one. Heads that pool over a *set* of tokens cannot notice, whatever they score. Heads
# with a map can, in two ways: trained and tested on the wrong order, or, worse, on two different ones. `linearc` has a weight for every
# place, so which head should lose in only one of the two?

# %%
look("order")

# %% [markdown]
# **Cure.** Never trust a score here: the heads that one compares most are blind to it, and one that could notice need not, if it has
# learned little about places. Send a rising tone through the encoder, and
# draw how far each token is from that of near silence: it must be one rising line. Without audio, take away what each place and each clip
# have in common, and compare neighbours: in time they must be alike.
#
# ## 10 · A forgotten final norm
#
# **Symptom.** Everything runs; some heads are a few points lower than they were last week.
#
# **Cause.** A pre-norm transformer ends with a LayerNorm, and whoever reads "the output of the last block" gets tokens from before it:
# much longer, of different lengths, and pointing elsewhere, since the norm takes away a mean and has a scale for every channel.
# A head that normalises for itself may hardly notice, and a cosine does not see lengths. Others meet inputs for which their rate
# was not searched.

# %%
look("norm")

# %% [markdown]
# **Cure.** Apply the norm; the tokens are then those of the store. The check is one line: the lengths of the tokens. After a
# LayerNorm they are all nearly the same. (Whether tokens of an earlier layer would be *better* is another notebook's question; here the
# settings are those of the healthy tokens, and nothing was searched again.)
#
# ## In short

# %%
Markdown(closing_table(findings))

# %%
guide = plot_guide(tables)
save_figure(guide, figure_root() / profile / "symptoms")
page_image(guide, dpi=100, colours=96)
