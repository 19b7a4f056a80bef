# Two commands: `make demo` shows Berth at work, `make test` tests all of it. Both install what is missing and say so.

CARGO ?= cargo
ROOT := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo --preserve-env=PATH)

.PHONY: install install-files check-units demo lab test sim fuzz fence-test check bench dependencies simulators build

demo: dependencies build
	$(ROOT) ./target/debug/demo

# The same cluster, left up to play with.
lab: dependencies build
	$(ROOT) ./target/debug/demo --stay

# Root, because the lab makes network, mount and PID namespaces; the tests say so when they are not. The simulated
# management controllers come from PyPI in part, and the guest with a guest agent is made of packages that are fetched for it;
# where that cannot be had, the tests that need them are left out, and said so.
test: dependencies build
	@left_out=; \
	if ! ./deploy/install-fence-simulators.sh; then \
	    echo "LEFT OUT: the tests against simulated management controllers, which could not be installed"; \
	    left_out=fence_agents::; \
	fi; \
	if ! ./deploy/make-agent-guest.sh; then \
	    echo "LEFT OUT: the test with a guest agent, whose guest could not be made"; \
	    left_out="$$left_out guest_agent::"; \
	fi; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --workspace --no-fail-fast -E "not test(/^($$(echo $${left_out:-none::} | tr ' ' '|'))/)"; \
	else \
	    $(CARGO) test --workspace --no-fail-fast -- --test-threads=2 $$(printf -- '--skip %s ' $${left_out:-none::}); \
	fi

# Berth in virtual time: many seeds, each rule of the law switched off in turn, and what can die in a migration.
sim:
	$(CARGO) run --release -p tests --bin sim -- --seeds 5000
	$(CARGO) run --release -p tests --bin sim -- --seeds 1000 --teeth
	$(CARGO) run --release -p tests --bin sim -- --crash-table

# The reader of domain XMLs against texts that no person wrote, for a minute or FUZZ_SECONDS.
FUZZ_SECONDS ?= 60
fuzz: dependencies
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	mkdir -p fuzz/corpus/domain_xml
	$(CARGO) fuzz run --sanitizer none domain_xml fuzz/corpus/domain_xml fuzz/seeds/domain_xml -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=2

# Real hosts broken by chance, and who may die during a migration, one at a time and in pairs. Ten minutes.
faults: dependencies build
	$(ROOT) ./target/debug/faults random
	$(ROOT) ./target/debug/faults crash-table --pairs

# The fence module against real fence agents and simulated management controllers; needs no root but for installing.
fence-test: dependencies simulators
	$(CARGO) test -p tests --test it fence_agents

# What CI checks beside the tests; never writes.
check: dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Figures of the machine it runs on: recovery, migration beside virsh, commits per second, memory; under ten minutes.
bench: dependencies
	$(CARGO) build --release --workspace
	$(ROOT) ./target/release/bench

# Programs, units and sample configuration, below DESTDIR; configuration that is there is left alone. `clustat` and
# `clusvcadm` are `berthctl` under RGManager's names, unless RGManager's own are there.
install:
	$(CARGO) build --release -p berth-server -p berth-agent -p berthctl
	install -D -m 0755 -t $(DESTDIR)/usr/bin target/release/berth-server target/release/berth-agent target/release/berthctl
	$(MAKE) install-files
	$(MAKE) check-units

# Everything that is not built. What berthctl reads holds no secret, and is for every operator.
install-files:
	install -D -m 0644 -t $(DESTDIR)/etc/systemd/system deploy/systemd/*.service
	@for file in deploy/hooks/*; do \
	    to=$(DESTDIR)/etc/berth/hooks/$${file##*/}; [ -e $$to ] || install -D -m 0755 $$file $$to; \
	done
	@for file in deploy/config/*.toml; do \
	    to=$(DESTDIR)/etc/berth/$${file##*/}; mode=0600; \
	    case $$file in */ctl.toml) mode=0644;; esac; \
	    [ -e $$to ] || install -D -m $$mode $$file $$to; \
	done
	@install -d $(DESTDIR)/usr/sbin; for name in clustat clusvcadm; do \
	    link=$(DESTDIR)/usr/sbin/$$name; [ -e $$link ] || ln -sf ../bin/berthctl $$link; \
	done

check-units:
	@./deploy/check-units.sh $(DESTDIR)

build:
	$(CARGO) build --workspace --all-targets

dependencies:
	@./deploy/install-dependencies.sh

simulators:
	@./deploy/install-fence-simulators.sh
