// ./golden DIR...: runs golden vectors and says per tensor how far off it is.
#include "llmc/core/error.h"
#include "test/golden_runner.h"

#include <cstdio>

static int golden_main(int argc, char** argv) {
    if (argc < 2) usage_error("golden: no directory given", "./golden DIR..., e.g. test/golden");
    int passed = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        for (const GoldenResult& r : run_golden(argv[i])) {
            std::printf("%-72s %10.3e  tolerance %7.1e  %s\n", r.name.c_str(), r.error, r.tolerance,
                        r.ok ? "ok" : "FAIL");
            (r.ok ? passed : failed)++;
        }
    }
    std::printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}

int main(int argc, char** argv) { return run_main(golden_main, argc, argv); }
