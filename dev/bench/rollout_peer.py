#!/usr/bin/env python3
"""The peers of `dev/bench/rollout.sh`: the demo model in PyTorch, random weights, sampling at temperature 1. With
--dtype bf16 weights, activations and cache are bf16.

  hf    Hugging Face Qwen3ForCausalLM.generate() with its KV cache
  loop  a hand-written decode loop over a preallocated (static) cache, fused QKV and gate/up projections

Every sequence has a prompt of random tokens and gets NEW tokens; prefill is timed too. Prints the median tokens per
second, the slowest and the fastest repeat.
"""
import argparse
import os
import statistics
import time

import torch
import torch.nn.functional as F

LAYERS, CHANNELS, FFN, HEADS, KV_HEADS, WIDTH, VOCAB = 4, 256, 768, 4, 2, 64, 512


def huggingface(dtype):
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import transformers
    config = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=CHANNELS, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=WIDTH, max_position_embeddings=1024,
        tie_word_embeddings=True, eos_token_id=None, bos_token_id=None, pad_token_id=0)
    model = transformers.Qwen3ForCausalLM(config).to(dtype).eval()

    def generate(prompt, new):
        out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=1.0, top_k=0,
                             top_p=1.0, max_new_tokens=new, min_new_tokens=new, use_cache=True)
        assert out.shape[1] == prompt.shape[1] + new
    return generate


class StaticLoop:
    def __init__(self, dtype):
        def weight(*shape):
            return (torch.randn(*shape) * 0.02).to(dtype)

        def ones(width):
            return torch.ones(width, dtype=dtype)
        self.embed = weight(VOCAB, CHANNELS)
        self.layers = [dict(n1=ones(CHANNELS), n2=ones(CHANNELS), nq=ones(WIDTH),
                            nk=ones(WIDTH), qkv=weight((HEADS + 2 * KV_HEADS) * WIDTH, CHANNELS),
                            o=weight(CHANNELS, HEADS * WIDTH), gate_up=weight(2 * FFN, CHANNELS),
                            down=weight(CHANNELS, FFN)) for _ in range(LAYERS)]
        self.norm = ones(CHANNELS)
        inverse = 1e4 ** (-torch.arange(0, WIDTH, 2).float() / WIDTH)
        angles = torch.outer(torch.arange(1024).float(), inverse)
        self.cos = torch.cat((angles.cos(), angles.cos()), -1).to(dtype)
        self.sin = torch.cat((angles.sin(), angles.sin()), -1).to(dtype)
        self.dtype = dtype

    def forward(self, tokens, begin, caches):
        B, T = tokens.shape
        cos, sin = self.cos[begin:begin + T, None], self.sin[begin:begin + T, None]
        x = F.embedding(tokens, self.embed)
        for w, (keys, values) in zip(self.layers, caches):
            qkv = F.linear(F.rms_norm(x, (CHANNELS,), w["n1"], 1e-6), w["qkv"]).view(B, T, -1, WIDTH)
            q, k, v = qkv.split([HEADS, KV_HEADS, KV_HEADS], dim=2)
            q, k = F.rms_norm(q, (WIDTH,), w["nq"], 1e-6), F.rms_norm(k, (WIDTH,), w["nk"], 1e-6)
            half = WIDTH // 2
            q = q * cos + torch.cat((-q[..., half:], q[..., :half]), -1) * sin
            k = k * cos + torch.cat((-k[..., half:], k[..., :half]), -1) * sin
            keys[:, :, begin:begin + T] = k.transpose(1, 2)
            values[:, :, begin:begin + T] = v.transpose(1, 2)
            y = F.scaled_dot_product_attention(q.transpose(1, 2), keys[:, :, :begin + T], values[:, :, :begin + T],
                                               is_causal=T > 1, enable_gqa=True)
            x = x + F.linear(y.transpose(1, 2).reshape(B, T, -1), w["o"])
            gate, up = F.linear(F.rms_norm(x, (CHANNELS,), w["n2"], 1e-6), w["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        return F.linear(F.rms_norm(x[:, -1], (CHANNELS,), self.norm, 1e-6), self.embed)

    def __call__(self, prompt, new):
        B, T = prompt.shape
        shape = (B, KV_HEADS, T + new, WIDTH)
        caches = [tuple(torch.empty(shape, dtype=self.dtype) for _ in "kv") for _ in self.layers]
        tokens, begin, logps = prompt, 0, []
        for _ in range(new):
            logits = self.forward(tokens, begin, caches)
            begin += tokens.shape[1]
            logp = torch.log_softmax(logits.float(), -1)
            noise = torch.empty_like(logp).exponential_()
            tokens = (logp.exp() / noise).argmax(-1, keepdim=True)
            logps.append(logp.gather(1, tokens))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=("hf", "loop"))
    for name, value in dict(sequences=64, threads=2, new=256, prompt=32, repeats=3).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    a = parser.parse_args()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[a.dtype]
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    generate = huggingface(dtype) if a.peer == "hf" else StaticLoop(dtype)
    rates = []
    with torch.inference_mode():
        for repeat in range(-1, a.repeats):
            prompt = torch.randint(VOCAB, (a.sequences, a.prompt))
            begin = time.perf_counter()
            generate(prompt, a.new)
            if repeat >= 0:
                rates.append(a.sequences * a.new / (time.perf_counter() - begin))
    print(f"{statistics.median(rates):.0f} {min(rates):.0f} {max(rates):.0f}")


if __name__ == "__main__":
    main()
