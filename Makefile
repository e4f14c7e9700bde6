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

.PHONY: help setup packages base tree build demo run lock clean distclean

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

refresh:
	@scripts/refresh

lock: base
	@scripts/lock-base

demo: setup build
	@scripts/demo --binary $(binary)

run: build
	@scripts/run-guest --binary $(binary)
