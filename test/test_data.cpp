// Data: the corpus and its split, packing, mixtures, exact resume, files good and bad.
#include "llmc/core/error.h"
#include "llmc/core/file.h"
#include "llmc/core/json.h"
#include "llmc/core/rng.h"
#include "llmc/data/corpus.h"
#include "llmc/data/problems.h"
#include "llmc/data/shard.h"
#include "llmc/data/stream.h"
#include "test/fixture.h"

#include <algorithm>
#include <regex>
#include <set>
#include <unistd.h>

namespace {

const Tokenizer kTokenizer;
const StreamOptions kOptions{32, true, 7, Split::train, 0.02, true};

std::string text_of(const std::vector<int32_t>& tokens) {
    return kTokenizer.decode(tokens, Specials::skip);
}

} // namespace

TEST_CASE("data: tokens decode to the bytes they came from", "[data]") {
    std::string all;
    for (int byte = 0; byte < 256; byte++) all += char(byte);
    CHECK(text_of(kTokenizer.encode(all)) == all);
    CHECK(kTokenizer.vocab_size() == 257);
    CHECK(text_of({72, 256, 105}) == "Hi");
}

TEST_CASE("data: no held-out triple occurs in any training text, not even as a step", "[data]") {
    CHECK(held_out_triples().size() == kHeldOutTriples);
    std::set<std::string> held_out;
    for (const Triple& t : held_out_triples())
        held_out.insert(std::to_string(t.a) + t.op + std::to_string(t.b));
    const std::regex written("([0-9]+)([-+])([0-9]+)="), question("Q: ([0-9]+)([-+])([0-9]+)\\?");
    const std::regex words("([0-9]+) (plus|minus|[+-]) ([0-9]+)");
    int64_t seen = 0;
    for (const char* spec : {"embedded:arithmetic:flaw=0.35", "embedded:chains"}) {
        const auto source = open_source(spec, kTokenizer, Split::train, 0.02, 3);
        for (int i = 0; i < 6000; i++) {
            const std::string text = text_of(source->document(i).tokens);
            for (const std::regex* pattern : {&written, &question, &words})
                for (std::sregex_iterator it(text.begin(), text.end(), *pattern), end; it != end;
                     ++it) {
                    std::string op = (*it)[2].str();
                    op = op == "plus" ? "+" : op == "minus" ? "-" : op;
                    INFO(text);
                    REQUIRE(held_out.count((*it)[1].str() + op + (*it)[3].str()) == 0);
                    seen++;
                }
        }
    }
    CHECK(seen > 10000);
}

TEST_CASE("data: training and held-out problems never overlap", "[data]") {
    for (const char* spec : {"embedded:arithmetic", "embedded:chains"}) {
        const ProblemSet train(spec, Split::train, 0.02, 5), held(spec, Split::validation, 0.02, 5);
        std::set<std::string> prompts;
        for (int64_t i = 0; i < held.size(); i++) prompts.insert(held.problem(i).prompt);
        for (int64_t i = 0; i < 4000; i++) REQUIRE(prompts.count(train.problem(i).prompt) == 0);
    }
    const auto chains = open_source("embedded:chains", kTokenizer, Split::train, 0.02, 5);
    for (int i = 0; i < 2000; i++) {
        const std::string text = text_of(chains->document(i).tokens);
        REQUIRE_FALSE(is_held_out_chain(text.substr(0, text.find('\n') + 1)));
    }
}

TEST_CASE("data: validation text never occurs in the training text", "[data]") {
    const char* spec = "embedded:arithmetic:flaw=0.35";
    const auto train = open_source(spec, kTokenizer, Split::train, 0.1, 5);
    const auto held = open_source(spec, kTokenizer, Split::validation, 0.1, 5);
    std::set<std::vector<int32_t>> texts;
    for (int i = 0; i < 500; i++) texts.insert(held->document(i).tokens);
    for (int i = 0; i < 5000; i++) REQUIRE(texts.count(train->document(i).tokens) == 0);
}

TEST_CASE("data: the share of wrong answers is the one asked for", "[data]") {
    const std::regex sum("([0-9]+)([-+])([0-9]+)\\?[^]*boxed\\{([0-9]+)\\}");
    const auto source =
        open_source("embedded:arithmetic:flaw=0.35", kTokenizer, Split::train, 0.02, 5);
    int wrong = 0, all = 0;
    for (int i = 0; i < 20000; i++) {
        const std::string text = text_of(source->document(i).tokens);
        std::smatch m;
        if (!std::regex_search(text, m, sum)) continue;
        const int a = std::stoi(m[1]), b = std::stoi(m[3]);
        wrong += (m[2] == "+" ? a + b : a - b) != std::stoi(m[4]);
        all++;
    }
    REQUIRE(all > 3000);
    CHECK(double(wrong) / all == Approx(0.35).margin(0.03)); // 3.5 standard deviations
}

TEST_CASE("data: packed rows predict the next token of their document", "[data]") {
    Folder folder;
    const std::string path =
        folder.file("t.jsonl", "{\"text\": \"abc\"}\n{\"text\": \"defgh\"}\n\n{\"text\": \"i\"}\n");
    StreamOptions options{4, true, 1, Split::train, 0, true};
    DataStream stream(path, options, kTokenizer);
    PackedRows rows;
    stream.next_rows(9, rows); // 36 tokens: four epochs of 3 + 5 + 1
    for (size_t n = 0; n < rows.tokens.size(); n++) {
        CHECK(rows.positions[n] == int32_t(n) - rows.doc_start[n]);
        CHECK(rows.positions[n] < 4);
        if (n + 1 < rows.tokens.size() && rows.positions[n + 1] > 0)
            CHECK(rows.targets[n] == rows.tokens[n + 1]);
        const bool last = rows.tokens[n] == 'c' || rows.tokens[n] == 'h' || rows.tokens[n] == 'i';
        CHECK((rows.targets[n] == kTokenizer.end_of_text()) == last);
    }
    options.doc_mask = false;
    DataStream whole(path, options, kTokenizer);
    whole.next_rows(2, rows);
    for (int n = 0; n < 8; n++) {
        CHECK(rows.positions[n] == n % 4);
        CHECK(rows.doc_start[n] == n - n % 4);
    }
}

TEST_CASE("data: a stream restored at any point continues exactly", "[data]") {
    Folder folder;
    std::string text;
    for (int i = 0; i < 4000; i++) text += "line " + std::to_string(i * 7919 % 1000) + "\n";
    ShardContent content;
    for (int d = 0; d < 40; d++)
        content.add(
            {std::vector<int32_t>(size_t(d), d), std::vector<uint8_t>(size_t(d), 1), false});
    const std::string shard = folder.path + "/c.shard";
    write_shard(shard, content, kTokenizer, Split::train);
    const std::string spec = folder.file("a.txt", text) + "*0.5, embedded:sentences*0.3," +
                             folder.file("b.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}") +
                             "*0.2," + shard + "*0.4*30";
    DataStream whole(spec, kOptions, kTokenizer);
    PackedRows want, got;
    for (int step = 0; step < 30; step++) {
        const Json state = Json::parse(whole.state().dump());
        DataStream again(spec, kOptions, kTokenizer);
        again.restore(state);
        whole.next_rows(5, want);
        again.next_rows(5, got);
        REQUIRE(want.tokens == got.tokens);
        REQUIRE(want.targets == got.targets);
    }
    CHECK(whole.state().dump().size() < 1000);
}

TEST_CASE("data: a mixture's weights are shares of tokens", "[data]") {
    DataStream stream("embedded:arithmetic*3,embedded:sentences", kOptions, kTokenizer);
    PackedRows rows;
    stream.next_rows(2000, rows);
    const Json sources = stream.state()["sources"];
    const double first = sources[0]["tokens"].get<double>(), all = 2000 * 32;
    CHECK(first / all == Approx(0.75).margin(0.01));
}

TEST_CASE("data: a long text is cut without losing or doubling a byte", "[data]") {
    Folder folder;
    std::string text;
    for (int i = 0; i < 3000; i++) text += "verse " + std::to_string(i) + "\n";
    const std::string path = folder.file("a.txt", text);
    std::string joined;
    for (Split split : {Split::train, Split::validation}) {
        const auto source = open_source(path, kTokenizer, split, 0.1, 1);
        for (int64_t i = 0; i < source->size(); i++) {
            const Document d = source->document(i);
            std::vector<int32_t> tokens = d.tokens;
            if (split == Split::validation || i + 1 < source->size() || d.continues)
                if (d.continues) tokens.pop_back(); // the next piece's first byte
            joined += text_of(tokens);
        }
    }
    // The training part's last byte is only a target: it is the one that is not an input.
    const size_t border =
        size_t(std::mismatch(joined.begin(), joined.end(), text.begin()).first - joined.begin());
    CHECK(joined.size() == text.size() - 1);
    CHECK(joined.substr(border) == text.substr(border + 1));
}

TEST_CASE("data: a long text without line ends has a held-out part too", "[data]") {
    Folder folder;
    std::string text;
    for (int i = 0; i < 3000; i++) text += "vers\u00e9 " + std::to_string(i) + " ";
    for (const std::string end : {"", "\n"}) {
        const std::string path =
            folder.file("line" + std::to_string(end.size()) + ".txt", text + end);
        const auto held = open_source(path, kTokenizer, Split::validation, 0.1, 1);
        std::string joined;
        for (int64_t i = 0; i < held->size(); i++) {
            const Document d = held->document(i);
            joined += kTokenizer.decode({d.tokens.begin(), d.tokens.end() - (d.continues ? 1 : 0)},
                                        Specials::skip);
        }
        const std::string whole = text + end;
        CHECK(joined == whole.substr(whole.size() - joined.size()));
        CHECK(double(joined.size()) == Approx(0.1 * double(whole.size())).margin(2));
        CHECK((joined[0] & 0xC0) != 0x80); // not inside a character
    }
}

TEST_CASE("data: where nothing is held out the message says of how many", "[data]") {
    Folder folder;
    const std::string path = folder.file("few.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n");
    const std::string message =
        message_of([&] { open_source(path, kTokenizer, Split::validation, 1e-9, 1); });
    CHECK(contains(message, "few.jsonl: none of its 2 documents is held out for validation"));
    CHECK(contains(message_of([&] { open_source(path, kTokenizer, Split::train, 1, 1); }),
                   "all of its 2 documents are held out"));
}

TEST_CASE("data: pieces of several bytes a token end at characters and lead to the next",
          "[data]") {
    Folder folder;
    std::string text;
    for (int i = 0; i < 9000; i++) text += "\u00e9t\u00e9 "; // one line
    const Tokenizer tokenizer("test/golden/bpe/tokenizer.json");
    const auto source = open_source(folder.file("a.txt", text), tokenizer, Split::train, 0, 1);
    REQUIRE(source->size() > 5);
    std::string joined;
    for (int64_t i = 0; i < source->size(); i++) {
        const Document d = source->document(i);
        const bool last = i + 1 == source->size();
        if (!last) CHECK(d.tokens.back() == source->document(i + 1).tokens.front());
        const std::string piece =
            tokenizer.decode(d.tokens.data(), d.tokens.size() - 1, Specials::skip);
        CHECK(valid_utf8_prefix(piece) == piece.size());
        joined += piece;
    }
    CHECK(joined == text);
}

namespace {

ShardContent content_of(const std::vector<Document>& documents) {
    ShardContent content;
    for (const Document& document : documents) content.add(document);
    return content;
}

std::string read_all(const std::string& path, const Tokenizer& tokenizer) {
    return message_of([&] {
        const Shard shard(path, tokenizer);
        for (int64_t i = 0; i < shard.documents(); i++) shard.document(i);
    });
}

} // namespace

TEST_CASE("data: shards give back what was written, with 2 and 4 bytes a token", "[data]") {
    Folder folder;
    const std::string path = folder.path + "/a.shard";
    const std::vector<Document> plain = {
        {{1, 2, 3}, {}, false}, {{}, {}, false}, {{256}, {}, false}, {{70, 80}, {}, false}};
    const std::vector<Document> masked = {{{1, 2, 3}, {0, 0, 1}, false},
                                          {{256, 4, 5, 6, 7, 8, 9}, {1, 0, 1, 1, 0, 1, 1}, false},
                                          {{7}, {0}, false}};
    SortedJson wide = json_parse_sorted(Tokenizer().json(), "tokenizer");
    for (int id = 256; id < 70000; id++) wide["model"]["vocab"][format("x%d", id)] = id;
    wide["added_tokens"][0]["id"] = 70000;
    const Tokenizer far(folder.file("far.json", wide.dump()));
    REQUIRE(far.vocab_size() == 70001);
    for (const Tokenizer* tokenizer : {&kTokenizer, &far})
        for (const auto& documents : {plain, masked}) {
            write_shard(path, content_of(documents), *tokenizer, Split::validation);
            const Shard shard(path, *tokenizer);
            REQUIRE(shard.documents() == int64_t(documents.size()));
            CHECK(shard.split() == Split::validation);
            for (size_t i = 0; i < documents.size(); i++) {
                CHECK(shard.document(int64_t(i)).tokens == documents[i].tokens);
                CHECK(shard.document(int64_t(i)).trained == documents[i].trained);
            }
        }
    CHECK(contains(read_all(path, kTokenizer), "made with another tokenizer: of 70001 tokens"));
    write_shard(path, content_of({{{69999}, {}, false}}), far, std::nullopt);
    CHECK_FALSE(Shard(path, far).split().has_value());
    write_shard(path, ShardContent{}, kTokenizer, std::nullopt);
    CHECK(Shard(path, kTokenizer).documents() == 0);
    write_shard(path, content_of({{{300}, {}, false}}), kTokenizer, std::nullopt);
    CHECK(contains(read_all(path, kTokenizer), "token 300, the vocabulary is 257"));
}

TEST_CASE("data: a shard cut or changed anywhere is refused", "[data]") {
    Folder folder;
    write_shard(folder.path + "/a.shard",
                content_of({{{1, 2, 3}, {0, 1, 1}, false}, {{4, 5}, {1, 1}, false}}), kTokenizer,
                Split::train);
    const std::string good = read_file(folder.path + "/a.shard");
    for (size_t i = 0; i < good.size(); i++) {
        INFO("byte " << i);
        const std::string cut = folder.file("cut.shard", good.substr(0, i));
        CHECK(contains(read_all(cut, kTokenizer), "cut.shard"));
        std::string bad = good;
        bad[i] = char(bad[i] ^ 0x41);
        const std::string changed = folder.file("bad.shard", bad);
        CHECK(contains(read_all(changed, kTokenizer), "bad.shard"));
    }
    CHECK(contains(read_all(folder.file("long.shard", good + "x"), kTokenizer), "do not fit"));
}

TEST_CASE("data: a damaged block of a long shard is named, the others are read", "[data]") {
    Folder folder;
    std::vector<Document> documents(3);
    for (Document& d : documents) d.tokens.assign(600'000, 65); // 1.2 MB each
    write_shard(folder.path + "/a.shard", content_of(documents), kTokenizer, Split::train);
    std::string bytes = read_file(folder.path + "/a.shard");
    bytes[bytes.size() - 1] = char(0x42);
    const Shard shard(folder.file("b.shard", bytes), kTokenizer);
    CHECK(shard.document(0).tokens.size() == 600'000);
    CHECK(contains(message_of([&] { shard.document(2); }), "the checksum of bytes"));
}

TEST_CASE("data: a folder of shards gives each split its own, in an order of the epoch", "[data]") {
    Folder folder;
    for (int file = 0; file < 3; file++) {
        ShardContent train, held;
        for (int d = 0; d < 50; d++) train.add({{'a', file, d}, {}, false});
        held.add({{'v', file}, {}, false});
        write_shard(format("%s/%d.train.shard", folder.path.c_str(), file), train, kTokenizer,
                    Split::train);
        write_shard(format("%s/%d.val.shard", folder.path.c_str(), file), held, kTokenizer,
                    Split::validation);
    }
    const auto train = open_source(folder.path, kTokenizer, Split::train, 0.02, 1);
    const auto held = open_source(folder.path, kTokenizer, Split::validation, 0.02, 1);
    REQUIRE(train->size() == 150);
    REQUIRE(held->size() == 3);
    for (int64_t i = 0; i < 150; i++)
        CHECK(train->document(i).tokens ==
              std::vector<int32_t>{'a', int32_t(i / 50), int32_t(i % 50), 256});
    CHECK(held->document(2).tokens == std::vector<int32_t>{'v', 2, 256});

    // Two epochs of 150 documents of 3 inputs: every one once in each, in other orders.
    auto read = [&](uint64_t seed) {
        DataStream stream(folder.path, {900, true, seed, Split::train, 0.02, true}, kTokenizer);
        PackedRows rows;
        stream.next_rows(1, rows);
        return rows.tokens;
    };
    const std::vector<int32_t> tokens = read(7);
    std::vector<std::set<std::vector<int32_t>>> seen(2);
    for (size_t n = 0; n < 900; n += 3)
        seen[n / 450].insert({tokens[n], tokens[n + 1], tokens[n + 2]});
    CHECK(seen[0].size() == 150);
    CHECK(seen[1].size() == 150);
    CHECK_FALSE(std::equal(tokens.begin(), tokens.begin() + 450, tokens.begin() + 450));
    CHECK(read(7) == tokens);
    CHECK(read(8) != tokens);
}

TEST_CASE("data: a permutation visits every index once, whatever the size", "[data]") {
    for (int64_t size : {1, 2, 3, 5, 16, 17, 1000, 4097}) {
        const Permutation permute(size, 42), other(size, 43);
        std::set<int64_t> seen;
        int64_t fixed = 0, same = 0;
        for (int64_t i = 0; i < size; i++) {
            const int64_t at = permute(i);
            REQUIRE((at >= 0 && at < size));
            seen.insert(at);
            fixed += at == i;
            same += at == other(i);
        }
        CHECK(int64_t(seen.size()) == size);
        if (size >= 1000) CHECK((fixed < 10 && same < 10)); // 1 expected of each
    }
    const Permutation large(int64_t(1) << 40, 1);
    CHECK(large(5) != large(6));
}

TEST_CASE("data: a source is read no more often than its passes", "[data]") {
    Folder folder;
    const std::string a = folder.file("a.jsonl", "{\"text\": \"aa\"}\n{\"text\": \"aaa\"}\n");
    const std::string b = folder.file("b.jsonl", "{\"text\": \"bbbb\"}\n");
    DataStream stream(a + "*0.9*2," + b + "*0.1", {10, true, 1, Split::train, 0, true}, kTokenizer);
    PackedRows rows;
    stream.next_rows(20, rows); // 200 tokens: 10 of a's two passes, then b alone
    CHECK(std::count(rows.tokens.begin(), rows.tokens.end(), 'a') == 10);
    CHECK(std::count(rows.tokens.begin(), rows.tokens.end(), 'b') == 190);
    DataStream ends(a + "*1*2", {10, true, 1, Split::train, 0, true}, kTokenizer);
    ends.next_rows(1, rows);
    CHECK(contains(message_of([&] { ends.next_rows(1, rows); }), "as often as its recipe allows"));
    CHECK(contains(message_of([&] {
                       DataStream(a + "*1*0", {10, true, 1, Split::train, 0, true}, kTokenizer);
                   }),
                   "passes >= 1"));
    CHECK(contains(message_of([&] {
                       DataStream(a + "*1*2*3", {10, true, 1, Split::train, 0, true}, kTokenizer);
                   }),
                   "expected a weight"));
}

TEST_CASE("data: without prompt_loss only answers are targets, from text and from shards",
          "[data]") {
    Folder folder;
    const std::string path = folder.file("q.jsonl", "{\"question\": \"ab\", \"answer\": \"cd\"}\n");
    const Document document = text_document(kTokenizer, "ab\ncd", 3);
    CHECK(document.trained == std::vector<uint8_t>{0, 0, 0, 1, 1});
    const std::string shard = folder.path + "/q.shard";
    write_shard(shard, content_of({document}), kTokenizer, Split::train);
    for (const std::string& source : {path, shard}) {
        PackedRows rows;
        DataStream answers(source, {5, true, 1, Split::train, 0, false}, kTokenizer);
        answers.next_rows(1, rows);
        CHECK(rows.tokens == std::vector<int32_t>{'a', 'b', '\n', 'c', 'd'});
        CHECK(rows.targets == std::vector<int32_t>{-100, -100, 'c', 'd', 256});
        DataStream all(source, {5, true, 1, Split::train, 0, true}, kTokenizer);
        all.next_rows(1, rows);
        CHECK(rows.targets == std::vector<int32_t>{'b', '\n', 'c', 'd', 256});
    }
}

TEST_CASE("data: every bad input is one message with its place", "[data]") {
    Folder folder;
    auto open = [](const std::string& spec) {
        return message_of([&] { DataStream(spec, kOptions, kTokenizer); });
    };
    CHECK(contains(open("nothing.txt"), "no file or folder nothing.txt"));
    CHECK(contains(open("embedded:poems"), "no source embedded:poems"));
    CHECK(contains(open("embedded:arithmetic:flaw=2"), "bad part"));
    CHECK(contains(open("embedded:sentences*0"), "expected a weight > 0"));
    CHECK(contains(open(""), "names no source"));
    CHECK(contains(open(folder.file("empty.txt", "")), "expected documents, found none"));
    CHECK(
        contains(open(folder.file("mark.txt", "\xef\xbb\xbf")), "expected documents, found none"));
    CHECK(contains(open(folder.file("wide.txt", std::string("\xff\xfeh\0i\0", 6))),
                   "wide.txt: expected UTF-8, found the mark of UTF-16 at byte 0"));
    CHECK(contains(open(folder.file("x.parquet", "PAR1")),
                   "x.parquet: expected a .txt, .jsonl or .shard file"));
    CHECK(contains(open(folder.file("a.jsonl", "{\"text\": \"x\"}\n{\"text\"\n")), "a.jsonl:2"));
    CHECK(contains(open(folder.file("b.jsonl", "[1]\n")), "b.jsonl:1: expected a JSON object"));
    CHECK(contains(open(folder.file("c.jsonl", "{\"body\": \"x\"}\n")),
                   "c.jsonl:1: expected \"text\", or \"question\"/\"prompt\" with \"answer\", "
                   "found \"body\""));
    CHECK(contains(open(folder.file("c2.jsonl", "{\"prompt\": \"x\", \"completion\": \"y\"}\n")),
                   "with \"answer\", found \"prompt\", \"completion\""));
    CHECK(contains(open(folder.file("c3.jsonl", "{}\n")), "found no field"));
    CHECK(contains(open(folder.file("d.jsonl", "{\"text\": [1]}\n")), "expected a string"));
    CHECK(contains(message_of([&] {
                       ProblemSet(folder.file("e.jsonl", "{\"text\": \"x\"}\n"), Split::train, 0,
                                  1);
                   }),
                   "e.jsonl:1: expected a problem with \"question\" or \"prompt\" and \"answer\", "
                   "found \"text\""));
}

TEST_CASE("data: a mark of UTF-8 is no part of a text", "[data]") {
    Folder folder;
    const std::string with = folder.file("with.txt", "\xef\xbb\xbfline\r\n\xef\xbb\xbf");
    const auto source = open_source(with, kTokenizer, Split::train, 0, 1);
    CHECK(kTokenizer.decode(source->document(0).tokens, Specials::skip) == "line\r\n\xef\xbb\xbf");
}

TEST_CASE("data: a text without a character is left out and counted", "[data]") {
    Folder folder;
    const std::string with =
        folder.file("with.jsonl",
                    "{\"text\": \"ab\"}\n{\"text\": \"\"}\n{\"text\": \"c\"}\n{\"text\": \"\"}\n");
    const std::string without =
        folder.file("none.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"c\"}\n");
    const StreamOptions options{5, true, 1, Split::train, 0, true};
    DataStream some(with, options, kTokenizer), none(without, options, kTokenizer);
    PackedRows some_rows, none_rows;
    some.next_rows(2, some_rows);
    none.next_rows(2, none_rows);
    CHECK(some_rows.tokens == none_rows.tokens);
    CHECK(some.left_out() == with + ": 2 empty texts left out");
    CHECK(none.left_out().empty());
    const std::string only = folder.file("only.jsonl", "{\"text\": \"\"}\n");
    CHECK(contains(message_of([&] { DataStream(only, options, kTokenizer); }),
                   "expected documents, found none"));
    CHECK(contains(message_of([&] {
                       DataStream(folder.file("f.jsonl", "{\"question\": \"\"}\n"), options,
                                  kTokenizer);
                   }),
                   "f.jsonl:1: expected \"text\""));
}

TEST_CASE("data: odd bytes are data like any other", "[data]") {
    Folder folder;
    std::string text = "no newline at the end \xff\xfe\x80 " + std::string(30000, 'x');
    DataStream stream(folder.file("odd.txt", text), {32, true, 7, Split::train, 0, true},
                      kTokenizer);
    PackedRows rows;
    stream.next_rows(2000, rows);
    CHECK(std::count(rows.tokens.begin(), rows.tokens.end(), 0xff) >= 1);
}

TEST_CASE("data: GSM8K's final line becomes a box, its answer the gold", "[data]") {
    const JsonlRow row = parse_jsonl_row(
        R"({"question": "How many?", "answer": "2+3=<<2+3=5>>5.\n#### 1,005"})", "x");
    CHECK(row.prompt == "How many?\n");
    CHECK(row.answer == "1,005");
    CHECK(row.text == "How many?\n2+3=<<2+3=5>>5.\n\\boxed{1,005}");
}
