"""The profiles: everything that a run of the notebooks scales, in one table.

A profile is data. What holds in all of them, where the paper is silent or leaves a choice: the last epoch counts,
not the best one; the final heads are trained on the training split only, and since the top-k runs over seeds were
trained exactly so, the winner's are tested as they are and not trained a second time; settings are searched again
for each J; batch order is shared by the trials of a search and is each final seed's own; clips are not augmented.
"""

from dataclasses import dataclass, replace

from lib.errors import unknown_name

ALL_HEADS = (
    "linear",
    "mlp",
    "linearc",
    "conv",
    "linpre",
    "mhca",
    "ep",
    "simpool",
    "abmilp",
    "proto",
    "protobin",
)
PROTOTYPE_HEADS = ("protobin", "protofloat", "proto")
POCKET_ENCODERS = (
    "pocket-amae",
    "pocket-beats",
    "pocket-asit",
    "pocket-eat",
    "pocket-dasheng",
    "pocket-sslam",
    "pocket-beats-plus",
    "pocket-eat-plus",
    "pocket-sslam-plus",
)
# Those with a [cls] of their own; the others' linear probe reads the mean token anyway.
WITH_CLS = ("pocket-amae", "pocket-asit", "pocket-eat", "pocket-sslam", "pocket-eat-plus", "pocket-sslam-plus")
LR_RANGES = {"prototype": (2e-3, 8e-2), "other": (1e-4, 7e-3)}  # Appendix D.4
WEIGHT_DECAY_RANGE = (1e-5, 5e-4)  # Appendix D.4


@dataclass(frozen=True)
class Profile:
    """What one profile sets.

    Attributes
    ----------
    name : str
        Id, and the folder below ``figures/``.
    about : str
        One line for people.
    dataset : str
        The dataset that heads are compared on.
    encoders : tuple of str
        The encoders, controls included.
    clips : dict
        Split → number of clips.
    trials : int
        Trials of a search, the first half Sobol (Optuna draws the very first at random), the rest TPE (paper: 50).
    first_rung, rung_factor : int
        Successive halving: epochs of the first rung, and how many fewer trials pass each rung.
    top_k : int
        Configurations that are re-run over seeds: the best of those that came furthest.
    seeds : tuple of int
        Seeds of the final runs (paper: 5).
    epochs, batch_size : int
        Of a run (paper: 30 and 128; a small set takes a smaller batch, so that a run has 300 steps or more).
    prototypes : int
        J of the main results (paper: 20; 10 on as20k).
    ablation_prototypes : tuple of int
        Further J of the ablation.
    ablation_encoders : tuple of str
        Encoders of the ablations.
    mean_cls : tuple of str
        Encoders with a [cls] of their own for which linear is also trained on the mean token.
    heads : tuple of str
        Heads of the main comparison.
    bootstrap_draws : int
        Draws of the paired bootstrap over test clips and their sources.
    example : int
        Clip of the test split that Figure 1 shows; chosen by its events alone: four of four classes, side by side.
    """

    name: str
    about: str
    dataset: str
    encoders: tuple[str, ...]
    clips: dict[str, int]
    trials: int
    first_rung: int
    rung_factor: int
    top_k: int
    seeds: tuple[int, ...]
    epochs: int
    batch_size: int
    ablation_prototypes: tuple[int, ...]
    ablation_encoders: tuple[str, ...]
    mean_cls: tuple[str, ...] = ()
    prototypes: int = 20
    heads: tuple[str, ...] = ALL_HEADS
    bootstrap_draws: int = 1000
    example: int = 0


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            about="every step in miniature, for the tests; its numbers mean nothing",
            dataset="soundscapes",
            encoders=("pocket-amae", "log-mel"),
            clips={"train": 48, "val": 32, "test": 32},
            trials=2,
            first_rung=1,
            rung_factor=2,
            top_k=1,
            seeds=(1, 2),
            epochs=2,
            batch_size=16,
            ablation_prototypes=(1,),
            ablation_encoders=("pocket-amae",),
            mean_cls=("pocket-amae",),
            bootstrap_draws=50,
        ),
        Profile(
            name="pocket",
            about="synthetic soundscapes, made on the spot, no download",
            dataset="soundscapes",
            encoders=("pocket-amae", "random-vit", "log-mel"),
            clips={"train": 320, "val": 192, "test": 320},
            trials=8,
            first_rung=3,
            rung_factor=3,
            top_k=2,
            seeds=(1, 2, 3),
            epochs=30,
            batch_size=32,
            ablation_prototypes=(1, 5, 10),
            ablation_encoders=("pocket-amae",),
            mean_cls=("pocket-amae", "random-vit"),
            example=250,
        ),
        Profile(
            name="esc10",
            about="soundscapes mixed from the real recordings of ESC-10",
            dataset="esc10-soundscapes",
            encoders=("pocket-amae", "random-vit", "log-mel"),
            clips={"train": 320, "val": 192, "test": 320},
            trials=8,
            first_rung=3,
            rung_factor=3,
            top_k=2,
            seeds=(1, 2, 3, 4, 5),
            epochs=30,
            batch_size=32,
            ablation_prototypes=(1, 5, 10),
            ablation_encoders=("pocket-amae",),
            mean_cls=("pocket-amae", "random-vit"),
            example=259,
        ),
        Profile(
            name="esc10-1500",
            about="how good a pretrained encoder is: a few heads on 1,500 soundscapes of ESC-10",
            dataset="esc10-soundscapes",
            encoders=("pocket-amae",),
            clips={"train": 1500, "val": 192, "test": 320},
            trials=4,
            first_rung=3,
            rung_factor=3,
            top_k=1,
            seeds=(1, 2, 3),
            epochs=30,
            batch_size=64,
            ablation_prototypes=(),
            ablation_encoders=("pocket-amae",),
            mean_cls=("pocket-amae",),
            heads=("linear", "linpre", "mhca", "protobin"),
            example=259,
        ),
        Profile(
            name="encoders",
            about="nine pocket encoders and two controls under the same few heads, on synthetic soundscapes",
            dataset="soundscapes",
            encoders=(*POCKET_ENCODERS, "random-vit", "log-mel"),
            clips={"train": 320, "val": 192, "test": 320},
            trials=4,
            first_rung=3,
            rung_factor=3,
            top_k=1,
            seeds=(1, 2, 3),
            epochs=30,
            batch_size=32,
            ablation_prototypes=(),
            ablation_encoders=(),
            mean_cls=(*WITH_CLS, "random-vit"),
            heads=("linear", "linpre", "mhca", "proto", "protobin"),
            example=250,
        ),
    )
}
PROFILES["encoders-esc10"] = replace(
    PROFILES["encoders"],
    name="encoders-esc10",
    about="the same on soundscapes mixed from the real recordings of ESC-10",
    dataset="esc10-soundscapes",
    example=259,
)


def load_profile(name: str) -> Profile:
    """Return a profile by name; an unknown name is an `InputError` that lists the known ones."""
    if name not in PROFILES:
        raise unknown_name("profile", name, list(PROFILES))
    return PROFILES[name]
