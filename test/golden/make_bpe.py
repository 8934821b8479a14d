#!/usr/bin/env python3
"""Writes test/golden/bpe_*: small tokenizers of several kinds and what Hugging Face's library makes of texts.

    pip install tokenizers; python3 test/golden/make_bpe.py CORPUS.txt
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
WORD_END = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN = WORD_END + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
LLAMA3 = WORD_END + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{WORD_END}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{WORD_END}?"
         r"|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
PIECES = ["the", " the", "Shakespeare", " shall", "thou", "word", "'s", "'LL", "'\u017f", "don't", "12", "3456789", "\u00bd", "\u2167",
          "caf\u00e9", "cafe\u0301", "e\u0301tat", "\u212bng", "\u1100\u1161\u11a8", "\uac01", "a\u0334\u0301\u0316", "q\u0307\u0323", "\u1abf", "\u0958",
          "\u4e2d\u6587", "\u041f\u0440\u0438\u0432\u0435\u0442", "\u0645\u0631\u062d\u0628\u0627", "\u0928\u092e\u0938\u094d\u0924\u0947", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea",
          "\u180e", "\u200b", "\u00a0", "\u3000", "\u0085", "\u2028", "\U0002ebf0", "\U00010d40", "\u1c89", "\ufffd", "\x00", "_", "<x>", "<y>",
          "<z>", "ab", "abc", "<|endoftext|>", "<|im_start|>", "<|endof", " ", "  ", "    ", "\n", "\r\n", "\t", "\n\n", "!?", "x=3;",
          "qzqz", " qzqz", "aaaaaaaaaaaaaaaaa", "-" * 70, "ha" * 60]


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def make(name, corpus, pre_tokenizer, *, nfc=False, added=(), bos=False, edit=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC() if nfc else None
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=640, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator([corpus], trainer)
    data = json.loads(tokenizer.to_str())
    if edit:
        edit(data["model"])
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    tokenizer.add_tokens(list(added))
    if bos:
        special = [("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))]
        tokenizer.post_processor = processors.Sequence(
            [processors.ByteLevel(), processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=special)])
    rng = random.Random(name)
    texts = ["", " ", "<|endoftext|>", "a<|endoftext|>b"] + PIECES
    texts += ["".join(rng.choice(PIECES) for _ in range(rng.randrange(2, 12))) for _ in range(150)]
    pairs = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        pairs.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    for _ in range(30):  # any ids: what they decode to need not be UTF-8
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randrange(1, 12))]
        pairs.append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    folder = HERE / f"bpe_{name}"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str() + "\n", encoding="utf-8")
    lines = ",\n".join(json.dumps(pair) for pair in pairs)
    (folder / "pairs.json").write_text(f'{{"format": "bpe", "version": 1, "pairs": [\n{lines}\n]}}\n')


def llama3_edit(model):
    model["ignore_merges"] = True
    for word in ("qzqz", "\u0120qzqz"):  # reached by no merge
        model["vocab"][word] = len(model["vocab"])


def string_merges(model):
    model["merges"] = [" ".join(pair) for pair in model["merges"]]


def main():
    corpus = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    sequence = pre_tokenizers.Sequence
    make("gpt2", corpus, byte_level(prefix=True, regex=True), edit=string_merges)
    make("llama3", corpus, sequence([split(LLAMA3), byte_level()]), bos=True, edit=llama3_edit)
    make("o200k", corpus, sequence([split(O200K), byte_level()]))
    make("added", corpus, sequence([split(QWEN), byte_level()]), nfc=True, added=[
        AddedToken("<x>", lstrip=True, normalized=False), AddedToken("<y>", rstrip=True, normalized=False),
        AddedToken("<z>", lstrip=True, rstrip=True), AddedToken("word", single_word=True, normalized=False),
        AddedToken("e\u0301tat"), AddedToken("\u212bng", normalized=False), AddedToken("ab", normalized=False),
        AddedToken("abc", normalized=False), AddedToken("  "), AddedToken("    "),
        AddedToken("thou", single_word=True, lstrip=True), AddedToken("\n\n", normalized=False, rstrip=True)])


if __name__ == "__main__":
    main()
