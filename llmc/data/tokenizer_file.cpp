// Contract: tokenizer_file.h.
#include "llmc/data/tokenizer_file.h"

#include "llmc/core/error.h"
#include "llmc/core/json.h"
#include "llmc/core/unicode.h"

#include <algorithm>
#include <array>
#include <optional>
#include <unordered_map>
#include <unordered_set>

namespace {

constexpr int64_t kMostTokens = int64_t(1) << 22;
constexpr size_t kLongestAdded = 4096; // bytes: matching one costs its length at every position

// The pattern ByteLevel has itself, where use_regex is true.
const char* kByteLevelPattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
                                "|\\s+(?!\\S)|\\s+";

// ------------------------------------------------------------------------------------------------
// the byte map

struct ByteMap {
    std::array<int32_t, 256> code{};
    std::array<int, 324> byte{}; // of a code, -1 = none
    constexpr ByteMap() {
        byte.fill(-1);
        int next = 256;
        for (int b = 0; b < 256; b++) {
            const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
            code[b] = itself ? b : next++;
            byte[code[b]] = b;
        }
    }
};
constexpr ByteMap kByteMap; // there before any other global

// The bytes a token stands for; none if one of its characters is not of the map.
std::optional<std::string> mapped_bytes(const std::string& token) {
    std::string bytes;
    for (size_t at = 0; at < token.size();) {
        const Utf8Char c = first_char(std::string_view(token).substr(at));
        const bool in_map = c.code >= 0 && c.code < int32_t(kByteMap.byte.size());
        if (!in_map || kByteMap.byte[c.code] < 0) return std::nullopt;
        bytes += char(kByteMap.byte[c.code]);
        at += size_t(c.bytes);
    }
    return bytes;
}

// ------------------------------------------------------------------------------------------------
// keys, with their messages

// A value of the file and the name it goes by in messages.
struct Node {
    const SortedJson* json; // null = absent
    std::string name;       // "tokenizer.json: model.vocab"

    bool absent() const { return !json || json->is_null(); }
    Node at(const char* key) const {
        const bool has = json && json->is_object() && json->contains(key);
        return {has ? &(*json)[key] : nullptr, name + (name.back() == ' ' ? "" : ".") + key};
    }
    Node at(size_t index) const { return {&(*json)[index], name + format("[%zu]", index)}; }

    [[noreturn]] void refuse(const std::string& expected) const {
        const std::string found =
            json ? json->dump(-1, ' ', true, SortedJson::error_handler_t::replace) : "nothing";
        fatal(name + ": expected " + expected + ", found " + found.substr(0, 80),
              "this program reads byte-level BPE (GPT-2, Llama-3, Qwen); doc/operating.md lists "
              "what of a tokenizer.json");
    }
    bool boolean(bool otherwise) const {
        if (absent()) return otherwise;
        if (!json->is_boolean()) refuse("true or false");
        return json->get<bool>();
    }
    const std::string& text() const {
        if (!json || !json->is_string()) refuse("a string");
        return json->get_ref<const std::string&>();
    }
    int32_t id() const {
        if (!json || !json->is_number_integer() || json->get<int64_t>() < 0 ||
            json->get<int64_t>() >= kMostTokens)
            refuse(format("a token id of 0 to %ld", long(kMostTokens - 1)));
        return json->get<int32_t>();
    }
    size_t list() const { // number of entries
        if (!json || !json->is_array()) refuse("a list");
        return json->size();
    }
    std::string type() const {
        if (!json->is_object()) refuse("an object with a \"type\"");
        return at("type").text();
    }
    void must_be_absent(const char* expected) const {
        if (!absent()) refuse(expected);
    }
};

// The entries of a Sequence under `key`, or the one value itself.
std::vector<Node> sequence(const Node& node, const char* key) {
    std::vector<Node> nodes;
    if (node.absent()) return nodes;
    if (node.type() != "Sequence") return {node};
    const Node list = node.at(key);
    for (size_t i = 0; i < list.list(); i++) nodes.push_back(list.at(i));
    return nodes;
}

// ------------------------------------------------------------------------------------------------
// parts of the file

using Vocabulary = std::unordered_map<std::string, int32_t>;

void set_bytes(TokenizerFile& file, int32_t id, const std::string& token) {
    if (size_t(id) >= file.bytes.size()) {
        file.bytes.resize(size_t(id) + 1);
        file.known.resize(size_t(id) + 1);
        file.special.resize(size_t(id) + 1);
    }
    // A token with a character outside of the map decodes to itself.
    file.bytes[id] = mapped_bytes(token).value_or(token);
    file.known[id] = true;
}

Vocabulary read_vocabulary(const Node& vocab, TokenizerFile& file) {
    if (!vocab.json || !vocab.json->is_object()) vocab.refuse("an object of tokens and ids");
    Vocabulary ids;
    ids.reserve(vocab.json->size());
    for (const auto& [token, value] : vocab.json->items()) {
        const Node node{&value, vocab.name + "[" + token + "]"};
        const int32_t id = node.id();
        if (size_t(id) < file.known.size() && file.known[id]) node.refuse("an id of its own");
        ids.emplace(token, id);
        set_bytes(file, id, token);
        if (const auto bytes = mapped_bytes(token)) file.words.push_back({*bytes, id});
    }
    for (int b = 0; b < 256; b++) {
        const auto found = ids.find(printable_byte(b));
        file.byte_ids[b] = found == ids.end() ? -1 : found->second;
    }
    return ids;
}

void read_merges(const Node& merges, const Vocabulary& ids, TokenizerFile& file) {
    const size_t count = merges.list();
    file.merges.reserve(count);
    for (size_t i = 0; i < count; i++) {
        const Node merge = merges.at(i);
        std::string left, right;
        if (merge.json->is_string()) { // "left right"
            const std::string& line = merge.text();
            if (line.rfind("#version", 0) == 0) continue;
            const size_t space = line.find(' ');
            if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos)
                merge.refuse("two tokens with a space between");
            left = line.substr(0, space);
            right = line.substr(space + 1);
        } else {
            if (!merge.json->is_array() || merge.json->size() != 2) merge.refuse("two tokens");
            left = merge.at(size_t(0)).text();
            right = merge.at(size_t(1)).text();
        }
        if (left.empty() || right.empty()) merge.refuse("two tokens, neither of them empty");
        const auto l = ids.find(left), r = ids.find(right), both = ids.find(left + right);
        if (l == ids.end() || r == ids.end() || both == ids.end())
            merge.refuse("two tokens of the vocabulary that give a third");
        file.merges.push_back({l->second, r->second, both->second});
    }
}

Vocabulary read_model(const Node& model, TokenizerFile& file) {
    if (model.absent() || !model.json->is_object()) model.refuse("an object");
    if (!model.at("type").absent() && model.type() != "BPE") model.at("type").refuse("\"BPE\"");
    const Node dropout = model.at("dropout");
    if (!dropout.absent() && *dropout.json != 0) dropout.refuse("null");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
        if (!model.at(key).absent() && !model.at(key).text().empty())
            model.at(key).refuse("null or an empty string");
    if (model.at("byte_fallback").boolean(false)) model.at("byte_fallback").refuse("false");
    file.fuse_unknown = model.at("fuse_unk").boolean(false);
    file.ignore_merges = model.at("ignore_merges").boolean(false);
    Vocabulary ids = read_vocabulary(model.at("vocab"), file);
    read_merges(model.at("merges"), ids, file);
    const Node unknown = model.at("unk_token");
    const bool whole = *std::min_element(file.byte_ids, file.byte_ids + 256) >= 0;
    if (!whole && !unknown.absent()) {
        const auto found = ids.find(unknown.text());
        if (found == ids.end()) unknown.refuse("a token of the vocabulary");
        file.unknown = found->second;
    }
    return ids;
}

// An added token that is not in the vocabulary has the next free id: so Hugging Face's library
// numbers them, whatever the file says.
void read_added(const Node& list, const Vocabulary& ids, TokenizerFile& file) {
    if (list.absent()) return;
    std::vector<std::pair<int32_t, Node>> order;
    for (size_t i = 0; i < list.list(); i++)
        order.push_back({list.at(i).at("id").id(), list.at(i)});
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    int32_t largest = -1;
    std::unordered_set<std::string> seen;
    for (const auto& [id, node] : order) {
        AddedToken token{node.at("content").text(),
                         id,
                         node.at("single_word").boolean(false),
                         node.at("lstrip").boolean(false),
                         node.at("rstrip").boolean(false),
                         node.at("normalized").boolean(true),
                         node.at("special").boolean(false)};
        if (token.content.empty()) continue;
        if (token.content.size() > kLongestAdded)
            node.at("content").refuse(format("at most %zu bytes", kLongestAdded));
        if (!seen.insert(token.content).second) node.at("content").refuse("a token listed once");
        const auto in_vocabulary = ids.find(token.content);
        const int32_t vocabulary = int32_t(ids.size());
        const int32_t expected =
            in_vocabulary != ids.end() ? in_vocabulary->second : std::max(largest + 1, vocabulary);
        if (id != expected) node.at("id").refuse(format("%d", expected));
        if (in_vocabulary == ids.end() && size_t(id) < file.known.size() && file.known[id])
            node.at("id").refuse("an id of its own");
        largest = std::max(largest, id);
        // It decodes to the text it is looked for as.
        const bool composed = token.normalized && file.nfc && in_vocabulary == ids.end();
        set_bytes(file, id, composed ? to_nfc(token.content) : token.content);
        file.special[id] = token.special;
        file.added.push_back(std::move(token));
    }
}

Regex compile(const std::string& pattern, const Node& node) {
    try {
        return Regex(pattern, RegexEngine::compiled);
    } catch (const RegexError& error) {
        node.refuse("a pattern that this program can read (" + error.message + ")");
    }
}

SplitStep read_split(const Node& node) {
    SplitStep step{{}, true, true, false};
    const std::string behavior = node.at("behavior").text();
    if (behavior != "Isolated" && behavior != "Removed")
        node.at("behavior").refuse("\"Isolated\" or \"Removed\"");
    if (behavior == "Removed") {
        const bool invert = node.at("invert").boolean(false);
        step.keep_matches = invert;
        step.keep_gaps = !invert;
    }
    const Node pattern = node.at("pattern");
    const bool literal = !pattern.at("String").absent();
    const Node source = pattern.at(literal ? "String" : "Regex");
    std::string expression;
    if (!literal) expression = source.text();
    else
        for (char c : source.text())
            expression += std::isalnum(static_cast<unsigned char>(c)) || (c & 0x80)
                              ? std::string(1, c)
                              : std::string("\\") + c;
    step.pattern.push_back(compile(expression, source));
    return step;
}

void read_pre_tokenizer(const Node& node, TokenizerFile& file) {
    bool bytes = false;
    for (const Node& part : sequence(node, "pretokenizers")) {
        const std::string type = part.type();
        if (bytes) part.at("type").refuse("nothing after \"ByteLevel\"");
        if (type == "Split") {
            file.steps.push_back(read_split(part));
        } else if (type == "Digits") {
            const bool single = part.at("individual_digits").boolean(false);
            file.steps.push_back({{}, true, true, false});
            file.steps.back().pattern.push_back(compile(single ? "\\p{N}" : "\\p{N}+", part));
        } else if (type == "ByteLevel") {
            bytes = true;
            SplitStep step{{}, true, true, part.at("add_prefix_space").boolean(true)};
            const bool regex = part.at("use_regex").boolean(true);
            if (regex) step.pattern.push_back(compile(kByteLevelPattern, part));
            if (regex || step.prefix_space) file.steps.push_back(std::move(step));
        } else {
            part.at("type").refuse("\"Split\", \"Digits\" or \"ByteLevel\"");
        }
    }
    if (!bytes) node.refuse("\"ByteLevel\", alone or last in a \"Sequence\"");
}

void read_template(const Node& node, TokenizerFile& file) {
    const Node single = node.at("single");
    bool after = false;
    for (size_t i = 0; i < single.list(); i++) {
        const Node item = single.at(i);
        if (!item.at("Sequence").absent()) {
            if (after) item.refuse("one text");
            after = true;
            continue;
        }
        const std::string name = item.at("SpecialToken").at("id").text();
        const Node ids = node.at("special_tokens").at(name.c_str()).at("ids");
        for (size_t k = 0; k < ids.list(); k++) {
            const int32_t id = ids.at(k).id();
            if (size_t(id) >= file.known.size() || !file.known[id])
                ids.at(k).refuse("an id of the vocabulary");
            (after ? file.suffix : file.prefix).push_back(id);
        }
    }
    if (!after) single.refuse("a list with a \"Sequence\"");
}

void read_normalizer(const Node& node, TokenizerFile& file) {
    for (const Node& part : sequence(node, "normalizers")) {
        if (part.type() != "NFC") part.at("type").refuse("\"NFC\"");
        file.nfc = true;
    }
}

void read_ends(const Node& root, TokenizerFile& file) {
    int templates = 0;
    for (const Node& part : sequence(root.at("post_processor"), "processors")) {
        if (part.type() == "TemplateProcessing" && templates++ == 0) read_template(part, file);
        else if (part.type() != "ByteLevel")
            part.at("type").refuse("\"ByteLevel\" or one \"TemplateProcessing\"");
    }
    const std::vector<Node> decoder = sequence(root.at("decoder"), "decoders");
    if (decoder.size() != 1 || decoder[0].type() != "ByteLevel")
        root.at("decoder").refuse("\"ByteLevel\"");
}

} // namespace

std::string printable_byte(int byte) {
    std::string text;
    append_utf8(&text, kByteMap.code[byte]);
    return text;
}

TokenizerFile read_tokenizer_file(const std::string& text, const std::string& path) {
    const SortedJson json = json_parse_sorted(text, path);
    const Node root{&json, path + ": "};
    if (!json.is_object()) root.refuse("an object");
    TokenizerFile file;
    for (const char* key : {"truncation", "padding"}) root.at(key).must_be_absent("null");
    const Vocabulary ids = read_model(root.at("model"), file);
    read_normalizer(root.at("normalizer"), file);
    read_added(root.at("added_tokens"), ids, file);
    read_pre_tokenizer(root.at("pre_tokenizer"), file);
    read_ends(root, file);
    return file;
}
