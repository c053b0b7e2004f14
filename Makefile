# Every job has one command; `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= build/sample
OUT ?= out
ARGS ?=
CHAOS ?= 20
PAGE := app/orchard/serving/page
UV := $(BIN)/uv

VERSION := $(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' app/orchard/version.py)
IMAGE ?= orchard:$(VERSION)
EMR_IMAGE ?= orchard-emr:$(VERSION)
EMR_BASE ?= public.ecr.aws/emr-on-eks/spark/emr-7.13.0:latest
# Debian's own, where there are several: it builds without a plugin.
DOCKER ?= $(firstword $(wildcard /usr/bin/docker) docker)
MEMORY ?= 4g
# A build trusts whom this machine trusts, be there a proxy or not.
CA ?= $(wildcard /etc/ssl/certs/ca-certificates.crt)
REVISION = $(shell git rev-parse HEAD 2>/dev/null)
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),315532800)
DOCKER_BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build --network=host $(CA:%=--secret id=ca,src=%) \
	--build-arg VERSION=$(VERSION) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
	--build-arg REVISION=$(REVISION) \
	--build-arg CREATED=$$(TZ=UTC git log -1 --date=format-local:%FT%TZ --format=%cd 2>/dev/null)
# As a cluster that trusts nobody runs it, and as the user who calls it.
LOCKED_DOWN = $(DOCKER) run --rm $$(test ! -t 1 || echo --tty) --read-only --cap-drop=ALL \
	--security-opt=no-new-privileges --network=none --hostname=localhost --memory=$(MEMORY) \
	--tmpfs /tmp:exec,mode=1777 --user "$$(id -u):$$(id -g)"

export PATH := $(CURDIR)/.tools/bin:$(PATH)
TOOLS := helm helm-docs helm-unittest kubeconform
GO_INSTALL = GOBIN="$(CURDIR)/.tools/bin" go install
HELM_DOCS = helm-docs --log-level=warning --chart-search-root=helm/orchard --sort-values-order=file \
	--template-files=settings.gotmpl --template-files=README.md.gotmpl

.DEFAULT_GOAL := help
.PHONY: help setup run test test-pyspark chaos e2e check format lock clean image image-emr check-emr bundle-emr image-sizes sbom release local-run tools emulators chart manifests kind-run

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready $(PAGE)/vendor/.ready ## create .venv with all dependencies and the command `orchard`

$(VENV)/.ready: requirements.lock pyproject.toml app/orchard/version.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Orchard needs Python 3.11 to 3.13 and $(PYTHON) is $$($(PYTHON) -V): make setup PYTHON=python3.12" >&2; exit 1; }
	@java -version >/dev/null 2>&1 || \
		echo "note: Spark needs Java 17 and none was found; Debian and Ubuntu: apt-get install openjdk-17-jre-headless" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# What the server's page runs in the browser. Without npm it asks the server instead.
$(PAGE)/vendor/.ready: $(PAGE)/package-lock.json $(PAGE)/package.json
	@command -v npm >/dev/null || \
		echo "note: npm was not found, so the page of \`orchard serve\` will not work offline; install Node.js and start again" >&2
	@! command -v npm >/dev/null || { cd $(PAGE) && npm ci --silent --ignore-scripts && npm run --silent vendor && touch vendor/.ready; }

run: setup ## run the pipeline on a generated sample (or DATA=folder OUT=folder), and print where the report is
	@if [ "$(DATA)" = build/sample ] && [ ! -d build/sample ]; then $(BIN)/orchard sample build/sample; fi
	$(BIN)/orchard run "$(DATA)" --output "$(OUT)" $(ARGS)

# Files of tests run side by side: many of them wait for a process, a pod or a deadline. Their order is tests/conftest.py's.
LANES = 2
# One thread of linear algebra a lane: two lanes of two threads each wait for one another on two cores, half as long again.
PYTEST = OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(LANES) --dist=loadfile --no-loadscope-reorder --durations=30

test: setup ## run all tests (ARGS="-k name" for some, LANES=0: one after another)
	$(PYTEST) $(ARGS)

test-pyspark: setup ## run the tests that use Spark, with every other supported PySpark
	@set -e; for lock in tests/spark-versions/*.lock; do \
		found=build/pyspark-$$(basename $$lock .lock); echo "== $$found"; \
		test -d $$found || $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $$lock --target $$found; \
		PYTHONPATH=$$found $(PYTEST) tests/reduction/test_stage.py tests/classification/test_stage.py \
			tests/integration/test_api.py tests/integration/test_spark_submit.py $(ARGS); done

chaos: setup ## kill, stop, fill, damage and fuzz at length (CHAOS=times the gate's part); figures to build/chaos.md
	CHAOS=$(CHAOS) MOMENTS=$$((5 * $(CHAOS))) CHAOS_SUMMARY=build/chaos.md $(PYTEST) -m 'not slow and not e2e' \
		tests/chaos tests/test_crash_points.py tests/test_lock.py tests/integration/test_interruption.py tests/serving/test_abuse.py $(ARGS)

e2e: setup ## run the end-to-end tests on the cluster of KUBECONFIG, which must have the image
	$(PYTEST) -m e2e tests/e2e tests/cluster tests/docker $(ARGS)

# helm/orchard/README.md is made from the chart.
PROSE = $(filter-out build/% helm/orchard/README.md,$(wildcard *.md */*.md */*/*.md))

SCRIPTS = .ci/run docker/check-emr k8s/kind-run $(wildcard docker/*.sh)
ESLINT = $(PAGE)/node_modules/.bin/eslint

check: setup ## check format, lint and types, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mdformat --check $(PROSE)
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/hadolint docker/Dockerfile docker/*/Dockerfile
	$(BIN)/yamllint --strict .
	$(BIN)/cfn-lint emr/cloudformation/*.yaml
	@if [ -x $(ESLINT) ]; then $(ESLINT) .; else echo "note: npm has not brought ESLint: JavaScript is not checked" >&2; fi

format: setup ## format code and prose, and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mdformat $(PROSE)

image: ## build the image (IMAGE=name:tag)
	$(DOCKER_BUILD) --file docker/Dockerfile --tag $(IMAGE) .

image-emr: ## build the image for EMR on EKS (EMR_BASE=base EMR_IMAGE=name:tag)
	$(DOCKER_BUILD) --file docker/Dockerfile --target emr --build-arg BASE_IMAGE=$(EMR_BASE) --tag $(EMR_IMAGE) .

check-emr: ## build the image for EMR on a stand-in of EMR's base, and check it
	$(DOCKER_BUILD) --tag emr-stand-in:7.13.0 docker/emr-stand-in
	$(MAKE) image-emr EMR_BASE=emr-stand-in:7.13.0
	DOCKER=$(DOCKER) docker/check-emr $(EMR_IMAGE) emr-stand-in:7.13.0

bundle-emr: setup ## bundle wheel and locked dependencies for EMR on EC2, in build/emr (UPLOAD=s3://bucket/prefix: also there)
	$(BIN)/python emr/bundle.py $(UPLOAD:%=--upload %)

image-sizes: ## list the sizes of the image's parts
	@$(DOCKER) save $(IMAGE) | $(PYTHON) docker/sizes.py

sbom: ## write the image's bill of materials to build/sbom.cdx.json
	@mkdir -p build
	$(DOCKER) run --rm --network=none --entrypoint cat $(IMAGE) /opt/orchard/sbom.cdx.json >build/sbom.cdx.json

release: ## push image and chart with provenance and bill of materials (REGISTRY=host/path; PLAIN_HTTP=1, UNCOMMITTED=1)
	@test -n "$(REGISTRY)" || { echo "Say where to push: make release REGISTRY=registry.example.com/vision" >&2; exit 1; }
	$(MAKE) --no-print-directory image .tools/bin/helm .tools/bin/oras
	$(PYTHON) docker/release.py "$(REGISTRY)" --image $(IMAGE) --version $(VERSION) --docker $(DOCKER) \
		$(if $(PLAIN_HTTP),--plain-http) $(if $(UNCOMMITTED),--uncommitted)

local-run: ## like run, but in the image, without network access (DATA=folder OUT=folder)
	@$(DOCKER) image inspect $(IMAGE) >/dev/null 2>&1 || $(MAKE) image
	@built=$$($(DOCKER) image inspect --format '{{index .Config.Labels "org.opencontainers.image.revision"}}' $(IMAGE)); \
		test "$$built" = "$(REVISION)" || \
		echo "note: $(IMAGE) was built from another commit than this one ($$built): make image builds it anew" >&2
	@mkdir -p build "$(OUT)"
	@if [ "$(DATA)" = build/sample ] && [ ! -d build/sample ]; then \
		$(LOCKED_DOWN) --volume "$(CURDIR)/build:/build" $(IMAGE) sample /build/sample; fi
	@data=$$(realpath "$(DATA)") out=$$(realpath "$(OUT)") && set -x && \
	$(LOCKED_DOWN) --volume "$$data:$$data:ro" --volume "$$out:$$out" $(IMAGE) run "$$data" --output "$$out" $(ARGS)

tools: $(TOOLS:%=.tools/bin/%) ## provide the chart's tools in .tools/bin: links to the PATH, or built with Go

$(TOOLS:%=.tools/bin/%) .tools/bin/oras:
	@mkdir -p .tools/bin
	@if found=$$(command -v $(@F)); then ln -s "$$found" $@; else \
		command -v go >/dev/null || { echo "$(@F) is missing, and Go to build it: install one of them" >&2; exit 1; }; \
		$(MAKE) --no-print-directory build-$(@F); fi

build-helm:
	$(GO_INSTALL) helm.sh/helm/v4/cmd/helm@v4.3.1
build-oras:
	$(GO_INSTALL) oras.land/oras/cmd/oras@v1.3.6
build-helm-docs:
	$(GO_INSTALL) github.com/norwoodj/helm-docs/cmd/helm-docs@v1.14.2
build-kubeconform:
	$(GO_INSTALL) github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0
build-helm-unittest: # not by `go install`, which refuses a module that replaces another
	go build -C "$$(cd / && go mod download -json github.com/helm-unittest/helm-unittest@v1.1.2 | \
		sed -n 's/^\t"Dir": "\(.*\)",/\1/p')" -o "$(CURDIR)/.tools/bin/helm-unittest" ./cmd/helm-unittest

emulators: .tools/bin/fake-gcs-server .tools/bin/azurite-blob .tools/bin/mini-yarn ## build emulators of Google's and Azure's storage and of YARN, in .tools/bin (Go, npm, Maven)

# As of upstream it has none of the XML API's PUT, with which clients write, copy, and create what is not there.
FAKE_GCS := github.com/fsouza/fake-gcs-server@v1.56.1
.tools/bin/fake-gcs-server: tests/emulators/fake-gcs-server.patch
	@mkdir -p .tools/bin
	set -e; source=$$(mktemp -d); trap 'rm -rf "$$source"' EXIT; \
	cp -r "$$(cd / && go mod download -json $(FAKE_GCS) | sed -n 's/^\t"Dir": "\(.*\)",/\1/p')/." "$$source"; \
	chmod -R u+w "$$source"; patch --quiet --strip=1 --directory="$$source" <$<; \
	go build -C "$$source" -o "$(CURDIR)/$@" .

# Azurite's scripts, which npm leaves aside, are for its developers alone.
.tools/bin/azurite-blob: tests/emulators/package-lock.json
	@mkdir -p .tools/bin .tools/azurite
	cp tests/emulators/package.json tests/emulators/package-lock.json .tools/azurite
	cd .tools/azurite && npm ci --silent --ignore-scripts
	printf '#!/bin/sh\nexec node "$$(dirname "$$0")/../azurite/node_modules/azurite/dist/src/blob/main.js" "$$@"\n' >$@
	chmod +x $@

# PySpark starts it, of the environment that runs the tests.
.tools/bin/mini-yarn: tests/emulators/pom.xml
	@mkdir -p .tools/bin
	mvn --batch-mode --quiet --strict-checksums --file $< -Djars="$(CURDIR)/.tools/yarn" dependency:copy-dependencies
	printf '#!/bin/sh\nexec "$(CURDIR)/$(BIN)/python" "$(CURDIR)/tests/emulators/yarn.py" "$(CURDIR)/.tools/yarn" "$$@"\n' >$@
	chmod +x $@

chart: setup tools build/schemas ## check the chart: lint, unit tests, examples against schemas, generated files
	$(BIN)/python helm/render.py --check
	helm lint --quiet --strict helm/orchard --values helm/orchard/ci/job-values.yaml
	helm-unittest helm/orchard
	$(BIN)/python -m pytest -q tests/helm
	set -e; for values in helm/orchard/ci/*-values.yaml; do \
		helm template example helm/orchard --values $$values >build/example.yaml; \
		kubeconform -strict -schema-location 'build/schemas/{{.ResourceKind}}{{.KindSuffix}}.json' build/example.yaml; done
	kubeconform -strict -schema-location 'build/schemas/{{.ResourceKind}}{{.KindSuffix}}.json' k8s/tenant/*.yaml
	cp helm/orchard/README.md build/README.chart && $(HELM_DOCS) && diff build/README.chart helm/orchard/README.md

build/schemas: helm/schemas.py | setup
	$(BIN)/python helm/schemas.py $@
	@touch $@

manifests: setup tools ## generate manifests, schema and README from the chart and the settings
	$(BIN)/python helm/render.py
	$(HELM_DOCS)

kind-run: image tools ## run the pipeline on its sample in a cluster that kind creates
	k8s/kind-run $(IMAGE)

lock: setup ## resolve the dependencies into requirements.lock (UPGRADE=1: newer ones)
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --quiet $(if $(UPGRADE),--upgrade) --all-extras --group pyproject.toml:dev pyproject.toml -o requirements.lock
	$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
		--no-header --quiet --extra serve --constraint requirements.lock pyproject.toml -o docker/requirements.lock

clean: ## remove everything that was built, and the environment
	rm -rf $(VENV) $(PAGE)/vendor $(PAGE)/node_modules .tools build dist out .cache .pytest_cache .mypy_cache .ruff_cache
