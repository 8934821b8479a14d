#!/usr/bin/env python3
"""The same pre-training run here and in PyTorch: weights, data order, schedule and optimizer alike, losses compared.

    /path/to/python-with-torch-and-transformers test/torch_run.py DATA [--tokenizer FILE] [--steps 50]
        [--moe [--same_routing]] [--double]

transformers makes the first weights; ./train -init starts from them and with -save_batches leaves the packed rows it
saw; the loop below repeats them with transformers' model and torch's AdamW. Prints both curves, then held-out
cross-entropy and bits per byte of both. Exit 1 if a loss differs by more than 1e-3. In a MoE rounding decides between
experts of nearly equal score, and from the first such token on the two runs are different ones: there 1e-5 is asked of
the first ten steps and 1e-2 of all. With --same_routing PyTorch takes the experts that ./train chose, and counts the
rows for which it would have taken others: 1e-3 is asked of all steps again. --double repeats it in double precision on
both sides (-device ref, slow: take --batch 2 --context 128 --steps 20), where such ties do not come up: 1e-9 is asked of
all steps.
"""
import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent


def first_model(folder, tokenizer, context, moe):
    vocab = 257
    if tokenizer:
        names = json.load(open(tokenizer, encoding="utf-8"))
        ids = list(names["model"]["vocab"].values()) + [t["id"] for t in names["added_tokens"]]
        vocab = max(ids) + 1
    common = dict(vocab_size=vocab, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                  head_dim=32, max_position_embeddings=context, initializer_range=0.05, attention_dropout=0.0)
    if moe:
        config = transformers.Glm4MoeConfig(
            intermediate_size=384, moe_intermediate_size=96, n_routed_experts=16, num_experts_per_tok=4,
            n_shared_experts=0, n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.0,
            first_k_dense_replace=0, use_qk_norm=True, attention_bias=False, tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
            partial_rotary_factor=1.0, **common)
    else:
        config = transformers.Qwen3Config(intermediate_size=384, tie_word_embeddings=True, **common)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float()
    model.save_pretrained(folder)
    if tokenizer:
        shutil.copy(tokenizer, folder / "tokenizer.json")
    return model


class Doubled:
    """torch, where fp32 is double."""
    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def in_double(model):
    """transformers casts norms, softmax, rotation and router to torch.float32 by its name: it gets another meaning."""
    sys.modules[type(model).__module__].torch = Doubled()
    model.double()
    if hasattr(model.config, "n_routed_experts"):
        model.set_experts_implementation("eager")  # its grouped product has no double
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.compute_default_rope_parameters(model.config)[0]


class Routing:
    """Experts (layers, rows, K) that a MoE's routers have to take, and how many rows they would have given to others."""

    def __init__(self, model):
        self.experts, self.differ, self.of = None, 0, 0
        for layer, block in enumerate(model.model.layers):
            block.mlp.gate.register_forward_hook(lambda _, __, output, layer=layer: self.choose(layer, *output))

    def choose(self, layer, logits, weights, chosen):
        if self.experts is None:
            return logits, weights, chosen
        given = self.experts[layer, self.part].long()
        self.differ += int((given.sort(1).values != chosen.sort(1).values).any(1).sum())
        self.of += len(given)
        weights = logits.sigmoid().gather(1, given)
        return logits, weights / (weights.sum(1, keepdim=True) + 1e-20), given


def mean_loss(model, rows, context, routing=None):
    """Mean cross-entropy over the targets; attention stays inside each document, as doc_start says."""
    total, count = 0, 0
    for begin in range(0, len(rows["tokens"]), context):
        part = slice(begin, begin + context)
        if routing:
            routing.part = part
        tokens, targets, positions = (rows[k][part].long() for k in ("tokens", "targets", "positions"))
        # Documents never cross the units of `context` rows here: each is a sequence with a block mask.
        start = rows["doc_start"][part].long() - begin
        index = torch.arange(len(tokens))
        seen = (index[None, :] <= index[:, None]) & (index[None, :] >= start[:, None])
        mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill(~seen, float("-inf"))[None, None]
        logits = model(input_ids=tokens[None], position_ids=positions[None], attention_mask=mask, use_cache=False).logits[0]
        total = total + F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        count += int((targets != -100).sum())
    return total / count


def token_bytes(tokenizer, vocab):
    """Bytes of a text each token stands for: byte-level vocabularies write one character per byte."""
    sizes = torch.zeros(vocab)
    if not tokenizer:
        sizes[:256] = 1
        return sizes
    data = json.load(open(tokenizer, encoding="utf-8"))
    for name, token in data["model"]["vocab"].items():
        sizes[token] = len(name)
    for token in data["added_tokens"]:
        sizes[token["id"]] = 0 if token["special"] else len(token["content"].encode())
    return sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="SOURCE*WEIGHT,..., as -pretrain.data")
    parser.add_argument("--tokenizer")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--moe", action="store_true")
    parser.add_argument("--same_routing", action="store_true")
    parser.add_argument("--double", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        model = first_model(work / "init", a.tokenizer, a.context, a.moe)
        if a.double:
            in_double(model)
        routing = Routing(model) if a.same_routing else None
        command = ["./train", "-runs", work, "-name", "run", "-init", work / "init", "-stages", "pretrain",
                   "-pretrain.data", a.data, "-pretrain.steps", a.steps, "-batch", a.batch, "-context", a.context,
                   "-pass_rows", a.context, "-pretrain.lr", a.lr, "-pretrain.warmup", 10, "-save_batches", a.steps,
                   "-val_rows", 32, "-eval_problems", "", "-checkpoint_every", 0, "-bias_rate", 0,
                   "-device", "ref" if a.double else "auto"]
        subprocess.run([str(c) for c in command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in open(work / "run/metrics.jsonl", encoding="utf-8")]
        steps = [line for line in lines if line["kind"] == "step"]
        theirs = next(line for line in lines if line["kind"] == "eval")

        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                       {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95), eps=1e-8)
        worst = worst_early = 0
        print(f"{'step':>4} {'prior.cu':>10} {'PyTorch':>10} {'difference':>11} {'norm':>9} {'norm':>9}")
        for number, line in enumerate(steps, 1):
            rows = load_file(work / f"run/batches/pretrain_{number:08d}.safetensors")
            for group in optimizer.param_groups:
                group["lr"] = line["lr"]
            optimizer.zero_grad()
            if routing:
                experts = load_file(work / f"run/batches/pretrain_{number:08d}.routing.safetensors")["experts"]
                assert experts.shape[1] == len(rows["tokens"]), experts.shape
                routing.experts = experts
            loss = mean_loss(model, rows, a.context, routing)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            difference = line["loss"] - loss.item()
            worst = max(worst, abs(difference))
            if number <= 10:
                worst_early = worst
            if number == 1 or number % 5 == 0:
                print(f"{number:4} {line['loss']:10.6f} {loss.item():10.6f} {difference:11.1e} "
                      f"{line['grad_norm']:9.5f} {norm.item():9.5f}", flush=True)
        if routing:
            routing.experts = None
            print(f"{routing.differ} of {routing.of} rows of a layer would have gone to other experts there")
        rows = load_file(work / "run/batches/validation.safetensors")
        with torch.no_grad():
            ce = mean_loss(model, rows, a.context).item()
        targets = rows["targets"][rows["targets"] != -100].long()
        sizes = token_bytes(a.tokenizer, model.config.vocab_size)
        per_byte = ce * len(targets) / math.log(2) / sizes[targets].sum().item()
        print(f"held-out: cross-entropy {theirs['val_ce']:.6f} here, {ce:.6f} there; "
              f"bits per byte {theirs['bits_per_byte']:.6f} here, {per_byte:.6f} there")
        worst_held = max(abs(theirs["val_ce"] - ce), abs(theirs["bits_per_byte"] - per_byte))
        limit, limit_early = (1e-9, 1e-9) if a.double else (1e-2, 1e-5) if a.moe and not routing else (1e-3, 1e-3)
        print(f"{len(steps)} steps, largest difference of a training loss {worst:.1e} ({worst_early:.1e} in the first ten), "
              f"of a held-out figure {worst_held:.1e}, limit {limit:g} ({limit_early:g})")
        return 1 if not steps or max(worst, worst_held) > limit or worst_early > limit_early else 0


if __name__ == "__main__":
    sys.exit(main())
