"""Seconds of each encoding of a text by Hugging Face's tokenizers on one thread, as bench_tokenize prints them.

tokenize_peer.py TOKENIZER.json TEXT COUNT MODE: MODE is whole (one call) or chunks (10,000 characters a piece,
encode_batch_fast, which keeps no offsets and is its fastest way; tokens at the cuts may differ).
"""
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
from tokenizers import Tokenizer  # noqa: E402


def main():
    path, text_path, count, mode = sys.argv[1:]
    tokenizer = Tokenizer.from_file(path)
    with open(text_path, encoding="utf-8", newline="") as file:
        text = file.read()
    pieces = [text[i:i + 10000] for i in range(0, len(text), 10000)]
    seconds, tokens = [], 0
    for _ in range(int(count)):
        start = time.perf_counter()
        encoded = [tokenizer.encode(text)] if mode == "whole" else tokenizer.encode_batch_fast(pieces)
        seconds.append(time.perf_counter() - start)
        tokens = sum(len(e.ids) for e in encoded)
    print(" ".join(f"{s:.6f}" for s in seconds))
    print(tokens, "tokens")


main()
