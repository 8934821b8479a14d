// data/prepare: what is cut into parts is what one part holds, wherever the cuts fall.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/rng.h"
#include "llmc/data/prepare.h"
#include "llmc/data/shard.h"
#include "test/fixture.h"

namespace {

// The documents of a folder of shards in order, training and validation apart.
std::vector<std::string> documents_of(const std::string& folder) {
    const Tokenizer tokenizer;
    std::vector<std::string> all;
    for (const char* tail : {".train.shard", ".val.shard"})
        for (const std::string& name : list_directory(folder)) {
            if (name.find(tail) == std::string::npos) continue;
            const Shard shard(folder + "/" + name, tokenizer);
            for (int64_t i = 0; i < shard.documents(); i++)
                all.push_back(tail + tokenizer.decode(shard.document(i).tokens, Specials::keep));
        }
    return all;
}

std::vector<std::string> prepared(const Folder& folder, const std::string& input,
                                  const std::string& separator, int64_t part_bytes, int threads) {
    const std::string out = format("%s/%ld-%d", folder.path.c_str(), long(part_bytes), threads);
    const PrepareSettings settings{out, "",         "",      "",    separator,
                                   0.2, part_bytes, threads, false, {"false"}};
    prepare_corpus({input}, settings, [](const PrepareProgress&) {});
    return documents_of(out);
}

} // namespace

TEST_CASE("prepare: parts of any size hold the documents of the whole", "[data]") {
    // Line ends in runs of every length, so that separators overlap, and cuts fall inside of them.
    std::string text;
    Rng rng(5, 1);
    for (int i = 0; i < 50; i++) {
        text += std::string(size_t(rng.below(6)), char('a' + i % 26));
        text += std::string(size_t(rng.below(6)), '\n');
    }
    for (const char* separator : {"\n\n", "\n", "\n\n\n", "a"}) {
        const Folder folder;
        const std::string input = folder.path + "/text.txt";
        write_file_atomic(input, text);
        const std::vector<std::string> whole = prepared(folder, input, separator, 1 << 20, 1);
        REQUIRE(whole.size() > 1);
        for (const int64_t part : {1, 2, 3, 7, 64})
            CHECK(prepared(folder, input, separator, part, 2) == whole);
    }
}

TEST_CASE("prepare: a mark of UTF-8 is no part of the first document", "[data]") {
    const Folder folder;
    const std::string input = folder.path + "/text.txt";
    write_file_atomic(input, "\xef\xbb\xbfone\ntwo\n");
    for (const int64_t part : {1, 2, 3, 64}) { // also where the mark is cut
        const std::vector<std::string> lines = prepared(folder, input, "\n", part, 1);
        REQUIRE(lines.size() == 2);
        CHECK(lines[0].ends_with("shardone"));
    }
    CHECK(prepared(folder, input, "", 128, 1)[0].ends_with("shardone\ntwo\n"));
}

TEST_CASE("prepare: JSONL is cut at lines, and a bad one is named by its byte", "[data]") {
    const Folder folder;
    std::string lines;
    for (int i = 0; i < 300; i++)
        lines +=
            format("{\"text\": \"document %d %s\"}\n", i, std::string(size_t(i % 50), 'x').c_str());
    const std::string input = folder.path + "/text.jsonl";
    write_file_atomic(input, lines);
    const std::vector<std::string> whole = prepared(folder, input, "", 1 << 20, 1);
    REQUIRE(whole.size() == 300);
    for (const int64_t part : {100, 1000}) CHECK(prepared(folder, input, "", part, 3) == whole);
    const size_t bad = lines.find("{\"text\": \"document 200");
    lines[bad] = '[';
    write_file_atomic(folder.path + "/bad.jsonl", lines);
    try {
        prepared(folder, folder.path + "/bad.jsonl", "", 999, 2);
        FAIL("accepted");
    } catch (const UserError& error) {
        INFO(error.what());
        CHECK(std::string(error.what()).find(format("line at byte %zu", bad)) != std::string::npos);
    }
}
