"""The plain textbook loop: every head as one would write it from its equation, one configuration after another.

This is what the fast engine is measured against (`lib.bench`), so it must be neither clever nor slow: batched PyTorch,
fused kernels where there is one for the purpose, and of several natural forms the quickest on a processor; but nothing
is folded, shared or kept, and autograd does the rest. The heads of `lib.heads` already pool before they project.

Each function maps a plain head's weights, tokens (B, N, D) and cls (B, D) to logits (B, C); symbols as in `lib.heads`.
Default options only.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.engine import build
from lib.errors import InputError
from lib.heads import Head, parameter_groups
from lib.loss import orthogonality_loss
from lib.store import Embeddings
from lib.train import LOSSES, Run, batches

# ---- the equations -----------------------------------------------------------------------------------------


def linear(head: Head, tokens: Tensor | None, cls: Tensor) -> Tensor:
    """W·cls + b."""
    return head.classifier(cls)


def mlp(head: Head, tokens: Tensor | None, cls: Tensor) -> Tensor:
    """W₂ relu(W₁·cls + b₁) + b₂."""
    return head.classifier(head.hidden(cls).relu())


def linearc(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """W·vec(Z) + b."""
    return head.classifier(tokens.flatten(1))  # (B, N, D) → (B, N·D)


def conv(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """Take a 3×3 convolution over the grid, ReLU, mean over the grid."""
    image = tokens.unflatten(1, head.grid).permute(0, 3, 1, 2)  # (B, N, D) → (B, D, S_t, S_f)
    return head.classifier(head.conv(image).relu().mean((2, 3)))  # (B, D_h, S_t, S_f) → (B, D_h)


def linpre(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """Take the mean over time of each frequency row, rows side by side."""
    rows = tokens.unflatten(1, head.grid).mean(1)  # (B, N, D) → (B, S_t, S_f, D) → (B, S_f, D)
    return head.classifier(rows.flatten(1))  # (B, S_f, D) → (B, S_f·D)


def mhca(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """a_h = softmax_n(q_hᵀ (W_K z_n)_h / √d),  y_h = Σ_n a_hn (W_V z_n)_h."""
    x = head.token_norm(tokens.flatten(0, 1)).view_as(tokens)  # (B, N, D) → (B·N, D) → (B, N, D)
    key = head.key(x).unflatten(-1, head.heads).transpose(1, 2)  # (B, N, D) → (B, N, M, d) → (B, M, N, d)
    value = head.value(x).unflatten(-1, head.heads).transpose(1, 2)  # (B, M, N, d)
    query = head.query.view(head.heads)[:, None].expand(len(tokens), -1, -1, -1)  # (D,) → (M, 1, d) → (B, M, 1, d)
    y = F.scaled_dot_product_attention(query, key, value)  # (B, M, 1, d)
    return head.classifier(y.flatten(1))  # (B, M, 1, d) → (B, D)


def ep(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """a_j = softmax_n(q_jᵀ z_n / √D),  y_j = Σ_n a_jn (W_V z_n)_{chunk j}."""
    queries = head.queries  # (Q, D)
    attention = (F.linear(tokens, queries) / head.dim**0.5).softmax(1)  # (B, N, Q)
    value = head.value(tokens).unflatten(-1, (len(queries), -1))  # (B, N, D) → (B, N, Q, D/Q)
    y = (attention[..., None] * value).sum(1)  # (B, N, Q, 1)·(B, N, Q, D/Q) → (B, Q, D/Q)
    return head.classifier(y.flatten(1))  # (B, Q, D/Q) → (B, D)


def simpool(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """Σ_n a_n x_n with x_n = LN(z_n),  a = softmax_n((W_Q mean_n z_n)ᵀ (W_K x_n) / √D)."""
    x = head.token_norm(tokens)  # (B, N, D)
    query = head.query(tokens.mean(1))[:, None, None]  # (B, D) → (B, 1, 1, D)
    y = F.scaled_dot_product_attention(query, head.key(x)[:, None], x[:, None])  # one head: (B, 1, 1, D)
    return head.classifier(y.flatten(1))  # (B, 1, 1, D) → (B, D)


def abmilp(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """Attend, then pool: x = SelfAttention(Z),  e_n = w₂ᵀ tanh(W₁ x_n + b₁) + b₂,  y = Σ_n softmax_n(e) x_n."""
    query, key, value = head.qkv(tokens)[:, None].chunk(3, -1)  # (B, N, 3D) → three (B, 1, N, D)
    x = head.projection(F.scaled_dot_product_attention(query, key, value).squeeze(1))  # (B, 1, N, D) → (B, N, D)
    attention = head.score(head.hidden(x).tanh()).softmax(1)  # (B, N, 1)
    return head.classifier((attention.mT @ x).squeeze(1))  # (B, 1, N) @ (B, N, D) → (B, D)


def proto(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """s_cj = relu(max_n cos(z_n, p_cj)) / 1.01,  logit_c = Σ_j relu(w_cj) s_cj + b_c.

    The ReLU never falls, so it may come after the maximum, where it costs N times less.
    """
    z = F.pad(tokens, (0, 2), value=1e-4)  # (B, N, D + 2), upstream's two further channels
    z = z / (z.square().sum(-1, keepdim=True) + 1e-4).sqrt()
    p = F.pad(head.prototypes.flatten(0, 1), (0, 2), value=1e-4)  # (C, J, D) → (K, D + 2)
    p = p / ((p.square().sum(-1, keepdim=True) + 1e-4).sqrt() + 1e-4)
    similarity = (z @ p.T).max(1).values.relu() / 1.01  # (B, N, K) → (B, K)
    weight = head.classifier.weight.relu()  # (C, J)
    return (similarity.unflatten(1, weight.shape) * weight).sum(-1) + head.classifier.bias  # (B, C, J) → (B, C)


def protobin(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """s_k = max_n cos(z_n, sign(p̃_k)); forward the sign, backward the identity (Eq. 2 and 3)."""
    latent = head.prototypes  # (K, D)
    signs = latent + (torch.where(latent >= 0, 1.0, -1.0) - latent).detach()  # straight through
    return _largest_cosine(head, tokens, signs)


def protofloat(head: Head, tokens: Tensor, cls: Tensor | None) -> Tensor:
    """s_k = max_n cos(z_n, p_k)."""
    return _largest_cosine(head, tokens, head.prototypes)


def _largest_cosine(head: Head, tokens: Tensor, prototypes: Tensor) -> Tensor:
    similarity = F.normalize(tokens, dim=-1) @ F.normalize(prototypes, dim=-1).T  # (B, N, K)
    return head.classifier(similarity.max(1).values)  # (B, K) → (B, C); on a CPU max is quicker than amax here


_IN_ORDER = (linear, mlp, linearc, conv, linpre, mhca, ep, simpool, abmilp, proto, protobin, protofloat)
TEXTBOOK: dict[str, Callable[[Head, Tensor, Tensor], Tensor]] = {head.__name__: head for head in _IN_ORDER}


def extra_loss(name: str, head: Head) -> Tensor | float:
    """Return what the head adds to its loss: proto's orthogonality loss, else nothing."""
    return orthogonality_loss(head.prototypes) if name == "proto" else 0.0


# ---- the loop ----------------------------------------------------------------------------------------------


class TextbookTraining:
    """One run of the textbook loop, with the first weights, batches, optimiser and schedule of `lib.train.Training`.

    Parameters
    ----------
    run : Run
        What to train; a head with default options.
    data : Embeddings
        The training split; the run is trained on its device.

    Raises
    ------
    InputError
        If the run sets an option of the head.
    """

    def __init__(self, run: Run, data: Embeddings) -> None:
        if run.options:
            raise InputError(f"The textbook loop knows no options of '{run.head}'; leave {sorted(run.options)} out.")
        self.run, self.data, self.epoch = run, data, 0
        self.head = build(run, data).to(data.tokens.device)
        groups = parameter_groups(self.head, run.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=run.lr, betas=(0.9, 0.999), fused=True)
        steps = run.epochs * -(-len(data) // run.batch_size)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=steps)

    def advance(self, epoch: int) -> "TextbookTraining":
        """Train up to the end of `epoch` (counted from 1)."""
        self.head.train()
        while self.epoch < min(epoch, self.run.epochs):
            for batch in batches(len(self.data), self.run.batch_size, self.run.order_seed, self.epoch):
                index = batch.to(self.data.tokens.device)
                logits = self.logits(self.data, index)  # (B, C)
                loss = LOSSES[self.run.loss](logits, self.data.targets[index]) + extra_loss(self.run.head, self.head)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
            self.epoch += 1
        return self

    def logits(self, data: Embeddings, index: Tensor | slice) -> Tensor:
        """Return the logits of some clips; tokens are read only where the head reads them."""
        tokens = data.tokens[index].float() if "tokens" in self.head.reads else None  # (B, N, D)
        return TEXTBOOK[self.run.head](self.head, tokens, data.cls[index])

    @torch.inference_mode()
    def scores(self, data: Embeddings, batch_size: int = 64) -> Tensor:
        """Return the logits of all clips of `data`, float32 ``(clips, C)``."""
        self.head.eval()
        starts = range(0, len(data), batch_size)
        return torch.cat([self.logits(data, slice(start, start + batch_size)) for start in starts]).cpu()
