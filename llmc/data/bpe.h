// Byte-level BPE: the tokens of a text as Hugging Face's tokenizers library gives them.
//
//   text -> added tokens cut out -> NFC -> normalized added tokens cut out -> pieces by the split
//   patterns -> bytes -> merges
//
// Bytes that are not UTF-8, which that library cannot be given, are a piece of their own: every
// text comes back from its tokens, but for what NFC changes.
#pragma once
#include "llmc/data/merges.h"
#include "llmc/data/tokenizer_file.h"

#include <string_view>

// Added tokens by their text: the longest one that begins at a place.
class AddedTokenTrie {
  public:
    AddedTokenTrie();
    void add(const std::string& content, int index); // the first of equal contents stays
    // Index and length of the longest token `text` begins with; false if there is none.
    bool longest(std::string_view text, int* index, size_t* length) const;
    bool may_begin(char c) const { return roots_[static_cast<unsigned char>(c)] >= 0; }

  private:
    struct Node {
        int index = -1;                          // of the token that ends here
        std::vector<std::pair<char, int>> nexts; // few
    };
    int next_node(int node, char c) const; // -1 = none
    std::vector<Node> nodes_;
    int roots_[256];
};

class Bpe {
  public:
    explicit Bpe(TokenizerFile file);

    // Appends the tokens of `text`. Not for two threads at a time.
    void encode(std::string_view text, std::vector<int32_t>& tokens) const;

    const TokenizerFile& file() const { return file_; }

  private:
    // A text and what the patterns see of it: as many bytes, in other characters where the
    // libraries might not know the text's own.
    struct Piece {
        std::string_view text, seen;
        Piece part(size_t begin, size_t end) const {
            return {text.substr(begin, end - begin), seen.substr(begin, end - begin)};
        }
    };
    // Words met before and their tokens, one to a slot, the newest stays: bounded, never cleared.
    struct Slot {
        static constexpr size_t kBytes = 30, kTokens = 8;
        uint8_t bytes = 0, tokens = 0; // bytes = 0: empty
        char word[kBytes] = {};        // zeros behind it
        int32_t ids[kTokens];
    };
    void encode_valid(std::string_view text, std::vector<int32_t>& tokens) const;
    void encode_normalized(std::string_view text, std::vector<int32_t>& tokens) const;
    void split(size_t step, const Piece& piece, std::vector<int32_t>& tokens) const;
    void encode_word(std::string_view word, std::vector<int32_t>& tokens) const;
    void merge_word(std::string_view word, std::vector<int32_t>& row) const;
    // Calls piece(text) and token(id) in order.
    template <class PieceFn, class TokenFn>
    void cut_added(const AddedTokenTrie& trie, std::string_view text, const PieceFn& piece,
                   const TokenFn& token) const;

    TokenizerFile file_;
    Merges merges_;
    AddedTokenTrie raw_, normalized_;
    std::vector<std::pair<std::string, int32_t>> words_; // sorted, where merges may be ignored
    mutable std::vector<Slot> cache_;
    mutable std::vector<int32_t> row_;
};
