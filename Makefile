# The commands of this repository, for people and CI alike.

# Packages with goroutines of their own, quick enough to run under the race detector.
RACE = ./client/... ./internal/auth/... ./internal/checkpoint/... ./internal/demo/... ./internal/httpapi/... ./internal/rsocket/... ./internal/session/...

.DEFAULT_GOAL = help
.PHONY: help demo test sim chaos chaos-client build bench lint fmt clean

help:
	@echo 'make demo    run the notes app, prove the three checks, keep it running'
	@echo 'make test    run every test, installing what it needs'
	@echo 'make sim [SEEDS=2000] [FIRST=0]  simulate crashes, lost slots, alterations and deploys under many seeds'
	@echo 'make chaos [ROUNDS=200] [SEED=n] [STORAGE=pebble]  break the service under load; see docs/testing.md'
	@echo 'make chaos-client [ROUNDS=50] [SEED=n]             break clients of both SDKs while they write'
	@echo 'make build   build the binaries into bin/'
	@echo 'make bench   measure replication on PG=postgres://…, whose table greeting is made anew; STORAGE=postgres://… for storage there'
	@echo 'make lint    check formatting, vet, staticcheck'
	@echo 'make fmt     format the Go code'
	@echo 'make clean   remove what demo and build have made'

demo: build
	@scripts/deps postgres node
	@bin/notes-demo

test:
	@scripts/deps postgres servers node sdks chromium race
	go test ./...
	go test -race -skip LargeRows $(RACE)

SEEDS = 2000
FIRST = 0

sim:
	go test ./internal/sim -v -timeout 0 -sim.seeds $(SEEDS) -sim.first $(FIRST)

# Rounds of faults, each of which follows from its seed; SEED=0 takes one from the clock.
ROUNDS = 200
SEED = 0
STORAGE = pebble
chaos-client: ROUNDS = 50

chaos:
	@scripts/deps postgres
	go test ./internal/chaos -run '^TestServiceRounds$$' -v -timeout 0 -rounds $(ROUNDS) -seed $(SEED) -storage $(STORAGE)

chaos-client:
	@scripts/deps postgres node
	go test ./internal/chaos -run '^TestClientRounds$$' -v -timeout 0 -rounds $(ROUNDS) -seed $(SEED)

build:
	go build -o bin/millrace ./cmd/millrace
	go build -o bin/notes-backend ./examples/notes/backend
	go build -o bin/notes-demo ./examples/notes/demo
	go build -o bin/notes-tui ./examples/notes/tui

bench: build
	go build -o bin/replication ./bench/replication
	bin/replication -pg "$(PG)" $(if $(STORAGE),-config bench/postgres.yaml -storage "$(STORAGE)")

lint:
	@unformatted=$$(find . -name '*.go' -not -path '*/node_modules/*' -exec gofmt -l {} +); \
	if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

fmt:
	@find . -name '*.go' -not -path '*/node_modules/*' -exec gofmt -w {} +

clean:
	@go run ./examples/notes/demo -remove
	rm -rf bin examples/notes/terminal/node_modules e2e/sdk/node_modules internal/pgtest/servers/node_modules
