#!/usr/bin/env python3
"""data/benchmarks on hand-made rows with the published fields, and the sandbox. Ends with "N passed, M failed".

Needs nothing but Python. Where the kernel grants no namespaces the sandbox's tests ask only that nothing is run.
"""
import csv
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data" / "benchmarks"))
import run_code  # noqa: E402

passed = failed = 0
LISTED = {"text": ["ice", "steam", "sand"], "label": ["A", "B", "C"]}
AUTHORS = [{"text": "ice", "label": "A"}, {"text": "steam", "label": "B"}]

# name, rows, what the last line written must hold
CASES = [
    ("mmlu", [{"question": "2+2?", "subject": "abstract_algebra", "choices": ["3", "4", "5", "6"], "answer": 1}],
     {"prompt": "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
                "2+2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:", "choices": [" A", " B", " C", " D"], "answer": "1"}),
    ("mmlu_pro", [{"question_id": 70, "question": "Q", "options": ["x", "y", "N/A"], "answer": "B", "answer_index": 1,
                   "cot_content": "A: Let's think. The answer is (B).", "category": "law", "src": "s"}],
     {"id": "70", "metric": "letter", "answer": "B"}),
    ("trivia_qa", [{"question": "Who?", "question_id": "tc_1", "answer": {"value": "Shakespeare", "aliases":
                    ["Shakespeare", "The Bard"]}}],
     {"prompt": "Question: Who?\nAnswer:", "answer": ["Shakespeare", "The Bard"], "metric": "words", "stop": ["\n"]}),
    ("trivia_qa", [{"Question": "Who\u2028\u0085?", "QuestionId": "x", "Answer": {"Value": "A", "Aliases": ["B"]}}],
     {"id": "x", "answer": ["A", "B"]}),
    ("natural_questions", [{"question": "when is it", "answer": ["1999", "in 1999"]}],
     {"prompt": "Question: when is it?\nAnswer:", "answer": ["1999", "in 1999"]}),
    ("hellaswag", [{"ind": 4, "activity_label": "Jumping", "ctx_a": "A man stands [title] Go.", "ctx_b": "he",
                    "ctx": "A man stands he", "endings": ["runs.", "sits [header] down."], "label": "1"}],
     {"id": "4", "prompt": "Jumping: A man stands. Go. He", "choices": [" runs.", " sits down."], "answer": "1"}),
    ("siqa", [{"context": "Tracy fell.", "question": "How?", "answerA": "a", "answerB": "b", "answerC": "c",
               "label": "3"}],
     {"prompt": "Q: Tracy fell. How?\nA:", "choices": [" a", " b", " c"], "answer": "2"}),
    ("piqa", [{"goal": "Boil water", "sol1": "heat it", "sol2": "cool it", "label": 0}],
     {"prompt": "Question: Boil water\nAnswer:", "choices": [" heat it", " cool it"], "answer": "0"}),
    ("winogrande", [{"qID": "q1", "sentence": "The cup broke the _ because it was hard.", "option1": "cup",
                     "option2": "floor", "answer": "1"}],
     {"id": "q1", "prompts": ["The cup broke the cup", "The cup broke the floor"], "answer": "0",
      "choices": [" because it was hard."] * 2}),
    ("openbookqa", [{"id": "7-980", "question": {"stem": "Frozen water is", "choices": AUTHORS}, "answerKey": "A"}],
     {"prompt": "Frozen water is", "choices": [" ice", " steam"], "answer": "0"}),
    ("openbookqa", [{"id": "1", "question_stem": "Frozen water is", "choices": LISTED, "answerKey": "C"}],
     {"answer": "2"}),
    ("commonsense_qa", [{"id": "c", "question": {"question_concept": "x", "stem": "Where?", "choices": AUTHORS},
                         "answerKey": "B"}],
     {"prompt": "Question: Where?\nA. ice\nB. steam\nAnswer:", "choices": [" A", " B"], "answer": "1"}),
    ("commonsense_qa", [{"id": "c", "question": "Where?", "question_concept": "x", "choices": LISTED,
                         "answerKey": "C"}], {"answer": "2"}),
    ("arc_easy", [{"id": "M", "question": {"stem": "Frozen water?", "choices": AUTHORS}, "answerKey": "A"}],
     {"prompt": "Question: Frozen water?\nAnswer:", "choices": [" ice", " steam"], "answer": "0"}),
    ("arc_challenge", [{"id": "M", "question": "Frozen water?", "choices": {"text": ["ice", "sand"], "label":
                        ["1", "2"]}, "answerKey": "2"}], {"answer": "1"}),
    ("bbh", {"canary": "c", "examples": [{"input": "not ( True ) is", "target": "False"}]},
     {"prompt": "Q: not ( True ) is\nA: Let's think step by step.\n", "answer": "False", "metric": "phrase"}),
    ("gsm8k", [{"question": "How many?", "answer": "2+3=5\n#### 1,005"}],
     {"prompt": "Question: How many?\nAnswer:", "answer": "1,005", "metric": "lenient"}),
    ("math500", [{"problem": "Simplify", "solution": "\\boxed{\\frac{3}{4}}", "answer": "\\frac{3}{4}", "subject": "A",
                  "level": 1, "unique_id": "test/a/1.json"}],
     {"id": "test/a/1.json", "prompt": "Problem:\nSimplify\n\nSolution:", "answer": "\\frac{3}{4}", "metric": "boxed"}),
    ("minerva", [{"problem": "Quarks?", "solution": "So \\boxed{4\\times 10^{2}}.", "type": "R", "idx": 142}],
     {"id": "142", "answer": "4\\times 10^{2}"}),
    ("olympiadbench", [{"id": 3091, "context": None, "question": "Compute", "solution": ["s"], "final_answer":
                        ["5", "6"], "answer_type": "Numerical", "unit": None}], {"id": "3091", "answer": "5, 6"}),
    ("humaneval_plus", [{"task_id": "HumanEval/0", "prompt": "def add(a, b):\n", "entry_point": "add",
                         "canonical_solution": "    return a + b\n", "test":
                         "def check(candidate):\n    assert candidate(1, 2) == 3\n"}],
     {"id": "HumanEval/0", "prompt": "def add(a, b):\n", "metric": "code"}),
    ("mbpp_plus", [{"task_id": 2, "code": "def f(x):\n    return x\n", "prompt": "Write f.", "test_imports": [],
                    "test_list": ["assert f(1) == 1"], "test": "assert f(3) == 3"}],
     {"id": "2", "prompt": "\"\"\"\nWrite f.\nassert f(1) == 1\n\"\"\"\n", "metric": "code"}),
]


def check(what, good, found=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"{'ok     ' if good else 'FAILED '} {what}{'' if good else ': ' + str(found)}")


def convert(work, name, rows, *flags):
    source, out = work / ("in.json" if isinstance(rows, dict) else "in.jsonl"), work / "out.jsonl"
    source.write_text(json.dumps(rows) if isinstance(rows, dict) else
                      "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    done = subprocess.run([sys.executable, ROOT / "data/benchmarks/convert.py", name, source, "-o", out,
                           *(flags or ("-shots", "0"))], capture_output=True, text=True, check=False)
    if done.returncode:
        return [{"error": done.stderr}]
    return [json.loads(line) for line in out.read_text(encoding="utf-8").strip().split("\n")]


def conversions(work):
    for name, rows, want in CASES:
        line = convert(work, name, rows)[-1]
        check(f"{name}: " + ", ".join(want), all(line.get(k) == v for k, v in want.items()), line)
    rows = [{"question": f"q{i}", "answer": f"w{i}\n#### {i}"} for i in range(4)]
    (work / "shots.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    lines = convert(work, "gsm8k", rows[:2], "-shots", "2", "-shots_from", work / "shots.jsonl")
    want = "Question: q1\nAnswer: w1\n#### 1\n\nQuestion: q2\nAnswer: w2\n#### 2\n\nQuestion: q0\nAnswer:"
    check("shots are worked examples, never the problem itself", lines[0].get("prompt") == want, lines[0])
    check("a benchmark with shots asks for them", "give -shots_from" in
          convert(work, "gsm8k", rows, "-count", "1")[0].get("error", ""))
    (work / "task.txt").write_text("canary\n-----\nEvaluate.\n\nQ: True is\nA: Let's think step by step.\n"
                                   "So the answer is True.\n")
    line = convert(work, "bbh", {"examples": [{"input": "x", "target": "(A)"}]}, "-shots_from", work / "task.txt")[0]
    check("bbh: the authors' prompt file comes first", line.get("prompt", "").startswith("Evaluate.\n\nQ: True is"), line)
    labels = work / "labels.lst"
    labels.write_text("1\n")
    line = convert(work, "piqa", [{"id": "x", "goal": "g", "sol1": "a", "sol2": "b"}], "-shots", "0", "-labels", labels)[0]
    check("piqa: labels of the authors' separate file", line.get("answer") == "1", line)
    with open(work / "mmlu.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["2+2, or?", "3", "4", "5", "6", "B"])
    out = work / "csv.jsonl"
    subprocess.run([sys.executable, ROOT / "data/benchmarks/convert.py", "mmlu", work / "mmlu.csv", "-o", out, "-shots",
                    "0"], check=True, capture_output=True)
    check("mmlu: the authors' CSV", json.loads(out.read_text())["answer"] == "1")
    line = convert(work, "gsm8k", [{"body": "x"}])[0]
    check("a row without the fields is named", "question: no such field" in line.get("error", "") or
          "answer: no such field" in line.get("error", ""), line)


def run(body, seconds=3, megabytes=512):
    return run_code.run_program(body, seconds, megabytes)


def sandbox(work):
    try:
        works = run("x = 1")[0]
    except SystemExit as refusal:
        check("no namespaces here, so nothing is run", "Nothing was run" in str(refusal), refusal)
        return
    check("a program that ends passes", works)
    check("one that ends before its tests does not", run("raise SystemExit(0)\nassert False") == (False, "ended early"))
    check("one that raises does not", run("assert 1 == 2, 'no'") == (False, "AssertionError: no"))
    listener = __import__("socket").create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    check("no network, not even this machine's own",
          not run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)")[0])
    check("CPU time is limited", not run("while True: pass", seconds=1)[0])
    check("so is waiting", run("import time\ntime.sleep(60)", seconds=1) == (False, "time"))
    check("memory is limited", "MemoryError" in run("x = bytearray(10**10)")[1])
    target = work / "touched"
    check("files outside cannot be written", not run(f"open({str(target)!r}, 'w')")[0] and not target.exists())
    kept = work / "kept"
    kept.write_text("x")
    check("nor removed", not run(f"import os\nos.remove({str(kept)!r})")[0] and kept.exists())
    check("files of its own can", run("open('mine', 'w').write('x' * 1000)")[0])
    check("up to a size", not run("open('mine', 'w').write('x' * (40 << 20))")[0])
    check("no process outlives it", run("import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', "
                                        "'import time; time.sleep(30)'])")[0] and
          not any("import time; time.sleep(30)" in open(f"/proc/{p}/cmdline", errors="replace").read()
                  for p in os.listdir("/proc") if p.isdigit() and os.path.exists(f"/proc/{p}/cmdline")
                  and os.access(f"/proc/{p}/cmdline", os.R_OK)))
    check("other processes cannot be killed",
          not run(f"import os\nos.kill({os.getpid()}, 0)")[0])
    check("the environment is empty", run("import os\nassert 'USER' not in os.environ and len(os.environ) < 5")[0])


def judged(work):
    """Reference solutions pass their tests, wrong ones do not, in both published forms."""
    own = {"task_id": "HumanEval/1", "prompt": "def half(x):\n    \"\"\"Half.\"\"\"\n", "entry_point": "half",
           "canonical_solution": "    return x / 2\n", "base_input": [[1], [4]], "plus_input": [[1e300], [-3]], "atol": 0}
    mbpp = {"task_id": "Mbpp/3", "prompt": "\"\"\"\nWrite twice.\nassert twice(1) == 2\n\"\"\"\n", "entry_point": "twice",
            "canonical_solution": "\ndef twice(x):\n    return 2 * x\n", "base_input": [[1]], "plus_input": [[[1, 2]]],
            "atol": 0}
    problems = []
    for name, rows in (("humaneval_plus", [next(c[1][0] for c in CASES if c[0] == "humaneval_plus"), own]),
                       ("mbpp_plus", [next(c[1][0] for c in CASES if c[0] == "mbpp_plus"), mbpp])):
        problems += convert(work, name, rows)
    (work / "problems.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
    samples = []
    for p in problems:
        samples.append({"id": p["id"], "sample": 0, "response": p["answer"] + "\nprint('and \u2028 \u0085 more')\n"})
        samples.append({"id": p["id"], "sample": 1, "response": p["answer"].replace("return ", "return None and ")})
    (work / "samples.jsonl").write_text("".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples),
                                        encoding="utf-8")
    lost = subprocess.run([sys.executable, ROOT / "data/benchmarks/run_code.py", work / "problems.jsonl", work / "none"],
                          capture_output=True, text=True, check=False).stderr
    check("a file that is not there is one line", "none: No such file" in lost and lost.count("\n") == 1, lost)
    done = subprocess.run([sys.executable, ROOT / "data/benchmarks/run_code.py", work / "problems.jsonl",
                           work / "samples.jsonl", "-o", work / "verdicts.jsonl"], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        check("no namespaces here, so nothing is judged", "Nothing was run" in done.stderr, done.stderr)
        return
    verdicts = [json.loads(line)["right"] for line in open(work / "verdicts.jsonl", encoding="utf-8")]
    check("reference solutions pass, wrong ones do not", verdicts == [True, False] * 4, (verdicts, done.stdout))
    check("Pass@k of half right is 0.5 and 1", "Pass@1 0.5000" in done.stdout and "Pass@2 1.0000" in done.stdout,
          done.stdout)


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        conversions(work)
        sandbox(work)
        judged(work)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
