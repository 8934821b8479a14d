// Which pages of the KV cache are free, and how many sequences share each of the others.
#pragma once
#include "llmc/core/error.h"

#include <vector>

class PageTable {
  public:
    explicit PageTable(int pages) : references_(pages, 0) {
        for (int page = pages - 1; page >= 0; page--) free_.push_back(page); // lowest first
    }
    int free_pages() const { return int(free_.size()); }
    int take() {
        require(!free_.empty(), "PageTable: no free page");
        const int page = free_.back();
        free_.pop_back();
        references_[page] = 1;
        return page;
    }
    void share(int page) {
        require(references_[page] > 0, "PageTable: page %d is free", page);
        references_[page]++;
    }
    bool shared(int page) const { return references_[page] > 1; }
    void release(int page) {
        require(references_[page] > 0, "PageTable: page %d is free", page);
        if (--references_[page] == 0) free_.push_back(page);
    }

  private:
    std::vector<int> references_, free_;
};
