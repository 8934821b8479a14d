// build/bench_tokenize TOKENIZER.json TEXT [COUNT]: encodes a text COUNT times and prints the
// seconds of each, the first with an empty word cache. One thread; compared by tokenize.sh.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/data/tokenizer.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>

static int bench_main(int argc, char** argv) {
    if (argc < 3) usage_error("bench_tokenize: two files wanted", "TOKENIZER.json TEXT [COUNT]");
    const Tokenizer tokenizer(argv[1]);
    const std::string text = read_file(argv[2]);
    size_t tokens = 0;
    for (int i = argc > 3 ? std::atoi(argv[3]) : 5; i > 0; i--) {
        const auto start = std::chrono::steady_clock::now();
        tokens = tokenizer.encode(text).size();
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        std::printf("%.6f ", elapsed.count());
    }
    std::printf("\n%zu tokens\n", tokens);
    return 0;
}

int main(int argc, char** argv) { return run_main(bench_main, argc, argv); }
