"""The profiles: everything that a run of the notebooks scales, in one table.

A profile is data. What holds in all of them, where the paper is silent or leaves a choice: the last epoch counts,
not the best one; the final heads are trained on the training split only, and since the top-k runs over seeds were
trained exactly so, the winner's are tested as they are and not trained a second time; settings are searched again
for each J; batch order is shared by the trials of a search and is each final seed's own; clips are not augmented.
"""

from dataclasses import dataclass, field, replace

from lib.data.datasets import load_dataset
from lib.errors import unknown_name
from lib.profile_parts import part_asked_for
from lib.studies import BASE_ENCODERS, SUPERVISED_ENCODERS, at_scale_of

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
BIOACOUSTIC_HEADS = ("linear", "mlp", "mhca", "ep", "proto", "protobin")  # Table 5
CONTROL_HEADS = ("linear", "mhca", "protobin")  # Table 6
COSTLY_HEADS = ("linearc", "conv", "abmilp")
NARROW_HEADS = ("ep", "proto", "protobin", "protofloat")  # whose largest products may be in bfloat16 (`lib.engine`)
PROTOTYPE_HEADS = ("protobin", "protofloat", "proto")
POCKET_ENCODERS = (*BASE_ENCODERS, *SUPERVISED_ENCODERS)
# Those with a [cls] of their own; the others' linear probe reads the mean token anyway.
WITH_CLS = ("pocket-amae", "pocket-asit", "pocket-eat", "pocket-sslam", "pocket-eat-plus", "pocket-sslam-plus")
CONTROLS = ("random-vit", "log-mel")
PAPER_ENCODERS = ("amae", "beats", "asit", "eat", "dasheng", "sslam", "beats-plus", "eat-plus", "sslam-plus")
LR_RANGES = {"prototype": (2e-3, 8e-2), "other": (1e-4, 7e-3)}  # Appendix D.4
WEIGHT_DECAY_RANGE = (1e-5, 5e-4)  # Appendix D.4


@dataclass(frozen=True)
class Group:
    """Datasets of one kind, and the heads that are compared on them.

    Attributes
    ----------
    name : {"general", "bioacoustic", "control"}
        The paper's groups: Table 2, Table 5, Table 6.
    datasets : tuple of str
        Ids.
    heads : tuple of str
        Heads of the comparison.
    clips : dict
        Split → number of clips; empty for all that there are.
    """

    name: str
    datasets: tuple[str, ...]
    heads: tuple[str, ...]
    clips: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """What one profile sets.

    Attributes
    ----------
    name : str
        Id, and the folder below ``figures/``.
    about : str
        One line for people.
    groups : tuple of Group
        Datasets with their heads. The first dataset of the first group is the one that Figures 1 to 4 show.
    encoders : tuple of str
        The encoders, controls included.
    shown : str
        The encoder of Figures 1 to 4.
    trials : int
        Trials of a search, the first half Sobol (Optuna draws the very first at random), the rest TPE (paper: 50).
    first_rung, rung_factor : int
        Successive halving: epochs of the first rung, and how many fewer trials pass each rung.
    top_k : int
        Configurations that are re-run over seeds: the best of those that came furthest.
    seeds : tuple of int
        Seeds of the final runs (paper: 5). Of a few-shot dataset with stored views each seed trains on a view of its
        own.
    epochs, batch_size : int
        Of a run (paper: 30 and 128; a small set takes a smaller batch, so that a run has some hundred steps).
    smaller_batches : dict
        Dataset → batch size, where it has fewer training clips than the others.
    ablation_prototypes : tuple of int
        Further J of the ablation; the main results have the dataset's own (20, or 10 where classes are many).
    ablation_datasets, ablation_encoders : tuple of str
        Datasets (the shown one if none is named) and encoders of the J ablation.
    mean_cls : tuple of str
        Encoders with a [cls] of their own for which linear is also trained on the mean token, on the shown dataset.
    costly_encoders : tuple of str
        Encoders on which `COSTLY_HEADS` are trained; empty for all.
    control_heads : tuple of str
        Heads that are trained on the two controls (random weights, log-mel), and then on the shown dataset alone;
        empty for all heads on all datasets.
    fine_tuned : tuple of str
        Encoders that are fine-tuned on the shown dataset, the upper line of Figure 2.
    products : {"auto", "float32", "bfloat16"}
        Of the largest products of `NARROW_HEADS`, see `lib.engine.StackedTraining`.
    bootstrap_draws : int
        Draws of the paired bootstrap over test clips and their sources.
    example : int
        Clip of the test split that Figure 1 shows; chosen by its events alone: several classes, side by side.
    """

    name: str
    about: str
    groups: tuple[Group, ...]
    encoders: tuple[str, ...]
    shown: str
    trials: int
    first_rung: int
    rung_factor: int
    top_k: int
    seeds: tuple[int, ...]
    epochs: int
    batch_size: int
    smaller_batches: dict[str, int] = field(default_factory=dict)
    ablation_prototypes: tuple[int, ...] = ()
    ablation_datasets: tuple[str, ...] = ()
    ablation_encoders: tuple[str, ...] = ()
    mean_cls: tuple[str, ...] = ()
    costly_encoders: tuple[str, ...] = ()
    control_heads: tuple[str, ...] = ()
    fine_tuned: tuple[str, ...] = ()
    products: str = "auto"
    bootstrap_draws: int = 1000
    example: int = 0

    @property
    def dataset(self) -> str:
        """The dataset that is shown."""
        return self.groups[0].datasets[0]

    @property
    def datasets(self) -> tuple[str, ...]:
        """All datasets, group by group."""
        return tuple(name for group in self.groups for name in group.datasets)

    @property
    def stands_for(self) -> str:
        """What its encoders and datasets are to the paper's."""
        if set(self.encoders) <= set(PAPER_ENCODERS):
            return "the published encoders, and copies of the paper's datasets"
        return "stand-ins, not the paper's encoders and datasets"

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of the shown dataset's group."""
        return self.groups[0].heads

    @property
    def clips(self) -> dict[str, int]:
        """Split → number of clips of the shown dataset."""
        return self.clips_of(self.dataset)

    def group(self, dataset: str) -> Group:
        """Return the group of a dataset."""
        for group in self.groups:
            if dataset in group.datasets:
                return group
        raise unknown_name(f"dataset of profile {self.name}", dataset, self.datasets)

    def runs(self, encoder: str, dataset: str, head: str) -> bool:
        """Return whether a head of a dataset's group is trained on an encoder."""
        if encoder in CONTROLS and self.control_heads:
            return dataset == self.dataset and head in self.control_heads
        return head not in COSTLY_HEADS or encoder in (self.costly_encoders or self.encoders)

    def encoders_of(self, dataset: str) -> list[str]:
        """Return the encoders on which at least one head of a dataset's group is trained."""
        heads = self.group(dataset).heads
        return [name for name in self.encoders if any(self.runs(name, dataset, head) for head in heads)]

    def batch_size_of(self, dataset: str) -> int:
        """Return the batch size on a dataset."""
        return self.smaller_batches.get(dataset, self.batch_size)

    def clips_of(self, dataset: str) -> dict[str, int]:
        """Return split → number of clips of a dataset."""
        return self.group(dataset).clips or load_dataset(dataset).sizes


def general(datasets: tuple[str, ...], train: int, val: int, test: int, heads: tuple[str, ...] = ALL_HEADS) -> Group:
    """Return a group of general datasets."""
    return Group("general", datasets, heads, {"train": train, "val": val, "test": test})


def bioacoustic(dataset: str, train: int, val: int, test: int) -> Group:
    """Return a group of one few-shot dataset; `train` is the whole of its training clips, shots times classes."""
    return Group("bioacoustic", (dataset,), BIOACOUSTIC_HEADS, {"train": train, "val": val, "test": test})


def control(datasets: tuple[str, ...], train: int, val: int, test: int) -> Group:
    """Return a group of single-label datasets."""
    return Group("control", datasets, CONTROL_HEADS, {"train": train, "val": val, "test": test})


POCKET = Profile(
    name="pocket",
    about="synthetic sounds, made on the spot, no download",
    groups=(
        general(("many-sounds", "five-scenes", "ten-sounds"), 112, 64, 160),
        bioacoustic("forest-few-shot", 80, 64, 160),
        bioacoustic("farm-few-shot", 96, 64, 160),
        control(("single-sounds", "short-sounds"), 96, 48, 160),
    ),
    encoders=(*POCKET_ENCODERS, *CONTROLS),
    shown="pocket-eat",
    trials=5,
    first_rung=3,
    rung_factor=3,
    top_k=1,
    seeds=(1, 2, 3),
    epochs=30,
    batch_size=12,
    smaller_batches={"forest-few-shot": 8, "farm-few-shot": 10, "single-sounds": 10, "short-sounds": 10},
    ablation_prototypes=(1, 5, 10, 20, 40),
    ablation_datasets=("ten-sounds",),
    ablation_encoders=("pocket-eat",),
    mean_cls=(*WITH_CLS, "random-vit"),
    costly_encoders=("pocket-amae", "pocket-eat", "pocket-eat-plus"),
    control_heads=("linear", "linpre", "mhca", "proto", "protobin"),
    fine_tuned=("pocket-eat",),
    example=81,
)
# The comparison of the encoders in notebook 09: few heads, one dataset.
ENCODERS_COMPARED = replace(
    POCKET,
    name="encoders",
    about="nine pocket encoders and two controls under the same few heads, on synthetic soundscapes",
    groups=(general(("soundscapes",), 320, 192, 320, ("linear", "linpre", "mhca", "proto", "protobin")),),
    trials=4,
    batch_size=32,
    ablation_prototypes=(),
    ablation_datasets=(),
    ablation_encoders=(),
    control_heads=(),
    fine_tuned=(),
    example=250,
)


# The paper's own experiments. How many configurations it runs again over seeds (k), and how many epochs the first rung
# has, it does not say; fine-tuning is reported there and not run.
PAPER = replace(
    POCKET,
    name="paper",
    about="the paper's experiments: nine published encoders, fourteen datasets; needs a GPU, disk and the network",
    groups=(
        Group("general", ("as20k", "fsd50k", "desed", "spass", "urban"), ALL_HEADS),
        Group("bioacoustic", ("hsn", "pow", "per", "nes", "sne", "uhh", "nbp"), BIOACOUSTIC_HEADS),
        Group("control", ("esc50", "sc2"), CONTROL_HEADS),
    ),
    encoders=PAPER_ENCODERS,
    shown="eat",
    trials=50,
    top_k=3,
    seeds=(1, 2, 3, 4, 5),
    batch_size=128,
    smaller_batches={},
    ablation_prototypes=(1, 5, 10, 20),
    ablation_datasets=("as20k", "urban", "esc50"),
    ablation_encoders=("amae", "beats", "asit", "eat", "sslam"),
    mean_cls=(),
    costly_encoders=(),
    control_heads=(),
    fine_tuned=(),
    products="float32",  # its cells may come from machines with and without instructions for bfloat16
    example=0,
)


def with_products(products: str) -> Profile:
    """Return the heads of `pocket` that take narrow products, with one kind (`lib.bench_products` compares the two)."""

    def narrow(group: Group) -> Group:
        return replace(group, heads=tuple(head for head in group.heads if head in NARROW_HEADS))

    return replace(
        POCKET,
        name=f"pocket-{products}",
        about=f"the prototype heads and ep of `pocket`, their largest products in {products}",
        groups=tuple(narrow(group) for group in POCKET.groups),
        ablation_prototypes=(),
        ablation_datasets=(),
        ablation_encoders=(),
        mean_cls=(),
        fine_tuned=(),
        products=products,
    )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke",
            about="every step in miniature, for the tests; its numbers mean nothing",
            groups=(
                general(("soundscapes",), 24, 16, 16),
                bioacoustic("forest-few-shot", 10, 10, 10),
                control(("short-sounds",), 16, 10, 10),
            ),
            encoders=("pocket-eat", "pocket-eat-plus", "log-mel"),
            shown="pocket-eat",
            trials=2,
            first_rung=1,
            rung_factor=2,
            top_k=1,
            seeds=(1, 2),
            epochs=2,
            batch_size=16,
            ablation_prototypes=(1,),
            ablation_encoders=("pocket-eat",),
            mean_cls=("pocket-eat",),
            costly_encoders=("pocket-eat",),
            control_heads=("linear", "protobin"),
            fine_tuned=("pocket-eat",),
            bootstrap_draws=50,
        ),
        POCKET,
        replace(
            POCKET,
            name="pocket-full",
            about="the reference run: every head on every pretrained encoder, 50 trials, five seeds",
            trials=50,
            seeds=(1, 2, 3, 4, 5),
            ablation_datasets=("many-sounds", "ten-sounds", "single-sounds"),
            ablation_encoders=("pocket-amae", "pocket-eat"),
            costly_encoders=(),
            fine_tuned=("pocket-amae", "pocket-asit", "pocket-beats", "pocket-eat", "pocket-sslam"),
        ),
        replace(
            POCKET,
            name="esc10",
            about="real recordings: soundscapes mixed from ESC-10, ESC-10 itself, spoken digits",
            groups=(
                general(("esc10-soundscapes",), 256, 128, 320),
                control(("esc10-single",), 240, 80, 80),
                control(("spoken-digits",), 160, 100, 200),
            ),
            batch_size=24,
            smaller_batches={"spoken-digits": 16},
            seeds=(1, 2, 3, 4, 5),
            ablation_datasets=("esc10-soundscapes",),
            example=259,
        ),
        replace(
            POCKET,
            name="esc50",
            about="real recordings of ESC-50, where you have it: 47 classes in mixtures, twelve animals in few shots",
            groups=(
                general(("esc50-soundscapes",), 256, 128, 256),
                bioacoustic("esc50-few-shot", 96, 128, 256),
            ),
            batch_size=24,
            smaller_batches={"esc50-few-shot": 9},
            ablation_datasets=(),
            ablation_encoders=(),
        ),
        with_products("float32"),
        with_products("bfloat16"),
        ENCODERS_COMPARED,
        PAPER,
        replace(
            PAPER,
            name="rehearsal",
            about="`paper` with miniatures of everything, to try every step; its numbers mean nothing",
            trials=2,
            first_rung=1,
            epochs=1,
            top_k=1,
            seeds=(1, 2),
            batch_size=16,
            bootstrap_draws=50,
        ),
        replace(
            ENCODERS_COMPARED,
            name="encoders-esc10",
            about="the same on soundscapes mixed from the real recordings of ESC-10",
            groups=tuple(replace(group, datasets=("esc10-soundscapes",)) for group in ENCODERS_COMPARED.groups),
            example=259,
        ),
        replace(
            ENCODERS_COMPARED,
            name="esc10-1500",
            about="how good a pretrained encoder is: a few heads on 1,500 soundscapes of ESC-10",
            groups=(general(("esc10-soundscapes",), 1500, 192, 320, ("linear", "linpre", "mhca", "protobin")),),
            encoders=("pocket-amae", "pocket-eat"),
            batch_size=64,
            mean_cls=("pocket-amae", "pocket-eat"),
            example=259,
        ),
    )
}


def load_profile(name: str) -> Profile:
    """Return a profile by name, or, as "profile/study", a study at its scale; or the part of it that is asked for.

    Raises
    ------
    InputError
        For an unknown name, with the known ones, and for a study that the profile does not have.
    """
    base, _, study = name.partition("/")
    if base not in PROFILES:
        raise unknown_name("profile", base, list(PROFILES))
    profile = part_asked_for(PROFILES[base])
    return at_scale_of(profile, study) if study else profile
