#!/usr/bin/env python3
"""The same checkpoint and the same problems in ./rollout evaluate and in lm-evaluation-harness.

    make train rollout && PYTHON test/lm_eval_run.py MODEL GSM8K_TEST.jsonl [--count 100]

PYTHON has torch, transformers and lm-eval (pip install "lm-eval[hf]"); MODEL is a checkpoint or run folder. Two tasks are
made from GSM8K's test file, as tasks of local files for lm_eval: which of four values is the answer, by likelihood, and
a greedy answer of 64 tokens. acc and acc_norm must be equal, so must every choice's log-likelihood to 1e-3 and all
greedy texts. Exit 1 if they are not.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TASKS = {"values": """task: values
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer | int}}"
target_delimiter: ""
metric_list: [{metric: acc}, {metric: acc_norm}]
""", "worked": """task: worked
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:"], do_sample: false, max_gen_toks: 64}
metric_list: [{metric: exact_match}]
filter_list:
  - name: last-number
    filter:
      - {function: regex, regex_pattern: '(-?[0-9][0-9.,]*)', group_select: -1}
      - {function: take_first}
"""}


def run(*command, env=None):
    done = subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def read_lines(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def write_problems(work, gsm8k, count):
    run(sys.executable, "data/benchmarks/convert.py", "gsm8k", gsm8k, "-shots", 0, "-count", count, "-o",
        work / "worked.jsonl")
    problems = read_lines(work / "worked.jsonl")
    with open(work / "values.jsonl", "w", encoding="utf-8") as file:
        for i, problem in enumerate(problems):  # three other problems' answers beside the right one, in turn
            values = [problem["answer"]]
            for other in problems[i + 1:] + problems[:i]:
                if len(values) < 4 and other["answer"] not in values:
                    values.append(other["answer"])
            values = values[-(i % 4):] + values[:-(i % 4)] if i % 4 else values
            file.write(json.dumps({"id": problem["id"], "prompt": problem["prompt"], "metric": "choices",
                                   "choices": [f" {v}" for v in values],
                                   "answer": str(values.index(problem["answer"]))}) + "\n")


def lm_eval(work, exported):
    """Metrics and samples by task; a sample's document is the line of our file."""
    (work / "tasks").mkdir()
    for name, text in TASKS.items():
        (work / f"tasks/{name}.yaml").write_text(text.replace("FILE", str(work / f"{name}.jsonl")), encoding="utf-8")
    program = pathlib.Path(sys.executable).parent / "lm_eval"
    command = [program, "--model", "hf", "--model_args", f"pretrained={exported},dtype=float32", "--device", "cpu",
               "--tasks", "values,worked", "--include_path", work / "tasks", "--batch_size", "1", "--log_samples",
               "--output_path", work / "there"]
    print("lm_eval", *[str(c).replace(str(work) + "/", "") for c in command[1:]], flush=True)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work / "cache")}
    out = run(*command, env={**os.environ, **offline})
    print("\n".join(line for line in out.splitlines() if line.startswith("|")), flush=True)
    results, = (work / "there").rglob("results_*.json")
    samples = {}
    for name in TASKS:
        file, = (work / "there").rglob(f"samples_{name}_*.jsonl")
        samples[name] = sorted(read_lines(file), key=lambda line: line["doc_id"])
    return json.loads(results.read_text())["results"], samples


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("gsm8k")
    parser.add_argument("--count", type=int, default=100)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        write_problems(work, pathlib.Path(a.gsm8k).resolve(), a.count)
        run("./rollout", "export", "-model", a.model, "-out", work / "exported", "-dtype", "fp32")
        print(run("./rollout", "evaluate", work / "values.jsonl", work / "worked.jsonl", "-model", work / "exported",
                  "-n", 1, "-temperature", 0, "-max_new_tokens", 64, "-count", a.count, "-out", work / "here.jsonl"))
        here = read_lines(work / "here.jsonl")[1:]
        ours = json.load(open(work / "here.jsonl.json", encoding="utf-8"))
        results, samples = lm_eval(work, work / "exported")
        good = True
        for name in ("acc", "acc_norm"):
            good &= ours["values"][name]["mean"] == results["values"][f"{name},none"]
        worst = 0
        for line, sample in zip([x for x in here if x["set"] == "values"], samples["values"]):
            theirs = [float(r[0][0] if isinstance(r[0], list) else r[0]) for r in sample["resps"]]
            worst = max([worst] + [abs(x - y) for x, y in zip(line["logp"], theirs)])
        answers = [x for x in here if x["set"] == "worked"]
        equal = sum(line["response"].split("Question:")[0].strip() == sample["resps"][0][0].strip()
                    for line, sample in zip(answers, samples["worked"]))
        print(f"{len(samples['values'])} x 4 log-likelihoods, largest difference {worst:.1e}; "
              f"{equal} of {len(answers)} greedy texts equal; acc and acc_norm {'equal' if good else 'DIFFER'}")
        good &= worst < 1e-3 and equal == len(answers) > 0 and len(samples["values"]) == a.count
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
