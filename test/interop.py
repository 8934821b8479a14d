#!/usr/bin/env python3
"""Round trips with transformers: ./train and ./rollout against what they call a checkpoint.

    make train rollout && /path/to/python-with-torch-and-transformers test/interop.py

1. ours -> transformers: trained here (dense tied, dense untied, MoE), opened there with no missing, unexpected or
   resized tensor; all logits within 1e-5 (fp32) of ours, the tokenizer's ids equal, generate() runs.
2. transformers -> ours: written there (sharded, F32 and BF16), logits equal here, training goes on and the loss falls.
3. export -> load -> export is byte-identical, also with transformers in the middle for the tensors.

Prints one line a check and "N passed, M failed".
"""
import argparse
import filecmp
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXTS = ["What is 7 plus 15?\n7+15=22. \\boxed{22}", "The old farmer walks to the river.", "Add 23 and 7.\n",
         "Caf\u00e9 na\u00efve \u4f60\u597d \U0001f600 <|endoftext|> x"]
TOLERANCE = 1e-5  # fp32: two programs' summation orders, relative to the largest logit
passed = failed = 0


def check(what, good, figure=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"{'ok     ' if good else 'FAILED '} {what}{'  ' + figure if figure else ''}", flush=True)


def run(*command):
    done = subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def train(runs, name, *flags):
    run("./train", "-runs", runs, "-name", name, "-stages", "pretrain", "-pretrain.data", "embedded:arithmetic",
        "-eval_problems", "", "-val_rows", 2, "-checkpoint_every", 0, "-batch", 4, "-context", 64, *flags)
    losses = [json.loads(line) for line in open(runs / name / "metrics.jsonl", encoding="utf-8")]
    return sorted((runs / name / "ckpt").glob("step_*"))[-1], [x["loss"] for x in losses if x["kind"] == "step"]


def load_there(folder, dtype=torch.float32):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    faults = {key: sorted(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    return model.eval(), faults


def worst_difference(work, folder, model):
    """Largest difference of any logit of any text, relative to the largest logit there is."""
    lines = work / "texts.jsonl"
    lines.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(TEXTS)), encoding="utf-8")
    run("./rollout", "score", lines, "-model", folder, "-logits", work / "logits.safetensors", "-out",
        work / "scores.jsonl")
    ours = load_file(work / "logits.safetensors")
    worst = 0
    for i in range(len(TEXTS)):
        with torch.no_grad():
            theirs = model(ours[f"tokens.{i}"].long()[None]).logits[0].float()
        worst = max(worst, ((theirs - ours[f"logits.{i}"]).abs().max() / theirs.abs().max()).item())
    return worst


def same_ids(work, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    lines = work / "texts.jsonl"
    out = run("./rollout", "tokenize", lines, "-tokenizer", folder / "tokenizer.json")
    ours = [json.loads(line)["ids"] for line in out.splitlines()]
    # The built-in byte tokenizer reads no special token in a text; the same file elsewhere does.
    plain = [i for i, t in enumerate(TEXTS) if "<|endoftext|>" not in t]
    return all(tokenizer(TEXTS[i])["input_ids"] == ours[i] for i in plain), tokenizer


def from_here(work, name, flags):
    folder, losses = train(work / "runs", name, "-pretrain.steps", 30, *flags)
    model, faults = load_there(folder)
    check(f"{name}: transformers misses no tensor and knows all ({type(model).__name__})", not faults, str(faults or ""))
    worst = worst_difference(work, folder, model)
    check(f"{name}: every logit within {TOLERANCE:g}", worst < TOLERANCE, f"{worst:.1e}")
    equal, tokenizer = same_ids(work, folder)
    check(f"{name}: its tokenizer gives our ids", equal)
    check(f"{name}: the end of a text is the same", tokenizer.eos_token_id == model.config.eos_token_id)
    inputs = tokenizer("Add 23 and 7.\n", return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    check(f"{name}: generate() continues", out.shape[1] > inputs["input_ids"].shape[1])
    return folder


def exports(work, name, folder):
    for dtype in ("fp32", "bf16"):
        first, second = work / f"{name}-{dtype}-1", work / f"{name}-{dtype}-2"
        flags = ("-dtype", dtype, "-shard_bytes", 400000)
        run("./rollout", "export", "-model", folder, "-out", first, *flags)
        run("./rollout", "export", "-model", first, "-out", second, *flags)
        names = sorted(p.name for p in first.iterdir())
        equal = names == sorted(p.name for p in second.iterdir()) and \
            not any(filecmp.cmpfiles(first, second, names, shallow=False)[1:])
        check(f"{name}: export -> load -> export in {dtype}, {len(list(first.glob('*.safetensors')))} shards: "
              "byte-identical", equal)
        model, faults = load_there(first, torch.float32)
        check(f"{name}: transformers opens the {dtype} export", not faults, str(faults or ""))
        there = work / f"{name}-{dtype}-there"
        load_there(first, "auto")[0].save_pretrained(there, max_shard_size="300KB")
        third = work / f"{name}-{dtype}-3"
        run("./rollout", "export", "-model", there, "-tokenizer", first / "tokenizer.json", "-out", third, *flags)
        tensors = [{k: v for f in sorted(d.glob("*.safetensors")) for k, v in load_file(f).items()}
                   for d in (first, third)]
        # In BF16 transformers rounds the router too, which we keep in F32.
        compared = [k for k in tensors[0] if dtype == "fp32" or not k.endswith("mlp.gate.weight")]
        check(f"{name}: {dtype} through transformers and back: {len(compared)} tensors bit for bit",
              tensors[0].keys() == tensors[1].keys() and
              all(torch.equal(tensors[0][k], tensors[1][k]) for k in compared))


def small_configs():
    common = dict(vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                  head_dim=32, max_position_embeddings=256, initializer_range=0.05)
    yield "qwen3", transformers.Qwen3Config(intermediate_size=96, tie_word_embeddings=False, **common)
    yield "qwen3-tied", transformers.Qwen3Config(intermediate_size=96, tie_word_embeddings=True, **common)
    yield "glm4moe", transformers.Glm4MoeConfig(
        intermediate_size=96, moe_intermediate_size=32, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=0,
        n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.0, first_k_dense_replace=0,
        use_qk_norm=True, partial_rotary_factor=1.0, attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}, **common)


def from_there(work, name, config):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for dtype in (torch.float32, torch.bfloat16):
        kind = f"{name}, {str(dtype)[6:]}"
        folder = work / f"{name}-{str(dtype)[6:]}"
        model.to(dtype).save_pretrained(folder, max_shard_size="100KB")
        shards = len(list(folder.glob("*.safetensors")))
        reloaded, _ = load_there(folder)
        worst = worst_difference(work, folder, reloaded)
        check(f"{kind}: written there in {shards} shards, our logits within {TOLERANCE:g}", worst < TOLERANCE,
              f"{worst:.1e}")
        _, losses = train(work / "runs", f"on-{name}-{str(dtype)[6:]}", "-init", folder, "-pretrain.steps", 40)
        check(f"{kind}: trains on here", losses[-1] < 0.8 * losses[0], f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", help="folder to work in and leave, instead of a temporary one")
    keep = parser.parse_args().keep
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")  # torch, on tensors without elements
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(keep or temporary).resolve()
        work.mkdir(parents=True, exist_ok=True)
        bpe = ("-tokenizer", "test/golden/bpe/tokenizer.json")
        small = ("-layers", 2, "-channels", 64)
        for name, flags in (("dense", ("-model", "tiny", *small)), ("dense-untied", ("-tied", "no", *small, *bpe)),
                            ("moe", ("-model", "tiny-moe", *small, "-bias_rate", "1e-3"))):
            exports(work, name, from_here(work, name, flags))
        for name, config in small_configs():
            from_there(work, name, config)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
