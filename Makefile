PY := .venv/bin/python

.venv/.installed: pyproject.toml constraints.txt
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip install --quiet --python $(PY) -c constraints.txt -e '.[cpu,dev]'
	touch $@

.PHONY: setup test lint type
setup: .venv/.installed
test: setup
	$(PY) -m pytest
lint: setup
	.venv/bin/ruff check .
type: setup
	.venv/bin/mypy tasks
