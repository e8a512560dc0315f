# Keyward. `make` shows what there is.

PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
TARGET     := $(or $(CARGO_TARGET_DIR),target)
SCRIPTS    := softhsm-tests/scripts
# The folder of the binaries that are installed.
BUILT      := $(TARGET)/release

BINDIR  := $(PREFIX)/bin
DOCDIR  := $(PREFIX)/share/doc/keyward
UNITDIR := $(PREFIX)/lib/systemd/system
RENDER   = sed -e 's|@BINDIR@|$(BINDIR)|g' -e 's|@DOCDIR@|$(DOCDIR)|g'

.DEFAULT_GOAL := help
.PHONY: help demo demo-ceremony demo-login run check test test-all bench bench-quick fmt lint release install install-files install-documents install-units \
    uninstall clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: ## See it work: encrypt, rotate, decrypt, refuse, verify, on a throw-away software HSM
	@$(SCRIPTS)/demo.sh

demo-ceremony: ## See custodians found, rotate, restore and destroy with three tokens
	@$(SCRIPTS)/demo-ceremony.sh

demo-login: ## See a staff member log in with one-time password and token, and work with data
	@$(SCRIPTS)/demo-login.sh

run: ## Start a development daemon in the foreground (target/dev/keyward.sock)
	@$(SCRIPTS)/run-dev.sh

check: ## Check format, lints and unit tests: for each commit
	@$(SCRIPTS)/check.sh

test: ## Build everything and run all tests
	@$(SCRIPTS)/test.sh

test-all: ## Run all tests, then the long rounds of those that have some
	@$(SCRIPTS)/test-all.sh

bench: ## Measure a release build (target/bench/summary.json); ARGS='--against FOLDER' compares
	@$(SCRIPTS)/bench.sh $(ARGS)

bench-quick: ## Cost of a call in two minutes (target/bench/quick.json); ARGS='--against FOLDER'
	@$(SCRIPTS)/bench.sh --quick $(ARGS)

fmt: ## Format the sources
	cargo fmt --all

lint: ## Check format and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

# Under sudo there may be no cargo: then what `make release` made before is installed.
release: ## Build the binaries for production
	@if command -v cargo >/dev/null; then cargo build --locked --release -p keyward --bins && \
	    if [ -e /usr/include/PCSC/winscard.h ]; then cargo build --locked --release -p keyward-piv; fi; \
	elif [ ! -x '$(TARGET)/release/keywardd' ]; then \
	    echo 'make: error: cargo is not in PATH; run `make release` as the user that has it' >&2; exit 1; fi

install: release ## Install binaries, units, configuration and documents (DESTDIR, PREFIX)
	@$(MAKE) --no-print-directory install-files
	@[ -n '$(DESTDIR)' ] || echo 'next: docs/runbook.md, "First installation"'

# The same of binaries that are there: BUILT=target/debug, say.
install-files: install-units install-documents
	install -d '$(DESTDIR)$(BINDIR)'
	install -m 0755 '$(BUILT)/keywardd' '$(BUILT)/keyward' '$(DESTDIR)$(BINDIR)'
	umask 022 && $(RENDER) systemd/as_keyward >'$(DESTDIR)$(BINDIR)/as_keyward'
	chmod 0755 '$(DESTDIR)$(BINDIR)/as_keyward'
	@if [ -x '$(BUILT)/keyward-piv' ]; then \
	    install -m 0755 '$(BUILT)/keyward-piv' '$(DESTDIR)$(BINDIR)'; \
	else echo 'left out keyward-piv, for PIV cards: install libpcsclite-dev, then make release'; fi
	install -d -m 0750 '$(DESTDIR)$(SYSCONFDIR)/keyward'
	@if [ -e '$(DESTDIR)$(SYSCONFDIR)/keyward/keywardd.toml' ]; then \
	    echo 'kept $(SYSCONFDIR)/keyward/keywardd.toml as it is'; \
	else install -m 0640 hsm-config/keywardd.toml '$(DESTDIR)$(SYSCONFDIR)/keyward/keywardd.toml'; fi
	install -d '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' \
	    '$(DESTDIR)$(PREFIX)/share/zsh/site-functions' '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d'
	umask 022 && '$(BUILT)/keyward' completions bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/keyward'
	umask 022 && '$(BUILT)/keyward' completions zsh >'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_keyward'
	umask 022 && '$(BUILT)/keyward' completions fish >'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/keyward.fish'

# Documents, definitions of the API, and examples.
install-documents:
	install -d '$(DESTDIR)$(DOCDIR)/docs' '$(DESTDIR)$(DOCDIR)/hsm-config/policies'
	install -m 0644 README.md CHANGELOG.md LICENSE '$(DESTDIR)$(DOCDIR)'
	install -m 0644 docs/*.md '$(DESTDIR)$(DOCDIR)/docs'
	install -d '$(DESTDIR)$(DOCDIR)/proto/keyward/v1' '$(DESTDIR)$(DOCDIR)/proto/google/rpc' '$(DESTDIR)$(DOCDIR)/examples/python' '$(DESTDIR)$(DOCDIR)/examples/node'
	install -m 0644 proto/keyward/v1/*.proto '$(DESTDIR)$(DOCDIR)/proto/keyward/v1'
	install -m 0644 proto/google/rpc/*.proto '$(DESTDIR)$(DOCDIR)/proto/google/rpc'
	install -m 0644 examples/python/* '$(DESTDIR)$(DOCDIR)/examples/python'
	install -m 0644 examples/node/*.json examples/node/*.mjs examples/node/*.proto '$(DESTDIR)$(DOCDIR)/examples/node'
	install -m 0644 hsm-config/*.toml hsm-config/*.conf '$(DESTDIR)$(DOCDIR)/hsm-config'
	install -m 0644 hsm-config/policies/* '$(DESTDIR)$(DOCDIR)/hsm-config/policies'

install-units:
	install -d '$(DESTDIR)$(UNITDIR)' '$(DESTDIR)$(PREFIX)/lib/sysusers.d' '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d'
	umask 022 && $(RENDER) systemd/keywardd.service >'$(DESTDIR)$(UNITDIR)/keywardd.service'
	umask 022 && $(RENDER) systemd/keywardd.socket >'$(DESTDIR)$(UNITDIR)/keywardd.socket'
	install -m 0644 systemd/keyward.sysusers '$(DESTDIR)$(PREFIX)/lib/sysusers.d/keyward.conf'
	install -m 0644 systemd/keyward.tmpfiles '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/keyward.conf'

uninstall: ## Remove what install wrote; configuration, keys and logs stay
	rm -f '$(DESTDIR)$(BINDIR)/keywardd' '$(DESTDIR)$(BINDIR)/keyward' '$(DESTDIR)$(BINDIR)/as_keyward' '$(DESTDIR)$(BINDIR)/keyward-piv' \
	    '$(DESTDIR)$(UNITDIR)/keywardd.service' '$(DESTDIR)$(UNITDIR)/keywardd.socket' \
	    '$(DESTDIR)$(PREFIX)/lib/sysusers.d/keyward.conf' '$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/keyward.conf' \
	    '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/keyward' \
	    '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_keyward' \
	    '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/keyward.fish'
	rm -rf '$(DESTDIR)$(DOCDIR)'

clean: ## Remove everything built, the demos and the development daemon's keys
	cargo clean
	rm -rf .demo .demo-ceremony .demo-login target/dev
