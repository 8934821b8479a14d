// Contract: keys.h.
#include "llmc/rollout/keys.h"

namespace {

const char* kSynopsis =
    "./rollout generate -model FOLDER -prompt TEXT    samples answers to a prompt, or to the "
    "problems of\n"
    "                                                 FILE.jsonl ...\n"
    "./rollout evaluate FILE.jsonl ... -model FOLDER  answers problems: Avg@n, Cons@n, Pass@k\n"
    "./rollout score -model FOLDER -prompt TEXT       log-probability of every token of a text, or "
    "of the\n"
    "                                                 texts of FILE.jsonl (\"text\")\n"
    "./rollout export -model FOLDER -out FOLDER       the checkpoint for transformers, vLLM, "
    "lm-eval ...\n"
    "./rollout grade FILE.jsonl                       is each line's answer equal to its gold "
    "one?\n"
    "mpirun -np A ./train ... : -np B ./rollout serve  samples for the RL of ./train, on ranks of "
    "their own\n"
    "./rollout tokenize FILE.jsonl -tokenizer FILE     tokens of every text, or with -decode the "
    "text\n"
    "\n"
    "A file of problems is read in the forms of GSM8K, MATH-500, AIME, AMC23, Minerva, "
    "OlympiadBench,\n"
    "and with choices MMLU, ARC, HellaSwag (scored by log-likelihood); embedded:arithmetic and\n"
    "embedded:chains are generated. With -out FILE an evaluation that was interrupted continues.\n"
    "A line to grade is an object with \"id\", \"gold\" and \"answer\" or \"response\"; out comes "
    "one "
    "with\n"
    "\"id\", \"equal\", \"extracted\" and \"reason\". A line to tokenize has \"id\" and "
    "\"text\", or with\n"
    "-decode \"ids\"; out comes the other. The file - is standard input.\n"
    "FOLDER is a Hugging Face checkpoint (config.json, model.safetensors) or a run folder: then "
    "its\n"
    "newest checkpoint counts. A sample depends on -seed, the prompt and the sample's number "
    "only.\n";

} // namespace

KeyTable rollout_keys() {
    return {
        kSynopsis,
        {},
        {{"model", "model", kWord, "", 0, 0, "folder", "checkpoint or run folder"},
         {"tokenizer", "model", kWord, "", 0, 0, "file",
          "tokenizer.json; empty = the checkpoint's, tokenize without one: bytes"},
         {"device", "model", kOneOf, "auto", 0, 0, "",
          "where to compute: cpu, simt the CUDA kernels on the CPU, ref in double (the oracle)",
          "auto|cpu|simt|cuda|ref"},
         {"dtype", "model", kOneOf, "fp32", 0, 0, "",
          "of weights and activations: what the model was trained in samples as it did in "
          "training; export: of the weights",
          "fp32|bf16"},
         {"threads", "model", kInt, "0", 0, 1024, "threads", "0 = one per core"},
         {"prompt", "input", kWord, "", 0, 0, "text", "generate, score: what to continue or score"},
         {"split", "input", kOneOf, "validation", 0, 0, "", "which embedded problems",
          "train|validation"},
         {"count", "input", kInt, "144", 1, 1e9, "problems", "at most this many of a file"},
         {"extract", "input", kOneOf, "boxed", 0, 0, "",
          "evaluate, and grade from responses: the last \\boxed{}, or failing that \"Answer:\", "
          "\"####\", the "
          "last number",
          "boxed|lenient"},
         {"match", "input", kOneOf, "value", 0, 0, "",
          "evaluate: answers of equal value, or first lines of the same words (TriviaQA, NQ)",
          "value|words"},
         {"decode", "input", KeyType::flag, "no", 0, 0, "", "tokenize: from ids to text"},
         {"specials", "input", kOneOf, "keep", 0, 0, "",
          "tokenize -decode: special tokens as their names, or not at all", "keep|skip"},
         {"n", "sampling", kInt, "16", 1, 65536, "samples", "answers per prompt"},
         {"k", "sampling", kInt, "0", 0, 65536, "samples", "evaluate: Pass@k of k <= n; 0 = n"},
         {"temperature", "sampling", kReal, "0.7", 0, 100, "", "0 = greedy; score: 1 unless set"},
         {"top_p", "sampling", kReal, "0.95", 1e-6, 1, "",
          "mass kept of the distribution; 1 = off"},
         {"top_k", "sampling", kInt, "0", 0, 1e6, "tokens", "most likely tokens kept; 0 = off"},
         {"max_new_tokens", "sampling", kInt, "64", 1, 1e6, "tokens", "longest answer"},
         {"seed", "sampling", kInt, "1", 0, 1e15, "", "seed of the samples"},
         {"decode_rows", "engine", kInt, "128", 1, 65536, "sequences", "decoded at a time"},
         {"page_size", "engine", kInt, "64", 1, 4096, "tokens", "tokens of one KV cache page"},
         {"pages", "engine", kInt, "0", 0, 1e9, "pages",
          "of the KV cache; 0 = enough for all rows. With fewer the newest samples are preempted"},
         {"logits", "output", kWord, "", 0, 0, "file",
          "score: every logit of every text, as safetensors"},
         {"shard_bytes", "output", kInt, "5e9", 0, 1e15, "bytes",
          "export: weights of one file, then the next begins; 0 = one file"},
         {"out", "output", kWord, "", 0, 0, "file",
          "export: folder to make. Else JSONL: one line per answer or text; evaluate: continued if "
          "it is there, and FILE.json "
          "has "
          "the estimates"}}};
}
