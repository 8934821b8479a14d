#!/usr/bin/env python3
"""The peer of `dev/bench/train.sh`: the demo model in plain PyTorch, eager, fp32, on random tokens.

A hand-written module (RMSNorm, GQA through scaled_dot_product_attention, per-head QK-norm, RoPE, SwiGLU, tied head),
fused AdamW, gradient clipping: the same work as ./train's step. Prints the median tokens per second.
"""
import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, channels, ffn, heads, kv_heads, width):
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads, width
        self.norm1, self.norm2 = nn.RMSNorm(channels, 1e-6), nn.RMSNorm(channels, 1e-6)
        self.qkv = nn.Linear(channels, (heads + 2 * kv_heads) * width, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(width, 1e-6), nn.RMSNorm(width, 1e-6)
        self.out = nn.Linear(heads * width, channels, bias=False)
        self.gate_up = nn.Linear(channels, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, channels, bias=False)

    def forward(self, x, cos, sin):
        B, T, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(B, T, -1, self.width)
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=2)

        def rotate(y):
            half = self.width // 2
            return y * cos + torch.cat((-y[..., half:], y[..., :half]), -1) * sin

        q, k = rotate(self.q_norm(q).transpose(1, 2)), rotate(self.k_norm(k).transpose(1, 2))
        y = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, T, -1))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.embed = nn.Embedding(a.vocab, a.channels)
        self.blocks = nn.ModuleList(
            Block(a.channels, a.ffn, a.heads, a.kv_heads, a.head_dim) for _ in range(a.layers))
        self.norm = nn.RMSNorm(a.channels, 1e-6)
        inverse = 1e4 ** (-torch.arange(0, a.head_dim, 2).float() / a.head_dim)
        angles = torch.outer(torch.arange(a.context).float(), inverse)
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1))
        self.register_buffer("sin", torch.cat((angles.sin(), angles.sin()), -1))

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = F.linear(self.norm(x), self.embed.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    parser = argparse.ArgumentParser()
    for name, value in dict(layers=4, channels=256, ffn=768, heads=4, kv_heads=2, head_dim=64, vocab=512,
                            batch=16, context=256, steps=12, threads=2).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = Model(a)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    times = []
    for _ in range(a.steps):
        tokens = torch.randint(a.vocab, (a.batch, a.context + 1))
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.perf_counter() - begin)
    print(f"{a.batch * a.context / statistics.median(times[2:]):.0f}")


if __name__ == "__main__":
    main()
