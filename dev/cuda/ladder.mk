# What every ladder's Makefile includes: `make` builds it, `make results` writes results.md.
ROOT := $(dir $(lastword $(MAKEFILE_LIST)))../..

all:
	@$(MAKE) --no-print-directory -C $(ROOT) ladder LADDER=$(LADDER)

results: all
	@$(ROOT)/dev/cuda/results.sh $(LADDER)

.PHONY: all results
