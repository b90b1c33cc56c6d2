"""The pooling heads of `lib.heads`, R runs at a time: the same functions of stacked weights.

Symbols as in `lib.heads`; every weight has a first axis of R runs. A stacked head computes logits (R, B, C) from
clips that all runs share. Equations and options are documented with the plain heads; here is only how many runs
share the work: wide products, poolings before projections, and what is constant in a cell computed once.
"""
# ruff: noqa: D102 (the methods are documented once, in StackedHead)

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lib.engine_maxima import Units, largest_cosines, largest_cosines_vjp, unit, unit_signs
from lib.engine_pooling import Clips, Weights, affine, attend_stacked, attention, classify, moments, of_layer, unstack
from lib.heads import Head
from lib.loss import orthogonality_loss
from lib.pooling import attend

Pull = Callable[[Tensor], Weights]  # what takes the gradient of logits back to the weights
ROOM = 2**24  # numbers that the runs of one pass may hold in their largest intermediate result: 64 MiB in fp32


class StackedHead:
    """What every stacked head does.

    Parameters
    ----------
    plain : Head
        A head of one run; its options are read off it, its weights are not used.
    products : torch.dtype
        Of the largest products, where the head is one of those that take narrow ones.
    """

    narrow = False  # whether it is
    has_constants = False  # whether `constants` gives any
    own_batches = False  # whether `logits` also takes clips that differ from run to run
    reads_tokens = True  # whether a clip is more than a few vectors

    def __init__(self, plain: Head, products: torch.dtype) -> None:
        self.plain, self.products = plain, products
        self.length = plain.grid[0] * plain.grid[1]  # N

    @property
    def needs_graph(self) -> bool:
        """Whether `vjp` asks autograd."""
        return type(self).vjp is StackedHead.vjp

    def constants(self, tokens: Tensor) -> Weights:
        """Return what the head needs of each clip's tokens (B, N, D) whatever its weights."""
        return {}

    def room(self, clips: int) -> int:
        """Return how many numbers a run's largest intermediate result has; 1 if it does not matter."""
        return 1

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        """Return the logits (R, B, C); `w` also has the buffers, which are updated in place in training."""
        raise NotImplementedError

    def extra_loss(self, w: Weights) -> Tensor | None:
        """Return what each run adds to its loss, (R,), if anything."""
        return None

    def vjp(self, w: Weights, names: Collection[str], clips: Clips) -> tuple[Tensor, Tensor | None, Pull]:
        """Return logits in training, the extra loss, and what makes of the logits' gradient that of the weights.

        A vector-Jacobian product, as in `torch.func.vjp`: here by autograd; a head may write out its own instead.

        Parameters
        ----------
        w : dict
            Weights and buffers of R runs.
        names : collection of str
            The weights that are trained.
        clips : Clips
            Of the batch.
        """
        leaves = {name: w[name].detach().requires_grad_() for name in names}
        w = w | leaves
        logits, extra = self.logits(w, clips, training=True), self.extra_loss(w)

        def pull(gradient: Tensor) -> Weights:
            ends, gradients = [logits], [gradient]
            if extra is not None and extra.requires_grad:
                ends, gradients = [logits, extra], [gradient, torch.ones_like(extra)]
            return dict(zip(leaves, torch.autograd.grad(ends, list(leaves.values()), gradients), strict=True))

        return logits.detach(), None if extra is None else extra.detach(), pull


# ---- cls and token map -------------------------------------------------------------------------------------


class Linear(StackedHead):
    """One product of cls with the weights of all runs; the gradient needs no graph."""

    own_batches, reads_tokens = True, False

    def features(self, clips: Clips) -> Tensor:
        """Return y (B, I) or (R, B, I), which no weight enters."""
        return clips.cls

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        return classify(self.features(clips), w)

    def vjp(self, w: Weights, names: Collection[str], clips: Clips) -> tuple[Tensor, Tensor | None, Pull]:
        y = self.features(clips)
        return classify(y, w), None, lambda gradient: of_layer("classifier", gradient, y)


class Mlp(StackedHead):
    """The hidden layers of all runs are one product, their second layers one batched product; no graph either."""

    own_batches, reads_tokens = True, False

    def room(self, clips: int) -> int:
        return 8 * self.plain.hidden.weight.numel()  # few runs at a time: their gradients are to stay in the caches

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        return classify(self._hidden(w, clips.cls), w)

    def _hidden(self, w: Weights, cls: Tensor) -> Tensor:
        """Return the hidden layer (R, B, H)."""
        return affine(cls, w["hidden.weight"], w["hidden.bias"]).relu_()

    def vjp(self, w: Weights, names: Collection[str], clips: Clips) -> tuple[Tensor, Tensor | None, Pull]:
        cls = clips.cls
        hidden = self._hidden(w, cls)

        def pull(gradient: Tensor) -> Weights:
            below = torch.ops.aten.threshold_backward(gradient @ w["classifier.weight"], hidden, 0)  # of a ReLU
            return of_layer("hidden", below, cls) | of_layer("classifier", gradient, hidden)

        return classify(hidden, w), None, pull


class Linearc(StackedHead):
    """One product of all tokens with the weights of all runs."""

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        return classify(clips.tokens.flatten(1), w)  # (B, N, D) → (B, N·D)


class Linpre(Linear):
    """The mean tokens of the frequency rows do not depend on the weights: one small vector a clip, kept."""

    has_constants = True

    def constants(self, tokens: Tensor) -> Weights:
        return {"rows": tokens.unflatten(1, self.plain.grid).mean(1).flatten(1)}  # (B, S_t, S_f, D) → (B, S_f·D)

    def features(self, clips: Clips) -> Tensor:
        return clips.constant("rows")


class Conv(StackedHead):
    """One convolution D → R·D_h for all runs."""

    def room(self, clips: int) -> int:
        return clips * self.length * self.plain.conv.out_channels

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        runs, width = w["conv.bias"].shape
        image = clips.tokens.unflatten(1, self.plain.grid).permute(0, 3, 1, 2)  # (B, N, D) → (B, D, S_t, S_f)
        kernels = w["conv.weight"].flatten(0, 1)  # (R, D_h, D, 3, 3) → (R·D_h, D, 3, 3)
        maps = F.conv2d(image, kernels, w["conv.bias"].flatten(), padding=1).relu()  # (B, R·D_h, S_t, S_f)
        y = maps.mean((2, 3)).unflatten(1, (runs, width))  # (B, R·D_h) → (B, R, D_h)
        return classify(y.transpose(0, 1), w)


# ---- attentive ---------------------------------------------------------------------------------------------


class Mhca(StackedHead):
    """Attention folded as in the plain head, and the batch norm too: tokens are neither projected nor normalised.

    With x = (z − μ)/σ: qᵀx = (q/σ)ᵀz − const, and the softmax ignores the constant; Σ_n a_n x_n = (Σ_n a_n z_n − μ)/σ.
    """

    has_constants = own_batches = True

    def room(self, clips: int) -> int:
        return clips * self.length * self.plain.heads[0]

    def constants(self, tokens: Tensor) -> Weights:
        variance, mean = torch.var_mean(tokens, 1, correction=0)
        return {"mean": mean, "variance": variance}  # (B, D) each

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        key, value = (w[name].unflatten(1, self.plain.heads) for name in ("key.weight", "value.weight"))
        query = torch.einsum("rmd,rmdi->rmi", w["query"].unflatten(1, self.plain.heads), key)  # (R, M, D)
        mean, deviation = self._statistics(w, clips, training)  # (R or 1, 1, D)
        query = query / deviation / self.plain.heads[1] ** 0.5
        pooled = attend_stacked(clips, query)  # (R, B, M, D)
        pooled = (pooled - mean[:, None]) / deviation[:, None]
        # The weights stand left: as the right factor their gradient takes ten times as long.
        y = (value @ pooled.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (R, M, d, D) @ (R, M, D, B) → (R, B, M, d)
        return classify(y.flatten(2), w)  # (R, B, M, d) → (R, B, D)

    def _statistics(self, w: Weights, clips: Clips, training: bool) -> tuple[Tensor, Tensor]:
        """Return μ and σ of the tokens' batch norm: the batch's own in training, else the running ones."""
        norm = self.plain.token_norm
        if training:
            mean, variance, tokens = moments(clips)  # (R or 1, D)
            running_mean, running_var = w["token_norm.running_mean"], w["token_norm.running_var"]  # (R, D)
            running_mean.lerp_(mean.expand_as(running_mean), norm.momentum)
            running_var.lerp_((variance * tokens / (tokens - 1)).expand_as(running_var), norm.momentum)
            w["token_norm.num_batches_tracked"].add_(1)
        else:
            mean, variance = w["token_norm.running_mean"], w["token_norm.running_var"]
        return mean[:, None], (variance[:, None] + norm.eps).sqrt()


class Ep(StackedHead):
    """The queries of all runs attend together, folded as in the plain head; no graph."""

    own_batches = narrow = True

    def room(self, clips: int) -> int:
        return clips * self.length * len(self.plain.queries)

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        return self.vjp(w, w, clips)[0]

    def vjp(self, w: Weights, names: Collection[str], clips: Clips) -> tuple[Tensor, Tensor | None, Pull]:
        count, scale = w["queries"].shape[1], self.plain.dim**-0.5
        value = w["value.weight"].unflatten(1, (count, -1))  # (R, D, D) → (R, Q, D/Q, D)
        pooled, pull_queries = attention(clips, w["queries"] * scale, self.products)  # (R, B, Q, D)
        pooled = pooled.transpose(1, 2)  # (R, Q, B, D)
        y = (pooled @ value.mT).transpose(1, 2).flatten(2)  # (R, Q, B, D/Q) → (R, B, Q, D/Q) → (R, B, D)

        def pull(gradient: Tensor) -> Weights:
            below = gradient @ w["classifier.weight"]  # (R, B, D)
            below = below.unflatten(2, (count, -1)).transpose(1, 2)  # (R, B, Q, D/Q) → (R, Q, B, D/Q)
            return of_layer("classifier", gradient, y) | {
                "value.weight": (below.mT @ pooled).flatten(1, 2),  # (R, Q, D/Q, D) → (R, D, D)
                "queries": pull_queries((below @ value).transpose(1, 2)) * scale,  # of (R, B, Q, D)
            }

        return classify(y, w), None, pull


class Simpool(StackedHead):
    """One query a clip and run; the mean tokens are kept, the normalised tokens are shared by the runs."""

    has_constants = own_batches = True

    def room(self, clips: int) -> int:
        return clips * self.length

    def constants(self, tokens: Tensor) -> Weights:
        return {"mean": tokens.mean(1)}  # (B, D)

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        scale, shift = w["token_norm.weight"][:, None], w["token_norm.bias"][:, None]  # (R, 1, D)
        query = affine(clips.constant("mean"), w["query.weight"])  # (R, B, D)
        query = query @ w["key.weight"] * scale / self.plain.dim**0.5
        tokens = F.layer_norm(clips.tokens, (self.plain.dim,), eps=self.plain.token_norm.eps)
        pooled = attend(tokens, query[:, :, None], None) if clips.own else attend(tokens, query.transpose(0, 1), None)
        pooled = pooled.squeeze(2) if clips.own else pooled.transpose(0, 1)  # (R, B, D)
        return classify(pooled * scale + shift, w)


class Abmilp(StackedHead):
    """Self-attention has no common part: run after run. But tokens are pooled before the values' projection.

    With x_n = V a_n + b, a_n the attended tokens: W₁x_n + b₁ = (W₁V) a_n + (W₁b + b₁), Σ_n α_n x_n = V Σ_n α_n a_n + b.
    """

    def room(self, clips: int) -> int:
        return ROOM  # one run at a time

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        return torch.stack([self._logits(one, clips.tokens) for one in unstack(w)])

    def _logits(self, w: Weights, tokens: Tensor) -> Tensor:
        w_query, w_key, w_value = w["qkv.weight"].chunk(3)  # (3D, D) → three (D, D)
        queries = tokens @ (w_query.T @ w_key / self.plain.dim**0.5)  # (B, N, D)
        attended = attend(tokens, queries, None)  # (B, N, D)
        value, shift = w["projection.weight"] @ w_value, w["projection.bias"]  # (D, D), (D,)
        hidden = w["hidden.weight"] @ value, w["hidden.weight"] @ shift + w["hidden.bias"]  # (D, D), (D,)
        evidence = F.linear(F.linear(attended, *hidden).tanh(), w["score.weight"], w["score.bias"])  # (B, N, 1)
        pooled = (evidence.softmax(1).mT @ attended).squeeze(1)  # (B, 1, N) @ (B, N, D) → (B, D)
        return F.linear(F.linear(pooled, value, shift), w["classifier.weight"], w["classifier.bias"])  # (B, C)


# ---- prototype ---------------------------------------------------------------------------------------------


class Protofloat(StackedHead):
    """The prototypes of all runs, side by side against tokens of length one; the tokens' norms are kept."""

    has_constants = own_batches = narrow = True

    def constants(self, tokens: Tensor) -> Weights:
        return {"scale": 1 / tokens.norm(dim=-1).clamp_min(1e-12)}  # (B, N)

    def unit_tokens(self, clips: Clips) -> Tensor:
        return clips.unit_tokens(clips.constant("scale"))  # (B, N, D) or (R, B, N, D)

    def unit_prototypes(self, w: Weights) -> Units:
        return unit(w["prototypes"])  # (R, K, D)

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        prototypes, tokens = self.unit_prototypes(w).vectors, self.unit_tokens(clips)
        return self.classified(largest_cosines(prototypes, tokens, self.products, clips.split.memory), w)[0]

    def classified(self, cosines: Tensor, w: Weights) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Weights]]]:
        """Return logits of cosines (R, B, K), and what takes their gradient to the cosines and to the classifier."""

        def pull(gradient: Tensor) -> tuple[Tensor, Weights]:
            return gradient @ w["classifier.weight"], of_layer("classifier", gradient, cosines)  # (R, B, C) @ (R, C, K)

        return classify(cosines, w), pull

    def vjp(self, w: Weights, names: Collection[str], clips: Clips) -> tuple[Tensor, Tensor | None, Pull]:
        prototypes, tokens = self.unit_prototypes(w), self.unit_tokens(clips)
        cosines, pull_cosines = largest_cosines_vjp(prototypes, tokens, self.products, clips.split.memory)
        logits, pull_logits = self.classified(cosines, w)

        def pull(gradient: Tensor) -> Weights:
            below, gradients = pull_logits(gradient)
            return {"prototypes": pull_cosines(below)} | gradients

        return logits, None, pull


class Protobin(Protofloat):
    """Protofloat with signs."""

    def unit_prototypes(self, w: Weights) -> Units:
        return unit_signs(w["prototypes"])  # (R, K, D)


class Proto(Protofloat):
    """Protofloat with upstream's cosine, two channels wider, a class-dependent classifier, and a loss of its own."""

    def constants(self, tokens: Tensor) -> Weights:
        return {"scale": (tokens.square().sum(-1) + 2 * 1e-4**2 + 1e-4).rsqrt()}  # (B, N)

    def unit_tokens(self, clips: Clips) -> Tensor:
        extra = (1e-4 * clips.constant("scale"))[..., None]  # (B, N, 1) or (R, B, N, 1)
        return torch.cat([super().unit_tokens(clips), extra, extra], -1)  # (…, N, D + 2)

    def unit_prototypes(self, w: Weights) -> Units:
        prototypes = F.pad(w["prototypes"].flatten(1, 2), (0, 2), value=1e-4)  # (R, C, J, D) → (R, K, D + 2)
        return unit(prototypes, under=1e-4, beside=1e-4)

    def classified(self, cosines: Tensor, w: Weights) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Weights]]]:
        weight, bias = w["classifier.weight"].relu(), w["classifier.bias"]  # (R, C, J), (R, C)
        y = (cosines.relu() / 1.01).unflatten(2, weight.shape[1:])  # (R, B, K) → (R, B, C, J)

        def pull(gradient: Tensor) -> tuple[Tensor, Weights]:
            of_y = (gradient[..., None] * weight[:, None]).flatten(2)  # (R, B, C, J) → (R, B, K)
            of_weight = torch.einsum("rbc,rbcj->rcj", gradient, y) * (weight > 0)
            return of_y * (cosines > 0) / 1.01, {"classifier.weight": of_weight, "classifier.bias": gradient.sum(1)}

        return torch.einsum("rbcj,rcj->rbc", y, weight) + bias[:, None], pull

    def vjp(self, w: Weights, names: Collection[str], clips: Clips) -> tuple[Tensor, Tensor | None, Pull]:
        logits, _, pull_logits = super().vjp(w, names, clips)
        with torch.inference_mode(False):  # this part of the gradient is autograd's
            leaf = w["prototypes"].clone().requires_grad_()
            extra = self.plain.orthogonality_weight * torch.vmap(orthogonality_loss)(leaf)  # (R,)
            (apart,) = torch.autograd.grad(extra.sum(), leaf)

        def pull(gradient: Tensor) -> Weights:
            gradients = pull_logits(gradient)
            both = gradients["prototypes"][..., :-2].unflatten(1, leaf.shape[1:3]) + apart  # (R, K, D) → (R, C, J, D)
            return gradients | {"prototypes": both}

        return logits, extra.detach(), pull


# ---- any head ----------------------------------------------------------------------------------------------


class OneByOne(StackedHead):
    """Any plain head, run after run on the same clips: for options that are rarely used and need not be fast."""

    def room(self, clips: int) -> int:
        return ROOM

    def logits(self, w: Weights, clips: Clips, training: bool) -> Tensor:
        self.plain.train(training)
        tokens, cls = (clips.tokens if "tokens" in self.plain.reads else None), clips.cls
        return torch.stack([functional_call(self.plain, one, (tokens, cls)) for one in unstack(w)])

    def extra_loss(self, w: Weights) -> Tensor | None:
        if type(self.plain).extra_loss is Head.extra_loss:
            return None
        named = ({f"head.{name}": value for name, value in one.items()} for one in unstack(w))
        return torch.stack([functional_call(_ExtraLoss(self.plain), one, ()) for one in named])


class _ExtraLoss(nn.Module):
    """A head's extra loss as a module's forward, so that it can be called with other weights."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self) -> Tensor:
        return self.head.extra_loss()


# Each stacked head, and the options of the plain head that it knows.
STACKED: dict[str, tuple[type[StackedHead], set[str]]] = {
    "linear": (Linear, set()),
    "mlp": (Mlp, {"hidden"}),
    "linearc": (Linearc, set()),
    "conv": (Conv, {"conv_dim"}),
    "linpre": (Linpre, set()),
    "mhca": (Mhca, {"num_heads"}),
    "ep": (Ep, {"num_queries"}),
    "simpool": (Simpool, set()),
    "abmilp": (Abmilp, set()),
    "proto": (Proto, {"orthogonality_weight"}),
    "protobin": (Protobin, {"init_std"}),
    "protofloat": (Protofloat, {"init_std"}),
}


def takes_narrow_products(name: str) -> bool:
    """Return whether the largest products of a head may be in bfloat16: where they are most of its work."""
    return STACKED.get(name, (OneByOne, set()))[0].narrow


def stacked_head(name: str, options: Collection[str], plain: Head, products: torch.dtype) -> StackedHead:
    """Return the stacked head of this name, or the plain one run by run where an option asks for another head.

    Parameters
    ----------
    name : str
        A key of `lib.heads.HEADS`.
    options : collection of str
        Names of the options that were given.
    plain : Head
        A head built with them.
    products : torch.dtype
        As in `StackedHead`.
    """
    kind, known = STACKED.get(name, (OneByOne, set()))
    return (kind if known.issuperset(options) else OneByOne)(plain, products)
