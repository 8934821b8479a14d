#!/usr/bin/env python3
"""What we write for others, read with nothing but Python's own library: checkpoints as transformers would ask for them
(test/interop.py asks transformers itself), and metrics as TensorBoard reads them. Ends with "N passed, M failed"."""
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BYTES = {"F32": 4, "BF16": 2}
passed = failed = 0


def check(what, good, found=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"{'ok     ' if good else 'FAILED '} {what}{'' if good else f': {found}'}")


def run(*command):
    subprocess.run([str(c) for c in command], cwd=ROOT, check=True, capture_output=True)


def read_header(path):
    """Tensors of a safetensors file; the reference implementation's rules."""
    data = path.read_bytes()
    size, = struct.unpack("<Q", data[:8])
    assert data[8:9] == b"{" and (8 + size) % 8 == 0 and size <= 100_000_000
    header = json.loads(data[8:8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    at = 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert begin == at and end - begin == BYTES[entry["dtype"]] * math.prod(entry["shape"]), name
        at = end
    assert at == len(data) - 8 - size
    return header


def wanted(c):
    """Names and shapes that transformers builds from a config.json of ours."""
    C, D, H, KV = c["hidden_size"], c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": [c["vocab_size"], C], "model.norm.weight": [C]}
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [c["vocab_size"], C]
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        shapes |= {p + "input_layernorm.weight": [C], p + "post_attention_layernorm.weight": [C],
                   p + "self_attn.q_proj.weight": [H * D, C], p + "self_attn.k_proj.weight": [KV * D, C],
                   p + "self_attn.v_proj.weight": [KV * D, C], p + "self_attn.o_proj.weight": [C, H * D],
                   p + "self_attn.q_norm.weight": [D], p + "self_attn.k_norm.weight": [D]}
        widths = {p + "mlp.": c["intermediate_size"]}
        if c["model_type"] == "glm4_moe":
            widths = {f"{p}mlp.experts.{e}.": c["moe_intermediate_size"] for e in range(c["n_routed_experts"])}
            widths[p + "mlp.shared_experts."] = 0
            shapes |= {p + "mlp.gate.weight": [c["n_routed_experts"], C],
                       p + "mlp.gate.e_score_correction_bias": [c["n_routed_experts"]]}
        for q, F in widths.items():
            shapes |= {q + "gate_proj.weight": [F, C], q + "up_proj.weight": [F, C], q + "down_proj.weight": [C, F]}
    return shapes


def checkpoint(folder, dtype, what):
    config = json.loads((folder / "config.json").read_text())
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed = json.loads(index.read_text())
        tensors, placed = {}, True
        for file in sorted(set(listed["weight_map"].values())):
            part = read_header(folder / file)
            placed &= all(listed["weight_map"].get(name) == file for name in part)
            tensors |= part
        check(f"{what}: the index tells where every tensor is", placed and set(listed["weight_map"]) == set(tensors))
        check(f"{what}: total_size", listed["metadata"]["total_size"] ==
              sum(e["data_offsets"][1] - e["data_offsets"][0] for e in tensors.values()))
    else:
        tensors = read_header(folder / "model.safetensors")
    found = {name: entry["shape"] for name, entry in tensors.items()}
    check(f"{what}: exactly the tensors of a {config['architectures'][0]}", found == wanted(config),
          {k: v for k, v in found.items() if wanted(config).get(k) != v})
    kinds = {entry["dtype"] for name, entry in tensors.items() if ".mlp.gate." not in name}
    check(f"{what}: {dtype}, routers F32", kinds == {dtype} and all(
        entry["dtype"] == "F32" for name, entry in tensors.items() if ".mlp.gate." in name), kinds)
    name = {"F32": "float32", "BF16": "bfloat16"}[dtype]
    check(f"{what}: both spellings in config.json", config["dtype"] == config["torch_dtype"] == name and
          config["rope_theta"] == config["rope_parameters"]["rope_theta"] and "rope_scaling" not in config)
    end = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    added = {t["content"]: t["id"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    generation = json.loads((folder / "generation_config.json").read_text())
    check(f"{what}: one end of a text in four files",
          added[end] == config["eos_token_id"] == generation["eos_token_id"], (end, added))


def checkpoints(work):
    for name, flags in (("dense", ("-model", "tiny")), ("untied", ("-tied", "no", "-tokenizer",
                                                                  "test/golden/bpe/tokenizer.json")),
                        ("moe", ("-model", "tiny-moe"))):
        run("./train", "-runs", work, "-name", name, "-stages", "pretrain", "-pretrain.data", "embedded:sentences",
            "-pretrain.steps", 2, "-batch", 2, "-context", 32, "-layers", 2, "-channels", 32, "-val_rows", 1,
            "-eval_problems", "", *flags)
        checkpoint(work / name / "ckpt/step_00000002", "F32", f"{name}, a training checkpoint")
        run("./rollout", "export", "-model", work / name, "-out", work / f"{name}.out", "-dtype", "bf16", "-shard_bytes",
            30000)
        checkpoint(work / f"{name}.out", "BF16", f"{name}, exported")
    there = subprocess.run(["./rollout", "export", "-model", work / "moe", "-out", work / "moe.out"], cwd=ROOT,
                           capture_output=True, text=True, check=False)
    check("an export does not write over another", there.returncode == 1 and "is there already" in there.stderr,
          there.stderr)


def crc32c(data):  # bit by bit, unlike the script's table
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def metrics(work):
    run(sys.executable, "scripts/export_metrics.py", work / "dense", "-tensorboard", work / "tb", "-csv", work / "all.csv")
    event_file, = (work / "tb/dense").iterdir()
    data, at, events = event_file.read_bytes(), 0, []
    good = True
    while at < len(data):
        size, = struct.unpack("<Q", data[at:at + 8])
        event = data[at + 12:at + 12 + size]
        sums = struct.unpack("<I", data[at + 8:at + 12]) + struct.unpack("<I", data[at + 12 + size:at + 16 + size])
        good &= sums == (crc32c(data[at:at + 8]), crc32c(event))
        events.append(event)
        at += 16 + size
    steps = [json.loads(line) for line in open(work / "dense/metrics.jsonl", encoding="utf-8")]
    check("every record has its checksums", good and at == len(data))
    tag = b"pretrain/loss"
    losses = [struct.unpack("<f", e[e.index(tag) + len(tag) + 1:][:4])[0] for e in events if tag in e]
    want = [s["loss"] for s in steps if s["kind"] == "step"]
    check("and the losses are those of the run", [round(x, 5) for x in losses] == [round(x, 5) for x in want], losses)
    check("the table has them too", "dense,1,pretrain/loss," in (work / "all.csv").read_text())


def main():
    with tempfile.TemporaryDirectory() as folder:
        checkpoints(pathlib.Path(folder))
        metrics(pathlib.Path(folder))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
