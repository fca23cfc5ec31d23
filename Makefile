# CFS. One non-recursive Makefile; everything made goes to $(B).
#   make            the programs, in build/bin
#   make up         packages, build, a local cluster, mounted at /mnt/cfs     make down, make clean-data
#   make check      packages, build with gcc and clang, tests in their short forms
#   make check-long the full ones
#   make unit       unit tests only, this build          make SAN=1 unit   under ASan and UBSan
#   make sim SEEDS=n    make fuzz    make tidy    make fmt    make bench
B ?= build$(if $(SAN),-san)$(if $(filter clang,$(CC)),-clang)
ifeq ($(origin CC),default)
CC = gcc
endif
ifeq ($(origin CXX),default)
CXX = g++
endif
PKGS = libuv libisal openssl libprotobuf-c
OPT ?= -O2
WARN = -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
SANFLAGS = $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
comma := ,
CPPFLAGS += -I. -I$(B)/gen -D_GNU_SOURCE
CFLAGS = -std=gnu11 $(OPT) -g $(WARN) $(SANFLAGS) -MMD -MP $(shell pkg-config --cflags $(PKGS) fuse3 2>/dev/null)
CXXFLAGS = -std=c++17 $(OPT) -g -fno-rtti -Wall -Wextra -Werror $(SANFLAGS) -MMD -MP
LDFLAGS += $(SANFLAGS)
LIBS = -lleveldb -lraft $(shell pkg-config --libs $(PKGS) fuse3 2>/dev/null) -lcrypto -lpthread -lm

PROTOS = $(wildcard proto/*.proto)
GEN = $(PROTOS:proto/%.proto=$(B)/gen/%.pb-c.c)
GENH = $(GEN:.c=.h)

# Files with main, by program. All other .c of a folder go into its archive.
MAIN_cfs-meta = meta/metad.c
MAIN_cfs-chunkserver = chunkserver/chunkd.c
MAIN_mount.cfs = fuse/cfs_mount.c
MAIN_cfs = tools/cfs.c
MAIN_cfs-local = tools/cfs_local.c
PROGRAMS = $(foreach p,cfs-meta cfs-chunkserver mount.cfs cfs cfs-local,$(if $(wildcard $(MAIN_$(p))),$(p)))
MAINS = meta/metad.c chunkserver/chunkd.c fuse/cfs_mount.c tools/cfs.c tools/cfs_local.c

FOLDERS = base proto rpc ec store meta chunkserver fuse tools
srcs = $(filter-out $(MAINS),$(wildcard $(1)/*.c $(1)/*.cc))
objs = $(patsubst %,$(B)/obj/%.o,$(call srcs,$(1)))
ARCHIVES = $(patsubst %,$(B)/lib/lib%.a,$(FOLDERS) gen testlib)

LINK_cfs-meta = meta store ec rpc proto gen base
LINK_cfs-chunkserver = chunkserver store ec rpc proto gen base
LINK_mount.cfs = fuse ec rpc proto gen base
LINK_cfs = tools ec rpc proto gen base
LINK_cfs-local = tools ec rpc proto gen base
LINK_test = testlib fuse meta chunkserver tools store ec rpc proto gen base
libs = $(patsubst %,$(B)/lib/lib%.a,$(1))

.PHONY: all up down clean-data check check-long unit sim fuzz integration tidy fmt bench clean install
.SECONDARY:
all: $(addprefix $(B)/bin/,$(PROGRAMS))

$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h: proto/%.proto $(PROTOS)
	@mkdir -p $(@D)
	protoc-c --proto_path=proto --c_out=$(B)/gen $<

# Generated code is not ours to warn about.
$(B)/obj/gen/%.o: $(B)/gen/%.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -std=gnu11 $(OPT) -g $(SANFLAGS) -c -o $@ $<
$(B)/obj/%.c.o: %.c | $(GENH)
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
$(B)/obj/%.cc.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c -o $@ $<

define archive_rule
$(B)/lib/lib$(1).a: $(2)
	@mkdir -p $$(@D)
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(foreach f,$(FOLDERS),$(eval $(call archive_rule,$(f),$(call objs,$(f)))))
$(eval $(call archive_rule,testlib,$(patsubst %,$(B)/obj/%.o,$(wildcard test/lib/*.c))))
$(eval $(call archive_rule,gen,$(GEN:$(B)/gen/%.c=$(B)/obj/gen/%.o)))

define program_rule
$(B)/bin/$(1): $(B)/obj/$(MAIN_$(1)).o $(call libs,$(LINK_$(1)))
	@mkdir -p $$(@D)
	$(CXX) $(LDFLAGS) -o $$@ $$< -Wl,--start-group $(call libs,$(LINK_$(1))) -Wl,--end-group $(LIBS)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program_rule,$(p))))

# Tests: each test/unit/test_x.c, test/sim/sim_x.c is a program of its own.
UNIT = $(patsubst test/unit/%.c,$(B)/test/%,$(wildcard test/unit/test_*.c))
SIM = $(patsubst test/sim/%.c,$(B)/test/%,$(wildcard test/sim/sim_*.c))
TOOLS = $(patsubst test/integration/%.c,$(B)/test/%,$(wildcard test/integration/*.c))
$(B)/test/%: $(B)/obj/test/unit/%.c.o $(call libs,$(LINK_test))
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS) -o $@ $< -Wl,--start-group $(call libs,$(LINK_test)) -Wl,--end-group -lcheck -lsubunit -lrt $(LIBS)
$(B)/test/%: $(B)/obj/test/sim/%.c.o $(call libs,$(LINK_test))
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS) -o $@ $< -Wl,--start-group $(call libs,$(LINK_test)) -Wl,--end-group $(LIBS)
$(B)/test/%: $(B)/obj/test/integration/%.c.o
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $< -lpthread
test-programs: $(UNIT) $(SIM) $(TOOLS)
unit: $(UNIT)
	test/run_unit.sh $(UNIT)

# Fuzz targets: test/fuzz/fuzz_x.c, with clang's libFuzzer.
FUZZ = $(patsubst test/fuzz/%.c,$(B)/fuzz/%,$(wildcard test/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 5
$(B)/fuzz/%: $(B)/obj/test/fuzz/%.c.o $(call libs,$(LINK_test))
	@mkdir -p $(@D)
	clang++ -fsanitize=fuzzer,address,undefined -o $@ $< -Wl,--start-group $(call libs,$(LINK_test)) -Wl,--end-group $(LIBS)
fuzz-programs: $(FUZZ)

fuzz:
	FUZZ_SECONDS=$(FUZZ_SECONDS) test/run_fuzz.sh
SEEDS ?= 20
sim: $(SIM)
	test/run_sim.sh $(SEEDS) $(SIM)
up:
	tools/up.sh
down:
	tools/down.sh
clean-data:
	tools/clean_data.sh
check:
	test/check.sh short
check-long:
	test/check.sh long
integration: all test-programs
	test/integration/run.sh
bench: all
	bench/run.sh
tidy:
	tools/tidy.sh
fmt:
	clang-format -i $$(git ls-files '*.c' '*.h')
clean:
	rm -rf build build-*

DESTDIR ?=
PREFIX ?= /usr
install: all
	install -D -t $(DESTDIR)$(PREFIX)/bin $(B)/bin/cfs $(B)/bin/cfs-local $(B)/bin/cfs-meta $(B)/bin/cfs-chunkserver
	install -D -t $(DESTDIR)/sbin $(B)/bin/mount.cfs

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
