#!/usr/bin/env python3
"""Makes one self-contained HTML page from run folders and evaluations.

    scripts/report.py RUN [RUN ...] [EVALUATION.json ...] [-o report.html]

A run folder has metrics.jsonl (curves, the table after every stage), recipe.ini (what differs between the
runs) and samples/*.jsonl (the browser). An evaluation is the FILE.jsonl.json that ./rollout evaluate -out
FILE.jsonl writes: its Pass@k curves are drawn beside those of the runs. A run that is still going, or was
cut in the middle of a line, is shown as far as it got. No dependencies; the page loads nothing.
"""
import argparse
import html
import json
import math
import pathlib
import re
import sys

STAGES = (("pretrain", "Pre-training"), ("midtrain", "Mid-training"), ("rl", "RL"))
TEXT_CURVES = (  # key, title, unit, logarithmic
    ("loss", "Loss", "cross-entropy, nats per token", True),
    ("ppl", "Perplexity", "e to the loss", True),
    ("entropy", "Entropy", "of the next token, nats", True),
    ("head_mass", "Head mass", "probability of wrong tokens in the top k", True),
    ("tail_mass", "Tail mass", "probability of wrong tokens outside it", True),
    ("grad_norm", "Gradient norm", "before clipping", True),
    ("max_vio", "MaxVio", "worst block's expert load", False),
)
RL_CURVES = (
    ("reward", "Reward", "mean over all sampled answers", False),
    ("kept_groups", "Kept groups", "with right and wrong answers", False),
    ("length", "Response length", "tokens, mean of all answers", False),
    ("length_max", "Longest response", "tokens", False),
    ("loss", "Loss", "mean -ln p of the answers trained on, nats", False),
    ("ppl", "Perplexity", "e to the loss", False),
    ("entropy", "Entropy", "of the next token, nats", True),
    ("truncated", "Truncated", "share of answers at the length limit", False),
    ("max_abs_dlogp", "Mismatch", "max |ln p rollout - ln p trainer|, nats", False),
    ("grad_norm", "Gradient norm", "before clipping", True),
)
TABLE = (("val_ce", "val CE"), ("val_entropy", "entropy"), ("bits_per_byte", "bits/byte"),
         ("val_head_mass", "head mass"), ("val_tail_mass", "tail mass"), ("avg", "Avg@n"), ("cons", "Cons@n"),
         ("pass_8", "Pass@8"), ("answered", "answered"), ("answer_length", "length"))
NOT_A_DIFFERENCE = (  # what does not change a result
    "name", "runs", "threads", "recipe", "keep", "checkpoint_every", "log_every", "stop_after", "stages", "recompute",
    "plan", "plan_ranks", "save_batches", "decode_rows", "page_size", "pages", "zero")
COLORS = ("#2563a8", "#c8501e", "#2e8540", "#8a4fae", "#b0851a", "#1f8f8f", "#b8336a", "#666666")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 230, 52, 10, 10, 26


def json_lines(path):
    for line in path.read_text(encoding="utf-8").split("\n"):  # splitlines() cuts at U+2028 and U+0085, inside strings
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a file that is being written
        if isinstance(entry, dict):
            yield entry


def read_recipe(path):
    keys, section = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        line = line.split("#")[0].strip()
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif "=" in line:
            key, value = line.split("=", 1)
            if key.strip() not in NOT_A_DIFFERENCE:
                keys[section + key.strip()] = value.strip()
    return keys


def read_run(folder):
    path = folder / "metrics.jsonl"
    if not path.is_file():
        sys.exit(f"report: {path} does not exist; give the folder of a run, e.g. runs/embedded, or the .json "
                 "of an evaluation")
    entries = list(json_lines(path))
    return {"name": folder.resolve().name, "folder": folder, "recipe": read_recipe(folder / "recipe.ini"),
            "steps": [e for e in entries if e.get("kind") == "step"],
            "evals": [e for e in entries if e.get("kind") == "eval"]}


def number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def text_of(value):
    if not number(value):
        return "-"
    return f"{value:.2e}" if value and abs(value) < 1e-3 else f"{value:.4g}"


# ----------------------------------------------------------------------------------------------------------
# charts

def ticks(low, high, logarithmic):
    """Round values from low to high, about five."""
    if logarithmic:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        powers = [10.0 ** p for p in range(first, last + 1)]
        values = [m * p for p in powers for m in (1, 2, 5) if low <= m * p <= high]
        if len(values) > 6:
            values = [p for p in powers if low <= p <= high]
        if len(values) > 1:
            return values
    raw = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, int(math.floor(high / step + 1e-9)) + 1)]


def tick_text(value):
    return f"{value / 1000:g}k" if abs(value) >= 10000 else f"{value:.5g}"


class Axes:
    """Maps values to the drawing; the page's script maps them back from the data attributes."""

    def __init__(self, xs, ys, log_x, log_y):
        self.log_x, self.log_y = log_x, log_y
        self.x0, self.x1 = self.span(xs, log_x, 0.0)
        self.y0, self.y1 = self.span(ys, log_y, 0.04)

    @staticmethod
    def span(values, logarithmic, margin):
        low, high = min(values), max(values)
        if logarithmic:
            low, high = math.log(low), math.log(high)
        if high - low < 1e-12 * max(1.0, abs(high)):
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        return low - margin * (high - low), high + margin * (high - low)

    def x(self, value):
        value = math.log(value) if self.log_x else value
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        value = math.log(value) if self.log_y else value
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def line(self, points, attributes):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline points="{path}" {attributes}/>'

    def frame(self, x_ticks):
        parts = []
        low, high = (math.exp(self.y0), math.exp(self.y1)) if self.log_y else (self.y0, self.y1)
        for value in ticks(low, high, self.log_y):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                         f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>')
        for value in x_ticks:
            x = self.x(value)
            anchor = "end" if x > WIDTH - RIGHT - 14 else "middle"
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
                         f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{tick_text(value)}</text>')
        return "".join(parts)


def mean_of(values):
    return sum(values) / len(values)


def buckets(points, count):
    """Points in at most `count` runs of neighbours."""
    size = max(1, math.ceil(len(points) / count))
    return [points[i:i + size] for i in range(0, len(points), size)]


def figure(title, unit, series, log_x, log_y, x_name, x_ticks=None, faint=True):
    """series: (label, color, dash, [(x, y, error or None)]); long ones as a mean over a range of the raw values."""
    series = [(label, color, dash, [p for p in points if not log_y or p[1] > 0])
              for label, color, dash, points in series]
    series = [entry for entry in series if entry[3]]
    if not series:
        return ""
    log_y = log_y and max(p[1] for s in series for p in s[3]) > 2 * min(p[1] for s in series for p in s[3])
    bounds = [p[1] + side * (p[2] or 0) for s in series for p in s[3] for side in (-1, 1)]
    axes = Axes([p[0] for s in series for p in s[3]], [b for b in bounds if b > 0] if log_y else bounds, log_x, log_y)
    drawn = []
    for label, color, dash, points in series:
        shown = [(x, y) for x, y, _ in points]
        if faint and len(points) > 60:
            raw = []
            for part in buckets(shown, 300):
                raw += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
            drawn.append(axes.line(raw, f'class="raw" stroke="{color}"'))
            shown = [(mean_of([x for x, _ in part]), mean_of([y for _, y in part])) for part in buckets(shown, 60)]
        for x, y, error in points:
            if error:
                drawn.append(axes.line([(x, y - error), (x, y + error)], f'stroke="{color}" class="error"'))
        drawn.append(axes.line(shown, f'class="curve" stroke="{color}" stroke-dasharray="{dash}" '
                               f'data-label="{html.escape(label, True)}"'))
        if len(shown) == 1:
            drawn.append(f'<circle cx="{axes.x(shown[0][0]):.1f}" cy="{axes.y(shown[0][1]):.1f}" r="3" fill="{color}"/>')
    if x_ticks is None:
        x_ticks = ticks(axes.x0, axes.x1, False)
    data = (f'data-x0="{axes.x0:.9g}" data-x1="{axes.x1:.9g}" data-y0="{axes.y0:.9g}" data-y1="{axes.y1:.9g}" '
            f'data-logx="{int(log_x)}" data-logy="{int(log_y)}" data-xname="{x_name}"')
    return (f'<figure><figcaption><b>{html.escape(title)}</b> {html.escape(unit)}</figcaption>'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title, True)}" {data}>'
            f'{axes.frame(x_ticks)}{"".join(drawn)}</svg></figure>')


def stage_section(runs, stage, title, curves):
    figures = []
    for key, name, unit, logarithmic in curves:
        series = []
        for i, run in enumerate(runs):
            points = [(e["step"], e[key], None) for e in run["steps"] if e["stage"] == stage and number(e.get(key))]
            series.append((run["name"], COLORS[i % len(COLORS)], "", points))
        if key == "max_abs_dlogp" and all(p[1] == 0 for s in series for p in s[3]) and any(s[3] for s in series):
            figures.append('<figure class="fact"><figcaption><b>Mismatch</b> max |ln p rollout - ln p trainer|'
                           '</figcaption><p>0 in every step: bit for bit the same</p></figure>')
            continue
        figures.append(figure(name, unit, series, False, logarithmic, "step"))
    if not any(figures):
        return ""
    return (f'<section id="{stage}"><h2>{title}</h2><p>By optimizer step of the stage.</p>'
            f'<div class="figures">{"".join(figures)}</div></section>')


def pass_points(entry, plain):
    """(k, value, error) of an entry of metrics.jsonl (plain numbers) or of an evaluation."""
    points = []
    for key, value in entry.items():
        if not key.startswith("pass_") or not key[5:].isdigit():
            continue
        mean = value if plain else value.get("mean")
        error = entry.get(key + "_error") if plain else value.get("error")
        if number(mean):
            points.append((int(key[5:]), mean, error if number(error) else None))
    return sorted(points)


def pass_section(runs, evaluations):
    figures, dashes = [], {"pretrain": "2 3", "midtrain": "7 3", "rl": ""}
    series = []
    for i, run in enumerate(runs):
        for entry in run["evals"]:
            label = f'{run["name"]}, {entry["stage"]}'
            series.append((label, COLORS[i % len(COLORS)], dashes.get(entry["stage"], ""), pass_points(entry, True)))
    k = sorted({p[0] for s in series for p in s[3]})
    figures.append(figure("Pass@k", "held-out problems; dotted pretrain, dashed midtrain, solid rl", series, True, False,
                          "k", k[::2] if len(k) > 8 else k, faint=False))
    names = list(dict.fromkeys(name for _, sets in evaluations for name in sets))
    for name in names:
        series = [(label, COLORS[i % len(COLORS)], "", pass_points(sets[name], False))
                  for i, (label, sets) in enumerate(evaluations) if name in sets]
        k = sorted({p[0] for s in series for p in s[3]})
        figures.append(figure("Pass@k", name, series, True, False, "k", k[::2] if len(k) > 8 else k, faint=False))
    if not any(figures):
        return ""
    return (f'<section id="pass"><h2>Pass@k</h2><p>Bars: one standard error over problems.</p>'
            f'<div class="figures">{"".join(figures)}</div></section>')


# ----------------------------------------------------------------------------------------------------------
# tables

def breakable(text):
    """A name or value that may go on in the next line behind its signs, and nowhere else."""
    return re.sub(r"([_,=*/:]|\.(?!\d))", r"\1<wbr>", html.escape(text))


def with_error(entry, key):
    error = entry.get(key + "_error")
    return text_of(entry.get(key)) + (f' <small>&plusmn; {error:.2g}</small>' if number(error) else "")


def stage_table(runs):
    head = "".join(f"<th>{html.escape(title)}</th>" for _, title in TABLE)
    rows = []
    for i, run in enumerate(runs):
        for entry in run["evals"]:
            cells = "".join(f"<td>{with_error(entry, key)}</td>" for key, _ in TABLE)
            rows.append(f'<tr><th>{swatch(i)}{breakable(run["name"])}</th><th>{html.escape(entry["stage"])}</th>'
                        f'{cells}</tr>')
    return (f'<section id="stages"><h2>After every stage</h2><div class="wide"><table class="stages"><tr><th>run</th>'
            f'<th>after</th>{head}</tr>{"".join(rows)}</table></div></section>') if rows else ""


def swatch(i):
    return f'<i style="background:{COLORS[i % len(COLORS)]}"></i>'


def side_by_side(runs):
    """Runs as columns: the keys in which they differ, then what came of it."""
    if len(runs) < 2:
        return ""
    keys = list(dict.fromkeys(key for run in runs for key in run["recipe"]))
    differ = [key for key in keys if len({run["recipe"].get(key) for run in runs}) > 1]
    rows = [(key, [breakable(run["recipe"].get(key, "-") or '""') for run in runs], "key") for key in differ]
    for stage, title in STAGES:
        after = [next((e for e in run["evals"] if e["stage"] == stage), {}) for run in runs]
        for key, name in TABLE:
            if any(number(entry.get(key)) for entry in after):
                rows.append((f"{stage}: {name}", [with_error(entry, key) for entry in after], ""))
    head = "".join(f'<th>{swatch(i)}{breakable(run["name"])}</th>' for i, run in enumerate(runs))
    body = "".join(f'<tr class="{kind}"><th>{breakable(name)}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'
                   for name, cells, kind in rows)
    return (f'<section id="priors"><h2>Priors side by side</h2><p>First the keys in which the recipes differ.</p>'
            f'<div class="wide"><table class="priors"><tr><th></th>{head}</tr>{body}</table></div></section>')


# ----------------------------------------------------------------------------------------------------------
# samples

def spread(items, count):
    """At most `count` of the items, the first and the last among them, evenly."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)] if count > 1 else items[-1:]


def cut(text, limit):
    return text if len(text) <= limit else f"{text[:limit // 2]}\n[... {len(text) - limit} characters ...]\n{text[-limit // 2:]}"


def read_samples(runs, limit, longest):
    """Some samples of every run: of its files evenly, of each file the first groups."""
    samples = []
    for index, run in enumerate(runs):
        folder = run["folder"] / "samples"
        files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
        files = spread(files, max(2, min(len(files), 24)))
        for path in files:
            where = path.stem.replace("_", " ")
            if path.stem.startswith("step_"):
                where = f"rl step {int(path.stem[5:]) + 1}"
            room = max(1, limit // (len(runs) * len(files)))
            for line in json_lines(path):
                if room == 0 or "response" not in line:
                    continue  # the settings in front, or enough of this file
                room -= 1
                samples.append({"run": index, "at": where, "id": str(line.get("id", "")), "n": line.get("sample", 0),
                                "prompt": cut(line.get("prompt", ""), longest),
                                "response": cut(line["response"], longest), "gold": line.get("answer"),
                                "said": line.get("extracted"), "right": line.get("right"),
                                "reason": line.get("reason", ""), "finish": line.get("finish", ""),
                                "tokens": line.get("tokens"), "logp": line.get("logp")})
    return samples


def main():
    parser = argparse.ArgumentParser(description="Draws run folders and evaluations as one HTML page.")
    parser.add_argument("sources", nargs="+", type=pathlib.Path, help="run folders, .json files of evaluations")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=pathlib.Path("report.html"))
    parser.add_argument("--samples", type=int, default=1500, help="samples in the browser, of all runs (1500)")
    parser.add_argument("--longest", type=int, default=8000, help="characters of one sample's text (8000)")
    arguments = parser.parse_args()
    runs = [read_run(source) for source in arguments.sources if source.suffix != ".json"]
    evaluations = []
    for source in arguments.sources:
        if source.suffix == ".json":
            try:
                evaluations.append((source.name.split(".")[0], json.loads(source.read_text(encoding="utf-8"))))
            except (OSError, json.JSONDecodeError) as error:
                sys.exit(f"report: {source}: {error}; expected what ./rollout evaluate -out writes")
    if not evaluations and not any(run["steps"] for run in runs):
        sys.exit("report: no steps yet")
    names = [run["name"] for run in runs] + [name for name, _ in evaluations]
    sections = [stage_table(runs), side_by_side(runs)]
    for stage, title in STAGES:
        sections.append(stage_section(runs, stage, title, RL_CURVES if stage == "rl" else TEXT_CURVES))
    sections.append(pass_section(runs, evaluations))
    legend = "".join(f"<span>{swatch(i)}{html.escape(name)}</span>" for i, name in enumerate(names))
    data = {"runs": [run["name"] for run in runs],
            "samples": read_samples(runs, arguments.samples, arguments.longest)}
    page = (pathlib.Path(__file__).parent / "report_page.html").read_text(encoding="utf-8")
    # No "</script>" inside the data may end it.
    heading = names[0] if len(names) == 1 else f"{len(runs)} runs" + f", {len(evaluations)} evaluations" * bool(evaluations)
    values = {"TITLE": html.escape(", ".join(names)), "HEADING": html.escape(heading), "LEGEND": legend, "SECTIONS": "".join(sections),
              "DATA": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")}
    page = re.sub("@(TITLE|HEADING|LEGEND|SECTIONS|DATA)@", lambda match: values[match[1]], page)
    arguments.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"report: {error.filename}: {error.strerror}")
