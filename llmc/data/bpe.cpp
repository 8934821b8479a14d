// Contract: bpe.h.
#include "llmc/data/bpe.h"

#include "llmc/core/unicode.h"

#include <algorithm>
#include <cstring>

namespace {

constexpr int kCacheBits = 16; // 4 MiB of slots

// The last character of a UTF-8 text that is not empty.
int32_t last_char(std::string_view text) {
    size_t at = text.size() - 1;
    while (at > 0 && (text[at] & 0xC0) == 0x80) at--;
    return first_char(text.substr(at)).code;
}

// Where the spaces at the end of text begin.
size_t trailing_spaces(std::string_view text) {
    while (!text.empty()) {
        size_t at = text.size() - 1;
        while (at > 0 && (text[at] & 0xC0) == 0x80) at--;
        if (!is_space(first_char(text.substr(at)).code)) break;
        text = text.substr(0, at);
    }
    return text.size();
}

size_t leading_spaces(std::string_view text) {
    size_t at = 0;
    while (at < text.size()) {
        const Utf8Char c = first_char(text.substr(at));
        if (!is_space(c.code)) break;
        at += size_t(c.bytes);
    }
    return at;
}

uint64_t mix64(uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return uint64_t(product) ^ uint64_t(product >> 64);
}

} // namespace

// ------------------------------------------------------------------------------------------------
// added tokens

AddedTokenTrie::AddedTokenTrie() { std::fill(std::begin(roots_), std::end(roots_), -1); }

int AddedTokenTrie::next_node(int node, char c) const {
    for (const auto& [key, next] : nodes_[node].nexts)
        if (key == c) return next;
    return -1;
}

void AddedTokenTrie::add(const std::string& content, int index) {
    const auto new_node = [&] {
        nodes_.emplace_back();
        return int(nodes_.size()) - 1;
    };
    int& root = roots_[static_cast<unsigned char>(content[0])];
    if (root < 0) root = new_node();
    int node = root;
    for (size_t i = 1; i < content.size(); i++) {
        int next = next_node(node, content[i]);
        if (next < 0) {
            next = new_node();
            nodes_[node].nexts.push_back({content[i], next});
        }
        node = next;
    }
    if (nodes_[node].index < 0) nodes_[node].index = index;
}

bool AddedTokenTrie::longest(std::string_view text, int* index, size_t* length) const {
    bool found = false;
    int node = roots_[static_cast<unsigned char>(text[0])];
    for (size_t i = 1; node >= 0; i++) {
        if (nodes_[node].index >= 0) {
            *index = nodes_[node].index;
            *length = i;
            found = true;
        }
        if (i == text.size()) break;
        node = next_node(node, text[i]);
    }
    return found;
}

// ------------------------------------------------------------------------------------------------

Bpe::Bpe(TokenizerFile file)
    : file_(std::move(file)), merges_(file_.merges), cache_(size_t(1) << kCacheBits) {
    std::vector<size_t> order; // special ones first: of equal contents the first one counts
    for (bool special : {true, false})
        for (size_t i = 0; i < file_.added.size(); i++)
            if (file_.added[i].special == special) order.push_back(i);
    for (size_t i : order) {
        const AddedToken& token = file_.added[i];
        if (!token.normalized) {
            raw_.add(token.content, int(i));
            continue;
        }
        const std::string content = file_.nfc ? to_nfc(token.content) : token.content;
        normalized_.add(content, int(i));
    }
    if (file_.ignore_merges) {
        words_ = std::move(file_.words);
        std::sort(words_.begin(), words_.end());
    }
    file_.words.clear();
    file_.merges.clear();
}

template <class PieceFn, class TokenFn>
void Bpe::cut_added(const AddedTokenTrie& trie, std::string_view text, const PieceFn& piece,
                    const TokenFn& token) const {
    size_t done = 0; // of the text; a token that strips may reach beyond the next match's begin
    for (size_t at = 0; at < text.size();) {
        int index;
        size_t length;
        if (!trie.may_begin(text[at]) || !trie.longest(text.substr(at), &index, &length)) {
            at++;
            continue;
        }
        size_t begin = at, end = at + length;
        at = end;
        const AddedToken& added = file_.added[index];
        if (added.single_word &&
            ((begin > 0 && is_word(last_char(text.substr(0, begin)))) ||
             (end < text.size() && is_word(first_char(text.substr(end)).code))))
            continue;
        // Spaces that the token before has taken are not walked again: linear time.
        if (added.lstrip)
            begin = begin > done ? done + trailing_spaces(text.substr(done, begin - done)) : done;
        if (added.rstrip) {
            end = std::max(end, done);
            end += leading_spaces(text.substr(end));
        }
        if (done < begin) piece(text.substr(done, begin - done));
        token(added.id);
        done = end;
    }
    if (done < text.size()) piece(text.substr(done));
}

void Bpe::encode(std::string_view text, std::vector<int32_t>& tokens) const {
    while (!text.empty()) {
        const size_t valid = valid_utf8_prefix(text);
        if (valid > 0) encode_valid(text.substr(0, valid), tokens);
        size_t end = valid;
        while (end < text.size()) {
            const Utf8Char c = first_char(text.substr(end));
            if (c.code >= 0) break;
            end += size_t(c.bytes);
        }
        if (end > valid) encode_word(text.substr(valid, end - valid), tokens);
        text = text.substr(end);
    }
}

void Bpe::encode_valid(std::string_view text, std::vector<int32_t>& tokens) const {
    const auto add = [&](int32_t id) { tokens.push_back(id); };
    const auto add_normalized = [&](std::string_view piece) { encode_normalized(piece, tokens); };
    cut_added(
        raw_, text,
        [&](std::string_view piece) {
            if (!file_.nfc) return cut_added(normalized_, piece, add_normalized, add);
            const std::string nfc = to_nfc(piece);
            cut_added(normalized_, nfc, add_normalized, add);
        },
        add);
}

void Bpe::encode_normalized(std::string_view text, std::vector<int32_t>& tokens) const {
    const auto is_old = [](char c) { return static_cast<unsigned char>(c) < 0xE0; };
    if (std::all_of(text.begin(), text.end(), is_old)) return split(0, {text, text}, tokens);
    const std::string seen = with_known_properties(text);
    split(0, {text, seen}, tokens);
}

void Bpe::split(size_t step, const Piece& piece, std::vector<int32_t>& tokens) const {
    if (step == file_.steps.size()) return encode_word(piece.text, tokens);
    const SplitStep& s = file_.steps[step];
    if (s.prefix_space && piece.text[0] != ' ') {
        const std::string text = " " + std::string(piece.text),
                          seen = " " + std::string(piece.seen);
        return split(step, {text, seen}, tokens);
    }
    if (s.pattern.empty()) return split(step + 1, piece, tokens);
    const auto add = [&](size_t begin, size_t end, bool keep) {
        if (keep && begin < end) split(step + 1, piece.part(begin, end), tokens);
    };
    const size_t size = piece.text.size();
    size_t done = 0, from = 0, begin, end;
    while (from <= size && s.pattern[0].find(piece.seen, from, &begin, &end)) {
        if (begin == end && end == done && done > 0) { // empty and behind a match: look further
            if (from == size) break;
            from += size_t(first_char(piece.seen.substr(from)).bytes);
            continue;
        }
        add(done, begin, s.keep_gaps);
        add(begin, end, s.keep_matches);
        done = from = end;
        if (begin == end) {
            if (from == size) break;
            from += size_t(first_char(piece.seen.substr(from)).bytes);
        }
    }
    add(done, size, s.keep_gaps);
}

// ------------------------------------------------------------------------------------------------
// words

void Bpe::encode_word(std::string_view word, std::vector<int32_t>& tokens) const {
    if (word.size() > Slot::kBytes) {
        merge_word(word, row_);
        tokens.insert(tokens.end(), row_.begin(), row_.end());
        return;
    }
    Slot key;
    key.bytes = uint8_t(word.size());
    std::memcpy(key.word, word.data(), word.size());
    uint64_t parts[4] = {};
    static_assert(offsetof(Slot, word) == 2 && Slot::kBytes + 2 == sizeof parts);
    std::memcpy(parts, &key, sizeof parts);
    const uint64_t hash = mix64(parts[0] ^ 0x9E3779B97F4A7C15, parts[1] ^ 0xC2B2AE3D27D4EB4F) ^
                          mix64(parts[2] ^ 0x165667B19E3779F9, parts[3] ^ 0x27D4EB2F165667C5);
    Slot& slot = cache_[hash * 0x9E3779B97F4A7C15 >> (64 - kCacheBits)];
    if (slot.bytes == key.bytes && std::memcmp(slot.word, key.word, Slot::kBytes) == 0) {
        tokens.insert(tokens.end(), slot.ids, slot.ids + slot.tokens);
        return;
    }
    merge_word(word, row_);
    tokens.insert(tokens.end(), row_.begin(), row_.end());
    if (row_.size() > Slot::kTokens) return;
    key.tokens = uint8_t(row_.size());
    std::copy(row_.begin(), row_.end(), key.ids);
    slot = key;
}

void Bpe::merge_word(std::string_view word, std::vector<int32_t>& row) const {
    row.clear();
    if (file_.ignore_merges) {
        const auto at =
            std::lower_bound(words_.begin(), words_.end(), word,
                             [](const auto& a, std::string_view w) { return a.first < w; });
        if (at != words_.end() && at->first == word) {
            row.push_back(at->second);
            return;
        }
    }
    bool last_unknown = false;
    for (unsigned char byte : word) {
        const int32_t id = file_.byte_ids[byte];
        if (id >= 0) row.push_back(id);
        else if (file_.unknown >= 0 && !(last_unknown && file_.fuse_unknown))
            row.push_back(file_.unknown);
        last_unknown = id < 0;
    }
    merges_.apply(row);
}
