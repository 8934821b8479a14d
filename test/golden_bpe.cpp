// Golden vectors of the tokenizer: tokenizer.json and pairs.json with text, ids and decoded text
// (without a text, only decoded); the error is the share of pairs that come out otherwise. Each of
// those has a line of its own.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/data/tokenizer.h"
#include "test/golden_report.h"

void run_bpe(GoldenReport& report, const std::string& directory) {
    const Tokenizer tokenizer(directory + "/tokenizer.json");
    const std::string path = directory + "/pairs.json";
    const Json json = json_parse(read_file(path), path);
    int all = 0, encoded = 0, decoded = 0;
    for (const Json& pair : json.at("pairs")) {
        const auto ids = pair.at("ids").get<std::vector<int32_t>>();
        const bool same_ids = !pair.contains("text") ||
                              tokenizer.encode_whole(pair.at("text").get<std::string>()) == ids;
        const bool same_text =
            decode_utf8(tokenizer, ids, Specials::keep) == pair.at("decoded").get<std::string>();
        if (!same_ids) report.add(format("pair %d encode", all), 1, 0);
        if (!same_text) report.add(format("pair %d decode", all), 1, 0);
        encoded += same_ids;
        decoded += same_text;
        all++;
    }
    if (all == 0) fatal(path + ": no pairs", "test/golden/README.md says what it holds");
    report.add(format("encode (%d of %d)", encoded, all), 1 - double(encoded) / all, 0);
    report.add(format("decode (%d of %d)", decoded, all), 1 - double(decoded) / all, 0);
}
