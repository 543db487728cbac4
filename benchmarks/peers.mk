# Included by the Makefile. The peers live in environments of their own, under .venv-peers.
.PHONY: peers peer-fixtures bench-peers

peers:
	$(PYTHON) benchmarks/peers/setup_environments.py

# Rewrites the committed fixtures from the peers' own code.
peer-fixtures: peers
	PYTHONPATH=.venv-peers/colbert-transformers4 .venv-peers/colbert/bin/python \
		benchmarks/peers/fixtures_stanford.py $(CURDIR)/tests/fixtures/encoder_parity
	.venv-peers/pylate/bin/python benchmarks/peers/fixtures_pylate.py \
		$(CURDIR)/tests/fixtures/encoder_parity
	.venv-peers/pylate/bin/python benchmarks/peers/fixtures_training.py \
		$(CURDIR)/tests/fixtures/encoder_parity/pylate/checkpoint $(CURDIR)/tests/fixtures/train_parity
	$(BIN)/python tests/train/saved.py $(CURDIR)/tests/fixtures/train_parity
	for form in saved_stanford saved_pylate; do \
		.venv-peers/pylate/bin/python benchmarks/peers/fixtures_saved.py pylate \
			tests/fixtures/train_parity/$$form tests/fixtures/train_parity/texts.json; done
	PYTHONPATH=.venv-peers/colbert-transformers4 .venv-peers/colbert/bin/python \
		benchmarks/peers/fixtures_saved.py colbert tests/fixtures/train_parity/saved_stanford \
		tests/fixtures/train_parity/texts.json
	.venv-peers/colbert/bin/python benchmarks/peers/fixtures_codec.py \
		$(CURDIR)/tests/fixtures/codec_parity

bench-peers: venv peers
	$(BIN)/python benchmarks/bench.py --data $(DATA)
