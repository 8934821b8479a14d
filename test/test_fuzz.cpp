// What fuzzing starts from and has found, replayed; and every format cut, flipped and padded.
#include "llmc/core/file.h"
#include "test/catch.h"
#include "test/fuzz/targets.h"

TEST_CASE("fuzz: seeds and found cases are read or refused with a message", "[fuzz]") {
    for (const FuzzTarget& target : fuzz_targets) {
        const std::string folder = std::string("test/fuzz/corpus/") + target.name;
        REQUIRE(list_directory(folder).size() >= 2);
        for (const std::string& name : list_directory(folder)) {
            INFO(folder << "/" << name);
            fuzz_one(target, read_file(folder + "/" + name)); // aborts on a finding
        }
    }
}

TEST_CASE("fuzz: a seed cut at any byte, flipped at any bit or padded is no finding", "[fuzz]") {
    for (const FuzzTarget& target : fuzz_targets) {
        const std::string folder = std::string("test/fuzz/corpus/") + target.name;
        std::string seed = read_file(folder + "/" + list_directory(folder).front());
        const size_t step = std::max<size_t>(1, seed.size() / 300);
        for (size_t i = 0; i < seed.size(); i += step) {
            fuzz_one(target, seed.substr(0, i));
            for (int bit = 0; bit < 8; bit += 3) {
                std::string flipped = seed;
                flipped[i] = char(flipped[i] ^ 1 << bit);
                fuzz_one(target, flipped);
            }
        }
        for (size_t extra : {1, 7, 4096}) fuzz_one(target, seed + std::string(extra, '\0'));
        fuzz_one(target, std::string(1 << 20, '['));
        fuzz_one(target, std::string(1 << 20, '\0'));
    }
}
