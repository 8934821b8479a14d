#!/usr/bin/env python3
"""Published benchmark files to problems for ./rollout evaluate, with few-shot prompts.

    data/benchmarks/convert.py NAME FILE... -o OUT.jsonl [-shots N] [-shots_from FILE] [-labels FILE] [-count N]

NAME is one of those listed by -h; FILE is the file as it is published: .jsonl, .json, .csv or .parquet (with pyarrow),
the authors' own fields or those of the Hugging Face copy. Shots come from -shots_from (a training or validation file in
the same format; for BBH the authors' cot-prompts/TASK.txt), the first N that are not the problem itself.

A line written is an object with
    id, prompt    used as it stands: nothing is added behind it
    metric        how an answer is read and judged (doc/evaluation.md)
    answer        the gold one; accepted spellings in a list; of choices the index
    choices       where answers are compared by likelihood; prompts: one prompt per choice (WinoGrande)
    stop          texts that end an answer
    test          metric "code": a Python program that the prompt and the answer are put before
"""
import argparse
import csv
import gzip
import json
import pathlib
import re
import sys

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


# ----------------------------------------------------------------------------------------------------------------
# reading

def read_rows(path):
    """Rows of a published file as dictionaries."""
    name = str(path)
    try:
        return rows_of(path, name)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:  # pyarrow's own is an OSError or ValueError
        sys.exit(f"{path}: {getattr(error, 'strerror', None) or error}; expected the benchmark's published file: "
                 ".jsonl, .json, .csv or .parquet")


def rows_of(path, name):
    if name.endswith(".parquet"):
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            sys.exit(f"{path}: needs pyarrow; pip install pyarrow")
        return parquet.read_table(path).to_pylist()
    opened = gzip.open(path, "rt", encoding="utf-8") if name.endswith(".gz") else open(path, encoding="utf-8")
    with opened as file:
        if name.endswith(".csv"):  # MMLU's own: no header
            return [dict(zip(["question", "A", "B", "C", "D", "answer"], row)) for row in csv.reader(file)]
        text = file.read()
    if ".jsonl" in name or (text.lstrip().startswith("{") and "\n{" in text.strip()):
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    data = json.loads(text)
    if isinstance(data, dict):  # BBH, TriviaQA
        for key in ("examples", "Data", "data"):
            if key in data:
                return data[key]
    return data if isinstance(data, list) else [data]


def field(row, *names):
    for name in names:
        if name in row and row[name] is not None:
            return row[name]
    sys.exit(f"{' / '.join(names)}: no such field; the row has {', '.join(row)}")


def labelled(choices):
    """Texts and labels of {"text": [...], "label": [...]} or [{"text", "label"}, ...]."""
    if isinstance(choices, dict):
        return list(choices["text"]), list(choices["label"])
    return [c["text"] for c in choices], [c["label"] for c in choices]


def question_of(row, stem_field="question"):
    """Stem, texts of the choices and index of the right one, where `question` may hold the first two."""
    question = row.get("question")
    if isinstance(question, dict):
        stem, choices = question["stem"], question["choices"]
    else:
        stem, choices = field(row, stem_field), field(row, "choices")
    texts, labels = labelled(choices)
    return stem, texts, labels.index(field(row, "answerKey"))


def lettered(texts):
    return "".join(f"{LETTERS[i]}. {text}\n" for i, text in enumerate(texts))


# ----------------------------------------------------------------------------------------------------------------
# benchmarks: one function a format, row -> problem; "block" and "gold" make it a shot for another problem

def mmlu(row):
    texts = row["choices"] if "choices" in row else [row[c] for c in "ABCD"]
    right = field(row, "answer")
    right = LETTERS.index(right) if isinstance(right, str) and right in LETTERS else int(right)
    subject = str(row.get("subject", "")).replace("_", " ")
    return {"head": "The following are multiple choice questions (with answers)" +
                    (f" about {subject}" if subject else "") + ".\n\n",
            "block": f"{field(row, 'question').strip()}\n{lettered(texts)}Answer:", "gold": f" {LETTERS[right]}",
            "metric": "choices", "choices": [f" {LETTERS[i]}" for i in range(len(texts))], "answer": str(right)}


def mmlu_pro(row):
    texts = [o for o in field(row, "options") if o != "N/A"]
    right = field(row, "answer")
    worked = str(row.get("cot_content") or f"The answer is ({right}).")
    worked = re.sub(r"^A: ", "", worked.strip())
    return {"head": "The following are multiple choice questions (with answers)"
                    f" about {row.get('category', 'several subjects')}. Think step by step and then finish your answer "
                    "with \"the answer is (X)\" where X is the correct letter choice.\n\n",
            "id": row.get("question_id"),
            "block": f"Question:\n{field(row, 'question')}\nOptions:\n{lettered(texts)}Answer: ", "gold": worked,
            "metric": "letter", "answer": right, "stop": ["Question:"]}


def trivia_qa(row):
    answer = field(row, "answer", "Answer")
    names = [field(answer, "value", "Value")] + list(answer.get("aliases", answer.get("Aliases", [])) or [])
    return {"id": field(row, "question_id", "QuestionId"), "block": f"Question: {field(row, 'question', 'Question')}\nAnswer:",
            "gold": f" {names[0]}", "metric": "words", "answer": list(dict.fromkeys(names)), "stop": ["\n"]}


def natural_questions(row):
    answers = field(row, "answer")
    answers = [answers] if isinstance(answers, str) else list(answers)
    return {"block": f"Question: {field(row, 'question')}?\nAnswer:".replace("??", "?"), "gold": f" {answers[0]}",
            "metric": "words", "answer": list(dict.fromkeys(answers)), "stop": ["\n"]}


def clean_hellaswag(text):
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag(row):
    ctx = f"{row['ctx_a']} {row['ctx_b'].capitalize()}" if row.get("ctx_a") is not None else row["ctx"]
    endings = [clean_hellaswag(e) for e in field(row, "endings")]
    right = int(field(row, "label"))
    return {"id": row.get("ind"), "block": clean_hellaswag(f"{row.get('activity_label', '')}: {ctx}"),
            "gold": f" {endings[right]}", "metric": "choices", "choices": [f" {e}" for e in endings], "answer": str(right)}


def siqa(row):
    texts = [field(row, f"answer{c}") for c in "ABC"]
    right = int(field(row, "label")) - 1
    return {"block": f"Q: {field(row, 'context')} {field(row, 'question')}\nA:", "gold": f" {texts[right]}",
            "metric": "choices", "choices": [f" {t}" for t in texts], "answer": str(right)}


def piqa(row):
    texts, right = [field(row, "sol1"), field(row, "sol2")], int(field(row, "label"))
    return {"id": row.get("id"), "block": f"Question: {field(row, 'goal')}\nAnswer:", "gold": f" {texts[right]}",
            "metric": "choices", "choices": [f" {t}" for t in texts], "answer": str(right)}


def winogrande(row):
    before, after = field(row, "sentence").split("_", 1)
    options, right = [field(row, "option1"), field(row, "option2")], int(field(row, "answer")) - 1
    # Both options go into the sentence; what follows is the same text and is what is compared.
    return {"id": row.get("qID"), "blocks": [before + option for option in options], "gold": after,
            "block": before + options[right], "metric": "choices", "choices": [after] * 2, "answer": str(right)}


def openbookqa(row):
    stem, texts, right = question_of(row, "question_stem")
    return {"id": row.get("id"), "block": stem, "gold": f" {texts[right]}", "metric": "choices",
            "choices": [f" {t}" for t in texts], "answer": str(right)}


def commonsense_qa(row):
    stem, texts, right = question_of(row)
    return {"id": row.get("id"), "block": f"Question: {stem}\n{lettered(texts)}Answer:", "gold": f" {LETTERS[right]}",
            "metric": "choices", "choices": [f" {LETTERS[i]}" for i in range(len(texts))], "answer": str(right)}


def arc(row):
    stem, texts, right = question_of(row)
    return {"id": row.get("id"), "block": f"Question: {stem}\nAnswer:", "gold": f" {texts[right]}",
            "metric": "choices", "choices": [f" {t}" for t in texts], "answer": str(right)}


def bbh(row):
    target = field(row, "target")
    return {"block": f"Q: {field(row, 'input')}\nA: Let's think step by step.\n", "gold": f"So the answer is {target}.",
            "metric": "phrase", "answer": target, "stop": ["\n\nQ:", "\nQ:"]}


def gsm8k(row):
    worked = field(row, "answer")
    return {"block": f"Question: {field(row, 'question')}\nAnswer:", "gold": f" {worked}", "metric": "lenient",
            "answer": worked.rsplit("#### ", 1)[-1].strip(), "stop": ["Question:", "\n\n\n"]}


def last_box(text):
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for i in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0) if text[i - 1] != "\\" else 0
        if depth == 0:
            return text[start + 7:i]
    return None


def mathematics(row):
    """MATH-500, Minerva (OCW courses), OlympiadBench."""
    question = field(row, "problem", "question")
    if row.get("context"):
        question = f"{row['context']}\n{question}"
    solution = row.get("solution") or ""
    solution = solution[0] if isinstance(solution, list) else solution
    answer = row.get("answer")
    if row.get("final_answer") is not None:
        answer = ", ".join(row["final_answer"]) if isinstance(row["final_answer"], list) else row["final_answer"]
    answer = answer if answer is not None else last_box(solution)
    if answer is None:
        sys.exit(f"no answer, final_answer or \\boxed{{}} in the solution of: {question[:80]}")
    worked = solution if last_box(solution) else f"{solution} The answer is $\\boxed{{{answer}}}$."
    return {"id": row.get("unique_id", row.get("id", row.get("idx"))), "block": f"Problem:\n{question}\n\nSolution:",
            "gold": f" {worked.strip()}", "metric": "boxed", "answer": str(answer), "stop": ["Problem:"]}


def plus_test(row):
    """A test program from evalplus's own fields: the reference solution gives what is expected of every input."""
    # repr of literals that JSON holds; the program compares with the tolerance the authors state.
    return f"""
def _prior_reference():
    space = {{}}
    exec({(row.get('prompt', '') + row['canonical_solution'])!r}, space)
    return space[{row['entry_point']!r}]

def _prior_equal(a, b, atol):
    if isinstance(a, float) or isinstance(b, float):
        return a == b or abs(a - b) <= max(atol, 1e-6) or (a != a and b != b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_prior_equal(x, y, atol) for x, y in zip(a, b))
    return a == b

def _prior_check(candidate):
    import copy
    reference = _prior_reference()
    for arguments in {list(row['base_input']) + list(row.get('plus_input') or [])!r}:
        want = reference(*copy.deepcopy(arguments))
        assert _prior_equal(candidate(*copy.deepcopy(arguments)), want, {float(row.get('atol') or 0)!r})

_prior_check({row['entry_point']})
"""


STOP_CODE = ["\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\nassert ", "```"]


def human_eval_plus(row):
    if "plus_input" in row or "base_input" in row:
        test = plus_test(row)
    else:
        test = f"\n{field(row, 'test')}\ncheck({field(row, 'entry_point')})\n"
    return {"id": field(row, "task_id"), "block": field(row, "prompt"), "gold": field(row, "canonical_solution"),
            "metric": "code", "answer": field(row, "canonical_solution"), "stop": STOP_CODE, "test": test}


def mbpp_plus(row):
    code = field(row, "code", "canonical_solution")
    prompt = row["prompt"].strip().strip('"').strip()
    if "base_input" in row:
        test, shown = plus_test({**row, "prompt": "", "canonical_solution": code}), ""
    else:
        imports = "\n".join(row.get("test_imports") or [])
        test = f"\n{imports}\n{row.get('test') or chr(10).join(row['test_list'])}\n"
        shown = "\n" + row["test_list"][0]
    return {"id": str(field(row, "task_id")), "block": f'"""\n{prompt}{shown}\n"""\n', "gold": code, "metric": "code",
            "answer": code, "stop": ['\n"""', "\nassert ", "\nprint(", "```"], "test": test}


#              format             shots usual for base models
BENCHMARKS = {
    "mmlu": (mmlu, 5), "mmlu_pro": (mmlu_pro, 5), "trivia_qa": (trivia_qa, 5),
    "natural_questions": (natural_questions, 5), "hellaswag": (hellaswag, 0), "siqa": (siqa, 0), "piqa": (piqa, 0),
    "winogrande": (winogrande, 0), "openbookqa": (openbookqa, 0), "commonsense_qa": (commonsense_qa, 7),
    "arc_easy": (arc, 0), "arc_challenge": (arc, 0), "bbh": (bbh, 3), "gsm8k": (gsm8k, 8), "math500": (mathematics, 4),
    "minerva": (mathematics, 4), "olympiadbench": (mathematics, 4), "humaneval_plus": (human_eval_plus, 0),
    "mbpp_plus": (mbpp_plus, 0),
}


# ----------------------------------------------------------------------------------------------------------------
# prompts

def bbh_exemplars(path):
    """The authors' prompt file: a canary line, dashes, then the task's description and three worked examples."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return text.split("-----\n", 1)[-1].strip() + "\n\n"


def few_shot(item, shots):
    head = item.get("head", "")
    body = "".join(f"{s['block']}{s['gold']}\n\n" for s in shots if s["block"] != item["block"])
    return head + body


def convert(name, rows, shots, number, exemplars):
    make, _ = BENCHMARKS[name]
    for index, row in enumerate(rows):
        item = make(row)
        chosen = [s for s in shots if s["block"] != item["block"]][:number]
        prefix = exemplars if exemplars else few_shot(item, chosen)
        line = {"id": str(item["id"]) if item.get("id") is not None else f"{name}/{index}",
                "prompt": prefix + item["block"], "metric": item["metric"], "answer": item["answer"]}
        if "blocks" in item:
            line["prompts"] = [prefix + block for block in item["blocks"]]
        for key in ("choices", "stop", "test"):
            if key in item:
                line[key] = item[key]
        yield line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="NAME (shots): " + ", ".join(f"{n} ({s})" for n, (_, s) in BENCHMARKS.items()))
    parser.add_argument("name", choices=sorted(BENCHMARKS), metavar="NAME")
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("-o", "-out", dest="out", required=True)
    parser.add_argument("-shots", type=int)
    parser.add_argument("-shots_from")
    parser.add_argument("-labels", help="PIQA, SIQA: the authors' separate file of labels, one a line")
    parser.add_argument("-count", type=int, default=10**9)
    a = parser.parse_args()
    make, usual = BENCHMARKS[a.name]
    number = usual if a.shots is None else a.shots
    rows = [row for path in a.files for row in read_rows(path)]
    if a.labels:
        labels = pathlib.Path(a.labels).read_text(encoding="utf-8").split()
        if len(labels) != len(rows):
            sys.exit(f"{a.labels}: {len(labels)} labels for {len(rows)} rows")
        rows = [{**row, "label": label} for row, label in zip(rows, labels)]
    shots, exemplars = [], ""
    if number and not a.shots_from:
        sys.exit(f"{a.name} is run with {number} shots: give -shots_from FILE, or -shots 0")
    if number and a.name == "bbh":
        exemplars = bbh_exemplars(a.shots_from)
    elif number:
        shots = [make(row) for row in read_rows(a.shots_from)[:number + 1]]
    with open(a.out, "w", encoding="utf-8") as out:
        count = 0
        for line in convert(a.name, rows[:a.count], shots, number, exemplars):
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    print(f"{a.out}: {count} problems, {number} shots, metric {line['metric'] if count else 'none'}")


if __name__ == "__main__":
    main()
