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
# # 02 · Train the probes
#
# Trains every pooling head on every encoder and dataset with the paper's protocol, scaled down, and compares them on the
# test split. The longest step: see the README for the time it takes; a stopped run continues, a second run takes seconds.
#
# > Words in a block like this are the paper's (arXiv 2509.24901). All others are ours.

# %% tags=["parameters"]
profile = "pocket"

# %%
# %matplotlib inline
import pandas as pd

from lib.comparisons import benchmark, fine_tuning
from lib.data.datasets import load_dataset
from lib.encoders import ENCODERS
from lib.finetune_results import finetuning_tasks
from lib.heads import FAMILIES
from lib.plots import plot_gains, plot_search
from lib.profiles import CONTROLS, load_profile
from lib.results import main_cells, read_rows, run_cells

settings = load_profile(profile)

# %% [markdown]
# ## The heads
#
# A head maps a clip's tokens and its [cls] to one logit a class. The four families differ in what they look at:
# [cls] alone; the token map in a fixed way; a weighted mean of tokens, the weights learned; or the best match of
# each of many prototypes. All end in a linear layer.

# %%
cells = main_cells(settings)
by_family = pd.Series({head: FAMILIES[head] for head in settings.heads}).groupby(lambda h: FAMILIES[h], sort=False)
pd.DataFrame({"heads": by_family.apply(lambda part: ", ".join(part.index))})

# %% [markdown]
# ## The protocol
#
# > For each unique combination of a backbone, dataset, and pooling method, we conducted a systematic hyperparameter
# > search to find the optimal learning rate and weight decay. (Appendix D.4)
#
# Trials explore with a Sobol sequence, then follow TPE, and successive halving stops the ones that fall behind. All
# configurations of a head train together on one pass over the tokens (notebook 11). The
# best few are trained again with several seeds, each with initial weights and a batch order of its own; the best
# mean on validation wins, and only then is the test split read. What this profile scales down:

# %%
on_controls = f"{', '.join(settings.control_heads)}, on {settings.dataset} alone"
on_controls = on_controls if settings.control_heads else "all heads, on all datasets"
pd.Series(
    {
        "trials (paper: 50)": settings.trials,
        "epochs (paper: 30)": settings.epochs,
        "batch size (paper: 128)": settings.batch_size,
        "configurations re-run over seeds": settings.top_k,
        "seeds (paper: 5)": len(settings.seeds),
        "prototypes per class J (paper: 20, 10 on as20k)": ", ".join(
            f"{load_dataset(name).prototypes} on {name}" for name in settings.datasets
        ),
        "clips train / val / test": "; ".join(
            f"{name} {' / '.join(map(str, settings.clips_of(name).values()))}" for name in settings.datasets
        ),
        "linearc, conv and abmilp run on": ", ".join(settings.costly_encoders) or "all encoders",
        "on the controls run": on_controls if set(CONTROLS) & set(settings.encoders) else "–",
    },
    name=settings.name,
).to_frame()

# %% tags=["long"]
tuning = finetuning_tasks(
    profile, [(name, settings.dataset) for name in settings.fine_tuned]
)  # see the upper line, below
computed = run_cells(profile, cells, beside=tuning)

# %% [markdown]
# ## One search, seen from above
#
# The paper gives prototypes a higher range of learning rates, after preliminary experiments. A likely reason is that
# their scores are cosines, which vary little from clip to clip, so the classifier has to grow large weights. Whether the search has found a plateau or
# sits at the edge of its range is the first thing to look at when a probe looks wrong.

# %%
rows = pd.DataFrame([row for cell in cells for row in read_rows(settings, cell)])
first = rows[(rows["encoder"] == settings.shown) & (rows["cls_mode"] == ENCODERS[settings.shown].cls)]
first = first[first["dataset"] == settings.dataset]
plot_search(first, "protobin", settings.epochs)

# %%
plot_search(first, "linear", settings.epochs)

# %% [markdown]
# ## The comparison
#
# Mean over seeds ± their standard deviation, on the test split. `mean` beside *linear* says that the mean token
# stood for [cls]. Seeds measure the optimiser alone: whether one head is *better* than another is a question about
# clips, so the next picture resamples clips and what they share: recordings, or seeds of the synthetic bank.

# %%
table = benchmark(profile, variants=False)
shown = table.assign(
    score=[f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(table["mean"], table["sd"], strict=True)],
    head=[
        h if m in ("native", ENCODERS[e].cls) else f"{h} ({m})"
        for h, m, e in table[["head", "cls_mode", "encoder"]].values
    ],
    encoder=[ENCODERS[name].label for name in table["encoder"]],
)
shown[shown["dataset"] == settings.dataset].pivot(index="encoder", columns="head", values="score").reindex(
    index=dict.fromkeys(shown["encoder"]), columns=dict.fromkeys(shown["head"])
).fillna("")

# %% [markdown]
# The other datasets, on the encoder that the figures show:

# %%
shown[(shown["encoder"] == ENCODERS[settings.shown].label) & ~shown["head"].str.contains("mean")].pivot(
    index="dataset", columns="head", values="score"
).reindex(index=settings.datasets, columns=[head for head in settings.heads if head in set(shown["head"])]).fillna("")

# %%
plot_gains(
    table[
        (table["cls_mode"] == table["encoder"].map(lambda name: ENCODERS[name].cls))
        & (table["dataset"] == settings.dataset)
    ],
    [settings.shown, *[name for name in settings.encoders if ENCODERS[name].kind == "control"]],
)

# %% [markdown]
# How to read it: a bar that does not cross zero is a gain that this test set can tell from chance. The heads and the
# clips are paired, so the intervals are narrower than those of the scores themselves.
#
# The log-mel control has no [cls]: its *linear* reads the mean patch. Its gains say how much of a head's success is
# the head's own and needs no pretrained encoder at all.
#
# ## The upper line
#
# What could this encoder do if it were not frozen? The whole network is fine-tuned on the same clips, with a linear layer on
# [cls]. The paper quotes such scores from the encoders' own papers (Table 3); here it was trained above, beside the heads.

# %%
fine_tuning(profile).round(1)

# %% [markdown]
# Next: [03, the J ablation](03_how_many_prototypes.ipynb).
