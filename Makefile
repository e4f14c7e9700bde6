# SPDX-License-Identifier: GPL-2.0-or-later
#
# The face of scripts/. Every target runs those that it needs; see 'make help'.

.NOTPARALLEL:
.SUFFIXES:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

export TARGETS SANITIZERS QEMU_SRC JOBS PATCH ADD VERIFY

out := build/out$(if $(filter-out 0,$(SANITIZERS)),-asan)
binary := $(out)/qemu-system-x86_64

.PHONY: help setup packages base tree build demo run refresh series lint lock
.PHONY: check check-scripts check-unit check-qtest check-guest
.PHONY: check-nested check-sanitizers bench clean distclean

help:
	@scripts/help

setup:
	@scripts/setup

# What a target that is not to install anything says where something misses.
packages:
	@scripts/setup --check

base: packages
	@scripts/fetch-base

tree: base
	@scripts/assemble

build: tree
	@scripts/build

# On a fresh clone these do everything, so they also install what is missing.
demo: setup build
	@scripts/demo --binary $(binary)

check: setup build
	@scripts/check scripts unit qtest guest nested

check-scripts: packages
	@scripts/check scripts

check-unit: build
	@scripts/check unit

check-qtest: build
	@scripts/check qtest

check-guest: build
	@scripts/check guest

check-nested: build
	@scripts/check nested

check-sanitizers: export SANITIZERS = 1
check-sanitizers: build
	@scripts/check unit qtest

bench: build
	@tests/bench/run --binary $(binary) \
		$(if $(BASELINE),--baseline '$(BASELINE)') $(BENCH)

run: build
	@scripts/run-guest --binary $(binary)

refresh: base
	@scripts/refresh

series: tree
	@scripts/make-series $(if $(filter-out 0,$(VERIFY)),--verify)

lint: tree
	@scripts/lint

lock: base
	@scripts/lock-base

# What was downloaded stays, so that this works without network, too.
clean:
	@scripts/clean

distclean:
	@scripts/clean --all
