"""Pretraining objectives, each with its equation: from a normalised spectrogram batch to a loss.

Each stands for one row of Table 1 of the paper at pocket size, and its docstring says what of the original is kept and
what is left out. All share an interface: ``.vit`` is the network to ship; ``objective(spectrogram, generator)`` is the
loss (the supervised one takes labels too), everything random drawn from `generator`, a generator of the CPU; and
``after_step(progress)``, where it exists, moves what no gradient moves (a teacher, a codebook) and is to be called
after every step of the optimiser, `progress` running from 0 to 1. Such parts have ``requires_grad=False`` but are in
the ``state_dict``, so that a checkpoint resumes exactly. The first two parameters are the same in all: `vit`, the
network to train, and `generator`, which draws the initial weights of all else; each class lists what is its own.

Symbols: ``B`` clips, ``N`` patches, ``V`` visible ones, ``M`` masks a clip, ``D`` token dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.encoders.objective_parts import (
    GridDecoder,
    TokenDecoder,
    block_places,
    follow,
    frozen_copy,
    mean_over_hidden,
    normalised_patches,
    partial_mixture,
    projection_head,
    random_places,
    standardised,
    take,
)
from lib.encoders.tokenizers import LearnedTokenizer, RandomTokenizer
from lib.encoders.vit import Block, ViT, initialise, patchify, sincos_positions
from lib.errors import InputError


class MaskedAutoencoder(nn.Module):
    """Masked spectrogram reconstruction, the objective of A-MAE (Huang et al., 2022; He et al., 2022) and of Dasheng.

    A random part of the patches is hidden. The encoder sees the rest (and [cls], if it has one); a small decoder gets
    the encoder's output at the visible places and one learned vector at the hidden ones, and predicts the hidden
    patches, each normalised to zero mean and unit variance; a random part of them in a step, which costs less::

        L = mean over asked n of | decoder(n) - (x_n - mean(x_n)) / std(x_n) |²

    With full-band patches and no [cls] it is the objective of Dasheng (Dinkel et al., 2024). Kept: mask ratios (0.8 for
    A-MAE, 0.75 for Dasheng), loss over hidden patches only. Left out: A-MAE's local attention in the decoder.

    Parameters
    ----------
    mask_ratio : float
        Share of hidden patches.
    asked_ratio : float
        Share of the hidden patches that the decoder is asked for in a step; fewer are cheaper.
    decoder_dim, decoder_depth, decoder_heads : int
        Size of the decoder, which is thrown away after pretraining.
    """

    def __init__(
        self,
        vit: ViT,
        generator: torch.Generator,
        mask_ratio: float = 0.8,
        asked_ratio: float = 0.35,
        decoder_dim: int = 96,
        decoder_depth: int = 2,
        decoder_heads: int = 2,
    ) -> None:
        super().__init__()
        self.vit, self.mask_ratio, self.asked_ratio = vit, mask_ratio, asked_ratio
        patch = vit.patch[0] * vit.patch[1]
        self.decoder = TokenDecoder(vit, patch, generator, decoder_dim, decoder_depth, decoder_heads)

    def forward(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss (scalar) of ``(B, frames, mel)`` under masks drawn from `generator`."""
        x = self.vit.embed_patches(spectrogram)  # (B, N, D)
        visible, hidden = random_places(*x.shape[:2], self.mask_ratio, generator, x.device)  # (B, V), (B, H)
        asked = hidden[:, : round(self.asked_ratio * hidden.shape[1])]  # (B, A)
        prediction = self.decoder(*self.vit.encode(take(x, visible)), visible, asked)  # (B, A, patch)
        target = take(normalised_patches(spectrogram, self.vit.patch), asked)  # (B, A, patch)
        return (prediction - target).square().mean()


class LatentDistillation(nn.Module):
    """Masked latent distillation, the objective of EAT (Chen et al., 2024; data2vec 2.0, Baevski et al., 2023).

    A teacher t, the moving average of the encoder, sees the whole clip. Its blocks' outputs, each normalised, are
    averaged to targets. The student sees a fifth of the patches, in blocks of 3 × 3 (EAT: 5 × 5, on a larger grid),
    under several masks a clip, so that one pass of the teacher serves several of the student; a light decoder predicts
    the targets at the hidden places, and the student's [cls] predicts their mean::

        y_n = LN(sum over blocks l of norm(t_l(x)_n))
        L = mean over hidden n of | decoder(n) - y_n |² + w | cls - mean over all n of y_n |²

    `mixtures` adds what SSLAM (Alex et al., 2025) adds: every clip a is also heard mixed with another one b over a
    random stretch of time, and for the mixture m, under the same masks, the same decoder output has to be near two
    targets, the teacher's of the mixture, and, where both sound, the mean of those of the sources (source retention)::

        L + L(m) + mean | decoder(n) - (y_n(a) + y_n(b)) / 2 |²

    Kept: inverse-block masks, 80 % hidden, targets from all blocks, the utterance loss on [cls], a decoder of
    convolutions, rising decay of the teacher. Different: norm takes away the mean of each place over the batch, not
    that of the clip, because a young teacher says little but where a token lies, and a student that repeats it says
    even less; pre-norm blocks, so that t_l is what a block adds to the tokens; mixtures by the sum of the powers, where
    SSLAM takes the larger log-mel; one stretch of mixture a clip, and the second source heard whole by the teacher,
    where SSLAM cuts what was not mixed.

    Parameters
    ----------
    masks : int
        Masks a clip, M.
    mask_ratio : float
        Share of hidden patches.
    block : int
        Side of a visible block, in patches.
    decoder_depth : int
        Convolutions of the decoder, which is thrown away after pretraining.
    utterance_weight : float
        w of the equation.
    decay : tuple of float
        Decay of the moving average at the first and the last step.
    mixtures : bool
        Whether to hear mixtures too; the batch then costs about twice as much.
    """

    def __init__(
        self,
        vit: ViT,
        generator: torch.Generator,
        masks: int = 4,
        mask_ratio: float = 0.8,
        block: int = 3,
        decoder_depth: int = 4,
        utterance_weight: float = 1.0,
        decay: tuple[float, float] = (0.996, 0.9998),
        mixtures: bool = False,
    ) -> None:
        super().__init__()
        if vit.cls_token is None:
            raise InputError("Latent distillation trains [cls]; give it a ViT that has one.")
        self.vit, self.teacher = vit, frozen_copy(vit)
        self.masks, self.mask_ratio, self.block = masks, mask_ratio, block
        self.utterance_weight, self.decay, self.mixtures = utterance_weight, decay, mixtures
        self.decoder = GridDecoder(vit, generator, decoder_depth)

    def forward(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss (scalar) of ``(B, frames, mel)`` under masks, and mixtures, drawn from `generator`."""
        B, places = len(spectrogram), len(self.vit.positions)
        visible = block_places(self.vit.grid, B * self.masks, 1 - self.mask_ratio, self.block, generator)  # (B · M, V)
        visible = visible.to(spectrogram.device)
        if not self.mixtures:
            return self._distil(spectrogram, self.targets(spectrogram), visible)[0]
        mixed, both = partial_mixture(spectrogram, self.vit.patch[0], generator)
        targets = self.targets(torch.cat([spectrogram, mixed]))  # (2 B, N, D)
        loss, _ = self._distil(spectrogram, targets[:B], visible)
        loss_of_mixture, prediction = self._distil(mixed, targets[B:], visible)
        share = 0.5 * both.repeat_interleave(places // both.shape[1], 1)[..., None]  # (B, N, 1), time-major
        sources = torch.lerp(targets[:B], targets[:B].roll(1, 0), share)  # (B, N, D)
        error = (prediction - sources.repeat_interleave(self.masks, 0)).square().mean(-1)  # (B · M, N)
        return loss + loss_of_mixture + mean_over_hidden(error, visible)

    def _distil(self, spectrogram: Tensor, targets: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch under its masks ``(B · M, V)``, and the predictions ``(B · M, N, D)``."""
        x = self.vit.embed_patches(spectrogram).repeat_interleave(self.masks, 0)  # (B · M, N, D)
        tokens, cls = self.vit.encode(take(x, visible))
        prediction = self.decoder(tokens, visible)  # (B · M, N, D)
        error = (prediction - targets.repeat_interleave(self.masks, 0)).square().mean(-1)  # (B · M, N)
        utterance_error = (cls.float() - targets.mean(1).repeat_interleave(self.masks, 0)).square().mean()
        return mean_over_hidden(error, visible) + self.utterance_weight * utterance_error, prediction

    @torch.no_grad()
    def targets(self, spectrogram: Tensor) -> Tensor:
        """Return what the teacher hears in ``(B, frames, mel)``: float32 ``(B, N, D)``."""
        x = self.teacher.with_cls(self.teacher.embed_patches(spectrogram))  # (B, 1 + N, D)
        total = 0.0
        for block in self.teacher.blocks:
            before = x
            x, _ = block(x)
            added = (x - before)[:, 1:].float()  # (B, N, D)
            total = total + standardised(added - added.mean(0), (0, 1))
        return F.layer_norm(total, total.shape[-1:])

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the encoder."""
        follow(self.teacher, self.vit, self.decay, progress)


class TokenPrediction(nn.Module):
    """Masked prediction of discrete tokens, the objective of BEATs (Chen et al., 2023a).

    A tokenizer turns every patch into one of K codes. The encoder sees a quarter of the patches; a small label
    predictor gets its output and one learned vector at the hidden places, and names the hidden codes::

        L = mean over hidden n of -log softmax(predictor(n))[code_n]

    Kept: 75 % hidden, visible patches only in the encoder, no [cls], the two kinds of tokenizer one after the other
    (random projection, then one distilled from the encoder that the first gave). Different: with the second tokenizer
    the encoder of the first iteration goes on, where the original starts anew. Left out: relative positions, the third
    iteration, and the supervised teacher of the third iteration's "+" variant.

    Parameters
    ----------
    tokenizer : torch.nn.Module, optional
        Offers ``codes(spectrogram) -> (B, N)`` and ``num_codes``; a `RandomTokenizer` by default.
    mask_ratio : float
        Share of hidden patches.
    asked_ratio : float
        Share of the hidden patches that the predictor is asked for in a step; fewer are cheaper.
    decoder_dim, decoder_depth, decoder_heads : int
        Size of the label predictor, which is thrown away after pretraining.
    """

    def __init__(
        self,
        vit: ViT,
        generator: torch.Generator,
        tokenizer: nn.Module | None = None,
        mask_ratio: float = 0.75,
        asked_ratio: float = 0.4,
        decoder_dim: int = 96,
        decoder_depth: int = 2,
        decoder_heads: int = 2,
    ) -> None:
        super().__init__()
        self.vit, self.mask_ratio, self.asked_ratio = vit, mask_ratio, asked_ratio
        self.tokenizer = (tokenizer or RandomTokenizer(vit.patch, generator)).requires_grad_(False)
        codes = self.tokenizer.num_codes
        self.predictor = TokenDecoder(vit, codes, generator, decoder_dim, decoder_depth, decoder_heads)

    def forward(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss (scalar) of ``(B, frames, mel)`` under masks drawn from `generator`."""
        x = self.vit.embed_patches(spectrogram)  # (B, N, D)
        visible, hidden = random_places(*x.shape[:2], self.mask_ratio, generator, x.device)  # (B, V), (B, H)
        asked = hidden[:, : round(self.asked_ratio * hidden.shape[1])]  # (B, A)
        logits = self.predictor(*self.vit.encode(take(x, visible)), visible, asked)  # (B, A, K)
        codes = self.tokenizer.codes(spectrogram).gather(1, asked)  # (B, A)
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


class TokenizerDistillation(nn.Module):
    """BEATs' second tokenizer (Chen et al., 2023a), distilled from the encoder that the first one gave.

    A small encoder maps every patch to a unit vector z, which is replaced by the nearest code v of a codebook; from the
    codes alone an estimator predicts the outputs o of the finished encoder, centred over the batch. The gradient passes
    the codes as if they were z (straight through)::

        L = mean over n of 1 - cos(estimator(v)_n, o_n) + | z_n - v_n |²

    The codebook is moved by no gradient: a code is the moving average of the vectors that chose it, and one that none
    chooses is put where vectors are. The original does that too, so the moving average that Table 1 of the paper denies
    BEATs is in its tokenizer; its encoder has no moving-average teacher.

    Parameters
    ----------
    vit : ViT
        A new network; its first `depth` blocks become the tokenizer's encoder.
    generator : torch.Generator
        Draws the initial weights.
    teacher : ViT
        The finished encoder of the first iteration.
    num_codes, code_dim, depth : int
        Codes, their dimension, blocks of the tokenizer's encoder.
    estimator_dim, estimator_depth, estimator_heads : int
        Size of the estimator, which is thrown away.
    decay : float
        Of the codebook's moving average.
    """

    def __init__(
        self,
        vit: ViT,
        generator: torch.Generator,
        teacher: ViT,
        num_codes: int = 256,
        code_dim: int = 32,
        depth: int = 2,
        estimator_dim: int = 96,
        estimator_depth: int = 2,
        estimator_heads: int = 2,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        vit.blocks = vit.blocks[:depth]
        self.vit, self.teacher, self.decay = vit, frozen_copy(teacher), decay
        self.tokenizer = LearnedTokenizer(vit, generator, num_codes, code_dim)
        self.enter = nn.Linear(code_dim, estimator_dim)
        self.blocks = nn.ModuleList(Block(estimator_dim, estimator_heads) for _ in range(estimator_depth))
        self.predict = nn.Sequential(nn.LayerNorm(estimator_dim, eps=1e-6), nn.Linear(estimator_dim, teacher.dim))
        for part in (self.enter, self.blocks, self.predict):
            initialise(part, generator)
        self.register_buffer("positions", sincos_positions(vit.grid, estimator_dim), persistent=False)

    def forward(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss (scalar) of ``(B, frames, mel)``; nothing in it is random."""
        z = self.tokenizer(spectrogram)  # (B, N, d)
        codes = self.tokenizer.nearest(z)  # (B, N)
        v = self.tokenizer.codebook[codes]  # (B, N, d)
        self.chosen = z.detach().flatten(0, 1), codes.flatten()  # for `after_step`
        y = self.enter(z + (v - z).detach()) + self.positions  # (B, N, D')
        for block in self.blocks:
            y, _ = block(y)
        with torch.no_grad():
            output = self.teacher.encode(self.teacher.embed_patches(spectrogram))[0].float()  # (B, N, D)
        agreement = F.cosine_similarity(self.predict(y).float(), output - output.mean((0, 1)), dim=-1)  # (B, N)
        return (1 - agreement).mean() + (z - v).square().sum(-1).mean()

    def after_step(self, progress: float) -> None:
        """Move the codebook, at the same pace throughout."""
        self.tokenizer.move(*self.chosen, self.decay)


class LocalGlobalDistillation(nn.Module):
    """Group-masked reconstruction with local and global self-distillation, the objective of ASiT (Ahmed et al., 2024).

    Two crops of a clip are each corrupted: blocks of patches are set to the mean level, or replaced by those of another
    clip. The student hears the corrupted crops, the teacher, its moving average, the clean ones. The student rebuilds
    the corrupted patches h; there its projected tokens have to fall into the same soft classes as the teacher's
    (local), and its projected [cls] into those of the teacher's [cls] of the *other* crop (global)::

        L = 2 mean over h of | rebuilt(h) - x_h | + CE(local teacher, student) + CE(global teacher, student)
        teacher: softmax((head - centre) / T_t), centre = moving average of head;  student: log softmax(head / T_s)

    Kept: the three losses and their weights, zeros in 70 % and foreign patches in 30 % of the cases, centring,
    temperatures (0.04 to 0.07; 0.1), decay 0.996 to 1. Different: crops of 3.2 s, not 6 s, at the positions of their
    place in the clip; a level of its own for each crop instead of augmentations of the audio; the local loss at
    corrupted places only; 512 soft classes, not 8192 and 1024.

    Parameters
    ----------
    steps : int
        Time steps (patches) of a crop.
    mask_ratio, block : float, int
        Share of corrupted patches, and side of a corrupted block.
    foreign : float
        Share of the crops that are corrupted with another clip's patches.
    gain : float
        Largest change of a crop's level, in standard deviations of the log-mel (0.5 is 6 dB).
    classes : int
        Outputs of each head.
    decay : tuple of float
        Decay of the moving average at the first and the last step.
    """

    def __init__(
        self,
        vit: ViT,
        generator: torch.Generator,
        steps: int = 10,
        mask_ratio: float = 0.6,
        block: int = 3,
        foreign: float = 0.3,
        gain: float = 0.5,
        classes: int = 512,
        decay: tuple[float, float] = (0.996, 1.0),
    ) -> None:
        super().__init__()
        if vit.cls_token is None:
            raise InputError("Local-global distillation trains [cls]; give it a ViT that has one.")
        self.vit, self.steps, self.mask_ratio, self.block = vit, steps, mask_ratio, block
        self.foreign, self.gain, self.decay = foreign, gain, decay
        self.heads = nn.ModuleDict({kind: projection_head(vit.dim, classes, generator) for kind in ("local", "global")})
        self.rebuild = nn.Linear(vit.dim, vit.patch[0] * vit.patch[1])
        for part in (self.heads, self.rebuild):
            initialise(part, generator)
        self.teacher, self.teacher_heads = frozen_copy(vit), frozen_copy(self.heads)
        self.register_buffer("centres", torch.zeros(2, classes))  # local, global
        self.register_buffer("temperature", torch.tensor(0.04))  # of the teacher

    def forward(self, spectrogram: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss (scalar) of ``(B, frames, mel)`` under crops and masks drawn from `generator`."""
        clean, places = self.crops(spectrogram, generator)  # (2 B, n, patch), (2 B, n)
        device = clean.device
        hidden = block_places((self.steps, self.vit.grid[1]), len(clean), self.mask_ratio, self.block, generator)
        hidden = hidden.to(device)  # (2 B, H)
        foreign = (torch.rand(len(clean), 1, 1, generator=generator) < self.foreign).to(device)
        filler = take(clean.roll(1, 0) * foreign, hidden)  # (2 B, H, patch), zeros where not foreign
        corrupted = clean.scatter(1, hidden[..., None].expand_as(filler), filler)

        tokens, cls = self.vit.encode(self.vit.embed(corrupted) + self.vit.positions[places])
        at_hidden = take(tokens, hidden)  # (2 B, H, D)
        rebuilt = (self.rebuild(at_hidden).float() - take(clean, hidden)).abs().mean()
        with torch.no_grad():
            goals, goal_cls = self.teacher.encode(self.teacher.embed(clean) + self.teacher.positions[places])
            local_goal = self.teacher_heads["local"](take(goals, hidden)).float()  # (2 B, H, classes)
            global_goal = self.teacher_heads["global"](goal_cls).float()  # (2 B, classes)
        self.heard = torch.stack([local_goal.mean((0, 1)), global_goal.mean(0)])  # for `after_step`
        local_loss = self._cross_entropy(local_goal, self.heads["local"](at_hidden), 0)
        other = global_goal.roll(len(spectrogram), 0)  # of the other crop
        return 2 * rebuilt + local_loss + self._cross_entropy(other, self.heads["global"](cls), 1)

    def crops(self, spectrogram: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cut two crops out of each clip: patches ``(2 B, n, patch)``, and their places in the clip ``(2 B, n)``."""
        (frames, rows), B = (self.vit.patch[0], self.vit.grid[1]), len(spectrogram)
        start = torch.randint(spectrogram.shape[1] - self.steps * frames + 1, (2 * B, 1), generator=generator)
        index = (start + torch.arange(self.steps * frames)).to(spectrogram.device)  # (2 B, crop frames)
        crop = spectrogram.repeat(2, 1, 1).gather(1, index[..., None].expand(-1, -1, spectrogram.shape[2]))
        level = torch.empty(2 * B, 1, 1).uniform_(-self.gain, self.gain, generator=generator)
        step = (start / frames).round().long() + torch.arange(self.steps)  # (2 B, steps)
        places = (step[..., None] * rows + torch.arange(rows)).flatten(1)  # (2 B, n), time-major
        return patchify(crop + level.to(crop.device), self.vit.patch), places.to(crop.device)

    def _cross_entropy(self, goal: Tensor, output: Tensor, kind: int) -> Tensor:
        goal = ((goal - self.centres[kind]) / self.temperature).softmax(-1)
        return -(goal * (output.float() / 0.1).log_softmax(-1)).sum(-1).mean()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher and the centres; raise the teacher's temperature over the first third."""
        follow(self.teacher, self.vit, self.decay, progress)
        follow(self.teacher_heads, self.heads, self.decay, progress)
        self.centres.lerp_(self.heard, 0.1)
        self.temperature.fill_(0.04 + 0.03 * min(1.0, 3 * progress))


class SupervisedFineTuning(nn.Module):
    """End-to-end fine-tuning on labels, what makes a supervised version (the paper's "+") of an encoder.

    A linear layer on [cls] (EAT, SSLAM), or on the mean token where there is none (BEATs), and the binary cross-entropy
    of each class::

        L = mean over clips and classes of BCE(sigmoid(W descriptor + b), label)

    The encoder sees a random part of the patches, which is cheaper and a regulariser. Left out: mixup, layer-wise
    learning rates, class-balanced sampling.

    Parameters
    ----------
    classes : int
        Number of labels.
    keep : float
        Share of the patches that the encoder sees.
    """

    def __init__(self, vit: ViT, generator: torch.Generator, classes: int = 16, keep: float = 0.5) -> None:
        super().__init__()
        self.vit, self.keep = vit, keep
        self.classify = nn.Linear(vit.dim, classes)
        initialise(self.classify, generator)

    def forward(self, spectrogram: Tensor, generator: torch.Generator, targets: Tensor) -> Tensor:
        """Return the loss (scalar) of ``(B, frames, mel)`` with labels ``(B, classes)`` of 0 and 1."""
        x = self.vit.embed_patches(spectrogram)  # (B, N, D)
        visible, _ = random_places(*x.shape[:2], 1 - self.keep, generator, x.device)  # (B, V)
        _, cls = self.vit.encode(take(x, visible))
        return F.binary_cross_entropy_with_logits(self.classify(cls).float(), targets.float())
