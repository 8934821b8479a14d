#!/bin/sh
# data/prepare: the same shards whatever the threads, parts and interruptions; what it refuses. With a Python that has
# pyarrow (PYTHON=) also Parquet. Ends with "N passed, M failed".
cd "$(dirname "$0")/.."
. test/short_runs.sh
python=${PYTHON:-python3}

"$python" - "$work" <<'MAKE'
import gzip, json, sys
work = sys.argv[1]
rows = [{"text": f"document {i} " + "word " * (i * 7919 % 40) + "\u00e9\n", "n": i} for i in range(3000)]
lines = "".join(json.dumps(r) + "\n" for r in rows)
open(work + "/a.jsonl", "w").write(lines)
gzip.open(work + "/b.jsonl.gz", "wt").write(lines)
open(work + "/c.txt", "w").write("<END>".join(r["text"] for r in rows))
open(work + "/qa.jsonl", "w").write("".join(json.dumps({"q": f"{i} plus 1?", "a": str(i + 1)}) + "\n" for i in range(50)))
open(work + "/bad.jsonl", "w").write(lines[:2000].rsplit("\n", 1)[0] + "\n{broken\n" + lines[2000:].split("\n", 1)[1])
MAKE

prepare() { # FOLDER flags
    folder=$work/$1
    shift
    data/prepare -out "$folder" -part_bytes 20000 -val_fraction 0.1 "$@" >"$work/out" 2>&1
}
same() { diff -r -x prepare.json "$work/$1" "$work/$2" >/dev/null; }

check "JSONL into parts" prepare one "$work/a.jsonl" -threads 1
check "with training and validation" grep -q '2[0-9]* documents, .* for training; [1-9]' "$work/out"
documents=$(sed 's/.*: \([0-9]*\) documents.*; \([0-9]*\),.*/\1 + \2/' "$work/out")
check "every document once" [ $(($documents)) -eq 3000 ]
prepare four "$work/a.jsonl" -threads 4
check "the same bytes with four threads" same one four
data/prepare -out "$work/killed" -part_bytes 20000 -val_fraction 0.1 "$work/a.jsonl" -threads 1 >/dev/null 2>&1 &
child=$!
while [ ! -f "$work/killed/part-000002.train.shard" ] && kill -0 $child 2>/dev/null; do :; done
kill -9 $child 2>/dev/null
wait $child 2>/dev/null
rm -f "$work/killed/part-000003.train.shard" # as if it had been cut there
prepare killed "$work/a.jsonl" -threads 1
rm -f "$work"/killed/*.tmp
check "the same bytes after an interruption" same one killed
check "a finished folder is finished" prepare one "$work/a.jsonl" -threads 1
check "another field is refused there" sh -c "! data/prepare -out '$work/one' -part_bytes 20000 -val_fraction 0.1 -field n '$work/a.jsonl' >'$work/out' 2>&1"
check "by its name" grep -q 'another field' "$work/out"
data/prepare -out "$work/packed" -val_fraction 0.1 "$work/b.jsonl.gz" >"$work/out" 2>&1
check "a packed file has the same documents" grep -q "$(echo "$documents" | cut -d' ' -f1) documents" "$work/out"
prepare text "$work/c.txt" -separator '<END>'
check "text with a separator too" grep -q "$(echo "$documents" | cut -d' ' -f1) documents" "$work/out"
check "a bad line stops it" sh -c "! data/prepare -out '$work/bad' '$work/bad.jsonl' >'$work/out' 2>&1"
check "with its file and byte" grep -q 'bad.jsonl: line at byte' "$work/out"
check "or is skipped and counted" prepare skipped "$work/bad.jsonl" -bad_lines skip
check "one of them" grep -q '1 bad lines' "$work/out"
data/prepare -out "$work/few" -val_fraction 0.000001 "$work/qa.jsonl" -prompt_field q -field a >"$work/out" 2>&1
check "a corpus of which nothing is held out says so" grep -q "no document's hash falls into val_fraction 1e-06" "$work/out"
printf '\n' >"$work/empty.jsonl"
check "no document at all is an error" sh -c "! data/prepare -out '$work/hollow' '$work/empty.jsonl' >'$work/out' 2>&1 && grep -q 'not one document' '$work/out'"
check "prompts and answers" prepare qa "$work/qa.jsonl" -prompt_field q -field a
check "a field that is not there is named" sh -c "! data/prepare -out '$work/none' -field body '$work/a.jsonl' >'$work/out' 2>&1 && grep -q '\"body\"' '$work/out'"
train_on() { # SOURCE flags
    source=$1
    shift
    ./train -runs "$work" -name "$(basename "$source")-run" -model tiny -layers 1 -channels 32 -stages pretrain \
        -pretrain.data "$source" -pretrain.steps 3 -batch 2 -context 64 -val_rows 2 -eval_problems "" "$@" >"$work/out" 2>&1
}
check "./train reads the folder" train_on "$work/one"
head -1 "$work/a.jsonl" >"$work/own.jsonl"
check "and a validation file of one's own as a whole" train_on "$work/one" -name own -val_fraction 0 -val_data "$work/own.jsonl"
check "which is scored" grep -q '"val_ce"' "$work/own/metrics.jsonl"
check "and answers alone" train_on "$work/qa" -prompt_loss no -val_data embedded:sentences
printf 'x' | dd of="$work/four/part-000001.train.shard" bs=1 seek=3000 conv=notrunc 2>/dev/null
check "a damaged shard is named" sh -c "! ./train -runs '$work' -name damaged -stages pretrain -pretrain.data '$work/four' -val_data embedded:sentences -pretrain.steps 200 >'$work/out' 2>&1 && grep -q 'part-000001.train.shard: .*byte' '$work/out'"

if "$python" -c 'import pyarrow' 2>/dev/null; then
    "$python" - "$work" <<'MAKE'
import json, sys
import pyarrow, pyarrow.parquet
rows = [json.loads(line) for line in open(sys.argv[1] + "/a.jsonl")]
nulls = pyarrow.Table.from_pylist([{"text": None if i == 250 else "x"} for i in range(300)])
pyarrow.parquet.write_table(nulls, sys.argv[1] + "/nulls.parquet", row_group_size=200)
open(sys.argv[1] + "/cut.parquet", "wb").write(open(sys.argv[1] + "/nulls.parquet", "rb").read()[:-7])
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sys.argv[1] + "/d.parquet", row_group_size=200)
MAKE
    PYTHON=$python
    export PYTHON
    check "Parquet by row groups" prepare parquet "$work/d.parquet"
    check "has the same documents" grep -q "$(echo "$documents" | cut -d' ' -f1) documents" "$work/out"
    check "in several parts" test -f "$work/parquet/part-000001.train.shard"
    data/prepare -out "$work/nulls" "$work/nulls.parquet" >"$work/out" 2>&1
    check "a null stops it with its row" grep -q 'nulls.parquet: row 250, .*"text": .*found null' "$work/out"
    check "or is skipped and counted" sh -c "data/prepare -out '$work/skip' -bad_lines skip '$work/nulls.parquet' | grep -q ' 1 bad lines'"
    data/prepare -out "$work/cut" "$work/cut.parquet" >"$work/out" 2>&1
    check "a cut file is one message" sh -c "grep -q 'cut.parquet: ' '$work/out' && ! grep -q Traceback '$work/out'"
else
    check "Parquet asks for pyarrow" sh -c "printf x >'$work/d.parquet'; ! PYTHON=$python data/prepare -out '$work/p' '$work/d.parquet' >'$work/out' 2>&1 && grep -q pyarrow '$work/out'"
fi
finish
