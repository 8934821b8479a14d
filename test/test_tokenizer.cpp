// Tokenizers: the byte map, BPE on edges and hostile texts, the parts it is made of, damaged files.
// What Hugging Face's library gives for whole texts is in test/golden/bpe*.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/rng.h"
#include "llmc/core/unicode.h"
#include "llmc/data/merges.h"
#include "llmc/data/tokenize_lines.h"
#include "llmc/data/tokenizer.h"
#include "llmc/data/tokenizer_file.h"
#include "test/fixture.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <unistd.h>

namespace {

const char* kGolden = "test/golden/bpe/tokenizer.json";

// A file of its own for each process, removed at the end.
struct TokenizerPath {
    std::string path = format("/tmp/prior_tokenizer_%d.json", int(getpid()));
    ~TokenizerPath() { ::unlink(path.c_str()); }
};

Tokenizer tokenizer_of(const std::string& text) {
    TokenizerPath file;
    write_file_atomic(file.path, text);
    return Tokenizer(file.path);
}

// The golden tokenizer with a change.
Tokenizer changed(const std::function<void(Json&)>& change) {
    Json json = json_parse(read_file(kGolden), kGolden);
    change(json);
    return tokenizer_of(json.dump());
}

std::string all_bytes() {
    std::string bytes;
    for (int byte = 0; byte < 256; byte++) bytes += char(byte);
    return bytes;
}

std::string random_text(Rng& rng, int characters) {
    std::string text;
    for (int i = 0; i < characters; i++) {
        const int64_t kind = rng.below(8);
        if (kind < 4) text += char(' ' + rng.below(95));
        else if (kind == 4) text += " \n\t\r"[rng.below(4)];
        else if (kind == 5) append_utf8(&text, int32_t(0x80 + rng.below(0x700)));
        else if (kind == 6) append_utf8(&text, int32_t(0x300 + rng.below(0x70)));
        else append_utf8(&text, int32_t(rng.chance(0.5) ? 0x4E00 + rng.below(999) : 0x1F300));
    }
    return text;
}

std::vector<int32_t> apply_naively(const std::vector<MergeRule>& rules, std::vector<int32_t> row) {
    std::map<std::pair<int32_t, int32_t>, size_t> ranks;
    for (size_t i = 0; i < rules.size(); i++) ranks[{rules[i].left, rules[i].right}] = i;
    for (;;) {
        size_t best = rules.size(), at = 0;
        for (size_t i = 0; i + 1 < row.size(); i++) {
            const auto found = ranks.find({row[i], row[i + 1]});
            if (found != ranks.end() && found->second < best) best = found->second, at = i;
        }
        if (best == rules.size()) return row;
        row[at] = rules[best].result;
        row.erase(row.begin() + int64_t(at) + 1);
    }
}

} // namespace

TEST_CASE("tokenizer: the byte map is one to one and that of GPT-2", "[tokenizer]") {
    std::set<std::string> names;
    for (int byte = 0; byte < 256; byte++) names.insert(printable_byte(byte));
    CHECK(names.size() == 256);
    CHECK(printable_byte('!') == "!");
    CHECK(printable_byte(0) == "\xC4\x80");    // U+0100
    CHECK(printable_byte(' ') == "\xC4\xA0");  // U+0120
    CHECK(printable_byte(0x7F) == "\xC4\xA1"); // U+0121
    CHECK(printable_byte(0xAD) == "\xC5\x83"); // U+0143
    CHECK(printable_byte(0xFF) == "\xC3\xBF");
}

TEST_CASE("tokenizer: what the byte tokenizer saves is read as bytes", "[tokenizer]") {
    const Tokenizer bytes, again = tokenizer_of(bytes.json());
    CHECK(again.encode("<|endoftext|>").size() == 13);
    CHECK(again.vocab_size() == 257);
    CHECK(again.end_of_text() == 256);
    CHECK(bytes.decode({72, 256, 105, 999, -1}, Specials::keep) == "H<|endoftext|>i");
    CHECK(bytes.decode({72, 256, 105}, Specials::skip) == "Hi");
    // Any change makes it BPE without merges, where the special token's name is the token.
    const Tokenizer bpe = tokenizer_of(bytes.json() + "\n");
    CHECK(bpe.encode("a<|endoftext|>") == std::vector<int32_t>{97, 256});
    CHECK(bpe.encode(all_bytes()) == bytes.encode(all_bytes()));
}

TEST_CASE("tokenizer: every byte and every text comes back", "[tokenizer]") {
    const Tokenizer plain = changed([](Json& json) { json["normalizer"] = nullptr; });
    CHECK(plain.decode(plain.encode(all_bytes()), Specials::keep) == all_bytes());
    Rng rng(11, 0);
    for (int i = 0; i < 300; i++) {
        std::string text = random_text(rng, int(rng.below(60)));
        CHECK(plain.decode(plain.encode(text), Specials::keep) == text);
        for (int k = 0; k < 5 && !text.empty(); k++) // no UTF-8 any more
            text[size_t(rng.below(int64_t(text.size())))] = char(rng.below(256));
        CHECK(plain.decode(plain.encode(text), Specials::keep) == text);
    }
}

TEST_CASE("tokenizer: bits per byte count the bytes of a text once", "[tokenizer]") {
    const Tokenizer tokenizer(kGolden);
    const std::string text = "First Citizen:\nBefore we proceed any further, hear me speak.";
    int64_t bytes = 0;
    for (int32_t token : tokenizer.encode(text)) bytes += tokenizer.bytes_of(token);
    CHECK(bytes == int64_t(text.size()));
    CHECK(tokenizer.bytes_of(tokenizer.end_of_text()) == 0);
    CHECK(tokenizer.bytes_of(100000) == 0); // a padded vocabulary's
    CHECK(tokenizer.vocab_size() == 1003);
}

TEST_CASE("tokenizer: equal ranks merge from the left", "[tokenizer]") {
    const std::vector<MergeRule> rules = {{0, 0, 1}, {1, 0, 2}};
    const Merges merges(rules);
    for (size_t length : {1, 2, 3, 4, 5, 63, 64, 65, 66, 67, 301}) {
        std::vector<int32_t> row(length, 0);
        const std::vector<int32_t> want = apply_naively(rules, row);
        merges.apply(row);
        CHECK(row == want);
    }
}

TEST_CASE("tokenizer: short and long rows merge as the definition says", "[tokenizer]") {
    Rng rng(5, 0);
    for (int round = 0; round < 60; round++) {
        // Merges in any order: a later one may form a pair of lower rank.
        std::vector<MergeRule> rules;
        int32_t tokens = 4;
        for (; tokens < 40; tokens++)
            rules.push_back({int32_t(rng.below(tokens)), int32_t(rng.below(tokens)), tokens});
        for (size_t i = rules.size() - 1; i > 0 && round % 2; i--)
            std::swap(rules[i], rules[size_t(rng.below(int64_t(i) + 1))]);
        const Merges merges(rules);
        for (int length : {7, 64, 65, 400}) {
            std::vector<int32_t> row;
            for (int i = 0; i < length; i++) row.push_back(int32_t(rng.below(4)));
            const std::vector<int32_t> want = apply_naively(rules, row);
            merges.apply(row);
            REQUIRE(row == want);
        }
    }
}

TEST_CASE("tokenizer: marks are ordered and composed as Unicode 9 does", "[tokenizer]") {
    const std::pair<const char*, const char*> cases[] = {
        {"plain", "plain"},
        {"e\u0301", "\u00e9"},
        {"a\u0301\u0323", "\u1ea1\u0301"},
        {"\u212b\u2126", "\u00c5\u03a9"},
        {"\u1100\u1161\u11a8", "\uac01"},
        {"\u0958", "\u0915\u093c"},         // excluded from composition
        {"e\u1abf\u0301", "e\u1abf\u0301"}, // a mark of Unicode 13 stops what would compose
        {"\u0344", "\u0308\u0301"}};
    for (const auto& [text, want] : cases) CHECK(to_nfc(text) == want);
    // Classes 230 and 1 in turn: linear, or this would take minutes.
    std::string marks = "q", sorted = "q";
    for (int i = 0; i < 100000; i++) marks += "\u0308\u0334";
    for (int i = 0; i < 100000; i++) sorted += "\u0334";
    for (int i = 0; i < 100000; i++) sorted += "\u0308";
    const bool same = to_nfc(marks) == sorted; // not printed where it fails
    CHECK(same);
}

TEST_CASE("tokenizer: what is no UTF-8 becomes U+FFFD by longest ill-formed parts", "[tokenizer]") {
    const std::pair<std::string, int> cases[] = {
        {"\x80", 1},         {"\xC0\xAF", 2},         {"\xE0\x80\x80", 3}, {"\xED\xA0\x80", 3},
        {"\xF0\x90\x80", 1}, {"\xF4\x90\x80\x80", 4}, {"\xE2\x82", 1},     {"\xF5", 1},
        {"\xE2\x82\xF0", 2}, {"\xF0\x9F\x98", 1}};
    for (const auto& [bytes, count] : cases) {
        Utf8Stream stream;
        std::string text = stream.push(bytes + "x");
        text += stream.finish();
        std::string want;
        for (int i = 0; i < count; i++) want += "\uFFFD";
        CHECK(text == want + "x");
        text = stream.push(bytes);
        text += stream.finish();
        CHECK(text == want);
    }
}

TEST_CASE("tokenizer: streaming gives the whole text and never part of a character",
          "[tokenizer]") {
    const Tokenizer tokenizer(kGolden);
    Rng rng(3, 0);
    for (int round = 0; round < 200; round++) {
        std::vector<int32_t> tokens = tokenizer.encode(random_text(rng, 20));
        for (int k = 0; round % 2 && k < 5; k++) tokens.push_back(int32_t(rng.below(1003)));
        StreamDecoder stream(tokenizer, Specials::keep);
        std::string text;
        for (int32_t token : tokens) {
            const std::string piece = stream.push(token);
            REQUIRE(valid_utf8_prefix(piece) == piece.size());
            text += piece;
        }
        text += stream.finish();
        CHECK(text == decode_utf8(tokenizer, tokens, Specials::keep));
    }
    const std::string smile = "a\U0001F600\u00e9b";
    for (size_t cut = 0; cut <= smile.size(); cut++) {
        Utf8Stream stream;
        std::string text = stream.push(smile.substr(0, cut));
        CHECK(smile.compare(0, text.size(), text) == 0);
        text += stream.push(smile.substr(cut));
        CHECK(text == smile);
        CHECK(stream.finish().empty());
    }
}

TEST_CASE("tokenizer: patterns of Oniguruma mean the same in PCRE2", "[tokenizer]") {
    CHECK(to_pcre2_pattern("\\p{N}{1,3}+|a") == "(?:\\p{N}{1,3})+|a");
    CHECK(to_pcre2_pattern("(?:ab){2}+") == "(?:(?:ab){2})+");
    CHECK(to_pcre2_pattern("[^(\\s|[.,])]+") == "[^(\\s|.,)]+");
    CHECK(to_pcre2_pattern("\\u00e9\\v{") == "\\x{00e9}\\x0b\\{");
    CHECK(to_pcre2_pattern("[]a]") == "[\\]a]");
    const std::pair<const char*, const char*> refused[] = {
        {"\\b", "\\b"},        {"[a&&b]", "&&"},     {"(?i)a", "(?i)"},   {"(?<n>a)", "(?<n"},
        {"[[:alpha:]]", "[:"}, {"\\", "at the end"}, {"[a", "without ]"}, {"\\pL", "\\p"}};
    for (const auto& [pattern, part] : refused) {
        std::string message;
        try {
            Regex(pattern, RegexEngine::compiled);
        } catch (const RegexError& error) {
            message = error.message;
        }
        CHECK_THAT(message, Contains(part));
    }
}

TEST_CASE("tokenizer: with and without a JIT a pattern matches a long text", "[tokenizer]") {
    const std::string pattern = "(?:a|b)+c|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+|\\p{L}+";
    for (RegexEngine engine : {RegexEngine::compiled, RegexEngine::interpreted}) {
        const Regex regex(pattern, engine);
        size_t begin, end;
        const std::string spaces(1000000, ' '), letters(200000, 'a');
        REQUIRE(regex.find(spaces + "x", 0, &begin, &end));
        CHECK(end == spaces.size() - 1);
        REQUIRE(regex.find(letters + "c", 0, &begin, &end));
        CHECK(end == letters.size() + 1);
        REQUIRE(regex.find(letters, 0, &begin, &end));
        CHECK(end == letters.size());
        CHECK_FALSE(regex.find("1", 0, &begin, &end));
    }
    // An exponential pattern ends with a message.
    const Regex bad("(?:(?:a+)+)+[bc]", RegexEngine::interpreted);
    size_t begin, end;
    CHECK_THAT(message_of([&] { bad.find(std::string(60, 'a'), 0, &begin, &end); }),
               Contains("split pattern fails"));
}

static void encode_hostile_texts(size_t size) {
    const Tokenizer tokenizer(kGolden);
    Rng rng(1, 0);
    std::string letters, pairs, breaks, marks = "a";
    while (letters.size() < size) letters += char('a' + rng.below(26));
    while (pairs.size() < size) pairs += "<|";
    while (breaks.size() < size) breaks += " \n";
    while (marks.size() < size) marks += "\u0301\u0334";
    for (const std::string& text :
         {letters, pairs, breaks, marks, std::string(size, 'a'), std::string(size, ' '),
          std::string(size, ' ') + "x", std::string(size, '\n'), std::string(size, '\xC3')}) {
        const std::vector<int32_t> tokens = tokenizer.encode(text);
        const std::string again = tokenizer.decode(tokens, Specials::keep);
        const bool same =
            again == (text[0] == marks[0] && text[1] == marks[1] ? to_nfc(text) : text);
        CHECK(same);
    }
}

TEST_CASE("tokenizer: sampled bytes are shown as UTF-8 without controls", "[tokenizer]") {
    CHECK(printable_text("a\tb\nc \u00e9\U0001F600") == "a\tb\nc \u00e9\U0001F600");
    CHECK(printable_text("\x1b[2J\r\x7f") == "\u241b[2J\u240d\u2421");
    CHECK(printable_text(std::string("\0", 1)) == "\u2400");
    CHECK(printable_text("\xff\xe2\x82") == "\uFFFD\uFFFD");
    CHECK(printable_text("\xc2\x9b") == "\uFFFD"); // CSI in one byte
}

TEST_CASE("tokenizer: hostile texts take linear time", "[tokenizer]") {
    encode_hostile_texts(200000);
}

TEST_CASE("tokenizer: 10 MB without a space take seconds", "[tokenizer][slow]") {
    encode_hostile_texts(10000000);
}

TEST_CASE("tokenizer: unsupported and wrong parts are refused by name", "[tokenizer]") {
    using Change = std::function<void(Json&)>;
    const Json whitespace = {{"type", "Whitespace"}};
    const std::pair<const char*, Change> cases[] = {
        {"model.type: expected \"BPE\"", [](Json& j) { j["model"]["type"] = "Unigram"; }},
        {"model.byte_fallback", [](Json& j) { j["model"]["byte_fallback"] = true; }},
        {"model.dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }},
        {"model.end_of_word_suffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }},
        {"model.vocab: expected an object", [](Json& j) { j["model"].erase("vocab"); }},
        {"model.vocab[!]", [](Json& j) { j["model"]["vocab"]["!"] = -1; }},
        {"an id of its own", [](Json& j) { j["model"]["vocab"]["new"] = 3; }},
        {"model.merges[3]", [](Json& j) { j["model"]["merges"][3] = "a b c"; }},
        {"model.merges[0]",
         [](Json& j) {
             j["model"]["merges"][0] = {"a", "no such"};
         }},
        {"model.merges: expected a list", [](Json& j) { j["model"]["merges"] = 1; }},
        {"normalizer.type", [](Json& j) { j["normalizer"]["type"] = "Lowercase"; }},
        {"pre_tokenizer.type", [&](Json& j) { j["pre_tokenizer"] = whitespace; }},
        {"pre_tokenizer: expected \"ByteLevel\"", [](Json& j) { j["pre_tokenizer"] = nullptr; }},
        {"pretokenizers[0].behavior",
         [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Contiguous"; }},
        {"pattern.Regex",
         [](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; }},
        {"decoder", [](Json& j) { j["decoder"] = nullptr; }},
        {"post_processor.type",
         [](Json& j) {
             j["post_processor"] = {{"type", "Roberta"}};
         }},
        {"truncation",
         [](Json& j) {
             j["truncation"] = {{"max_length", 5}};
         }},
        {"added_tokens[2].id: expected 1001", [](Json& j) { j["added_tokens"][1]["id"] = 2000; }},
        {"added_tokens[2].content",
         [](Json& j) { j["added_tokens"][2]["content"] = "<|endoftext|>"; }},
    };
    for (const auto& [part, change] : cases)
        CHECK_THAT(message_of([&c = change] { changed(c); }), Contains(part));
    CHECK_THAT(message_of([] { Tokenizer("/nowhere/tokenizer.json"); }), Contains("cannot read"));
    const Tokenizer endless = changed([](Json& j) { j["added_tokens"] = Json::array(); });
    CHECK_THAT(message_of([&] { endless.end_of_text(); }), Contains("end of a document"));
}

TEST_CASE("tokenizer: a damaged file is a message or another tokenizer", "[tokenizer]") {
    const std::string good = read_file("test/golden/bpe_llama3/tokenizer.json");
    const auto survives = [](const std::string& text) {
        message_of([&] { tokenizer_of(text).encode("The 12 caf\u00e9s <|endoftext|>\n"); });
    };
    for (size_t i = 0; i < 60; i++)
        CHECK(message_of([&] { tokenizer_of(good.substr(0, good.size() * i / 60)); }) != "");
    Rng rng(9, 0);
    for (int i = 0; i < 150; i++) {
        std::string bad = good;
        // The first 3 KB hold all but the vocabulary and the merges.
        const int64_t reach = i % 2 ? int64_t(good.size()) : 3000;
        for (int64_t flips = 1 + rng.below(3); flips > 0; flips--)
            bad[size_t(rng.below(reach))] ^= char(1 << rng.below(8));
        survives(bad);
    }
}

TEST_CASE("tokenizer: a line of another form is one message with its place", "[tokenizer]") {
    const Tokenizer tokenizer;
    const auto encode = [&](const char* line) {
        return message_of([&] { encode_line(tokenizer, Json::parse(line), "t.jsonl:7"); });
    };
    const auto decode = [&](const char* line) {
        return message_of(
            [&] { decode_line(tokenizer, Json::parse(line), Specials::keep, "t.jsonl:7"); });
    };
    CHECK_THAT(encode("[1]"), Contains("t.jsonl:7: expected an object"));
    CHECK_THAT(encode("{\"id\": 1}"), Contains("\"text\", a string, found none"));
    CHECK_THAT(encode("{\"text\": 5}"), Contains("found 5"));
    CHECK_THAT(decode("{\"ids\": \"a\"}"), Contains("a list of token ids"));
    CHECK_THAT(decode("{\"ids\": [1, 257]}"), Contains("0 to 256, found 257"));
    CHECK_THAT(decode("{\"ids\": [1.5]}"), Contains("found 1.5"));
    const Json row = encode_line(tokenizer, Json::parse("{\"id\": \"a\", \"text\": \"Hi\"}"), "x");
    CHECK(row.dump() == "{\"id\":\"a\",\"ids\":[72,105]}");
    CHECK(decode_line(tokenizer, row, Specials::keep, "x").dump() ==
          "{\"id\":\"a\",\"text\":\"Hi\"}");
}
