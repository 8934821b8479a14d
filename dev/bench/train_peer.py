"""The PyTorch side of `dev/bench/train.py`: one variant a process, prints one JSON object.

train_peer.py train CHECKPOINT TEXT --form plain|hf --mode eager|compile --precision fp32|amp|bf16 ...
    Trains from the checkpoint's weights on the bytes of TEXT, B rows of T tokens a step, as ./train does with
    -doc_mask no: fused AdamW, decay on matrices, clipping at 1. Prints seconds and loss of every step.
    plain: a hand-written module, of a MoE also with --experts loop|grouped. hf: transformers' own module.
    amp: autocast to bf16 over fp32 weights. bf16: weights, gradients and Adam's moments in bf16.
train_peer.py loss ROWS VOCAB --form ce|natural|closed --mode eager|compile --precision fp32|bf16 ...
    Forward and backward over logits of their own. ce: cross-entropy alone. natural: the shaped objective with
    entropy, masses and top-k as one writes it, gradient by autograd. closed: its gradient by hand.
"""
import argparse
import glob
import json
import time

import torch
import torch.nn.functional as F
from torch import nn


def rotate_half(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.width = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        channels, eps = c["hidden_size"], c["rms_norm_eps"]
        self.qkv = nn.Linear(channels, (self.heads + 2 * self.kv_heads) * self.width, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(self.width, eps), nn.RMSNorm(self.width, eps)
        self.out = nn.Linear(self.heads * self.width, channels, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, -1, self.width).split([self.heads, self.kv_heads, self.kv_heads], 2)
        q, k = rotate_half(self.q_norm(q).transpose(1, 2), cos, sin), rotate_half(self.k_norm(k).transpose(1, 2), cos, sin)
        v = v.transpose(1, 2)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True, enable_gqa=True)
        return self.out(y.transpose(1, 2).reshape(B, T, -1))


class Dense(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_up = nn.Linear(c["hidden_size"], 2 * c["intermediate_size"], bias=False)
        self.down = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Experts(nn.Module):
    """Sigmoid router, top-K by score + bias, normalised weights, rows sorted by expert."""

    def __init__(self, c, form):
        super().__init__()
        E, C, width = c["n_routed_experts"], c["hidden_size"], c["moe_intermediate_size"]
        self.count, self.form = c["num_experts_per_tok"], form
        self.router = nn.Linear(C, E, bias=False)
        self.gate_up = nn.Parameter(torch.empty(E, 2 * width, C))
        self.down = nn.Parameter(torch.empty(E, C, width))
        self.register_buffer("bias", torch.zeros(E))

    def forward(self, inp):
        x = inp.reshape(-1, inp.shape[-1])
        with torch.autocast("cpu", enabled=False):
            scores = F.linear(x.float(), self.router.weight.float()).sigmoid()
        chosen = (scores + self.bias).topk(self.count, sorted=False).indices
        weights = scores.gather(1, chosen)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=len(self.gate_up))
        rows = x[order // self.count]
        if self.form == "grouped":
            ends = counts.cumsum(0).int()
            half = torch.is_autocast_enabled("cpu") or rows.dtype == torch.bfloat16
            dtype = torch.bfloat16 if half else torch.float32
            gate, up = F.grouped_mm(rows.to(dtype), self.gate_up.to(dtype).mT, offs=ends).chunk(2, -1)
            y = F.grouped_mm(F.silu(gate) * up, self.down.to(dtype).mT, offs=ends)
        else:
            parts = []
            for e, part in enumerate(rows.split(counts.tolist())):
                gate, up = F.linear(part, self.gate_up[e]).chunk(2, -1)
                parts.append(F.linear(F.silu(gate) * up, self.down[e]))
            y = torch.cat(parts)
        y = y * weights.flatten()[order].unsqueeze(1).to(y.dtype)
        return torch.zeros_like(x).index_add_(0, order // self.count, y.to(x.dtype)).view_as(inp)


class Model(nn.Module):
    def __init__(self, c, tensors, context, experts):
        super().__init__()
        C, eps, width = c["hidden_size"], c["rms_norm_eps"], c["head_dim"]
        moe = "n_routed_experts" in c
        self.embed = nn.Embedding(c["vocab_size"], C)
        self.blocks = nn.ModuleList()
        for _ in range(c["num_hidden_layers"]):
            self.blocks.append(nn.ModuleDict({"norm1": nn.RMSNorm(C, eps), "attention": Attention(c),
                                              "norm2": nn.RMSNorm(C, eps),
                                              "ffn": Experts(c, experts) if moe else Dense(c)}))
        self.norm = nn.RMSNorm(C, eps)
        base = c.get("rope_theta") or c["rope_parameters"]["rope_theta"]
        inverse = base ** (-torch.arange(0, width, 2).float() / width)
        angles = torch.outer(torch.arange(context).float(), inverse)
        self.cos, self.sin = torch.cat((angles.cos(),) * 2, -1), torch.cat((angles.sin(),) * 2, -1)
        self.load(tensors, moe)

    @torch.no_grad()
    def load(self, tensors, moe):
        self.embed.weight.copy_(tensors["model.embed_tokens.weight"])
        self.norm.weight.copy_(tensors["model.norm.weight"])
        for i, block in enumerate(self.blocks):
            def get(name, layer=i):
                return tensors[f"model.layers.{layer}.{name}.weight"]
            a, f = block["attention"], block["ffn"]
            block["norm1"].weight.copy_(get("input_layernorm"))
            block["norm2"].weight.copy_(get("post_attention_layernorm"))
            a.qkv.weight.copy_(torch.cat([get(f"self_attn.{n}_proj") for n in "qkv"]))
            a.q_norm.weight.copy_(get("self_attn.q_norm"))
            a.k_norm.weight.copy_(get("self_attn.k_norm"))
            a.out.weight.copy_(get("self_attn.o_proj"))
            if not moe:
                f.gate_up.weight.copy_(torch.cat([get("mlp.gate_proj"), get("mlp.up_proj")]))
                f.down.weight.copy_(get("mlp.down_proj"))
                continue
            f.router.weight.copy_(get("mlp.gate"))
            for e in range(len(f.gate_up)):
                parts = [get(f"mlp.experts.{e}.{n}_proj") for n in ("gate", "up")]
                f.gate_up[e].copy_(torch.cat(parts))
                f.down[e].copy_(get(f"mlp.experts.{e}.down_proj"))

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = x + block["attention"](block["norm1"](x), self.cos, self.sin)
            x = x + block["ffn"](block["norm2"](x))
        return F.linear(self.norm(x), self.embed.weight)


def load_model(a):
    config = json.load(open(a.checkpoint + "/config.json"))
    if a.form == "hf":
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(a.checkpoint, dtype=torch.float32, attn_implementation="sdpa")
        return model.train(), lambda module, tokens: module(input_ids=tokens, use_cache=False).logits
    from safetensors.torch import load_file
    tensors = {}
    for path in glob.glob(a.checkpoint + "/model*.safetensors"):
        tensors.update(load_file(path))
    return Model(config, tensors, a.context, a.experts), lambda module, tokens: module(tokens)


def train(a):
    model, logits_of = load_model(a)
    if a.precision == "bf16":
        model = model.bfloat16()
    data = torch.tensor(list(open(a.text, "rb").read()), dtype=torch.long)
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def loss_of(tokens, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "amp"):
            return F.cross_entropy(logits_of(model, tokens).flatten(0, 1), targets.flatten())

    if a.mode == "compile":
        loss_of = torch.compile(loss_of)
    seconds, losses, N = [], [], a.batch * a.context
    for step in range(a.steps):
        tokens = data[step * N:step * N + N].view(a.batch, a.context)
        targets = data[step * N + 1:step * N + N + 1].view(a.batch, a.context)
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds, "losses": losses}))


BETA, HEAD, TAIL = -0.25, 0.05, -0.1


def natural(z, x, scale, k):
    """The objective with its gradient by autograd; rewards are constants."""
    logp = F.log_softmax(z.float(), -1)
    p = logp.exp()
    with torch.no_grad():
        top = z.topk(k, -1).indices
        px = p.gather(1, x[:, None])
        q = (1 - px).clamp_min(1e-37)
        reward = torch.full_like(p, TAIL).scatter_(1, top, HEAD).scatter_(1, x[:, None], q ** BETA / px)
        entropy = -(p * logp).sum(-1)
        member = (top == x[:, None]).any(-1)
        head = p.gather(1, top).sum(-1) - px[:, 0] * member
    shaped = (p * reward).sum(-1)
    ce = -logp.gather(1, x[:, None])[:, 0].detach()
    (-(scale * shaped).sum()).backward()
    return ce, entropy, q, head, q[:, 0] - head, shaped.detach()


@torch.no_grad()
def closed(z, x, scale, k):
    """The same with dlogits = -scale * p (r - W) written by hand: no autograd, fewer passes."""
    top = z.topk(k, -1).indices
    u = z.float()
    lse = torch.logsumexp(u, -1, keepdim=True)
    logp = u - lse
    p = logp.exp()
    entropy = -(p * logp).sum(-1)
    px = p.gather(1, x[:, None])
    q = (1 - px).clamp_min(1e-37)
    p_top = p.gather(1, top)
    head = (p_top * (top != x[:, None])).sum(-1, keepdim=True)
    W = q ** BETA + HEAD * head + TAIL * (q - head)
    s = -scale[:, None]
    grad = s * (TAIL - W) * p
    grad.scatter_(1, top, s * (HEAD - W) * p_top).scatter_(1, x[:, None], s * (q ** BETA - px * W))
    z.grad = grad.to(z.dtype)
    return -logp.gather(1, x[:, None]), entropy, q, head, q - head, W


def loss(a):
    dtype = torch.bfloat16 if a.precision == "bf16" else torch.float32
    z = (3 * torch.randn(a.rows, a.vocab)).to(dtype).requires_grad_()
    x, scale = torch.randint(a.vocab, (a.rows,)), torch.randn(a.rows)

    body = {"ce": F.cross_entropy, "natural": natural, "closed": closed}[a.form]
    if a.mode == "compile":
        body = torch.compile(body)
    seconds = []
    for _ in range(a.steps):
        z.grad = None
        begin = time.perf_counter()
        if a.form == "ce":
            body(z, x).backward()
        else:
            body(z, x, scale, 100)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds}))


def main():
    parser = argparse.ArgumentParser()
    sub = parser.add_subparsers(dest="what", required=True)
    t, l = sub.add_parser("train"), sub.add_parser("loss")
    t.add_argument("checkpoint"), t.add_argument("text")
    l.add_argument("rows", type=int), l.add_argument("vocab", type=int)
    for p in (t, l):
        p.add_argument("--form", default="plain" if p is t else "ce")
        p.add_argument("--mode", default="eager", choices=("eager", "compile"))
        p.add_argument("--precision", default="fp32", choices=("fp32", "amp", "bf16"))
        p.add_argument("--steps", type=int, default=12)
        p.add_argument("--threads", type=int, default=2)
    t.add_argument("--experts", default="loop", choices=("loop", "grouped"))
    t.add_argument("--batch", type=int, default=16)
    t.add_argument("--context", type=int, default=256)
    t.add_argument("--lr", type=float, default=1e-3)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    train(a) if a.what == "train" else loss(a)


if __name__ == "__main__":
    main()
